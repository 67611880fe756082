package forward

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func pair(v4, v6 string) (p [2]netip.Addr) {
	if v4 != "" {
		p[V4] = netip.MustParseAddr(v4)
	}
	if v6 != "" {
		p[V6] = netip.MustParseAddr(v6)
	}
	return p
}

// full has every mapping, each with an address of its own.
func full() *Map {
	return &Map{
		Loopback:   pair("10.0.2.2", "fd00::2"),
		GuestAlias: pair("10.0.2.4", "fd00::4"),
		Guest:      pair("10.0.2.15", "fd00::15"),
		Gateway:    pair("10.0.2.1", "fe80::1"),
	}
}

// asPasta has the mappings of the default: the gateway's address leads to the host's loopback.
func asPasta() *Map {
	m := full()
	m.Loopback = m.Gateway
	m.GuestAlias = [2]netip.Addr{}
	return m
}

func TestOutbound(t *testing.T) {
	closed := full()
	closed.Loopback, closed.GuestAlias = [2]netip.Addr{}, [2]netip.Addr{}
	for _, tc := range []struct {
		name    string
		m       *Map
		to, out string // out is "" for refused
	}{
		{"anywhere", full(), "198.51.100.7:80", "198.51.100.7:80"},
		{"anywhere, IPv6", full(), "[2001:db8::7]:80", "[2001:db8::7]:80"},
		{"loopback", full(), "10.0.2.2:8080", "127.0.0.1:8080"},
		{"loopback, IPv6", full(), "[fd00::2]:8080", "[::1]:8080"},
		{"guest's twin", full(), "10.0.2.4:22", "10.0.2.15:22"},
		{"guest's twin, IPv6", full(), "[fd00::4]:22", "[fd00::15]:22"},
		{"gateway that stands for nothing", full(), "10.0.2.1:80", "10.0.2.1:80"},
		{"gateway as loopback", asPasta(), "10.0.2.1:80", "127.0.0.1:80"},
		{"gateway as loopback, IPv6", asPasta(), "[fe80::1]:80", "[::1]:80"},
		{"switched off: loopback", closed, "10.0.2.2:80", "10.0.2.2:80"},
		{"switched off: twin", closed, "10.0.2.4:80", "10.0.2.4:80"},
		{"127.0.0.1 itself", full(), "127.0.0.1:80", ""},
		{"the rest of 127/8", full(), "127.255.255.254:80", ""},
		{"::1 itself", full(), "[::1]:80", ""},
		{"mapped loopback", full(), "[::ffff:127.0.0.1]:80", ""},
		{"mapped address", full(), "[::ffff:198.51.100.7]:80", ""},
		{"unspecified", full(), "0.0.0.0:80", ""},
		{"unspecified, IPv6", full(), "[::]:80", ""},
		{"multicast", full(), "224.0.0.1:80", ""},
		{"multicast, IPv6", full(), "[ff02::1]:80", ""},
		{"broadcast", full(), "255.255.255.255:80", ""},
		{"the network's broadcast", &Map{Broadcast: netip.MustParseAddr("10.0.2.255")}, "10.0.2.255:80", ""},
		{"what would be another's", full(), "10.0.2.255:80", "10.0.2.255:80"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := tc.m.Outbound(netip.MustParseAddrPort(tc.to))
			if ok != (tc.out != "") || ok && got.String() != tc.out {
				t.Errorf("%s leads to %v, %t; want %q", tc.to, got, ok, tc.out)
			}
		})
	}
}

func TestInbound(t *testing.T) {
	bare := &Map{Guest: pair("10.0.2.15", "fd00::15"), Gateway: pair("10.0.2.1", "")}
	for _, tc := range []struct {
		name     string
		m        *Map
		from, as string // as is "" for refused
	}{
		{"anywhere", full(), "198.51.100.7:4000", "198.51.100.7:4000"},
		{"anywhere, IPv6", full(), "[2001:db8::7]:4000", "[2001:db8::7]:4000"},
		{"loopback", full(), "127.0.0.1:4000", "10.0.2.2:4000"},
		{"loopback, IPv6", full(), "[::1]:4000", "[fd00::2]:4000"},
		{"another loopback", full(), "127.0.0.2:4000", "10.0.2.1:4000"},
		{"guest's twin", full(), "10.0.2.15:4000", "10.0.2.4:4000"},
		{"guest's twin, IPv6", full(), "[fd00::15]:4000", "[fd00::4]:4000"},
		{"guest's twin without a name", asPasta(), "10.0.2.15:4000", "10.0.2.1:4000"},
		{"loopback as gateway", asPasta(), "127.0.0.1:4000", "10.0.2.1:4000"},
		{"loopback without a name", bare, "127.0.0.1:4000", "10.0.2.1:4000"},
		{"loopback without a name or gateway", bare, "[::1]:4000", ""},
		{"guest's twin without a name or gateway", bare, "[fd00::15]:4000", ""},
		{"mapped address", full(), "[::ffff:198.51.100.7]:4000", "[fe80::1]:4000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := tc.m.Inbound(netip.MustParseAddrPort(tc.from))
			if ok != (tc.as != "") || ok && got.String() != tc.as {
				t.Errorf("%s is shown as %v, %t; want %q", tc.from, got, ok, tc.as)
			}
		})
	}
}

