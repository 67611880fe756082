package vasta

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/gateway/dhcp"
	"github.com/vasta-net/vasta/netns"
)

// TestGateway checks what the guest's router is configured with.
func TestGateway(t *testing.T) {
	plain := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	prefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	far := testHost()
	far.V4.Gateway = netip.MustParseAddr("198.51.100.1")
	far.V4.Routes = []netns.Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: far.V4.Gateway, OnLink: true}, {Dst: netip.MustParsePrefix("192.0.2.0/24")},
		{Dst: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("192.0.2.7")},
	}
	const resolv = "nameserver 198.51.100.53\nnameserver 2001:db8:53::53\nsearch a.example b.example. .\n"
	dns4, dns6 := []netip.Addr{netip.MustParseAddr("169.254.1.1")}, []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	search := []string{"a.example", "b.example"}
	type result struct {
		DHCP4  *dhcp.Config4
		DHCP6  *dhcp.Config6
		Router *gateway.Router
	}
	mac := gateway.MAC{0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55}
	four := func(n dhcp.Names) *dhcp.Config4 {
		gw := netip.MustParseAddr("192.0.2.1")
		return &dhcp.Config4{Server: gw, Router: gw, Addr: netip.MustParsePrefix("192.0.2.2/24"), MTU: 1400, Names: n}
	}
	six := func(n dhcp.Names) *dhcp.Config6 {
		return &dhcp.Config6{MAC: mac, Addr: netip.MustParseAddr("2001:db8::2"), Names: n}
	}
	ra := func(n dhcp.Names) *gateway.Router {
		return &gateway.Router{Lifetime: gateway.MaxLifetime, MTU: 1400, DNS: n.DNS, Search: n.Search}
	}
	farther := four(dhcp.Names{})
	farther.Server, farther.Router = far.V4.Gateway, far.V4.Gateway
	farther.Routes = []dhcp.Route{{Dst: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("192.0.2.7")}}
	var none dhcp.Names
	for _, tc := range []struct {
		args string
		host netns.Template
		want result
	}{
		{"", testHost(), result{four(none), six(none), ra(none)}},
		{"", far, result{farther, six(none), ra(none)}},
		{"-4", testHost(), result{four(none), nil, nil}},
		{"-6", testHost(), result{nil, six(none), ra(none)}},
		{"--no-dhcp", testHost(), result{nil, six(none), ra(none)}},
		{"--no-dhcpv6", testHost(), result{four(none), nil, ra(none)}},
		{"--no-ra", testHost(), result{four(none), six(none), nil}},
		{"--no-ndp", testHost(), result{four(none), nil, nil}},
		{"--dhcp-dns --dhcp-search -H box --fqdn box.example", testHost(), result{
			four(dhcp.Names{DNS: dns4, Search: search, Host: "box", FQDN: "box.example"}),
			six(dhcp.Names{DNS: dns6, Search: search, Host: "box", FQDN: "box.example"}), ra(dhcp.Names{DNS: dns6, Search: search}),
		}},
		{"--dhcp-dns -D none --dhcp-search -S none", testHost(), result{four(none), six(none), ra(none)}},
		{"--dhcp-dns -D 192.0.2.9 --dhcp-search -S c.example", testHost(), result{
			four(dhcp.Names{DNS: []netip.Addr{netip.MustParseAddr("192.0.2.9")}, Search: []string{"c.example"}}),
			six(dhcp.Names{Search: []string{"c.example"}}), ra(dhcp.Names{Search: []string{"c.example"}}),
		}},
		{"", netns.LocalTemplate(), result{
			&dhcp.Config4{Server: netns.LocalGateway4, Router: netns.LocalGateway4, Addr: netns.LocalAddr4, MTU: 1400}, &dhcp.Config6{MAC: mac}, ra(none),
		}},
	} {
		t.Run(tc.args, func(t *testing.T) {
			o := configured(t, tc.args)
			o.Guest.MTU = 1400
			p, err := makePlan(o, tc.host, []byte(resolv))
			if err != nil {
				t.Fatal(err)
			}
			c := p.gateway(o, &end{mac: netns.MAC{2}}, nil)
			if diff := cmp.Diff(tc.want, result{c.DHCP4, c.DHCP6, c.Router}, plain, prefix); diff != "" {
				t.Error(diff)
			}
			if _, err := gateway.New(c); err != nil {
				t.Error(err)
			}
		})
	}
}
