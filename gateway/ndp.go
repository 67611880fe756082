package gateway

import (
	"net/netip"

	"github.com/mdlayher/ndp"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// maxMessage bounds a solicitation in bytes: no link needs more than the smallest MTU of IPv6 for one.
const maxMessage = header.IPv6MinimumMTU - packet.IPv6Len

// Lengths of the fixed parts of the messages, from the ICMPv6 header on.
const (
	routerSolicitLen   = 8
	neighborSolicitLen = 24
	targetOff          = 8 // of a neighbour solicitation's target address
)

// linkLayerOption is the length of a link-layer address option in bytes; it is also the unit of all options.
const linkLayerOption = 8

var (
	allNodes       = netip.MustParseAddr("ff02::1")
	solicitedNodes = netip.MustParsePrefix("ff02::1:ff00:0/104")
)

// inputICMPv6 handles what concerns the link only.
func (g *Gateway) inputICMPv6(p *packet.Packet, emit func([]byte)) (r stats.Reason, handled bool) {
	switch header.ICMPv6(p.Transport()).Type() {
	case header.ICMPv6NeighborSolicit:
		return g.solicitation(p, neighborSolicitLen, g.neighborSolicit, emit), true
	case header.ICMPv6RouterSolicit:
		return g.solicitation(p, routerSolicitLen, g.routerSolicit, emit), true
	case header.ICMPv6NeighborAdvert, header.ICMPv6RouterAdvert, header.ICMPv6RedirectMsg,
		header.ICMPv6MulticastListenerQuery, header.ICMPv6MulticastListenerReport,
		header.ICMPv6MulticastListenerDone, header.ICMPv6MulticastListenerV2Report:
		return stats.None, true // the gateway asks nothing, and sends to no group but all nodes
	}
	return stats.None, false
}

// solicitation makes the checks that both kinds of solicitation have to pass (RFC 4861, 6.1.1 and 7.1.1); the
// checksum was checked by packet.Parse. Then it has the message answered.
func (g *Gateway) solicitation(p *packet.Packet, fixed int, answer func(*packet.Packet, []byte, func([]byte)) stats.Reason,
	emit func([]byte)) stats.Reason {
	if !g.linkLocal.IsValid() {
		return stats.Disabled
	}
	if p.L4Len < fixed || p.L4Len > maxMessage {
		return stats.BadNDP
	}
	msg := g.in[:p.L4Len]
	p.Frame.CopyAt(msg, p.L4) // packet.Parse made sure that the frame has them all
	if p.TTL != ndp.HopLimit || header.ICMPv6(msg).Code() != 0 {
		return stats.BadNDP
	}
	if !unicast(p.SrcMAC) || p.Src.IsMulticast() || p.Src.IsLoopback() {
		return stats.BadSource
	}
	source, ok := checkOptions(msg[fixed:])
	if !ok {
		return stats.BadOption
	}
	if source && p.Src.IsUnspecified() {
		return stats.BadNDP // a node without an address has none to be remembered
	}
	return answer(p, msg, emit)
}

// checkOptions walks the options of a message. Each is a type, a length in units of 8 bytes that counts both, and a
// value. It reports whether a source link-layer address is among them, and whether all are well-formed.
func checkOptions(b []byte) (source, ok bool) {
	for len(b) > 0 {
		if len(b) < linkLayerOption {
			return false, false
		}
		n := int(b[1]) * linkLayerOption
		if n == 0 || n > len(b) {
			return false, false
		}
		if ndp.Direction(b[0]) == ndp.Source {
			if n != linkLayerOption || !unicast(MAC(b[2:8])) {
				return false, false
			}
			source = true
		}
		b = b[n:]
	}
	return source, true
}

// neighborSolicit answers for any address but the guest's own. Duplicate address detection (RFC 4862, 5.4) asks
// without a source address: then only an address that is really taken is defended, toward all nodes.
func (g *Gateway) neighborSolicit(p *packet.Packet, msg []byte, emit func([]byte)) stats.Reason {
	target := netip.AddrFrom16([16]byte(msg[targetOff:neighborSolicitLen]))
	if !usable(target) {
		return stats.BadNDP
	}
	detection := p.Src.IsUnspecified()
	if detection && !solicitedNodes.Contains(p.Dst) {
		return stats.BadNDP
	}
	if g.isGuest(target) || detection && !g.isOurs(target) {
		return stats.None
	}
	msg = make([]byte, header.ICMPv6NeighborAdvertMinimumSize+linkLayerOption)
	header.ICMPv6(msg).SetType(header.ICMPv6NeighborAdvert)
	na := header.NDPNeighborAdvert(header.ICMPv6(msg).MessageBody())
	na.SetRouterFlag(true)
	na.SetSolicitedFlag(!detection)
	na.SetOverrideFlag(true)
	na.SetTargetAddress(tcpip.AddrFrom16(target.As16()))
	na.Options().Serialize(header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(g.mac[:])})
	g.answer(p, msg, emit)
	return stats.None
}

// routerSolicit answers with a router advertisement.
func (g *Gateway) routerSolicit(p *packet.Packet, _ []byte, emit func([]byte)) stats.Reason {
	if len(g.ra) == 0 {
		return stats.Disabled
	}
	g.answer(p, g.ra, emit)
	return stats.None
}

// answer sends a message to where a solicitation came from, or to all nodes when that had no address yet.
func (g *Gateway) answer(p *packet.Packet, msg []byte, emit func([]byte)) {
	if p.Src.IsUnspecified() {
		g.multicast(msg, emit)
		return
	}
	g.emitICMPv6(p.SrcMAC, p.Src, msg, emit)
}

// multicast sends a message to all nodes.
func (g *Gateway) multicast(msg []byte, emit func([]byte)) {
	g.emitICMPv6(MAC{0x33, 0x33, 0, 0, 0, 1}, allNodes, msg, emit)
}

// emitICMPv6 emits a message, whose checksum is still zero, from the link-local address.
func (g *Gateway) emitICMPv6(mac MAC, dst netip.Addr, msg []byte, emit func([]byte)) {
	g.begin(mac, packet.EtherIPv6)
	g.out = append(g.out, make([]byte, packet.IPv6Len)...)
	header.IPv6(g.out[packet.EtherLen:]).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(len(msg)),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          ndp.HopLimit,
		SrcAddr:           tcpip.AddrFrom16(g.linkLocal.As16()),
		DstAddr:           tcpip.AddrFrom16(dst.As16()),
	})
	g.out = append(g.out, msg...)
	sum := packet.PseudoSum(g.linkLocal, dst, packet.ProtoICMPv6, len(msg))
	header.ICMPv6(g.out[packet.EtherLen+packet.IPv6Len:]).SetChecksum(^checksum.Checksum(msg, sum))
	emit(g.out)
}
