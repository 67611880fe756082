package vasta

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/internal/options"
	"github.com/vasta-net/vasta/netns"
)

// testHost is a host with both families behind a router.
func testHost() netns.Template {
	family := func(addr, gateway string) netns.Family {
		return netns.Family{Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, Gateway: netip.MustParseAddr(gateway)}
	}
	return netns.Template{IfName: "eth0", V4: family("192.0.2.2/24", "192.0.2.1"), V6: family("2001:db8::2/64", "2001:db8::1")}
}

// configured is the Config that a command line of vasta's stands for, in short: a table of them reads better so.
func configured(t *testing.T, args string) *Config {
	t.Helper()
	c := Config{Mapping: Mapping{Gateway: true}}
	set := func(p *AddrPair, text string) {
		if a := netip.MustParseAddr(text); a.Is4() {
			p.V4 = a
		} else {
			p.V6 = a
		}
	}
	words := strings.Fields(args)
	for len(words) > 0 {
		option := words[0]
		words = words[1:]
		value := func() string {
			v := words[0]
			words = words[1:]
			return v
		}
		switch option {
		case "-4":
			c.Guest.NoIPv6 = true
		case "-6":
			c.Guest.NoIPv4 = true
		case "-g":
			set(&c.Guest.Gateway, value())
		case "-a":
			c.Guest.Address4 = netip.MustParsePrefix(value())
		case "--no-map-gw":
			c.Mapping.Gateway = false
		case "--map-host-loopback":
			set(&c.Mapping.HostLoopback, value())
		case "--map-guest-addr":
			set(&c.Mapping.GuestAddr, value())
		case "--no-dhcp":
			c.Filter.NoDHCP = true
		case "--no-dhcpv6":
			c.Filter.NoDHCPv6 = true
		case "--no-ra":
			c.Filter.NoRA = true
		case "--no-ndp":
			c.Filter.NoNDP = true
		case "--dhcp-dns":
			c.DNS.ByDHCP = true
		case "--dhcp-search":
			c.DNS.SearchByDHCP = true
		case "-H":
			c.DNS.Hostname = value()
		case "--fqdn":
			c.DNS.FQDN = value()
		case "--dns-forward":
			set(&c.DNS.Forward, value())
		case "--dns-host":
			set(&c.DNS.Host, value())
		case "-D":
			if v := value(); v == "none" {
				c.DNS.NoServers = true
			} else {
				c.DNS.Servers = append(c.DNS.Servers, netip.MustParseAddr(v))
			}
		case "-S":
			if v := value(); v == "none" {
				c.DNS.NoSearch = true
			} else {
				c.DNS.Search = append(c.DNS.Search, v)
			}
		case "-n":
			n, err := strconv.Atoi(value())
			if err != nil {
				t.Fatal(err)
			}
			c.Guest.PrefixLen4 = n
		case "-t", "-u":
			rules, err := options.ParsePorts(value())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rules {
				c.Ports = append(c.Ports, PortRule{
					Network: map[string]string{"-t": "tcp", "-u": "udp"}[option], Addr: r.Addr, Interface: r.Interface,
					First: r.First, Last: r.Last, Target: r.Target, Free: r.Free,
				})
			}
		default:
			t.Fatalf("option %s is not in this table", option)
		}
	}
	c, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return &c
}
