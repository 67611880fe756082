package gateway

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

var (
	ourMAC   = MAC{0x52, 0x56, 0, 0, 0, 2}
	guestMAC = MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}

	guest4, gateway4, mapped4 = netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("10.0.2.3")
	guest6, mapped6           = netip.MustParseAddr("2001:db8:1::15"), netip.MustParseAddr("2001:db8:1::2")
	guestLL, gatewayLL        = netip.MustParseAddr("fe80::15"), netip.MustParseAddr("fe80::1")
	other4, other6            = netip.MustParseAddr("10.0.2.99"), netip.MustParseAddr("2001:db8:1::99")
)

func testConfig(s *stats.Worker) Config {
	return Config{
		MAC:   ourMAC,
		Guest: []netip.Addr{guest4, guest6, guestLL}, Ours: []netip.Addr{gateway4, mapped4, mapped6},
		LinkLocal: gatewayLL, Router: &Router{Lifetime: MaxLifetime, MTU: 65520}, Stats: s,
	}
}

func mustNew(t testing.TB, c Config) *Gateway {
	t.Helper()
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// input gives the gateway a frame as a worker does and returns what came of it. A frame that the parser
// refuses never reaches the gateway.
func input(g *Gateway, frame []byte) (out [][]byte, handled bool, parsed stats.Reason) {
	var p packet.Packet
	if r := p.Parse(&packet.Frame{Bufs: [][]byte{frame}, Len: len(frame)}); r != stats.None {
		return nil, false, r
	}
	handled = g.Input(&p, func(f []byte) { out = append(out, bytes.Clone(f)) })
	return out, handled, stats.None
}

// dropped is the only reason for which anything was counted.
func dropped(t *testing.T, s *stats.Worker) (r stats.Reason) {
	t.Helper()
	for i, n := range s.Drops {
		if n > 0 {
			if r != stats.None || n > 1 {
				t.Errorf("%d drops counted for %v, after %v", n, stats.Reason(i), r)
			}
			r = stats.Reason(i)
		}
	}
	return r
}

// build makes a frame with the independent encoder.
func build(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// decode reads a frame with the independent decoder, which must understand all of it and find its checksums right.
func decode(t *testing.T, frame []byte) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("the emitted frame %x does not decode: %v", frame, e.Error())
	}
	if icmp, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok {
		if err := icmp.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
			t.Fatal(err)
		}
	}
	if err, wrong := p.VerifyChecksums(); err != nil || len(wrong) > 0 {
		t.Errorf("the emitted frame %x has wrong checksums %v: %v", frame, wrong, err)
	}
	if n := len(p.Layers()); n != 2 && n != 4 || p.ApplicationLayer() != nil {
		t.Errorf("the emitted frame %x is %v", frame, p)
	}
	return p
}

func TestSeen(t *testing.T) {
	g := mustNew(t, testConfig(nil))
	if g.GuestMAC() != broadcast {
		t.Errorf("the guest is at %x before it was seen", g.GuestMAC())
	}
	g.Seen(guestMAC)
	for _, m := range []MAC{{}, broadcast, {0x33, 0x33, 0, 0, 0, 1}, ourMAC} {
		if g.Seen(m); g.GuestMAC() != guestMAC {
			t.Errorf("the guest is at %x after a frame from %x", g.GuestMAC(), m)
		}
	}
	next := MAC{2, 0, 0, 0, 0, 1}
	if g.Seen(next); g.GuestMAC() != next {
		t.Error("the latest address did not win")
	}
	c := testConfig(nil)
	c.GuestMAC = guestMAC
	if g = mustNew(t, c); g.GuestMAC() != guestMAC || g.MAC() != ourMAC {
		t.Errorf("configured as %x and %x, the addresses are %x and %x", guestMAC, ourMAC, g.GuestMAC(), g.MAC())
	}
}

