package netns

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
var comparePrefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// The hosts of these tests are network namespaces with veth pairs whose peers nobody uses.

func TestHostNetwork(t *testing.T) {
	hostNamespace(t,
		"link set lo up",
		"link add first type veth peer name first-peer", "link set first-peer up", "link set first up mtu 1400",
		"link add second type veth peer name second-peer", "link set second-peer up", "link set second up mtu 9000",
		"addr add 10.0.0.2/24 dev first",
		"addr add 192.0.2.2/24 dev second", "addr add 192.0.2.3/32 dev second",
		"addr add 2001:db8::2/64 dev second nodad", "addr add 2001:db8::3/64 dev second nodad preferred_lft 0",
		"route add default via 10.0.0.1 dev first metric 200",
		"route add default via 192.0.2.1 dev second metric 100",
		"route add 198.51.100.0/24 via 192.0.2.9 dev second mtu 1450",
		"route add 203.0.113.1 dev second scope link",
		"route add default via 203.0.113.1 dev second metric 300 onlink",
		"route add unreachable 10.66.0.0/16",
		"-6 route add default via fe80::1 dev second mtu 1380",
	)
	want := Template{
		IfName: "second",
		MTU:    9000,
		V4: Family{
			IfName:  "second",
			Addrs:   []netip.Prefix{prefix("192.0.2.2/24"), prefix("192.0.2.3/32")},
			Gateway: addr("192.0.2.1"),
			Routes: []Route{
				{Dst: defaultRoute4, Gateway: addr("192.0.2.1"), Metric: 100},
				{Dst: defaultRoute4, Gateway: addr("203.0.113.1"), Metric: 300, OnLink: true},
				{Dst: prefix("192.0.2.0/24")},
				{Dst: prefix("198.51.100.0/24"), Gateway: addr("192.0.2.9"), MTU: 1450},
				{Dst: prefix("203.0.113.1/32")},
			},
		},
		V6: Family{
			IfName:  "second",
			Addrs:   []netip.Prefix{prefix("2001:db8::2/64")},
			Gateway: addr("fe80::1"),
			Routes: []Route{
				{Dst: prefix("2001:db8::/64"), Metric: 256},
				{Dst: defaultRoute6, Gateway: addr("fe80::1"), Metric: 1024, MTU: 1380},
			},
		},
	}
	got, err := HostNetwork("", "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareAddrs, comparePrefixes); diff != "" {
		t.Errorf("template (-want +got):\n%s", diff)
	}

	// What the template says can be configured.
	out := inside(t, got.Config(), "ip -o link show second; ip route; ip -6 route")
	for _, want := range []string{"mtu 65520", "default via 192.0.2.1 dev second", "198.51.100.0/24 via 192.0.2.9 dev second proto static mtu 1450", "default via fe80::1 dev second proto static metric 1024 mtu 1380 "} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing inside:\n%s", want, out)
		}
	}

	// Of two interfaces the narrower one counts.
	named, err := HostNetwork("first", "")
	if err != nil {
		t.Fatal(err)
	}
	if named.IfName != "first" || named.MTU != 1400 || named.V4.Gateway != addr("10.0.0.1") || named.V6.IfName != "second" {
		t.Errorf("with the interface named: %+v", named)
	}

	for iface, want := range map[string]string{
		"nosuch": `template interface "nosuch" for IPv4`,
		"lo":     `template interface "lo" has no global IPv4 address`,
	} {
		if _, err := HostNetwork(iface, ""); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("interface %s: error %v, want one line with %q", iface, err, want)
		}
	}
}

func TestHostNetworkWithoutDefaultRoute(t *testing.T) {
	hostNamespace(t, "link set lo up", "link add net0 type veth peer name net0-peer", "link set net0-peer up", "link set net0 up", "addr add 192.0.2.2/24 dev net0")
	got, err := HostNetwork("", "")
	if err != nil {
		t.Fatal(err)
	}
	want := Template{IfName: "net0", MTU: 1500, V4: Family{
		IfName: "net0", Addrs: []netip.Prefix{prefix("192.0.2.2/24")}, Routes: []Route{{Dst: prefix("192.0.2.0/24")}}, Gateway: LocalGateway4,
	}}
	if diff := cmp.Diff(want, got, compareAddrs, comparePrefixes); diff != "" {
		t.Errorf("template (-want +got):\n%s", diff)
	}
	if got.V6.Enabled() {
		t.Error("IPv6 is enabled, but the host has none")
	}
}

func TestHostNetworkPointToPoint(t *testing.T) {
	hostNamespace(t, "link add wg0 type veth peer name wg0-peer", "link set wg0-peer up", "link set wg0 up", "addr add 10.8.0.2 peer 10.8.0.1/32 dev wg0", "route add default dev wg0")
	got, err := HostNetwork("", "")
	if err != nil {
		t.Fatal(err)
	}
	if got.IfName != "wg0" || got.V4.Gateway != LocalGateway4 || len(got.V4.Routes) == 0 || got.V4.Routes[0] != (Route{Dst: defaultRoute4}) {
		t.Errorf("template %+v", got)
	}
}

func TestHostNetworkNone(t *testing.T) {
	for _, commands := range [][]string{{}, {"link set lo up"}} {
		hostNamespace(t, commands...)
		got, err := HostNetwork("", "")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(LocalTemplate(), got, compareAddrs, comparePrefixes); diff != "" {
			t.Errorf("after %q (-want +got):\n%s", commands, diff)
		}
	}
}
