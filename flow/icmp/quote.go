package icmp

import (
	"encoding/binary"
	"net/netip"

	"github.com/vasta-net/vasta/packet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Report is an error that the guest, or a router of its side, has sent about a packet toward the guest.
type Report struct {
	Error
	// Of the quoted packet: its ends, its protocol, and the ports of UDP and TCP, or the identifier of an echo reply as SrcPort.
	Src, Dst         netip.Addr
	Proto            uint8
	SrcPort, DstPort uint16
	// Seq is the sequence number of a TCP segment.
	Seq uint32
}

// ParseReport reads an error from the ICMP header on, as far as it has come. It is not ok when it is none, or does not quote the first 8 bytes behind the
// IP header of a packet whose flow these name: of a fragment only the first does.
func ParseReport(v6 bool, b []byte) (r Report, ok bool) {
	if len(b) < HeaderLen {
		return Report{}, false
	}
	r.Error, ok = Relayed(v6, b[0], b[1], information(v6, b))
	if !ok {
		return Report{}, false
	}
	var l4 []byte
	if v6 {
		l4, ok = r.quoted6(b[HeaderLen:])
	} else {
		l4, ok = r.quoted4(b[HeaderLen:])
	}
	if !ok || len(l4) < HeaderLen {
		return Report{}, false
	}
	switch r.Proto {
	case packet.ProtoTCP, packet.ProtoUDP:
		r.SrcPort, r.DstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		r.Seq = binary.BigEndian.Uint32(l4[4:])
	case packet.ProtoICMP, packet.ProtoICMPv6:
		if !EchoReply(v6, l4) {
			return Report{}, false
		}
		r.SrcPort = Ident(l4)
	default:
		return Report{}, false
	}
	return r, true
}

// information is what the header of the error b holds beside type and code.
func information(v6 bool, b []byte) uint32 {
	switch {
	case v6:
		return binary.BigEndian.Uint32(b[4:])
	case b[0] == uint8(header.ICMPv4ParamProblem):
		return uint32(b[4])
	}
	return uint32(binary.BigEndian.Uint16(b[6:]))
}

// quoted4 reads the IPv4 header in front of b and returns what stands behind it.
func (r *Report) quoted4(b []byte) (l4 []byte, ok bool) {
	if len(b) < packet.IPv4Len {
		return nil, false
	}
	n := int(b[0]&0xf) * 4
	if b[0]>>4 != 4 || n < packet.IPv4Len || n > len(b) || header.IPv4(b).FragmentOffset() != 0 {
		return nil, false
	}
	r.Proto = b[9]
	r.Src, r.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return b[n:], r.Proto != packet.ProtoICMPv6
}

// quoted6 is quoted4 for IPv6. What goes to the guest has no extension header but that of fragments.
func (r *Report) quoted6(b []byte) (l4 []byte, ok bool) {
	if len(b) < packet.IPv6Len || b[0]>>4 != 6 {
		return nil, false
	}
	r.Proto = b[6]
	r.Src, r.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	b = b[packet.IPv6Len:]
	if r.Proto == packet.ProtoFragment {
		if len(b) < packet.FragmentLen || binary.BigEndian.Uint16(b[2:])&^7 != 0 {
			return nil, false
		}
		r.Proto, b = b[0], b[packet.FragmentLen:]
	}
	return b, r.Proto != packet.ProtoICMP
}

// TooBig reports whether the packet was longer than its way is wide; Info is that then.
func (e Error) TooBig() bool {
	if e.V6 {
		return e.Type == uint8(header.ICMPv6PacketTooBig)
	}
	return e.Type == uint8(header.ICMPv4DstUnreachable) && e.Code == uint8(header.ICMPv4FragmentationNeeded)
}

// Refused reports whether whoever the packet was for, or a filter before it, does not want it: nobody is at its port or speaks its protocol, or it is
// forbidden (RFC 1122, 4.2.3.9; RFC 4443, 3.1).
func (e Error) Refused() bool {
	if e.V6 {
		return e.Type == uint8(header.ICMPv6DstUnreachable) &&
			(e.Code == uint8(header.ICMPv6PortUnreachable) || e.Code == uint8(header.ICMPv6Prohibited) || e.Code >= rejected6)
	}
	if e.Type != uint8(header.ICMPv4DstUnreachable) {
		return false
	}
	switch header.ICMPv4Code(e.Code) {
	case header.ICMPv4ProtoUnreachable, header.ICMPv4PortUnreachable, header.ICMPv4NetProhibited, header.ICMPv4HostProhibited, header.ICMPv4AdminProhibited:
		return true
	}
	return false
}

// rejected6 is the first of the ICMPv6 codes for what a policy, or a route, rejects (RFC 4443, 3.1).
const rejected6 = 5
