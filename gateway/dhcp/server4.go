package dhcp

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vasta-net/vasta/stats"
)

// Ports of DHCP (RFC 2131, 4.1).
const (
	ServerPort4 = 67
	ClientPort4 = 68
)

// Route is one that the guest is told of.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr // the zero Addr: the destination is on the link
}

// Config4 is what DHCP hands out.
type Config4 struct {
	Server netip.Addr   // the server's own address, which identifies it
	Addr   netip.Prefix // the guest's address, with the length of its subnet
	Router netip.Addr
	Routes []Route // further ones
	MTU    int     // bytes; 0: not told
	Names  Names
}

// Server4 answers DHCP messages (RFC 2131) and BOOTP ones (RFC 1534).
type Server4 struct {
	Config4
	static dhcpv4.Routes // RFC 3442; nil when the router option says it all
}

// Answer4 is where an answer goes to.
type Answer4 struct {
	Payload []byte
	// Dst is the limited broadcast address when the client cannot receive by its own yet, and says so.
	Dst netip.Addr
	MAC MAC
}

// New4 checks a configuration and returns its server.
func New4(c Config4) (*Server4, error) {
	if !c.Server.Is4() || !c.Router.Is4() || !c.Addr.IsValid() || !c.Addr.Addr().Is4() {
		return nil, fmt.Errorf("DHCP: %v, %v and %v are not the IPv4 addresses of a server, a router and a client", c.Server, c.Router, c.Addr)
	}
	if err := c.Names.check(); err != nil {
		return nil, fmt.Errorf("DHCP: %w", err)
	}
	for _, a := range c.Names.DNS {
		if !a.Is4() {
			return nil, fmt.Errorf("DHCP: %v is not the IPv4 address of a resolver", a)
		}
	}
	s := &Server4{Config4: c}
	onLink := c.Addr.Masked().Contains(c.Router)
	if !onLink || len(c.Routes) > 0 {
		// Who understands this option ignores the router option: it has to say everything. The address of a router outside
		// the subnet comes first, as one that is on the link.
		add := func(dst netip.Prefix, gw netip.Addr) {
			if !gw.IsValid() {
				gw = netip.IPv4Unspecified()
			}
			s.static = append(s.static, &dhcpv4.Route{
				Dest: &net.IPNet{IP: dst.Masked().Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), 32)}, Router: gw.AsSlice(),
			})
		}
		if !onLink {
			add(netip.PrefixFrom(c.Router, 32), netip.Addr{})
		}
		for _, r := range c.Routes {
			if !r.Dst.IsValid() || !r.Dst.Addr().Is4() || r.Gateway.IsValid() && !r.Gateway.Is4() {
				return nil, fmt.Errorf("DHCP: %v by %v is not an IPv4 route", r.Dst, r.Gateway)
			}
			add(r.Dst, r.Gateway)
		}
		add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), c.Router)
	}
	return s, nil
}

// Answer takes the message of a client whose frame came from src. The answer is nil when there is none to give: the
// reason says whether the message was bad.
func (s *Server4) Answer(src MAC, msg []byte) (*Answer4, stats.Reason) {
	if len(msg) > MaxMessage {
		return nil, stats.BadDHCP
	}
	req, err := dhcpv4.FromBytes(msg)
	if err != nil || req.OpCode != dhcpv4.OpcodeBootRequest || req.HWType != iana.HWTypeEthernet || len(req.ClientHWAddr) != len(src) ||
		MAC(req.ClientHWAddr) != src {
		return nil, stats.BadDHCP
	}
	if !req.GatewayIPAddr.Equal(net.IPv4zero) {
		return nil, stats.BadDHCP // there is no relay on a link of two
	}
	kind := s.judge(req)
	if kind == dhcpv4.MessageTypeNone && req.MessageType() != dhcpv4.MessageTypeNone {
		return nil, stats.None
	}
	reply, err := dhcpv4.NewReplyFromRequest(req)
	if err != nil {
		return nil, stats.BadDHCP
	}
	reply.ClientIPAddr, reply.YourIPAddr, reply.ServerIPAddr = net.IPv4zero.To4(), net.IPv4zero.To4(), net.IPv4zero.To4()
	if kind != dhcpv4.MessageTypeNone {
		reply.UpdateOption(dhcpv4.OptMessageType(kind))
	}
	reply.UpdateOption(dhcpv4.OptServerIdentifier(s.Server.AsSlice()))
	a := &Answer4{MAC: src, Dst: s.Addr.Addr()}
	if kind != dhcpv4.MessageTypeNak {
		s.fill(req, reply)
	}
	switch {
	case kind == dhcpv4.MessageTypeNak, req.IsBroadcast() && req.ClientIPAddr.Equal(net.IPv4zero):
		a.Dst, a.MAC = netip.AddrFrom4([4]byte{255, 255, 255, 255}), MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	case !req.ClientIPAddr.Equal(net.IPv4zero):
		a.Dst, _ = netip.AddrFromSlice(req.ClientIPAddr.To4())
		reply.ClientIPAddr = req.ClientIPAddr
		if a.Dst.IsMulticast() || a.Dst.IsLoopback() {
			return nil, stats.BadDHCP
		}
	}
	a.Payload = fit(req, reply)
	return a, stats.None
}

