package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vasta-net/vasta/stats"
)

// Ports of DHCPv6 (RFC 8415, 7.2).
const (
	ServerPort6 = 547
	ClientPort6 = 546
)

// Servers6 is the group that clients ask (All_DHCP_Relay_Agents_and_Servers, RFC 8415, 7.1).
var Servers6 = netip.MustParseAddr("ff02::1:2")

// Config6 is what DHCPv6 hands out.
type Config6 struct {
	MAC   MAC        // the server's, of which its DUID is made
	Addr  netip.Addr // the guest's address; the zero Addr: there is none to hand out, only the rest
	Names Names
}

// Server6 answers DHCPv6 messages (RFC 8415).
type Server6 struct {
	Config6
	id dhcpv6.DUID
}

// New6 checks a configuration and returns its server.
func New6(c Config6) (*Server6, error) {
	if c.Addr.IsValid() && (!c.Addr.Is6() || c.Addr.Is4In6()) {
		return nil, fmt.Errorf("DHCPv6: %v is not the IPv6 address of a client", c.Addr)
	}
	if err := c.Names.check(); err != nil {
		return nil, fmt.Errorf("DHCPv6: %w", err)
	}
	for _, a := range c.Names.DNS {
		if !a.Is6() || a.Is4In6() {
			return nil, fmt.Errorf("DHCPv6: %v is not the IPv6 address of a resolver", a)
		}
	}
	return &Server6{Config6: c, id: &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: c.MAC[:]}}, nil
}

// Answer takes the message of a client that came to the group of servers, or to the server's own address. The answer is nil
// when there is none to give: the reason says whether the message was bad.
func (s *Server6) Answer(toGroup bool, msg []byte) ([]byte, stats.Reason) {
	if len(msg) > MaxMessage {
		return nil, stats.BadDHCP
	}
	req, err := dhcpv6.MessageFromBytes(msg)
	if err != nil || !s.valid(req) {
		return nil, stats.BadDHCP
	}
	if id := req.Options.ServerID(); id != nil && !id.Equal(s.id) {
		return nil, stats.None // for another server
	}
	reply := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: req.TransactionID}
	reply.AddOption(dhcpv6.OptServerID(s.id))
	if id := req.GetOneOption(dhcpv6.OptionClientID); id != nil {
		reply.AddOption(id)
	}
	if !toGroup && req.MessageType != dhcpv6.MessageTypeInformationRequest {
		// 18.4: this server allows nobody to ask it in private. What has to come to the group from the first is not answered.
		switch req.MessageType {
		case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
			status(reply, iana.StatusUseMulticast)
			return reply.ToBytes(), stats.None
		}
		return nil, stats.BadDHCP
	}
	switch req.MessageType {
	case dhcpv6.MessageTypeSolicit:
		if req.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			reply.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		} else {
			reply.MessageType = dhcpv6.MessageTypeAdvertise
		}
		s.assign(req, reply)
		s.tell(req, reply)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		s.assign(req, reply)
		s.tell(req, reply)
	case dhcpv6.MessageTypeConfirm:
		on, any := s.onLink(req)
		if !any {
			return nil, stats.None // 18.3.3: there is nothing to confirm
		}
		code := iana.StatusSuccess
		if !on {
			code = iana.StatusNotOnLink
		}
		status(reply, code)
	case dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		status(reply, iana.StatusSuccess)
	case dhcpv6.MessageTypeInformationRequest:
		s.tell(req, reply)
		reply.AddOption(dhcpv6.OptInformationRefreshTime(Lease))
	}
	return reply.ToBytes(), stats.None
}

// valid makes the checks of RFC 8415, 16.
func (s *Server6) valid(req *dhcpv6.Message) bool {
	client, server := req.Options.ClientID() != nil, req.Options.ServerID() != nil
	switch req.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		return client && !server
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		return client && server
	case dhcpv6.MessageTypeInformationRequest:
		return len(req.Options.IANA())+len(req.Options.IATA())+len(req.Options.IAPD()) == 0
	}
	return false
}

// assign answers the identity associations of a client: the first for an address gets the guest's, the others nothing. Addresses
// of its that are not the guest's end (18.3.4).
func (s *Server6) assign(req, reply *dhcpv6.Message) {
	for i, ia := range req.Options.IANA() {
		out := &dhcpv6.OptIANA{IaId: ia.IaId}
		reply.AddOption(out)
		if i > 0 || !s.Addr.IsValid() {
			out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail})
			continue
		}
		out.T1, out.T2 = Lease/2, Lease*4/5
		out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: s.Addr.AsSlice(), PreferredLifetime: Lease, ValidLifetime: Lease})
		if req.MessageType != dhcpv6.MessageTypeRenew && req.MessageType != dhcpv6.MessageTypeRebind {
			continue
		}
		for _, a := range ia.Options.Addresses() {
			if !a.IPv6Addr.Equal(s.Addr.AsSlice()) {
				out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.IPv6Addr})
			}
		}
	}
	for _, ia := range req.Options.IATA() {
		out := &dhcpv6.OptIATA{IaId: ia.IaId}
		out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail})
		reply.AddOption(out)
	}
	for _, ia := range req.Options.IAPD() {
		out := &dhcpv6.OptIAPD{IaId: ia.IaId}
		out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoPrefixAvail})
		reply.AddOption(out)
	}
}

// tell adds what is not about addresses.
func (s *Server6) tell(req, reply *dhcpv6.Message) {
	n := &s.Names
	if len(n.DNS) > 0 {
		reply.AddOption(dhcpv6.OptDNS(ips(n.DNS)...))
	}
	if len(n.Search) > 0 {
		reply.AddOption(dhcpv6.OptDomainSearchList(labels(n.Search...)))
	}
	if n.FQDN != "" && (req.Options.FQDN() != nil || req.IsOptionRequested(dhcpv6.OptionFQDN)) {
		const noUpdate = 0x04 // RFC 4704, 4.1: the server updates no DNS
		reply.AddOption(&dhcpv6.OptFQDN{Flags: noUpdate, DomainName: labels(strings.TrimSuffix(n.FQDN, "."))})
	}
}

// onLink reports whether all addresses of a client are on this link, and whether it names any.
func (s *Server6) onLink(req *dhcpv6.Message) (on, any bool) {
	on = s.Addr.IsValid()
	check := func(ip net.IP) {
		any = true
		a, _ := netip.AddrFromSlice(ip)
		on = on && netip.PrefixFrom(s.Addr, 64).Contains(a)
	}
	for _, ia := range req.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			check(a.IPv6Addr)
		}
	}
	for _, ia := range req.Options.IATA() {
		for _, a := range ia.Options.Addresses() {
			check(a.IPv6Addr)
		}
	}
	return on, any
}

func status(reply *dhcpv6.Message, code iana.StatusCode) {
	reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: code.String()})
}
