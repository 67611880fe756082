package app

import (
	"net/netip"
	"strings"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/gateway/dhcp"
	"github.com/vasta-net/vasta/internal/options"
	"github.com/vasta-net/vasta/netns"
	"github.com/vasta-net/vasta/stats"
)

// gateway is what the guest behind t sees as its router.
func (p *plan) gateway(o *options.Options, t *netns.TAP, block *stats.Worker) gateway.Config {
	c := gateway.Config{MAC: gateway.MAC(o.Guest.GatewayMAC), GuestMAC: gateway.MAC(t.MAC), Guest: p.guest, Former: p.former, Stats: block}
	m := &p.mapping
	c.Ours = append(c.Ours, p.names.at...)
	for _, pair := range [][2]netip.Addr{m.Gateway, m.Loopback, m.GuestAlias} {
		for _, a := range pair {
			if a.IsValid() {
				c.Ours = append(c.Ours, a)
			}
		}
	}
	if m.Gateway[forward.V4].IsValid() && m.Guest[forward.V4].IsValid() && !o.Filter.NoDHCP {
		c.DHCP4 = p.dhcp4(o, t)
	}
	gw := m.Gateway[forward.V6]
	if !gw.IsValid() || o.Filter.NoNDP {
		return c
	}
	c.LinkLocal = localGateway6
	if gw.IsLinkLocalUnicast() {
		c.LinkLocal = gw
	}
	names := p.told(o, forward.V6)
	if !o.Filter.NoDHCPv6 {
		c.DHCP6 = &dhcp.Config6{MAC: c.MAC, Addr: m.Guest[forward.V6], Names: names}
	}
	if !o.Filter.NoRA {
		c.Router = &gateway.Router{Lifetime: gateway.MaxLifetime, MTU: uint32(t.MTU), DNS: names.DNS, Search: names.Search}
	}
	return c
}

// dhcp4 hands out what the interface inside is configured with already.
func (p *plan) dhcp4(o *options.Options, t *netns.TAP) *dhcp.Config4 {
	gw := p.mapping.Gateway[forward.V4]
	c := &dhcp.Config4{Server: gw, Router: gw, MTU: t.MTU, Names: p.told(o, forward.V4)}
	for _, a := range p.inside.Addrs {
		if a.Addr() == p.mapping.Guest[forward.V4] {
			c.Addr = a
		}
	}
	for _, r := range p.inside.Routes {
		if r.Dst.Addr().Is4() && r.Dst.Bits() > 0 && (r.Gateway.IsValid() || !r.Dst.Contains(c.Addr.Addr())) {
			c.Routes = append(c.Routes, dhcp.Route{Dst: r.Dst, Gateway: r.Gateway})
		}
	}
	return c
}

// told is what DHCP and router advertisements of a family tell of names.
func (p *plan) told(o *options.Options, f int) dhcp.Names {
	n := dhcp.Names{Host: o.DNS.Hostname, FQDN: o.DNS.FQDN}
	if o.DNS.ByDHCP {
		for _, a := range p.names.servers {
			if a = a.WithZone(""); familyOf(a) == f {
				n.DNS = append(n.DNS, a)
			}
		}
	}
	if o.DNS.SearchByDHCP {
		for _, d := range p.names.search {
			if d = strings.TrimSuffix(d, "."); dhcp.IsDomain(d) { // what resolv.conf says need not be one
				n.Search = append(n.Search, d)
			}
		}
	}
	return n
}
