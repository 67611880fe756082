// Package pktgen makes numbered frames and accounts for those that arrive: the command "vasta pktgen", and the load of "vasta bench overload".
//
// Each frame names its flow, its number in the flow and when it was sent, and carries a hash of its payload. So the sink tells what was lost,
// reordered, duplicated and damaged, and how long each frame was on its way, wherever it runs on the same machine.
package pktgen

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"

	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// Lengths of a frame in bytes, without the frame check sequence, as Linux's pktgen counts them (pkt_size).
const (
	MinSize = headLen + markLen
	MaxSize = packet.EtherLen + 65535
)

// Layout of a frame: Ethernet, IPv4 and UDP headers, the mark, and bytes that are counted up.
//
//	 0  magic   uint16
//	 2  flow    uint16
//	 4  number  uint32, the lower half of it
//	 8  sent    uint48, nanoseconds of CLOCK_MONOTONIC
//	14  hash    uint32, CRC-32C of the payload without this field
const (
	headLen = packet.EtherLen + packet.IPv4Len + packet.UDPLen
	markLen = 18
	hashAt  = 14
	magic   = 0x7673
)

// firstPort is the source port of flow 0.
const firstPort = 1024

// MaxFlows is how many flows a mark can tell apart.
const MaxFlows = 1 << 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Mark is what a frame says of itself.
type Mark struct {
	Flow   uint16
	Number uint32 // the lower half
	Sent   uint64 // nanoseconds, modulo 2^48
}

// Addresses are where frames are from and for.
type Addresses struct {
	SrcMAC, DstMAC [6]byte
	Src, Dst       netip.Addr // IPv4
	Port           uint16     // destination; the source port is that of the flow
}

// build writes a whole frame into f, which has the frame's length, but for what differs from frame to frame (stamp).
func (a *Addresses) build(f []byte) {
	be := binary.BigEndian
	copy(f, a.DstMAC[:])
	copy(f[6:], a.SrcMAC[:])
	be.PutUint16(f[12:], packet.EtherIPv4)
	ip := f[packet.EtherLen:]
	clear(ip[:packet.IPv4Len])
	ip[0] = 4<<4 | packet.IPv4Len/4
	be.PutUint16(ip[2:], uint16(len(ip)))
	ip[8], ip[9] = 64, packet.ProtoUDP
	src, dst := a.Src.As4(), a.Dst.As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	sum := uint32(0)
	for i := 0; i < packet.IPv4Len; i += 2 {
		sum += uint32(be.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	be.PutUint16(ip[10:], ^uint16(sum))
	udp := ip[packet.IPv4Len:]
	be.PutUint16(udp[2:], a.Port)
	be.PutUint16(udp[4:], uint16(len(udp)))
	be.PutUint16(udp[6:], 0) // no checksum: the hash says more
	data := udp[packet.UDPLen:]
	be.PutUint16(data, magic)
	for i := markLen; i < len(data); i++ {
		data[i] = byte(i)
	}
}

// stamp writes what differs from frame to frame.
func stamp(f []byte, flow uint16, number uint32, sent uint64) {
	be := binary.BigEndian
	be.PutUint16(f[headLen-packet.UDPLen:], firstPort+flow%(1<<16-firstPort))
	data := f[headLen:]
	be.PutUint16(data[2:], flow)
	be.PutUint32(data[4:], number)
	be.PutUint16(data[8:], uint16(sent>>32))
	be.PutUint32(data[10:], uint32(sent))
	be.PutUint32(data[hashAt:], hash(data))
}

func hash(data []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, data[:hashAt]), castagnoli, data[markLen:])
}

// Kind is what a frame turned out to be.
type Kind uint8

// The kinds.
const (
	Foreign Kind = iota // not one of ours
	Damaged             // one of ours, with other bytes than were sent
	Whole
)

// Read finds the mark of a frame.
func Read(f []byte) (m Mark, k Kind) {
	be := binary.BigEndian
	if len(f) < MinSize || be.Uint16(f[12:]) != packet.EtherIPv4 {
		return m, Foreign
	}
	ip := f[packet.EtherLen:]
	head, total := int(ip[0]&0xf)*4, int(be.Uint16(ip[2:]))
	if head < packet.IPv4Len || ip[9] != packet.ProtoUDP || len(ip) < head+packet.UDPLen+markLen {
		return m, Foreign
	}
	data := ip[head+packet.UDPLen:]
	if be.Uint16(data) != magic {
		return m, Foreign
	}
	if total > len(ip) || total < head+packet.UDPLen+markLen {
		return m, Damaged
	}
	return ReadPayload(data[:total-head-packet.UDPLen])
}

// ReadPayload finds the mark in the payload of a datagram.
func ReadPayload(data []byte) (m Mark, k Kind) {
	be := binary.BigEndian
	if len(data) < markLen || be.Uint16(data) != magic {
		return m, Foreign
	}
	if be.Uint32(data[hashAt:]) != hash(data) {
		return m, Damaged
	}
	return Mark{
		Flow: be.Uint16(data[2:]), Number: be.Uint32(data[4:]), Sent: uint64(be.Uint16(data[8:]))<<32 | uint64(be.Uint32(data[10:])),
	}, Whole
}

// now is the time that marks tell: the same for all processes of a machine.
func now() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0 // there is no Linux without that clock
	}
	return uint64(t.Nano())
}
