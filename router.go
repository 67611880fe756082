package vasta

import (
	"net/netip"
	"strings"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/gateway/dhcp"
	"github.com/vasta-net/vasta/stats"
)

// gateway is what the guest behind t sees as its router.
func (p *plan) gateway(c *Config, t *end, block *stats.Worker) gateway.Config {
	g := gateway.Config{MAC: gateway.MAC(c.Guest.GatewayMAC), GuestMAC: gateway.MAC(t.mac), Guest: p.guest, Former: p.former, Stats: block}
	m := &p.mapping
	g.Ours = append(g.Ours, p.names.at...)
	for _, pair := range [][2]netip.Addr{m.Gateway, m.Loopback, m.GuestAlias} {
		for _, a := range pair {
			if a.IsValid() {
				g.Ours = append(g.Ours, a)
			}
		}
	}
	if m.Gateway[forward.V4].IsValid() && m.Guest[forward.V4].IsValid() && !c.Filter.NoDHCP {
		g.DHCP4 = p.dhcp4(c)
	}
	gw := m.Gateway[forward.V6]
	if !gw.IsValid() || c.Filter.NoNDP {
		return g
	}
	g.LinkLocal = localGateway6
	if gw.IsLinkLocalUnicast() {
		g.LinkLocal = gw
	}
	names := p.told(c, forward.V6)
	if !c.Filter.NoDHCPv6 {
		g.DHCP6 = &dhcp.Config6{MAC: g.MAC, Addr: m.Guest[forward.V6], Names: names}
	}
	if !c.Filter.NoRA {
		g.Router = &gateway.Router{Lifetime: gateway.MaxLifetime, MTU: uint32(p.inside.MTU), DNS: names.DNS, Search: names.Search}
	}
	return g
}

// dhcp4 hands out what the interface inside is configured with already.
func (p *plan) dhcp4(c *Config) *dhcp.Config4 {
	gw := p.mapping.Gateway[forward.V4]
	d := &dhcp.Config4{Server: gw, Router: gw, MTU: p.inside.MTU, Names: p.told(c, forward.V4)}
	for _, a := range p.inside.Addrs {
		if a.Addr() == p.mapping.Guest[forward.V4] {
			d.Addr = a
		}
	}
	for _, r := range p.inside.Routes {
		if r.Dst.Addr().Is4() && r.Dst.Bits() > 0 && (r.Gateway.IsValid() || !r.Dst.Contains(d.Addr.Addr())) {
			d.Routes = append(d.Routes, dhcp.Route{Dst: r.Dst, Gateway: r.Gateway})
		}
	}
	return d
}

// told is what DHCP and router advertisements of a family tell of names.
func (p *plan) told(c *Config, f int) dhcp.Names {
	n := dhcp.Names{Host: c.DNS.Hostname, FQDN: c.DNS.FQDN}
	if c.DNS.ByDHCP {
		for _, a := range p.names.servers {
			if a = a.WithZone(""); familyOf(a) == f {
				n.DNS = append(n.DNS, a)
			}
		}
	}
	if c.DNS.SearchByDHCP {
		for _, d := range p.names.search {
			if d = strings.TrimSuffix(d, "."); dhcp.IsDomain(d) { // what resolv.conf says need not be one
				n.Search = append(n.Search, d)
			}
		}
	}
	return n
}
