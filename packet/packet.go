package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// Numbers of the protocols that a Packet tells apart.
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherIPv6 = 0x86dd

	ProtoICMP   = 1
	ProtoIGMP   = 2
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

// Lengths of the fixed headers, in bytes.
const (
	EtherLen = 14
	IPv4Len  = 20
	IPv6Len  = 40
	TCPLen   = 20
	UDPLen   = 8
)

// maxHead is how much of a frame is copied to private memory before it is parsed: Ethernet, the longest IPv4
// header or IPv6 with extension headers, and the longest TCP header.
const maxHead = 256

// maxExtensions bounds the walk over IPv6 extension headers.
const maxExtensions = 8

// Packet is the parsed view of one frame. Its header bytes are a private copy; the payload stays in the frame
// and is borrowed as long as the frame is. A Packet is meant to be reused: Parse overwrites it.
type Packet struct {
	Frame *Frame

	DstMAC, SrcMAC [6]byte
	EtherType      uint16

	V6       bool
	Src, Dst netip.Addr
	TOS, TTL uint8
	DF       bool
	Proto    uint8 // of the transport header, after extension headers

	L4      int // offset of the transport header in the frame
	L4Len   int // bytes from L4 to the end of the IP packet, as the IP header says
	HeadLen int // bytes of the transport header (TCP with options)

	SrcPort, DstPort uint16 // TCP, UDP

	// Of a fragment: which packet it is of, where in it what is at L4 belongs, in bytes, and whether more follow.
	FragID     uint32
	FragOffset int
	FragMore   bool

	head    [maxHead]byte
	headLen int
}

// L3 is the private copy of the packet from the IP header on, as far as it was copied.
func (p *Packet) L3() []byte { return p.head[EtherLen:p.headLen] }

// Transport is the private copy of the transport header, options included.
func (p *Packet) Transport() []byte { return p.head[p.L4 : p.L4+p.HeadLen] }

// PayloadLen is the number of bytes behind the transport header.
func (p *Packet) PayloadLen() int { return p.L4Len - p.HeadLen }

// Payload appends the pieces of the payload to bufs; they are borrowed from the frame.
func (p *Packet) Payload(bufs [][]byte) [][]byte {
	return p.Frame.Append(bufs, p.L4+p.HeadLen, p.PayloadLen())
}

// Parse fills p from the frame f and checks every length, offset and checksum up to and including the
// transport header. It answers None, or why the frame has to be dropped. ARP and unknown EtherTypes are left to the
// caller: for them only the Ethernet part is set. Of a fragment (stats.Fragment) L4 and L4Len say where its part of the packet is, and
// nothing behind the IP header has been looked at.
func (p *Packet) Parse(f *Frame) stats.Reason {
	p.Frame = f
	p.headLen = f.CopyAt(p.head[:], 0)
	if p.headLen < EtherLen {
		return stats.ShortFrame
	}
	copy(p.DstMAC[:], p.head[0:6])
	copy(p.SrcMAC[:], p.head[6:12])
	p.EtherType = binary.BigEndian.Uint16(p.head[12:])
	p.Proto, p.HeadLen = 0, 0
	var r stats.Reason
	switch p.EtherType {
	case EtherIPv4:
		r = p.parseIPv4()
	case EtherIPv6:
		r = p.parseIPv6()
	case EtherARP:
		return stats.None
	default:
		return stats.BadEtherType
	}
	if r != stats.None {
		return r
	}
	return p.parseTransport()
}

func (p *Packet) parseIPv4() stats.Reason {
	h := p.L3()
	if len(h) < IPv4Len {
		return stats.ShortFrame
	}
	hl := int(h[0]&0xf) * 4
	total := int(binary.BigEndian.Uint16(h[2:]))
	if h[0]>>4 != 4 || hl < IPv4Len || total < hl {
		return stats.BadIPHeader
	}
	if hl > len(h) || EtherLen+total > p.Frame.Len {
		return stats.ShortFrame
	}
	if checksum.Checksum(h[:hl], 0) != 0xffff {
		return stats.BadIPChecksum
	}
	frag := binary.BigEndian.Uint16(h[6:])
	p.V6 = false
	p.DF = frag&0x4000 != 0
	p.TOS, p.TTL, p.Proto = h[1], h[8], h[9]
	p.Src = netip.AddrFrom4([4]byte(h[12:16]))
	p.Dst = netip.AddrFrom4([4]byte(h[16:20]))
	p.L4 = EtherLen + hl
	p.L4Len = total - hl
	if frag&(moreFragments|offsetMask) != 0 {
		p.FragID = uint32(binary.BigEndian.Uint16(h[4:]))
		p.FragOffset, p.FragMore = int(frag&offsetMask)*8, frag&moreFragments != 0
		return stats.Fragment
	}
	return stats.None
}

