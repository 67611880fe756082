package app

import (
	"errors"
	"net/netip"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/internal/options"
	"github.com/vasta-net/vasta/netns"
)

// localGateway6 is the router of a guest whose host has no IPv6 router.
var localGateway6 = netip.MustParseAddr("fe80::1")

// loopbacks are what the mapping of the host's loopback leads to.
var loopbacks = [2]netip.Addr{forward.V4: netip.AddrFrom4([4]byte{127, 0, 0, 1}), forward.V6: netip.IPv6Loopback()}

// plan is everything that follows from the options and the host's network, before anything is made.
type plan struct {
	inside  netns.Config
	mapping forward.Map
	guest   []netip.Addr
	names   naming
	former  []netip.Addr // the guest's addresses of before the host's network changed
	host    netns.Template
	resolv  []byte // what it was made from
	ports   struct{ tcp, udp []forward.Port }
}

// makePlan works out what the inside looks like. resolv is the host's resolv.conf, nil when there is none.
func makePlan(o *options.Options, host netns.Template, resolv []byte) (*plan, error) {
	p := &plan{inside: host.Config(), host: host, resolv: resolv}
	p.inside.MTU = o.Guest.MTU
	p.inside.MAC = netns.MAC(o.Guest.MAC)
	p.inside.Queues = o.Limits.Queues
	p.inside.KeepID = o.KeepID
	if o.Guest.IfName != "" {
		p.inside.IfName = o.Guest.IfName
	}
	p.inside.Addrs, p.inside.Routes = nil, nil
	if o.Guest.IPv4 {
		p.family(forward.V4, o, host.V4, o.Guest.Address4, o.Guest.Gateway.V4, netip.MustParsePrefix("0.0.0.0/0"))
	}
	if o.Guest.IPv6 {
		p.family(forward.V6, o, host.V6, o.Guest.Address6, o.Guest.Gateway.V6, netip.MustParsePrefix("::/0"))
	}
	if len(p.inside.Routes) == 0 {
		return nil, errors.New("the host has no network of the address family asked for: leave out -4 or -6, or give --address and --gateway")
	}
	p.hostMapping(o)
	p.names = p.naming(o, resolv)
	p.inside.ResolvConf = p.names.resolvConf
	p.forwards(o)
	return p, nil
}

// family plans one address family: the address asked for, else those of the host.
func (p *plan) family(f int, o *options.Options, host netns.Family, addr netip.Prefix, gw netip.Addr, all netip.Prefix) {
	addrs, routes := host.Addrs, host.Routes
	if addr.IsValid() {
		addrs, routes = []netip.Prefix{addr}, nil
	}
	if f == forward.V4 && o.Guest.PrefixLen4 != 0 && len(addrs) > 0 {
		addrs = []netip.Prefix{netip.PrefixFrom(addrs[0].Addr(), o.Guest.PrefixLen4)}
	}
	if !gw.IsValid() {
		gw = host.Gateway
	} else {
		routes = nil
	}
	if !gw.IsValid() && addr.IsValid() {
		gw = netns.LocalGateway4
		if f == forward.V6 {
			gw = localGateway6
		}
	}
	if !gw.IsValid() {
		return // the host does not have this family
	}
	if len(routes) == 0 {
		routes = []netns.Route{{Dst: all, Gateway: gw, OnLink: true}}
	}
	p.inside.Addrs = append(p.inside.Addrs, addrs...)
	p.inside.Routes = append(p.inside.Routes, routes...)
	p.mapping.Gateway[f] = gw
	for i, a := range addrs {
		p.guest = append(p.guest, a.Addr())
		if i == 0 {
			p.mapping.Guest[f] = a.Addr()
		}
	}
}

// hostMapping plans behind which addresses the host is reached.
func (p *plan) hostMapping(o *options.Options) {
	lo := [2]netip.Addr{o.Mapping.HostLoopback.V4, o.Mapping.HostLoopback.V6}
	alias := [2]netip.Addr{o.Mapping.GuestAddr.V4, o.Mapping.GuestAddr.V6}
	for f := range lo {
		if !lo[f].IsValid() && o.Mapping.Gateway {
			lo[f] = p.mapping.Gateway[f]
		}
		p.mapping.Loopback[f] = lo[f]
		p.mapping.GuestAlias[f] = alias[f]
	}
}