// judge says what a message is answered with (RFC 2131, 4.3): a message of type None is none, or a BOOTP reply.
func (s *Server4) judge(req *dhcpv4.DHCPv4) dhcpv4.MessageType {
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if req.Options.Has(dhcpv4.OptionRapidCommit) {
			return dhcpv4.MessageTypeAck // RFC 4039
		}
		return dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		if id := req.ServerIdentifier(); id != nil && !id.Equal(s.Server.AsSlice()) {
			return dhcpv4.MessageTypeNone // the client has taken another's offer
		}
		wanted := req.RequestedIPAddress()
		if wanted == nil {
			wanted = req.ClientIPAddr // it renews
		}
		if !wanted.Equal(s.Addr.Addr().AsSlice()) {
			return dhcpv4.MessageTypeNak
		}
		return dhcpv4.MessageTypeAck
	case dhcpv4.MessageTypeInform:
		return dhcpv4.MessageTypeAck
	}
	return dhcpv4.MessageTypeNone // declined, released, or BOOTP
}

// fill puts in what the client is told.
func (s *Server4) fill(req, reply *dhcpv4.DHCPv4) {
	set := reply.UpdateOption
	if req.MessageType() != dhcpv4.MessageTypeInform { // which has its address, and asks for the rest (4.3.5)
		reply.YourIPAddr = s.Addr.Addr().AsSlice()
		if req.MessageType() != dhcpv4.MessageTypeNone {
			lease := Lease
			if asked := req.IPAddressLeaseTime(lease); asked > 0 {
				lease = min(max(asked, time.Minute), maxLease)
			}
			set(dhcpv4.OptIPAddressLeaseTime(lease))
			set(dhcpv4.OptRenewTimeValue(lease / 2))
			set(dhcpv4.OptRebindingTimeValue(lease * 7 / 8))
		}
	}
	set(dhcpv4.OptSubnetMask(net.CIDRMask(s.Addr.Bits(), 32)))
	set(dhcpv4.OptRouter(s.Router.AsSlice()))
	if s.static != nil {
		set(dhcpv4.OptClasslessStaticRoute(s.static...))
	}
	if s.MTU > 0 && s.MTU <= math.MaxUint16 {
		set(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{byte(s.MTU >> 8), byte(s.MTU)}))
	}
	n := &s.Names
	if len(n.DNS) > 0 {
		set(dhcpv4.OptDNS(ips(n.DNS)...))
	}
	if len(n.Search) > 0 {
		set(dhcpv4.OptDomainSearch(labels(n.Search...)))
	}
	if n.Host != "" {
		set(dhcpv4.OptHostName(n.Host))
	}
	if n.FQDN != "" && (req.Options.Has(dhcpv4.OptionFQDN) || req.IsOptionRequested(dhcpv4.OptionFQDN)) {
		// RFC 4702, 2.1: the name is in the form of RFC 1035, and the server updates no DNS.
		const encoded, noUpdate = 0x04, 0x08
		set(dhcpv4.OptGeneric(dhcpv4.OptionFQDN, append([]byte{encoded | noUpdate, 255, 255}, labels(n.FQDN).ToBytes()...)))
	}
	if reply.MessageType() == dhcpv4.MessageTypeAck && req.MessageType() == dhcpv4.MessageTypeDiscover {
		set(dhcpv4.OptGeneric(dhcpv4.OptionRapidCommit, nil))
	}
}

// dispensable are the options that are left out when an answer is longer than the client takes, the first ones first.
var dispensable = []dhcpv4.OptionCode{
	dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionFQDN, dhcpv4.OptionHostName, dhcpv4.OptionDomainNameServer,
	dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionClientIdentifier,
}

// fit encodes an answer such that it is not longer than the client takes: a datagram of 576 bytes with its headers, unless it
// says more (RFC 2132, 9.10).
func fit(req, reply *dhcpv4.DHCPv4) []byte {
	const least, headers = 576, 28
	limit := least
	if n, err := req.MaxMessageSize(); err == nil {
		limit = max(limit, int(n))
	}
	limit = min(limit-headers, MaxMessage)
	b := reply.ToBytes()
	for _, code := range dispensable {
		if len(b) <= limit {
			break
		}
		reply.DeleteOption(code)
		b = reply.ToBytes()
	}
	return slices.Clip(b)
}
