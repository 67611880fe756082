package vasta

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/netns"
)

// TestNaming checks what the guest is told of, and where its questions go.
func TestNaming(t *testing.T) {
	const alias = "169.254.1.1"
	for _, tc := range []struct {
		name, args, resolv string
		inside             string // resolvers in the file inside
		at, asks           string // where the forwarder is, and who it asks
	}{
		{"none", "", "", alias, alias, "127.0.0.1:53"},
		{"one", "", "nameserver 198.51.100.53\n", alias, alias, "198.51.100.53:53"},
		{"both families", "", "nameserver 198.51.100.53\nnameserver 2001:db8:53::53\n", alias, alias, "198.51.100.53:53 [2001:db8:53::53]:53"},
		{"IPv6, and the guest lacks the family", "-4", "nameserver 2001:db8:53::53\n", alias, alias, "[2001:db8:53::53]:53"},
		{"IPv4, and the guest lacks the family", "-6", "nameserver 127.0.0.1\n", "2001:db8::1", "2001:db8::1", "127.0.0.1:53"},
		{"loopback", "", "nameserver 127.0.0.53\n", alias, alias, "127.0.0.53:53"},
		{"this machine", "", "nameserver 0.0.0.0\n", alias, alias, "127.0.0.1:53"},
		{"the router, which the gateway mapping hides", "", "nameserver 192.0.2.1\n", alias, alias + " 192.0.2.1", "192.0.2.1:53"},
		{"the router, not hidden", "--no-map-gw", "nameserver 192.0.2.1\n", alias, alias, "192.0.2.1:53"},
		{"the router of IPv6", "", "nameserver 2001:db8::1\n", alias, alias + " 2001:db8::1", "[2001:db8::1]:53"},
		{"an address that stands for another", "--map-guest-addr 192.0.2.9", "nameserver 192.0.2.9\n", alias, alias + " 192.0.2.9", "192.0.2.9:53"},
		{"link-local", "", "nameserver fe80::5%eth9\n", alias, alias, "[fe80::5%eth9]:53"},
		{"a link-local gateway", "-6 -g fe80::1", "nameserver ::1\n", "fe80::1%eth0", "fe80::1", "[::1]:53"},
		{"by DHCP too", "--dhcp-dns", "nameserver ::1\n", alias, alias + " 2001:db8::1", "[::1]:53"},
		{"--dns", "-D 198.51.100.9 -D 2001:db8::9", "nameserver 127.0.0.1\n", "198.51.100.9 2001:db8::9", alias, "127.0.0.1:53"},
		{"--dns none", "-D none", "nameserver 127.0.0.1\n", "", alias, "127.0.0.1:53"},
		{"--dns-forward", "--dns-forward 10.0.0.53", "nameserver 127.0.0.1\n", "10.0.0.53", "10.0.0.53", "127.0.0.1:53"},
		{"--dns-forward of both", "--dns-forward 10.0.0.53 --dns-forward fd00::53", "nameserver 127.0.0.1\n", "10.0.0.53", "10.0.0.53 fd00::53", "127.0.0.1:53"},
		{"--dns-host", "--dns-host 127.0.0.9", "nameserver 127.0.0.1\n", alias, alias, "127.0.0.9:53"},
		{"--dns-host of both", "--dns-host ::9 --dns-host 127.0.0.9", "", alias, alias, "127.0.0.9:53 [::9]:53"},
		{"nonsense", "", "nameserver\nnameserver nobody\n;nameserver ::1\n#nameserver ::1\n", alias, alias, "127.0.0.1:53"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := makePlan(configured(t, tc.args), testHost(), []byte(tc.resolv))
			if err != nil {
				t.Fatal(err)
			}
			list := func(v any) string { return strings.Trim(fmt.Sprint(v), "[]") }
			servers, _ := parseResolvConf(p.inside.ResolvConf)
			asks := make([]string, 0, len(p.names.resolvers))
			for _, a := range p.names.resolvers {
				asks = append(asks, a.String())
			}
			got := []string{list(servers), list(p.names.at), strings.Join(asks, " ")}
			if diff := cmp.Diff([]string{tc.inside, tc.at, tc.asks}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if p, err := makePlan(configured(t, ""), testHost(), nil); err != nil || p.inside.ResolvConf != nil || len(p.names.at) != 1 {
		t.Errorf("a host without resolv.conf: %q inside, %v", p.inside.ResolvConf, err)
	}
}

// TestResolvConfLines checks what else the file inside has.
func TestResolvConfLines(t *testing.T) {
	const host = "# a comment\nnameserver 127.0.0.1\nnameserver ::1\nsearch example.org example.net\noptions edns0\n\n"
	for args, want := range map[string]string{
		"":                  "nameserver 169.254.1.1\nsearch example.org example.net\noptions edns0\n",
		"-S none":           "nameserver 169.254.1.1\noptions edns0\n",
		"-S a.example -S b": "nameserver 169.254.1.1\nsearch a.example b\noptions edns0\n",
		"-D 198.51.100.9":   "nameserver 198.51.100.9\nsearch example.org example.net\noptions edns0\n",
	} {
		p, err := makePlan(configured(t, args), testHost(), []byte(host))
		if err != nil {
			t.Fatal(err)
		}
		want = "# written by vasta for this namespace\n" + want
		if diff := cmp.Diff(want, string(p.inside.ResolvConf)); diff != "" {
			t.Errorf("%s: %s", args, diff)
		}
	}
}

// TestPlanAddresses checks what is copied from the host, what options replace, and where addresses lead.
func TestPlanAddresses(t *testing.T) {
	type result struct{ Addrs, Routes, Gateways, Loopbacks string }
	pair := func(a [2]netip.Addr) string {
		return strings.TrimSpace(strings.ReplaceAll(strings.Trim(fmt.Sprint(a), "[]"), "invalid IP", ""))
	}
	for _, tc := range []struct {
		args string
		host netns.Template
		want result
	}{
		{"", testHost(), result{"[192.0.2.2/24 2001:db8::2/64]", "[0.0.0.0/0 via 192.0.2.1 ::/0 via 2001:db8::1]", "192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1"}},
		{"-4", testHost(), result{"[192.0.2.2/24]", "[0.0.0.0/0 via 192.0.2.1]", "192.0.2.1", "192.0.2.1"}},
		{"-6", testHost(), result{"[2001:db8::2/64]", "[::/0 via 2001:db8::1]", "2001:db8::1", "2001:db8::1"}},
		{"-a 10.0.0.2/8", testHost(), result{"[10.0.0.2/8 2001:db8::2/64]", "[0.0.0.0/0 via 192.0.2.1 ::/0 via 2001:db8::1]", "192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1"}},
		{"-a 10.0.0.2/8 -g 10.0.0.1", testHost(), result{"[10.0.0.2/8 2001:db8::2/64]", "[0.0.0.0/0 via 10.0.0.1 ::/0 via 2001:db8::1]", "10.0.0.1 2001:db8::1", "10.0.0.1 2001:db8::1"}},
		{"-n 16", testHost(), result{"[192.0.2.2/16 2001:db8::2/64]", "[0.0.0.0/0 via 192.0.2.1 ::/0 via 2001:db8::1]", "192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1"}},
		{"--no-map-gw", testHost(), result{"[192.0.2.2/24 2001:db8::2/64]", "[0.0.0.0/0 via 192.0.2.1 ::/0 via 2001:db8::1]", "192.0.2.1 2001:db8::1", ""}},
		{"--map-host-loopback 192.0.2.7", testHost(), result{"[192.0.2.2/24 2001:db8::2/64]", "[0.0.0.0/0 via 192.0.2.1 ::/0 via 2001:db8::1]", "192.0.2.1 2001:db8::1", "192.0.2.7 2001:db8::1"}},
		{"", netns.LocalTemplate(), result{"[169.254.2.1/16]", "[0.0.0.0/0 via 169.254.2.2 ::/0 via fe80::1]", "169.254.2.2 fe80::1", "169.254.2.2 fe80::1"}},
		{"-4 -a 10.0.0.2/8", netns.Template{}, result{"[10.0.0.2/8]", "[0.0.0.0/0 via 169.254.2.2]", "169.254.2.2", "169.254.2.2"}},
	} {
		t.Run(tc.args, func(t *testing.T) {
			p, err := makePlan(configured(t, tc.args), tc.host, nil)
			if err != nil {
				t.Fatal(err)
			}
			routes := make([]string, 0, len(p.inside.Routes))
			for _, r := range p.inside.Routes {
				routes = append(routes, fmt.Sprintf("%s via %s", r.Dst, r.Gateway))
			}
			got := result{fmt.Sprint(p.inside.Addrs), fmt.Sprint(routes), pair(p.mapping.Gateway), pair(p.mapping.Loopback)}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := makePlan(configured(t, "-4"), netns.Template{V6: testHost().V6}, nil); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a host without the family: %v, want one line", err)
	}
}

// TestPlanPorts checks where forwarded ports are listened on, and what they lead to.
func TestPlanPorts(t *testing.T) {
	for args, want := range map[string][]forward.Port{
		"-t 80":                {{Listen: netip.MustParseAddrPort("[::]:80"), Dual: true, To: 80}},
		"-t ::/80":             {{Listen: netip.MustParseAddrPort("[::]:80"), To: 80}},
		"-6 -t 80":             {{Listen: netip.MustParseAddrPort("[::]:80"), To: 80}},
		"-4 -t 80":             {{Listen: netip.MustParseAddrPort("0.0.0.0:80"), To: 80}},
		"-t 127.0.0.1/80:8080": {{Listen: netip.MustParseAddrPort("127.0.0.1:80"), To: 8080}},
		"-t ::1%lo/8000-8001:9000-9001": {
			{Listen: netip.MustParseAddrPort("[::1]:8000"), Device: "lo", To: 9000},
			{Listen: netip.MustParseAddrPort("[::1]:8001"), Device: "lo", To: 9001},
		},
	} {
		p, err := makePlan(configured(t, args), testHost(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, portsOf(p, false), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", args, diff)
		}
	}
}

// TestPlanAllPorts checks that "all" leaves out what the kernel gives to clients, and what is named.
func TestPlanAllPorts(t *testing.T) {
	low, high := clientPorts()
	p, err := makePlan(configured(t, "-t ~25 -u 192.0.2.2/all"), testHost(), nil)
	if err != nil {
		t.Fatal(err)
	}
	const ports = 65535
	clients := int(high) - int(low) + 1
	if len(portsOf(p, false)) != ports-1-clients || len(portsOf(p, true)) != ports-clients {
		t.Errorf("%d TCP and %d UDP ports, want %d and %d", len(portsOf(p, false)), len(portsOf(p, true)), ports-1-clients, ports-clients)
	}
	for _, port := range portsOf(p, false) {
		if n := port.Listen.Port(); n == 25 || n >= low && n <= high || port.To != n || !port.Optional || !port.Dual {
			t.Fatalf("%+v among all but 25 and %d to %d", port, low, high)
		}
	}
}

// TestRoomForPorts checks the one line that says that there are too many of them.
func TestRoomForPorts(t *testing.T) {
	p, c := &plan{}, &Config{Limits: Limits{Descriptors: int(descriptorLimit())}}
	p.ports = make([]plannedPort, 100)
	if err := p.roomForPorts(c, 2); err != nil {
		t.Errorf("100 ports: %v", err)
	}
	p.ports = append(p.ports, slices.Repeat([]plannedPort{{udp: true}}, c.Limits.Descriptors)...)
	err := p.roomForPorts(c, 2)
	e, ok := errors.AsType[*DescriptorError](err)
	if !ok || e.Network != "udp" || !errors.Is(err, syscall.EMFILE) || !strings.HasPrefix(err.Error(), "forwarding ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("more than there may be descriptors: %v", err)
	}
}

// portsOf are the planned ports of a protocol.
func portsOf(p *plan, udp bool) (ports []forward.Port) {
	for _, o := range p.ports {
		if o.udp == udp {
			ports = append(ports, o.Port)
		}
	}
	return ports
}
