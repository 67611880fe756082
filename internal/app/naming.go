package app

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/internal/options"
)

// dnsAlias is the IPv4 address inside whose port 53 leads to a resolver that only the host itself can reach. For IPv6 it is the
// gateway's address.
var dnsAlias = netip.MustParseAddr("169.254.1.1")

// naming plans how names are resolved inside, from the host's resolv.conf. A resolver that the guest reaches by its own
// address is left as it is. One that only the host itself can reach is put behind an address that leads to it, and one whose
// address leads elsewhere inside, such as a router's that the gateway mapping hides, keeps its address for port 53. A resolv.conf
// is written only where the host's would not do.
func (p *plan) naming(o *options.Options, resolv []byte) {
	servers, rest := parseResolvConf(resolv)
	m := &p.mapping
	m.DNS = [2]netip.Addr{o.DNS.Forward.V4, o.DNS.Forward.V6}
	m.Resolver = [2]netip.Addr{o.DNS.Host.V4, o.DNS.Host.V6}
	for _, s := range servers {
		if f := familyOf(s); m.DNS[f].IsValid() && !m.Resolver[f].IsValid() {
			m.Resolver[f] = s
		}
	}
	p.search = searchList(o, rest)
	if o.DNS.NoServers {
		p.inside.ResolvConf = []byte("# no resolvers: --dns none\n")
		return
	}
	inside := o.DNS.Servers
	if len(inside) == 0 {
		inside = p.reachable(o, servers)
	}
	p.resolvers = inside
	if slices.Equal(inside, servers) && len(o.DNS.Search) == 0 && !o.DNS.NoSearch {
		return // the host's own file works inside as well
	}
	p.inside.ResolvConf = resolvConf(o, inside, rest)
}

// reachable gives the addresses inside of the resolvers, without those that cannot be reached. When there are none, the
// addresses of --dns-forward remain.
func (p *plan) reachable(o *options.Options, servers []netip.Addr) (inside []netip.Addr) {
	fixed := [2]bool{forward.V4: o.DNS.Host.V4.IsValid(), forward.V6: o.DNS.Host.V6.IsValid()}
	for _, s := range servers {
		f := familyOf(s)
		switch m := &p.mapping; {
		case s.IsLoopback(), s.IsLinkLocalUnicast(), slices.Contains(p.guest, s):
			alias := dnsAlias
			if f == forward.V6 {
				alias = m.Gateway[f]
			}
			s = p.lead(alias, s, fixed[f])
		case s == m.Loopback[f], s == m.GuestAlias[f]:
			s = p.lead(s, s, fixed[f])
		}
		if !s.IsValid() {
			continue
		}
		if s.Is6() && s.IsLinkLocalUnicast() {
			s = s.WithZone(p.inside.IfName)
		}
		inside = append(inside, s)
	}
	for f, a := range p.mapping.DNS {
		if len(inside) == 0 && a.IsValid() && p.mapping.Resolver[f].IsValid() {
			inside = append(inside, a)
		}
	}
	return inside
}

// lead has port 53 of alias, or of the address that leads to a resolver already, lead to the resolver s, and returns
// that address. There is one such address for each family: it is not valid when another resolver is behind it, unless that one
// is fixed by an option, or when the guest lacks the family.
func (p *plan) lead(alias, s netip.Addr, fixed bool) netip.Addr {
	f, m := familyOf(s), &p.mapping
	if !m.Gateway[f].IsValid() || m.Resolver[f].IsValid() && m.Resolver[f] != s && !fixed {
		return netip.Addr{}
	}
	if !m.Resolver[f].IsValid() {
		m.Resolver[f] = s
	}
	if !m.DNS[f].IsValid() {
		m.DNS[f] = alias
	}
	return m.DNS[f]
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return forward.V4
	}
	return forward.V6
}

// resolvConf writes a resolv.conf. rest are the lines of the host's that do not name resolvers.
func resolvConf(o *options.Options, servers []netip.Addr, rest []string) []byte {
	var b strings.Builder
	b.WriteString("# written by vasta for this namespace\n")
	for _, a := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(o.DNS.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(o.DNS.Search, " "))
	}
	for _, line := range rest {
		word := strings.Fields(line)[0]
		if (word == "search" || word == "domain") && (o.DNS.NoSearch || len(o.DNS.Search) > 0) {
			continue
		}
		b.WriteString(line + "\n")
	}
	return []byte(b.String())
}

// searchList is what --search says, or else the host's resolv.conf, whose last such line holds.
func searchList(o *options.Options, rest []string) (domains []string) {
	if len(o.DNS.Search) > 0 || o.DNS.NoSearch {
		return o.DNS.Search
	}
	for _, line := range rest {
		if words := strings.Fields(line); words[0] == "search" || words[0] == "domain" {
			domains = words[1:]
		}
	}
	return domains
}

// parseResolvConf splits a resolv.conf into its resolvers and its other lines, without comments and what resolv.conf(5)
// does not know.
func parseResolvConf(b []byte) (servers []netip.Addr, rest []string) {
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		words := strings.Fields(line)
		if words[0] != "nameserver" {
			rest = append(rest, line)
			continue
		}
		if len(words) == 1 {
			continue
		}
		a, err := netip.ParseAddr(words[1])
		if err != nil {
			continue
		}
		a = a.Unmap()
		if a.IsUnspecified() { // this machine, as for connect(2)
			a = loopbacks[familyOf(a)]
		}
		servers = append(servers, a)
	}
	return servers, rest
}

// hostResolvConf reads the host's resolv.conf. A missing file is an empty one, as for the resolver library.
func hostResolvConf() []byte {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	return b
}