// echoFrames are echo requests of the guest, which are for the flows.
func echoFrames(t testing.TB) [][]byte {
	eth := &layers.Ethernet{SrcMAC: guestMAC[:], DstMAC: ourMAC[:], EthernetType: layers.EthernetTypeIPv6}
	ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 64, SrcIP: guest6.AsSlice(), DstIP: other6.AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
	icmp.SetNetworkLayerForChecksum(ip)
	echo6 := build(t, eth, ip, icmp, &layers.ICMPv6Echo{Identifier: 1})
	eth4 := &layers.Ethernet{SrcMAC: guestMAC[:], DstMAC: ourMAC[:], EthernetType: layers.EthernetTypeIPv4}
	ip4 := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: guest4.AsSlice(), DstIP: other4.AsSlice()}
	echo4 := build(t, eth4, ip4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0)})
	return [][]byte{echo6, echo4}
}

func TestLeavesTheRestAlone(t *testing.T) {
	g := mustNew(t, testConfig(nil))
	for _, frame := range echoFrames(t) {
		if out, handled, r := input(g, frame); handled || len(out) > 0 || r != stats.None {
			t.Errorf("echo request: handled %v, %d answers, %v", handled, len(out), r)
		}
	}
	if g.GuestMAC() != broadcast {
		t.Error("the address was learned from a frame that is not the gateway's to judge")
	}
}

func TestNewRefuses(t *testing.T) {
	long := strings.Repeat("a", 64)
	many := make([]netip.Addr, 80)
	for i := range many {
		many[i] = mapped6
	}
	prefixes := make([]netip.Addr, 50)
	for i := range prefixes {
		prefixes[i] = netip.AddrFrom16([16]byte{0x20, 1, 7: byte(i), 15: 1})
	}
	for _, c := range []struct {
		name, want string
		change     func(*Config)
	}{
		{"no MAC", "no Ethernet address", func(c *Config) { c.MAC = MAC{} }},
		{"multicast MAC", "no Ethernet address", func(c *Config) { c.MAC = broadcast }},
		{"invalid guest", "invalid IP is no address of a host", func(c *Config) { c.Guest = append(c.Guest, netip.Addr{}) }},
		{"multicast of ours", "224.0.0.1 is no address of a host", func(c *Config) { c.Ours = append(c.Ours, netip.MustParseAddr("224.0.0.1")) }},
		{"zone", "no address of a host", func(c *Config) { c.Ours = append(c.Ours, netip.MustParseAddr("fe80::1%eth0")) }},
		{"global link-local", "not a link-local", func(c *Config) { c.LinkLocal = guest6 }},
		{"IPv4 link-local", "not a link-local", func(c *Config) { c.LinkLocal = netip.MustParseAddr("169.254.2.2") }},
		{"router without link-local", "need a link-local", func(c *Config) { c.LinkLocal = netip.Addr{} }},
		{"lifetime", "lifetime", func(c *Config) { c.Router.Lifetime = MaxLifetime + 1 }},
		{"negative lifetime", "lifetime", func(c *Config) { c.Router.Lifetime = -1 }},
		{"MTU", "MTU 1279 is below 1280", func(c *Config) { c.Router.MTU = 1279 }},
		{"IPv4 resolver", "10.0.2.2 is not the IPv6 address", func(c *Config) { c.Router.DNS = []netip.Addr{gateway4} }},
		{"too many resolvers", "fit", func(c *Config) { c.Router.DNS = many }},
		{"too many prefixes", "fit", func(c *Config) { c.Guest = prefixes }},
		{"long label", "is not a domain name", func(c *Config) { c.Router.DNS, c.Router.Search = many[:1], []string{long + ".org"} }},
		{"empty label", "is not a domain name", func(c *Config) { c.Router.DNS, c.Router.Search = many[:1], []string{"a..b"} }},
		{"long name", "is not a domain name", func(c *Config) {
			c.Router.DNS, c.Router.Search = many[:1], []string{strings.Repeat("a.", 127) + "b"}
		}},
		{"not ASCII", "is not a domain name", func(c *Config) { c.Router.DNS, c.Router.Search = many[:1], []string{"é.fr"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := testConfig(nil)
			c.change(&conf)
			if _, err := New(conf); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("New: %v; want one line with %q", err, c.want)
			}
		})
	}
}

func hw(m MAC) net.HardwareAddr { return m[:] }
