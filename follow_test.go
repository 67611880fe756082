package vasta

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vasta-net/vasta/netns"
)

// TestSucceed checks what stays of a host's network when the next one lacks it.
func TestSucceed(t *testing.T) {
	both, next := testHost(), testHost()
	next.IfName = "wlan0"
	next.V4.Gateway = netip.MustParseAddr("192.0.2.99")
	only4 := next
	only4.V6 = netns.Family{}
	mixed := next
	mixed.V6 = both.V6
	for _, tc := range []struct {
		name              string
		before, now, want netns.Template
	}{
		{"another network", both, next, next},
		{"one family is gone", both, only4, mixed},
		{"a family comes", only4, next, next},
		{"no network any more", both, netns.LocalTemplate(), both},
		{"the first network", netns.LocalTemplate(), only4, only4},
		{"still none", netns.LocalTemplate(), netns.LocalTemplate(), netns.LocalTemplate()},
	} {
		if diff := cmp.Diff(tc.want, succeed(tc.before, tc.now), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

// TestGuestMTU checks which MTU a guest has, of what was asked for and what the host's interface carries.
func TestGuestMTU(t *testing.T) {
	for _, tc := range []struct {
		asked, host int
		noIPv6      bool
		want        int
	}{
		{asked: 1500, host: 1400, want: 1500},
		{asked: HostMTU, host: 1400, want: 1400},
		{asked: HostMTU, host: 0, want: DefaultMTU}, // no network
		{asked: HostMTU, host: 65536, want: DefaultMTU},
		{asked: HostMTU, host: 576, want: 1280}, // what IPv6 needs
		{asked: HostMTU, host: 576, noIPv6: true, want: 576},
		{asked: HostMTU, host: 9, noIPv6: true, want: 68},
	} {
		if got := guestMTU(&Config{Guest: Guest{MTU: tc.asked, NoIPv6: tc.noIPv6}}, tc.host); got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
	for _, wrong := range []int{-2, 67, 65522} {
		if _, err := (Config{Guest: Guest{MTU: wrong}}).withDefaults(); err == nil {
			t.Errorf("MTU %d is taken", wrong)
		}
	}
}

// TestFormer checks which addresses a guest is no longer told of: the latest ones, each once, and none that it has again.
func TestFormer(t *testing.T) {
	addr := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }
	p := &plan{guest: []netip.Addr{addr(0)}}
	for i := range byte(20) {
		next := &plan{guest: []netip.Addr{addr(i % 15)}}
		next.former = former(next, p)
		p = next
	}
	want := []netip.Addr{addr(3), addr(2), addr(1), addr(0), addr(14), addr(13), addr(12), addr(11)}
	if diff := cmp.Diff(want, p.former, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestConcerns checks which events of the directories are about resolv.conf.
func TestConcerns(t *testing.T) {
	event := func(name string) []byte {
		b := make([]byte, 16)
		if name != "" {
			name += string(make([]byte, 16-len(name)%16))
		}
		binary.NativeEndian.PutUint32(b[12:], uint32(len(name)))
		return append(b, name...)
	}
	e := &hostEvents{files: []string{"resolv.conf", "stub-resolv.conf"}}
	for name, tc := range map[string]struct {
		events []byte
		want   bool
	}{
		"the file itself": {event(""), true},
		"by its name":     {event("resolv.conf"), true},
		"by its other":    {event("stub-resolv.conf"), true},
		"a neighbour":     {event("resolv.conf.tmp"), false},
		"among others":    {append(event("passwd"), event("resolv.conf")...), true},
		"nothing":         {nil, false},
		"cut short":       {event("resolv.conf")[:20], true},
	} {
		if got := e.concerns(tc.events); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
