package app

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/internal/options"
	"github.com/vasta-net/vasta/netns"
)

// Addresses that stand in where the host has none to copy.
var (
	// dnsAlias is the address inside whose port 53 leads to a resolver on the host's loopback.
	dnsAlias = netip.MustParseAddr("169.254.1.1")
	// localGateway6 is the router of a guest whose host has no IPv6 router.
	localGateway6 = netip.MustParseAddr("fe80::1")
)

// plan is everything that follows from the options and the host's network, before anything is made.
type plan struct {
	inside  netns.Config
	mapping forward.Map
	guest   []netip.Addr
	ports   struct{ tcp, udp []forward.Port }
}

// makePlan works out what the inside looks like. resolv is the host's resolv.conf, empty when there is none.
func makePlan(o *options.Options, host netns.Template, resolv []byte) (*plan, error) {
	p := &plan{inside: host.Config()}
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
	if err := p.naming(o, resolv); err != nil {
		return nil, err
	}
	if err := p.forwards(o); err != nil {
		return nil, err
	}
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

// naming plans how names are resolved inside. A resolver that the guest can reach by its own address is left as it is; one on
// the host's loopback is put behind an alias, and a resolv.conf that names the alias goes over the host's.
func (p *plan) naming(o *options.Options, resolv []byte) error {
	servers, rest := parseResolvConf(resolv)
	p.mapping.DNS = [2]netip.Addr{o.DNS.Forward.V4, o.DNS.Forward.V6}
	p.mapping.Resolver = [2]netip.Addr{o.DNS.Host.V4, o.DNS.Host.V6}
	for _, s := range servers {
		f := forward.V4
		if s.Is6() {
			f = forward.V6
		}
		if !p.mapping.Resolver[f].IsValid() {
			p.mapping.Resolver[f] = s
		}
	}
	inside := o.DNS.Servers
	switch {
	case o.DNS.NoServers:
		p.inside.ResolvConf = []byte("# no resolvers: --dns none\n")
		return nil
	case len(inside) > 0:
	default:
		for _, s := range servers {
			if s.IsLoopback() {
				s = p.loopbackResolver(s)
			}
			if s.IsValid() {
				inside = append(inside, s)
			}
		}
		for f, a := range p.mapping.DNS {
			if a.IsValid() && p.mapping.Resolver[f].IsValid() && len(inside) == 0 {
				inside = append(inside, a)
			}
		}
	}
	if len(o.DNS.Servers) == 0 && !anyLoopback(servers) && len(o.DNS.Search) == 0 && !o.DNS.NoSearch {
		return nil // the host's own file works inside as well
	}
	var b strings.Builder
	b.WriteString("# written by vasta for this namespace\n")
	for _, a := range inside {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	switch {
	case len(o.DNS.Search) > 0:
		fmt.Fprintf(&b, "search %s\n", strings.Join(o.DNS.Search, " "))
	default:
		for _, line := range rest {
			if o.DNS.NoSearch && (strings.HasPrefix(line, "search") || strings.HasPrefix(line, "domain")) {
				continue
			}
			b.WriteString(line + "\n")
		}
	}
	p.inside.ResolvConf = []byte(b.String())
	return nil
}

// loopbackResolver makes the host's loopback resolver s reachable, and returns the address it has inside. The zero address
// says that the guest lacks the family.
func (p *plan) loopbackResolver(s netip.Addr) netip.Addr {
	f := forward.V4
	if s.Is6() {
		f = forward.V6
	}
	if !p.mapping.Gateway[f].IsValid() || p.mapping.Resolver[f] != s {
		return netip.Addr{}
	}
	if !p.mapping.DNS[f].IsValid() {
		p.mapping.DNS[f] = dnsAlias
		if f == forward.V6 {
			p.mapping.DNS[f] = p.mapping.Gateway[f]
		}
	}
	return p.mapping.DNS[f]
}

func anyLoopback(addrs []netip.Addr) bool {
	for _, a := range addrs {
		if a.IsLoopback() {
			return true
		}
	}
	return false
}

// parseResolvConf splits a resolv.conf into its resolvers and its other lines, without comments.
func parseResolvConf(b []byte) (servers []netip.Addr, rest []string) {
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if f := strings.Fields(line); f[0] == "nameserver" {
			if len(f) > 1 {
				if a, err := netip.ParseAddr(f[1]); err == nil {
					servers = append(servers, a.Unmap())
				}
			}
			continue
		}
		rest = append(rest, line)
	}
	return servers, rest
}

// forwards plans the forwarded ports.
func (p *plan) forwards(o *options.Options) error {
	for _, l := range []struct {
		rules []options.PortRule
		to    *[]forward.Port
	}{{o.Ports.TCP, &p.ports.tcp}, {o.Ports.UDP, &p.ports.udp}} {
		for _, r := range l.rules {
			for _, a := range p.listenAddrs(r.Addr) {
				for port := int(r.First); port <= int(r.Last); port++ {
					*l.to = append(*l.to, forward.Port{
						Listen: netip.AddrPortFrom(a, uint16(port)), Device: r.Interface, To: r.Target + uint16(port) - r.First,
					})
				}
			}
		}
	}
	return nil
}

// listenAddrs is where a forwarded port is listened on: its own address, else every address of the guest's families.
func (p *plan) listenAddrs(a netip.Addr) []netip.Addr {
	v4, v6 := p.mapping.Guest[forward.V4].IsValid(), p.mapping.Guest[forward.V6].IsValid()
	switch {
	case a.IsValid():
		return []netip.Addr{a}
	case v4 && v6:
		return []netip.Addr{netip.IPv6Unspecified()}
	case v6:
		return []netip.Addr{netip.IPv6Unspecified()}
	}
	return []netip.Addr{netip.IPv4Unspecified()}
}

// hostResolvConf reads the host's resolv.conf. A missing file is an empty one, as for the resolver library.
func hostResolvConf() []byte {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	return b
}
