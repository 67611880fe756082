package worker

import (
	"encoding/binary"
	"net/netip"

	"github.com/vasta-net/vasta/flow/tcp"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// hopLimit is the TTL of what vasta itself says to the guest.
const hopLimit = 64

// maxPacket is the longest packet of a frame in bytes, its IP header included, in either family. IPv6 would allow its header more, but neither the kernel's GSO nor
// a buffer of virtio does (5.1.6.3.1).
const maxPacket = 65535

// header is the Ethernet and IP header of a flow's frames toward the guest, complete but for MAC addresses, length and, for
// IPv4, the checksum. It is made once for a flow.
type header struct {
	bytes  [packet.EtherLen + packet.IPv6Len]byte
	len    uint8  // 34 or 54
	ipSum  uint16 // IPv4: sum of the header with length and checksum 0
	pseudo uint16 // pseudo header sum with length 0
	proto  uint8
	isIPv6 bool
	group  bool   // goes not to the guest's Ethernet address, but to that with which bytes begin: a multicast group's
	mtu    uint16 // of the way to the guest, in bytes, where routers of its side have told of a narrow one; 0: that of the link
	tally  Tally  // of what was sent with it
}

// makeHeader prepares the header of frames that go from src to dst, both as the guest sees them.
func makeHeader(src, dst netip.Addr, proto, tos, ttl uint8) (h header) {
	h.proto = proto
	h.pseudo = packet.PseudoSum(src, dst, proto, 0)
	ip := h.bytes[packet.EtherLen:]
	if src.Is4() {
		h.len = packet.EtherLen + packet.IPv4Len
		binary.BigEndian.PutUint16(h.bytes[12:], packet.EtherIPv4)
		ip[0], ip[1] = 0x45, tos
		ip[6] = 0x40 // don't fragment
		ip[8], ip[9] = ttl, proto
		s, d := src.As4(), dst.As4()
		copy(ip[12:], s[:])
		copy(ip[16:], d[:])
		h.ipSum = checksum.Checksum(ip[:packet.IPv4Len], 0)
		return h
	}
	h.isIPv6 = true
	h.len = packet.EtherLen + packet.IPv6Len
	binary.BigEndian.PutUint16(h.bytes[12:], packet.EtherIPv6)
	ip[0], ip[1] = 0x60|tos>>4, tos<<4
	ip[6], ip[7] = proto, ttl
	s, d := src.As16(), dst.As16()
	copy(ip[8:], s[:])
	copy(ip[24:], d[:])
	return h
}

// toGroup has packets go to the Ethernet address of a multicast group (RFC 1112, 6.4; RFC 2464, 7).
func (h *header) toGroup(a netip.Addr) {
	h.group = true
	if a.Is4() {
		b := a.As4()
		copy(h.bytes[:], []byte{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]})
		return
	}
	b := a.As16()
	copy(h.bytes[:], []byte{0x33, 0x33, b[12], b[13], b[14], b[15]})
}

// toSelf has packets go to the gateway's own Ethernet address, which is nobody's among those that the guest's kernel takes frames for.
func (h *header) toSelf(mac gateway.MAC) {
	h.group = true
	copy(h.bytes[:], mac[:])
}

// mark has packets from now on carry the service byte tos and the hop limit ttl, 0 for that of vasta itself.
func (h *header) mark(tos, ttl uint8) {
	if ttl == 0 {
		ttl = hopLimit
	}
	ip := h.bytes[packet.EtherLen:]
	if h.isIPv6 {
		ip[0], ip[1], ip[7] = 0x60|tos>>4, tos<<4, ttl
		return
	}
	if ip[1] != tos || ip[8] != ttl {
		ip[1], ip[8] = tos, ttl
		h.ipSum = checksum.Checksum(ip[:packet.IPv4Len], 0)
	}
}

// mtuOf is the longest packet, in bytes from its IP header on, that goes out under h.
func (w *Worker) mtuOf(h *header) int {
	if h.mtu != 0 {
		return int(h.mtu)
	}
	return w.MTU
}

// put writes the header for a packet of n bytes behind the IP header, and returns the sum of its pseudo header.
func (h *header) put(b []byte, gw *gateway.Gateway, n int) (pseudo uint16) {
	copy(b, h.bytes[:h.len])
	src := gw.MAC()
	if !h.group {
		dst := gw.GuestMAC()
		copy(b[0:], dst[:])
	}
	copy(b[6:], src[:])
	ip := b[packet.EtherLen:]
	if h.isIPv6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(n))
	} else {
		total := uint16(n + packet.IPv4Len)
		binary.BigEndian.PutUint16(ip[2:], total)
		binary.BigEndian.PutUint16(ip[10:], ^checksum.Combine(h.ipSum, total))
	}
	return checksum.Combine(h.pseudo, uint16(n))
}

