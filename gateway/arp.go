package gateway

import (
	"net/netip"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// inputARP answers a request for any address but the guest's own with the gateway's Ethernet address. Two kinds
// of request are about an address that the guest wants for itself (RFC 5227): an announcement (sender and target
// the same) is never answered, a probe (no sender) only if the address is taken. Answering more would
// show the guest a conflict that is none.
func (g *Gateway) inputARP(p *packet.Packet, emit func([]byte)) stats.Reason {
	req := header.ARP(p.L3())
	if len(req) < header.ARPSize {
		return stats.ShortFrame
	}
	// Valid is: IPv4 over Ethernet, with addresses of their lengths.
	if !req.IsValid() || req.Op() != header.ARPRequest && req.Op() != header.ARPReply {
		return stats.BadARP
	}
	senderMAC := MAC(req.HardwareAddressSender())
	sender := netip.AddrFrom4([4]byte(req.ProtocolAddressSender()))
	target := netip.AddrFrom4([4]byte(req.ProtocolAddressTarget()))
	probe := sender.IsUnspecified()
	if !unicast(senderMAC) || !probe && !usable(sender) {
		return stats.BadARP
	}
	if req.Op() == header.ARPReply {
		return stats.None // tells nothing but the sender's address
	}
	if !usable(target) {
		return stats.BadARP
	}
	if sender == target || g.isGuest(target) || probe && !g.isOurs(target) {
		return stats.None
	}
	g.begin(senderMAC, packet.EtherARP)
	g.out = append(g.out, make([]byte, header.ARPSize)...)
	reply := header.ARP(g.out[packet.EtherLen:])
	reply.SetIPv4OverEthernet()
	reply.SetOp(header.ARPReply)
	copy(reply.HardwareAddressSender(), g.mac[:])
	copy(reply.ProtocolAddressSender(), req.ProtocolAddressTarget())
	copy(reply.HardwareAddressTarget(), req.HardwareAddressSender())
	copy(reply.ProtocolAddressTarget(), req.ProtocolAddressSender())
	emit(g.out)
	return stats.None
}
