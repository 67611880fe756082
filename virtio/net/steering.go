package net

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/vasta-net/vasta/packet"
)

// flowKey is what names the flow of a frame: the source and the destination address, and behind them the source and the destination port, in network byte order.
type flowKey [2*16 + 4]byte

// keyed is what a flowKey has of a frame.
type keyed struct {
	addrs int  // bytes of both addresses; 0: the frame is no IP packet
	ports bool // the ports are there
	proto byte // 0: a fragment, which has no ports, or whose others have none
}

// read takes the key from a frame.
func (in *flowKey) read(f *packet.Frame) (k keyed) {
	var b [packet.EtherLen + packet.IPv6Len]byte
	n := f.CopyAt(b[:], 0)
	if n < packet.EtherLen+packet.IPv4Len {
		return k
	}
	ip := b[packet.EtherLen:n]
	var at int // of the ports, behind the IP header
	switch binary.BigEndian.Uint16(b[12:]) {
	case packet.EtherIPv4:
		k.addrs = copy(in[:], ip[12:20])
		at, k.proto = int(ip[0]&15)*4, ip[9]
		if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			k.proto = 0
		}
	case packet.EtherIPv6:
		if len(ip) < packet.IPv6Len {
			return k
		}
		k.addrs = copy(in[:], ip[8:40])
		at, k.proto = packet.IPv6Len, ip[6]
	default:
		return k
	}
	if k.proto == packet.ProtoTCP || k.proto == packet.ProtoUDP {
		k.ports = f.CopyAt(in[k.addrs:k.addrs+4], packet.EtherLen+at) == 4
	}
	return k
}

// steering is the automatic receive steering of a device with several pairs (5.1.6.5.5): a flow's frames are for the pair that the driver has sent its last one by. It learns
// from all transmit queues at a time.
type steering struct {
	// flows are the pairs of the latest flows, plus 1, by the first bits of their hash; with the last bits in the upper half, to tell flows apart.
	flows [1 << steeringBits]atomic.Uint32
}

const steeringBits = 12

// hash is the same for both directions of a flow; ok says that the frame has one.
func (in *flowKey) hash(f *packet.Frame) (hash uint64, ok bool) {
	k := in.read(f)
	if k.addrs == 0 {
		return 0, false
	}
	end := func(addr []byte, port []byte) (h uint64) {
		for ; len(addr) > 0; addr = addr[4:] {
			h = (h ^ uint64(binary.BigEndian.Uint32(addr))) * 0x9e3779b97f4a7c15
		}
		if k.ports {
			h ^= uint64(binary.BigEndian.Uint16(port))
		}
		h *= 0x9e3779b97f4a7c15
		return h ^ h>>29
	}
	half := k.addrs / 2
	hash = end(in[:half], in[k.addrs:]) + end(in[half:k.addrs], in[k.addrs+2:])
	return (hash ^ uint64(k.proto)) * 0x9e3779b97f4a7c15, true
}

// place is the entry of a flow, and what it says of the flow's pair.
func (s *steering) place(hash uint64, pair int) (entry *atomic.Uint32, says uint32) {
	return &s.flows[hash>>(64-steeringBits)], uint32(hash>>16)<<16 | uint32(pair+1)
}

// learn notes the pair that frames were sent by.
func (s *steering) learn(frames []packet.Frame, pair int) {
	var in flowKey
	for i := range frames {
		if hash, ok := in.hash(&frames[i]); ok {
			if entry, says := s.place(hash, pair); entry.Load() != says {
				entry.Store(says)
			}
		}
	}
}

// forget forgets all flows, for another driver.
func (s *steering) forget() {
	for i := range s.flows {
		s.flows[i].Store(0)
	}
}

// pair is the one for a frame, of those in use: that of its flow, or any, always the same, where nothing was sent yet; 0 for what is no flow's.
func (s *steering) pair(f *packet.Frame, inUse int) int {
	var in flowKey
	hash, ok := in.hash(f)
	if !ok {
		return 0
	}
	entry, says := s.place(hash, -1)
	if got := entry.Load(); got&^0xffff == says && got > says && int(got-says) <= inUse {
		return int(got-says) - 1
	}
	return int(hash % uint64(inUse))
}