// txState is the memory that outgoing frames are made in.
type txState struct {
	head  [link.MaxHead]byte
	part  [link.MaxHead]byte // the headers of a fragment
	out   link.Out
	one   [1][]byte
	cur   *header   // of the flow that sends
	ports [2]uint16 // source and destination port of the same
	spare header    // of what belongs to no flow
}

// send gives w.tx.out to the link, with the checksum at csumAt of the transport header either left to the link or made here.
// The field holds nothing yet; pseudo is the sum of the pseudo header.
func (w *Worker) send(l4, csumAt int, pseudo uint16) bool {
	o := &w.tx.out
	field := o.Head[l4+csumAt:]
	if w.feat.Csum {
		o.Hdr.Flags = packet.FlagNeedsCsum
		o.Hdr.CsumStart, o.Hdr.CsumOffset = uint16(l4), uint16(csumAt)
		binary.BigEndian.PutUint16(field, pseudo)
	} else {
		binary.BigEndian.PutUint16(field, transportSum(o.Head[l4:], o.Payload, pseudo, w.tx.cur.proto))
	}
	return w.transmit()
}

// transportSum is the checksum of a transport header with a zero checksum field, and its payload.
func transportSum(head []byte, payload [][]byte, pseudo uint16, proto uint8) uint16 {
	var c checksum.Checksumer
	c.Add([]byte{byte(pseudo >> 8), byte(pseudo)})
	c.Add(head)
	for _, b := range payload {
		c.Add(b)
	}
	sum := ^c.Checksum()
	if sum == 0 && proto == packet.ProtoUDP {
		sum = 0xffff // RFC 768: 0 says that there is none
	}
	return sum
}

// transmit gives w.tx.out to the link as it is.
func (w *Worker) transmit() bool {
	o := &w.tx.out
	if !w.Queue.Send(o) {
		w.linkFull = true
		return false
	}
	w.Stats.TxFrames++
	n := len(o.Head)
	for _, b := range o.Payload {
		n += len(b)
	}
	w.Stats.TxBytes += uint64(n)
	w.spent += n + frameWork
	if w.Capture != nil {
		w.iov = append(append(w.iov[:0], o.Head), o.Payload...)
		w.Capture(ToGuest, &o.Hdr, w.iov)
	}
	return true
}

// emitWhole sends a complete frame of the gateway or an ICMP error. When the link is full it is lost, and counted.
func (w *Worker) emitWhole(frame []byte) {
	w.tx.one[0] = frame
	w.tx.out = link.Out{Payload: w.tx.one[:]}
	if !w.transmit() {
		w.Stats.Drop(stats.LinkFull)
	}
}

// SendTCP implements tcp.Sender for the flow whose Output runs.
func (w *Worker) SendTCP(_ *tcp.Conn, s *tcp.Out) bool {
	h := w.tx.cur
	l4 := int(h.len)
	hl := packet.TCPLen + s.OptLen
	head := w.tx.head[:l4+hl]
	pseudo := h.put(head, w.Gateway, hl+s.Len)
	t := head[l4:]
	putPorts(t, w.tx.ports[0], w.tx.ports[1])
	binary.BigEndian.PutUint32(t[4:], s.Seq)
	binary.BigEndian.PutUint32(t[8:], s.Ack)
	t[12], t[13] = uint8(hl/4)<<4, s.Flags
	binary.BigEndian.PutUint16(t[14:], s.Window)
	t[16], t[17], t[18], t[19] = 0, 0, 0, 0
	copy(t[packet.TCPLen:], s.Options[:s.OptLen])
	w.tx.out = link.Out{Head: head, Payload: s.Payload, Room: s.Room}
	o := &w.tx.out.Hdr
	// Without a header length the kernel's tun driver puts even a frame of 64 KiB into one linear piece of memory.
	o.HdrLen = uint16(len(head))
	if s.Len > s.MSS && s.MSS > 0 {
		o.GSOType = packet.GSOTCPv4
		if h.isIPv6 {
			o.GSOType = packet.GSOTCPv6
		}
		o.GSOSize = uint16(s.MSS)
	}
	ok := w.send(l4, 16, pseudo)
	if ok {
		h.sent(s.Len, s.MSS)
	}
	return ok
}
