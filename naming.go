package vasta

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vasta-net/vasta/flow/forward"
)

// dnsAlias is the IPv4 address inside whose port 53 is the forwarder's. For IPv6 it is the gateway's address.
var dnsAlias = netip.MustParseAddr("169.254.1.1")

// dnsPort is where resolvers are asked.
const dnsPort = 53

// naming is how names are resolved inside.
type naming struct {
	// at are the addresses of the guest's network whose port 53 is the forwarder's, and resolvers who it asks, in their order.
	at        []netip.Addr
	resolvers []netip.AddrPort
	// servers and search are what the guest is told of, by resolv.conf or otherwise.
	servers []netip.Addr
	search  []string
	// resolvConf is the guest's file; nil when the host has none that it could take the place of.
	resolvConf []byte
}

// naming plans how names are resolved inside, from the host's resolv.conf, which is nil when there is none. The guest is told of the
// forwarder, wherever the host's resolvers are: they may change, one may fail, and some only the host can reach. A resolver whose address
// leads elsewhere inside, as a router's that the gateway mapping hides, is the forwarder for who asks it by that address.
func (p *plan) naming(c *Config, resolv []byte) (n naming) {
	servers, rest := parseResolvConf(resolv)
	m := &p.mapping
	for f, a := range [2]netip.Addr{forward.V4: c.DNS.Forward.V4, forward.V6: c.DNS.Forward.V6} {
		if !a.IsValid() && m.Gateway[f].IsValid() && (f == forward.V4 || len(n.at) == 0 || c.DNS.ByDHCP) {
			a = [2]netip.Addr{forward.V4: dnsAlias, forward.V6: m.Gateway[f]}[f]
		}
		if a.IsValid() {
			n.at = append(n.at, a)
		}
	}
	n.servers = n.told(p, c)
	for _, s := range servers {
		if f := familyOf(s); s == m.Loopback[f] || s == m.GuestAlias[f] {
			n.at = append(n.at, s)
		}
	}
	for _, s := range asked(c, servers) {
		n.resolvers = append(n.resolvers, netip.AddrPortFrom(s, dnsPort))
	}
	n.search = searchList(c, rest)
	switch {
	case c.DNS.NoServers:
		n.resolvConf = []byte("# no resolvers: --dns none\n")
	case resolv != nil:
		n.resolvConf = resolvConf(c, n.servers, rest)
	}
	return n
}

// told are the resolvers that the guest is told of: those of --dns, or the forwarder, which needs no more than one address.
func (n *naming) told(p *plan, c *Config) (servers []netip.Addr) {
	if c.DNS.NoServers || len(c.DNS.Servers) > 0 {
		return c.DNS.Servers
	}
	for _, a := range n.at {
		if a.Is6() && a.IsLinkLocalUnicast() {
			a = a.WithZone(p.inside.IfName)
		}
		servers = append(servers, a)
	}
	return servers
}

// asked are the resolvers that are asked for the guest: those of --dns-host, or else the host's.
func asked(c *Config, servers []netip.Addr) []netip.Addr {
	var fixed []netip.Addr
	for _, a := range [...]netip.Addr{c.DNS.Host.V4, c.DNS.Host.V6} {
		if a.IsValid() {
			fixed = append(fixed, a)
		}
	}
	switch {
	case len(fixed) > 0:
		return fixed
	case len(servers) > 0:
		return servers
	}
	return loopbacks[forward.V4 : forward.V4+1] // resolv.conf(5)
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return forward.V4
	}
	return forward.V6
}

// resolvConf writes a resolv.conf. rest are the lines of the host's that do not name resolvers.
func resolvConf(c *Config, servers []netip.Addr, rest []string) []byte {
	var b strings.Builder
	b.WriteString("# written by vasta for this namespace\n")
	for _, a := range servers[:min(len(servers), max(1, len(c.DNS.Servers)))] { // the forwarder's addresses all lead to the same
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(c.DNS.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.DNS.Search, " "))
	}
	for _, line := range rest {
		word := strings.Fields(line)[0]
		if (word == "search" || word == "domain") && (c.DNS.NoSearch || len(c.DNS.Search) > 0) {
			continue
		}
		b.WriteString(line + "\n")
	}
	return []byte(b.String())
}

// searchList is what --search says, or else the host's resolv.conf, whose last such line holds.
func searchList(c *Config, rest []string) (domains []string) {
	if len(c.DNS.Search) > 0 || c.DNS.NoSearch {
		return c.DNS.Search
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

// resolvConfPath is the host's file.
const resolvConfPath = "/etc/resolv.conf"

// hostResolvConf reads the host's resolv.conf; nil when there is none.
func hostResolvConf() []byte {
	b, err := os.ReadFile(resolvConfPath)
	if err != nil {
		return nil
	}
	return b
}