func (p *Packet) parseIPv6() stats.Reason {
	h := p.L3()
	if len(h) < IPv6Len {
		return stats.ShortFrame
	}
	if h[0]>>4 != 6 {
		return stats.BadIPHeader
	}
	plen := int(binary.BigEndian.Uint16(h[4:]))
	if EtherLen+IPv6Len+plen > p.Frame.Len {
		return stats.ShortFrame
	}
	p.V6, p.DF = true, true
	p.TOS = h[0]<<4 | h[1]>>4
	p.TTL = h[7]
	p.Src = netip.AddrFrom16([16]byte(h[8:24]))
	p.Dst = netip.AddrFrom16([16]byte(h[24:40]))
	next, off, end := h[6], IPv6Len, IPv6Len+plen
	for range maxExtensions {
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if off+8 > min(end, len(h)) {
				return stats.BadExtension
			}
			n := int(h[off+1])*8 + 8
			if off+n > end {
				return stats.BadExtension
			}
			next, off = h[off], off+n
		case ProtoFragment:
			if off+FragmentLen > min(end, len(h)) {
				return stats.BadExtension
			}
			field := binary.BigEndian.Uint16(h[off+2:])
			p.FragID = binary.BigEndian.Uint32(h[off+4:])
			p.FragOffset, p.FragMore = int(field&^7), field&1 != 0
			p.Proto = h[off]
			p.L4 = EtherLen + off + FragmentLen
			p.L4Len = end - off - FragmentLen
			return stats.Fragment
		case 59: // no next header
			return stats.UnknownProtocol
		default:
			p.Proto = next
			p.L4 = EtherLen + off
			p.L4Len = end - off
			return stats.None
		}
	}
	return stats.BadExtension
}

func (p *Packet) parseTransport() stats.Reason {
	var csumAt int
	switch p.Proto {
	case ProtoTCP:
		if p.L4Len < TCPLen || p.L4+TCPLen > p.headLen {
			return stats.BadTransport
		}
		p.HeadLen = int(p.head[p.L4+12]>>4) * 4
		if p.HeadLen < TCPLen || p.HeadLen > p.L4Len || p.L4+p.HeadLen > p.headLen {
			return stats.BadTransport
		}
		csumAt = 16
	case ProtoUDP:
		if p.L4Len < UDPLen || p.L4+UDPLen > p.headLen {
			return stats.BadTransport
		}
		n := int(binary.BigEndian.Uint16(p.head[p.L4+4:]))
		if n < UDPLen || n > p.L4Len {
			return stats.BadTransport
		}
		p.HeadLen, p.L4Len = UDPLen, n
		csumAt = 6
	case ProtoICMP, ProtoIGMP, ProtoICMPv6:
		if (p.Proto == ProtoICMPv6) != p.V6 {
			return stats.UnknownProtocol
		}
		if p.L4Len < 8 || p.L4+8 > p.headLen {
			return stats.BadTransport
		}
		p.HeadLen = 8
		csumAt = 2
	default:
		return stats.UnknownProtocol
	}
	if p.Proto == ProtoTCP || p.Proto == ProtoUDP {
		p.SrcPort = binary.BigEndian.Uint16(p.head[p.L4:])
		p.DstPort = binary.BigEndian.Uint16(p.head[p.L4+2:])
		if p.SrcPort == 0 || p.DstPort == 0 {
			return stats.BadTransport
		}
	}
	return p.checkOffloads(csumAt)
}

// checkOffloads judges the virtio-net header against the packet: a partial checksum has to lie where this
// protocol keeps it, a GSO type has to be this protocol's, and a frame without either carries a full checksum.
func (p *Packet) checkOffloads(csumAt int) stats.Reason {
	h := &p.Frame.Hdr
	if gso := h.GSOType &^ GSOECN; gso != GSONone {
		ok := h.GSOSize != 0 && h.Flags&FlagNeedsCsum != 0
		switch gso {
		case GSOTCPv4:
			ok = ok && p.Proto == ProtoTCP && !p.V6
		case GSOTCPv6:
			ok = ok && p.Proto == ProtoTCP && p.V6
		case GSOUDPL4:
			ok = ok && p.Proto == ProtoUDP
		default:
			ok = false
		}
		if !ok {
			return stats.BadVnetHeader
		}
	}
	switch {
	case h.Flags&FlagNeedsCsum != 0:
		if int(h.CsumStart) != p.L4 || int(h.CsumOffset) != csumAt {
			return stats.BadVnetHeader
		}
		return stats.None
	case h.Flags&FlagDataValid != 0:
		return stats.None
	case p.Proto == ProtoUDP && !p.V6 && p.head[p.L4+6] == 0 && p.head[p.L4+7] == 0:
		return stats.None // RFC 768: no checksum was made
	}
	if p.fullChecksum() != 0xffff {
		return stats.BadChecksum
	}
	return stats.None
}

func (p *Packet) fullChecksum() uint16 {
	var sum uint16
	if p.Proto != ProtoICMP && p.Proto != ProtoIGMP {
		sum = PseudoSum(p.Src, p.Dst, p.Proto, p.L4Len)
	}
	var c checksum.Checksumer
	c.Add([]byte{byte(sum >> 8), byte(sum)})
	off, n := p.L4, p.L4Len
	for _, b := range p.Frame.Bufs {
		if off >= len(b) {
			off -= len(b)
			continue
		}
		b = b[off:min(len(b), off+n)]
		off = 0
		c.Add(b)
		if n -= len(b); n == 0 {
			break
		}
	}
	return c.Checksum()
}

// PseudoSum is the one's complement sum, not inverted, of the pseudo header of RFC 9293 and RFC 8200: what
// a checksum field holds while FlagNeedsCsum is set. n is the length of transport header and payload in bytes.
func PseudoSum(src, dst netip.Addr, proto uint8, n int) uint16 {
	var sum uint16
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		sum = checksum.Checksum(d[:], checksum.Checksum(s[:], 0))
	} else {
		s, d := src.As16(), dst.As16()
		sum = checksum.Checksum(d[:], checksum.Checksum(s[:], 0))
	}
	sum = checksum.Combine(sum, uint16(proto))
	sum = checksum.Combine(sum, uint16(n))
	return checksum.Combine(sum, uint16(n>>16))
}
