package netns

import (
	"net/netip"
	"strings"
	"testing"
)

// before and after are two networks that a host goes from one to the other of.
var (
	before = Update{
		Addrs:  []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8:1::2/64")},
		Routes: []Route{{Dst: defaultRoute4, Gateway: netip.MustParseAddr("192.0.2.1"), Metric: 100}, {Dst: defaultRoute6, Gateway: netip.MustParseAddr("fe80::1")}},
	}
	after = Update{
		Addrs:    []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24"), netip.MustParsePrefix("2001:db8:2::2/64")},
		OldAddrs: before.Addrs,
		Routes: []Route{
			{Dst: defaultRoute4, Gateway: netip.MustParseAddr("198.51.100.1"), Metric: 600}, {Dst: defaultRoute6, Gateway: netip.MustParseAddr("2001:db8:2::1")},
			{Dst: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("198.51.100.7"), MTU: 1300},
		},
		OldRoutes: before.Routes,
		MTU:       1400, OldMTU: DefaultMTU,
		ResolvConf: []byte("nameserver 198.51.100.53\n"),
	}
)

// showNetwork prints what matters of the interface uplink0.
const showNetwork = `ip -o addr show dev uplink0 scope global | sed 's/ *valid_lft.*//; s/.*inet6* //; s/\\//' | sort
	ip -o link show dev uplink0; ip route show default; ip route show 10.0.0.0/8; ip -6 route show default; ip route get 203.0.113.9; ip route get 2001:db8:9::9`

// wantAfter checks what showNetwork prints after the update: the old addresses are there, and not used.
func wantAfter(t *testing.T, out string) {
	t.Helper()
	for _, want := range []string{
		"198.51.100.2/24", "2001:db8:2::2/64", "192.0.2.2/24", "2001:db8:1::2/64 scope global nodad deprecated", "default via 198.51.100.1 dev uplink0",
		"10.0.0.0/8 via 198.51.100.7 dev uplink0 proto static mtu 1300", " mtu 1400 ", "default via 2001:db8:2::1", "src 198.51.100.2", "src 2001:db8:2::2",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for _, not := range []string{"via 192.0.2.1", "via fe80::1"} {
		if strings.Contains(out, not) {
			t.Errorf("still %q in\n%s", not, out)
		}
	}
}

func TestUpdateCreated(t *testing.T) {
	ns := create(t, Config{IfName: "uplink0", Addrs: before.Addrs, Routes: before.Routes, ResolvConf: []byte("nameserver 192.0.2.53\n")})
	for range 2 { // the second one changes nothing
		if err := ns.Update(after); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := run(t, ns, nil, "sh", "-c", showNetwork+"; cat /etc/resolv.conf")
	wantAfter(t, out)
	if !strings.Contains(out, "nameserver 198.51.100.53\n") || strings.Contains(out, "192.0.2.53") {
		t.Errorf("resolv.conf in\n%s", out)
	}
}

// TestUpdateRefused: what cannot be done is reported, and the rest is done.
func TestUpdateRefused(t *testing.T) {
	ns := create(t, Config{IfName: "uplink0", Addrs: before.Addrs, Routes: before.Routes})
	u := after
	u.Routes = append([]Route{{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("203.0.113.99")}}, u.Routes...)
	err := ns.Update(u)
	if err == nil || !strings.Contains(err.Error(), "10.9.0.0/16 via 203.0.113.99") {
		t.Errorf("%v", err)
	}
	out, _ := run(t, ns, nil, "sh", "-c", showNetwork)
	wantAfter(t, out)
}

func TestUpdateAttached(t *testing.T) {
	target := startTarget(t, 0)
	ns, err := Attach(Target{PID: target.Process.Pid}, Config{IfName: "uplink0", Addrs: before.Addrs, Routes: before.Routes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closeAll(ns.TAP().FDs)
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := ns.Update(after); err != nil {
		t.Fatal(err)
	}
	wantAfter(t, inTarget(t, target, "sh", "-c", showNetwork))
}
