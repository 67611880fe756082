package vasta

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/netns"
)

// localGateway6 is the router of a guest whose host has no IPv6 router.
var localGateway6 = netip.MustParseAddr("fe80::1")

// loopbacks are what the mapping of the host's loopback leads to.
var loopbacks = [2]netip.Addr{forward.V4: netip.AddrFrom4([4]byte{127, 0, 0, 1}), forward.V6: netip.IPv6Loopback()}

// plan is everything that follows from the configuration and the host's network, before anything is made.
type plan struct {
	inside  netns.Config
	mapping forward.Map
	guest   []netip.Addr
	names   naming
	former  []netip.Addr // the guest's addresses of before the host's network changed
	host    netns.Template
	resolv  []byte // what it was made from
	ports   []plannedPort
}

// makePlan works out what the inside looks like. resolv is the host's resolv.conf, nil when there is none.
func makePlan(c *Config, host netns.Template, resolv []byte) (*plan, error) {
	p := &plan{inside: host.Config(), host: host, resolv: resolv}
	p.inside.MTU = guestMTU(c, host.MTU)
	p.inside.MAC = c.Guest.MAC
	p.inside.Queues = c.Limits.Queues
	p.inside.Backpressure = !c.Limits.DropOnOverload
	p.inside.KeepID = c.Guest.KeepID
	if c.Guest.IfName != "" {
		p.inside.IfName = c.Guest.IfName
	}
	p.inside.Addrs, p.inside.Routes = nil, nil
	if !c.Guest.NoIPv4 {
		p.family(forward.V4, c, host.V4, c.Guest.Address4, c.Guest.Gateway.V4, netip.MustParsePrefix("0.0.0.0/0"))
	}
	if !c.Guest.NoIPv6 {
		p.family(forward.V6, c, host.V6, c.Guest.Address6, c.Guest.Gateway.V6, netip.MustParsePrefix("::/0"))
	}
	if len(p.inside.Routes) == 0 {
		return nil, ErrNoFamily
	}
	p.hostMapping(c)
	p.names = p.naming(c, resolv)
	p.inside.ResolvConf = p.names.resolvConf
	p.forwards(c)
	return p, nil
}

// hostNetwork is the host's network as far as the inside follows it: without its MTUs where the guest has one of its own. TCP ends here, and the host cuts it to
// segments by itself; a guest with large packets is the faster one.
func hostNetwork(c *Config) (netns.Template, error) {
	t, err := netns.HostNetwork(c.Host.Template, c.Host.Template)
	if c.Guest.MTU != HostMTU {
		t.MTU = 0
		for _, routes := range [][]netns.Route{t.V4.Routes, t.V6.Routes} {
			for i := range routes {
				routes[i].MTU = 0
			}
		}
	}
	return t, err
}

// guestMTU is the MTU inside, of what was asked for and the MTU of the host, which is 0 for a host without a network. The kernel has no IPv6 below that family's least
// MTU (RFC 8200, 5), and takes away what there was.
func guestMTU(c *Config, host int) int {
	if c.Guest.MTU != HostMTU {
		return c.Guest.MTU
	}
	if host == 0 {
		return DefaultMTU
	}
	least := netns.MinMTU6
	if c.Guest.NoIPv6 {
		least = netns.MinMTU4
	}
	return min(max(host, least), DefaultMTU)
}

// family plans one address family: the address asked for, else those of the host.
func (p *plan) family(f int, c *Config, host netns.Family, addr netip.Prefix, gw netip.Addr, all netip.Prefix) {
	addrs, routes := host.Addrs, host.Routes
	if addr.IsValid() {
		addrs, routes = []netip.Prefix{addr}, nil
	}
	if f == forward.V4 && c.Guest.PrefixLen4 != 0 && len(addrs) > 0 {
		addrs = []netip.Prefix{netip.PrefixFrom(addrs[0].Addr(), c.Guest.PrefixLen4)}
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
	if f == forward.V4 && len(addrs) > 0 && slices.Contains(host.Addrs, addrs[0]) {
		p.mapping.Broadcast = broadcast(addrs[0])
	}
}

// broadcast is the broadcast address of an IPv4 network, which those of one or two addresses do not have (RFC 3021).
func broadcast(p netip.Prefix) netip.Addr {
	if p.Bits() >= 31 {
		return netip.Addr{}
	}
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// hostMapping plans behind which addresses the host is reached.
func (p *plan) hostMapping(c *Config) {
	lo := [2]netip.Addr{c.Mapping.HostLoopback.V4, c.Mapping.HostLoopback.V6}
	alias := [2]netip.Addr{c.Mapping.GuestAddr.V4, c.Mapping.GuestAddr.V6}
	for f := range lo {
		if !lo[f].IsValid() && c.Mapping.Gateway {
			lo[f] = p.mapping.Gateway[f]
		}
		p.mapping.Loopback[f] = lo[f]
		p.mapping.GuestAlias[f] = alias[f]
	}
}

// device is the index of the host's interface whose addresses the guest has; 0 if there is none.
func (p *plan) device() int {
	i, err := net.InterfaceByName(cmp.Or(p.host.V4.IfName, p.host.V6.IfName))
	if err != nil {
		return 0 // the routes choose then
	}
	return i.Index
}
