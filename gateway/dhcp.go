package gateway

import (
	"net/netip"

	"github.com/mdlayher/ndp"
	"github.com/vasta-net/vasta/gateway/dhcp"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// inputUDP handles what clients of DHCP and DHCPv6 send to their servers. A relay's message to a server elsewhere is
// not handled: it is the flows'.
func (g *Gateway) inputUDP(p *packet.Packet, emit func([]byte)) (r stats.Reason, handled bool) {
	switch {
	case p.DstPort == dhcp.ServerPort4 && !p.V6 && g.dhcp4 != nil && (p.Dst == limitedBroadcast || p.Dst == g.dhcp4.Server):
		return g.inputDHCP4(p, emit), true
	case p.DstPort == dhcp.ServerPort6 && p.V6 && g.dhcp6 != nil && (p.Dst == dhcp.Servers6 || p.Dst == g.linkLocal):
		return g.inputDHCP6(p, emit), true
	}
	return stats.None, false
}

// limitedBroadcast reaches every host of the link.
var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// message copies the payload of a datagram to private memory; false when it is too long to be DHCP's.
func (g *Gateway) message(p *packet.Packet) ([]byte, bool) {
	n := p.PayloadLen()
	if n > dhcp.MaxMessage || p.Frame.Hdr.GSOType != packet.GSONone {
		return nil, false
	}
	if g.dhcpIn == nil {
		g.dhcpIn = make([]byte, dhcp.MaxMessage)
	}
	p.Frame.CopyAt(g.dhcpIn[:n], p.L4+packet.UDPLen) // packet.Parse made sure that the frame has them all
	return g.dhcpIn[:n], true
}

func (g *Gateway) inputDHCP4(p *packet.Packet, emit func([]byte)) stats.Reason {
	msg, ok := g.message(p)
	if !ok || !unicast(p.SrcMAC) {
		return stats.BadDHCP
	}
	a, r := g.dhcp4.Answer(p.SrcMAC, msg)
	if a == nil {
		return r
	}
	g.begin(a.MAC, packet.EtherIPv4)
	g.out = append(g.out, make([]byte, packet.IPv4Len)...)
	ip := header.IPv4(g.out[packet.EtherLen:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(packet.IPv4Len + packet.UDPLen + len(a.Payload)),
		TTL:         hopLimit,
		Protocol:    packet.ProtoUDP,
		SrcAddr:     tcpip.AddrFrom4(g.dhcp4.Server.As4()),
		DstAddr:     tcpip.AddrFrom4(a.Dst.As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	g.emitUDP(g.dhcp4.Server, a.Dst, dhcp.ServerPort4, dhcp.ClientPort4, a.Payload, emit)
	return stats.None
}

func (g *Gateway) inputDHCP6(p *packet.Packet, emit func([]byte)) stats.Reason {
	msg, ok := g.message(p)
	if !ok || !unicast(p.SrcMAC) {
		return stats.BadDHCP
	}
	if !usable(p.Src) {
		return stats.BadSource
	}
	answer, r := g.dhcp6.Answer(p.Dst == dhcp.Servers6, msg)
	if answer == nil {
		return r
	}
	if len(answer) > maxMessage {
		return stats.TooLong
	}
	g.begin(p.SrcMAC, packet.EtherIPv6)
	g.out = append(g.out, make([]byte, packet.IPv6Len)...)
	header.IPv6(g.out[packet.EtherLen:]).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(packet.UDPLen + len(answer)),
		TransportProtocol: packet.ProtoUDP,
		HopLimit:          ndp.HopLimit,
		SrcAddr:           tcpip.AddrFrom16(g.linkLocal.As16()),
		DstAddr:           tcpip.AddrFrom16(p.Src.As16()),
	})
	g.emitUDP(g.linkLocal, p.Src, dhcp.ServerPort6, dhcp.ClientPort6, answer, emit)
	return stats.None
}

// emitUDP completes the frame in g.out, which has its IP header, with a datagram.
func (g *Gateway) emitUDP(src, dst netip.Addr, from, to uint16, payload []byte, emit func([]byte)) {
	at, n := len(g.out), packet.UDPLen+len(payload)
	g.out = append(append(g.out, make([]byte, packet.UDPLen)...), payload...)
	u := header.UDP(g.out[at:])
	u.Encode(&header.UDPFields{SrcPort: from, DstPort: to, Length: uint16(n)})
	sum := ^checksum.Checksum(g.out[at:], packet.PseudoSum(src, dst, packet.ProtoUDP, n))
	if sum == 0 {
		sum = 0xffff // RFC 768: 0 says that there is none
	}
	u.SetChecksum(sum)
	emit(g.out)
}