func TestSource(t *testing.T) {
	for a, want := range map[string]bool{
		"10.0.2.15": true, "fd00::15": true, "fe80::15": true, "169.254.1.1": true,
		"127.0.0.1": false, "127.1.2.3": false, "::1": false, "0.0.0.0": false, "::": false, "224.0.0.251": false,
		"ff02::2": false, "255.255.255.255": false, "::ffff:10.0.2.15": false,
	} {
		if got := Source(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s as a guest's address: %t", a, got)
		}
	}
}

// anyAddr draws addresses, often ones that mean something.
func anyAddr(t *rapid.T) netip.Addr {
	known := []string{
		"127.0.0.1", "127.0.0.53", "127.9.9.9", "0.0.0.0", "255.255.255.255", "224.0.0.1", "10.0.2.1", "10.0.2.2", "10.0.2.3", "10.0.2.4",
		"10.0.2.15", "198.51.100.7", "::1", "::", "ff02::1", "fd00::2", "fd00::3", "fd00::4", "fd00::15", "fe80::1", "2001:db8::7",
		"::ffff:127.0.0.1", "::127.0.0.1",
	}
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "IPv4")
		return netip.AddrFrom4([4]byte(b))
	case 1:
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "IPv6")
		return netip.AddrFrom16([16]byte(b))
	}
	return netip.MustParseAddr(rapid.SampledFrom(known).Draw(t, "address"))
}

// The host's loopback is reached only through the addresses that stand for it, and when these are switched off not at all.
func TestLoopbackStaysClosed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom([]*Map{full(), asPasta()}).Draw(t, "map")
		if rapid.Bool().Draw(t, "closed") {
			m.Loopback = [2]netip.Addr{}
		}
		dst := netip.AddrPortFrom(anyAddr(t), rapid.Uint16().Draw(t, "port"))
		to, ok := m.Outbound(dst)
		if !ok {
			return
		}
		f := V6
		if dst.Addr().Is4() {
			f = V4
		}
		if to.Addr().Unmap().IsLoopback() && dst.Addr() != m.Loopback[f] {
			t.Fatalf("%v leads to %v", dst, to)
		}
		if to.Addr().Is4() != dst.Addr().Is4() {
			t.Fatalf("%v of one family leads to %v of the other", dst, to)
		}
		if to.Port() != dst.Port() {
			t.Fatalf("%v leads to %v, another port", dst, to)
		}
	})
}

// What a peer is shown as is an address that a guest can answer, and unless the gateway stands in for it, the answer of a guest that
// opens a connection to it leads back to the peer.
func TestInboundLeadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := full()
		src := netip.AddrPortFrom(anyAddr(t), rapid.Uint16Range(54, 65535).Draw(t, "port"))
		from, ok := m.Inbound(src)
		if !ok {
			t.Fatalf("%v is shown as nothing, though there is a gateway", src)
		}
		if !Source(from.Addr()) || from.Addr() == m.Guest[V4] || from.Addr() == m.Guest[V6] {
			t.Fatalf("%v is shown as %v", src, from)
		}
		shadowed := false // a peer that has an address which stands for something else inside
		for f := range 2 {
			shadowed = shadowed || src.Addr() == m.Loopback[f] || src.Addr() == m.GuestAlias[f]
		}
		if from.Addr() == m.Gateway[V4] || from.Addr() == m.Gateway[V6] || shadowed {
			return
		}
		if back, ok := m.Outbound(from); !ok || back != src {
			t.Fatalf("%v is shown as %v, which leads to %v", src, from, back)
		}
	})
}
