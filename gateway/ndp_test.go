package gateway

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

var (
	zero6     = netip.IPv6Unspecified()
	solNode   = netip.MustParseAddr("ff02::1:ff00:2")
	allRouter = netip.MustParseAddr("ff02::2")
	sourceOpt = layers.ICMPv6Option{Type: layers.ICMPv6OptSourceAddress, Data: guestMAC[:]}
)

// icmp6Frame is an ICMPv6 message from the guest.
func icmp6Frame(t testing.TB, typ uint8, hops uint8, src, dst netip.Addr, msg gopacket.SerializableLayer) []byte {
	eth := &layers.Ethernet{SrcMAC: hw(guestMAC), DstMAC: hw(MAC{0x33, 0x33, 0xff, 0, 0, 2}), EthernetType: layers.EthernetTypeIPv6}
	ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: hops, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
	icmp.SetNetworkLayerForChecksum(ip)
	return build(t, eth, ip, icmp, msg)
}

func solicitFrame(t testing.TB, src, dst, target netip.Addr, opts ...layers.ICMPv6Option) []byte {
	return icmp6Frame(t, layers.ICMPv6TypeNeighborSolicitation, 255, src, dst,
		&layers.ICMPv6NeighborSolicitation{TargetAddress: target.AsSlice(), Options: opts})
}

func routerSolicitFrame(t testing.TB, src netip.Addr, opts ...layers.ICMPv6Option) []byte {
	return icmp6Frame(t, layers.ICMPv6TypeRouterSolicitation, 255, src, allRouter, &layers.ICMPv6RouterSolicitation{Options: opts})
}

// checkHeaders checks the way of an emitted ICMPv6 message.
func checkHeaders(t *testing.T, p gopacket.Packet, dstMAC MAC, dst netip.Addr) {
	t.Helper()
	eth, ip := p.Layers()[0].(*layers.Ethernet), p.Layers()[1].(*layers.IPv6)
	if MAC(eth.SrcMAC) != ourMAC || MAC(eth.DstMAC) != dstMAC {
		t.Errorf("sent from %v to %v, want %v to %v", eth.SrcMAC, eth.DstMAC, hw(ourMAC), hw(dstMAC))
	}
	if !ip.SrcIP.Equal(gatewayLL.AsSlice()) || !ip.DstIP.Equal(dst.AsSlice()) || ip.HopLimit != 255 {
		t.Errorf("sent from %v to %v with hop limit %d", ip.SrcIP, ip.DstIP, ip.HopLimit)
	}
}

var allNodesMAC = MAC{0x33, 0x33, 0, 0, 0, 1}

func TestNeighborSolicit(t *testing.T) {
	const none, router, solicited, override = 0, 0x80, 0x40, 0x20
	for _, c := range []struct {
		name             string
		src, dst, target netip.Addr
		opts             []layers.ICMPv6Option
		flags            uint8
	}{
		{"gateway", guestLL, solNode, gatewayLL, []layers.ICMPv6Option{sourceOpt}, router | solicited | override},
		{"gateway, unicast", guestLL, gatewayLL, gatewayLL, nil, router | solicited | override},
		{"mapped", guest6, solNode, mapped6, []layers.ICMPv6Option{sourceOpt}, router | solicited | override},
		{"any other", guest6, solNode, other6, []layers.ICMPv6Option{sourceOpt}, router | solicited | override},
		{"with an unknown option", guest6, solNode, other6, []layers.ICMPv6Option{{Type: 200, Data: make([]byte, 14)}, sourceOpt}, router | solicited | override},
		{"the guest itself", guest6, solNode, guest6, []layers.ICMPv6Option{sourceOpt}, none},
		{"detection of the guest's address", zero6, solNode, guest6, nil, none},
		{"detection of a second address", zero6, solNode, other6, nil, none},
		{"detection of the gateway's", zero6, solNode, gatewayLL, nil, router | override},
		{"detection of a mapped one", zero6, solNode, mapped6, []layers.ICMPv6Option{{Type: 14, Data: make([]byte, 6)}}, router | override},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s stats.Worker
			g := mustNew(t, testConfig(&s))
			out, handled, r := input(g, solicitFrame(t, c.src, c.dst, c.target, c.opts...))
			if !handled || r != stats.None || s.Dropped() != 0 {
				t.Fatalf("handled %v, %v, drops %v", handled, r, dropped(t, &s))
			}
			if g.GuestMAC() != guestMAC {
				t.Errorf("the guest is at %x", g.GuestMAC())
			}
			if c.flags == none {
				if len(out) > 0 {
					t.Errorf("answered with %x", out)
				}
				return
			}
			if len(out) != 1 {
				t.Fatalf("%d answers, want 1", len(out))
			}
			p := decode(t, out[0])
			if c.src == zero6 {
				checkHeaders(t, p, allNodesMAC, allNodes)
			} else {
				checkHeaders(t, p, guestMAC, c.src)
			}
			na := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
			want := layers.ICMPv6NeighborAdvertisement{
				BaseLayer: na.BaseLayer, Flags: c.flags, TargetAddress: c.target.AsSlice(),
				Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: ourMAC[:]}},
			}
			if diff := cmp.Diff(want, *na); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRouterSolicit(t *testing.T) {
	second := netip.MustParseAddr("2001:db8:2::1")
	full := testConfig(nil)
	full.Guest = append(full.Guest, second, netip.MustParseAddr("2001:db8:1::16"))
	full.Router = &Router{Lifetime: MaxLifetime, MTU: 1500, DNS: []netip.Addr{mapped6, other6}, Search: []string{"example.org", "a.test."}}
	bare := testConfig(nil)
	bare.Guest, bare.Router = []netip.Addr{guest4}, &Router{Search: []string{"not.advertised"}}

	prefix := func(p string) layers.ICMPv6Option {
		b := []byte{64, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}
		return layers.ICMPv6Option{Type: layers.ICMPv6OptPrefixInfo, Data: append(b, netip.MustParseAddr(p).AsSlice()...)}
	}
	source := layers.ICMPv6Option{Type: layers.ICMPv6OptSourceAddress, Data: ourMAC[:]}
	infinite := "\x00\x00\xff\xff\xff\xff"
	for _, c := range []struct {
		name     string
		conf     Config
		lifetime uint16
		opts     layers.ICMPv6Options
	}{
		{"full", full, 65535, layers.ICMPv6Options{
			prefix("2001:db8:1::"), prefix("2001:db8:2::"), {Type: layers.ICMPv6OptMTU, Data: []byte{0, 0, 0, 0, 1500 >> 8, 1500 & 255}}, source,
			{Type: 25, Data: []byte(infinite + string(mapped6.AsSlice()) + string(other6.AsSlice()))},
			{Type: 31, Data: []byte(infinite + "\x07example\x03org\x00\x01a\x04test\x00\x00\x00\x00")},
		}},
		{"bare", bare, 0, layers.ICMPv6Options{source}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := mustNew(t, c.conf)
			check := func(frame []byte, dstMAC MAC, dst netip.Addr) {
				t.Helper()
				p := decode(t, frame)
				checkHeaders(t, p, dstMAC, dst)
				ra := p.Layer(layers.LayerTypeICMPv6RouterAdvertisement).(*layers.ICMPv6RouterAdvertisement)
				want := layers.ICMPv6RouterAdvertisement{BaseLayer: ra.BaseLayer, HopLimit: 64, RouterLifetime: c.lifetime, Options: c.opts}
				if diff := cmp.Diff(want, *ra); diff != "" {
					t.Errorf("advertisement (-want +got):\n%s", diff)
				}
			}
			out, handled, r := input(g, routerSolicitFrame(t, guestLL, sourceOpt))
			if !handled || r != stats.None || len(out) != 1 {
				t.Fatalf("handled %v, %v, %d answers", handled, r, len(out))
			}
			check(out[0], guestMAC, guestLL)
			if out, _, _ = input(g, routerSolicitFrame(t, zero6)); len(out) != 1 {
				t.Fatalf("%d answers to a guest without an address", len(out))
			}
			check(out[0], allNodesMAC, allNodes)
			out = nil
			g.Advertise(func(f []byte) { out = append(out, f) })
			if len(out) != 1 {
				t.Fatalf("%d unsolicited advertisements", len(out))
			}
			check(out[0], allNodesMAC, allNodes)
		})
	}
}

func TestSwitchedOff(t *testing.T) {
	var s stats.Worker
	c := testConfig(&s)
	c.Router = nil
	g := mustNew(t, c)
	if out, handled, _ := input(g, routerSolicitFrame(t, guestLL)); !handled || len(out) > 0 || dropped(t, &s) != stats.Disabled {
		t.Errorf("without advertisements: handled %v, answers %x", handled, out)
	}
	g.Advertise(func(f []byte) { t.Errorf("advertised %x", f) })
	if out, _, _ := input(g, solicitFrame(t, guestLL, solNode, gatewayLL)); len(out) != 1 {
		t.Error("without advertisements neighbours are not answered either")
	}
	s = stats.Worker{}
	c.LinkLocal = netip.Addr{}
	g = mustNew(t, c)
	if out, handled, _ := input(g, solicitFrame(t, guestLL, solNode, gatewayLL)); !handled || len(out) > 0 || dropped(t, &s) != stats.Disabled {
		t.Errorf("without neighbour discovery: handled %v, answers %x", handled, out)
	}
}

func TestIgnored(t *testing.T) {
	var s stats.Worker
	g := mustNew(t, testConfig(&s))
	for _, typ := range []uint8{130, 131, 132, 134, 136, 137, 143} {
		frame := icmp6Frame(t, typ, 255, guestLL, gatewayLL, gopacket.Payload(make([]byte, 40)))
		if out, handled, r := input(g, frame); !handled || len(out) > 0 || r != stats.None {
			t.Errorf("type %d: handled %v, %d answers, %v", typ, handled, len(out), r)
		}
	}
	if s.Dropped() != 0 {
		t.Errorf("%d drops", s.Dropped())
	}
}

func TestBadNDP(t *testing.T) {
	const icmp = packet.EtherLen + packet.IPv6Len
	checkRefused(t, badNDPFrames(t))
	t.Run("checksum", func(t *testing.T) {
		frame := solicitFrame(t, guestLL, solNode, gatewayLL)
		frame[icmp+2] ^= 1
		if _, handled, r := input(mustNew(t, testConfig(nil)), frame); handled || r != stats.BadChecksum {
			t.Errorf("handled %v, parsed as %v", handled, r)
		}
	})
}

// badNDPFrames are frames that have to be refused, one for each check.
func badNDPFrames(t testing.TB) []badFrame {
	const ip, icmp = packet.EtherLen, packet.EtherLen + packet.IPv6Len
	// change alters a good solicitation and makes its lengths and checksum right again.
	change := func(frame []byte, f func([]byte) []byte) []byte {
		frame = f(frame)
		binary.BigEndian.PutUint16(frame[ip+4:], uint16(len(frame)-icmp))
		return fixChecksum(frame)
	}
	ns := func(f func([]byte) []byte) []byte {
		return change(solicitFrame(t, guestLL, solNode, gatewayLL, sourceOpt), f)
	}
	rs := func(f func([]byte) []byte) []byte { return change(routerSolicitFrame(t, guestLL, sourceOpt), f) }
	set := func(off int, v byte) func([]byte) []byte {
		return func(f []byte) []byte { f[off] = v; return f }
	}
	cut := func(n int) func([]byte) []byte { return func(f []byte) []byte { return f[:n] } }
	add := func(b ...byte) func([]byte) []byte { return func(f []byte) []byte { return append(f, b...) } }
	addr := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	return []badFrame{
		{"NS hop limit", ns(set(ip+7, 254)), stats.BadNDP},
		{"NS code", ns(set(icmp+1, 1)), stats.BadNDP},
		{"NS short", ns(cut(icmp + 23)), stats.BadNDP},
		{"NS long", ns(func(f []byte) []byte { return append(f, make([]byte, 2000)...) }), stats.BadNDP},
		{"NS option of length 0", ns(set(icmp+25, 0)), stats.BadOption},
		{"NS option beyond the end", ns(set(icmp+25, 2)), stats.BadOption},
		{"NS half an option", ns(add(14, 1, 0)), stats.BadOption},
		{"NS source option too long", ns(func(f []byte) []byte { f[icmp+25] = 2; return append(f, make([]byte, 8)...) }), stats.BadOption},
		{"NS source option with a group", ns(set(icmp+26, 1)), stats.BadOption},
		{"NS target a group", solicitFrame(t, guestLL, solNode, allNodes), stats.BadNDP},
		{"NS target none", solicitFrame(t, guestLL, solNode, zero6), stats.BadNDP},
		{"NS target loopback", solicitFrame(t, guestLL, solNode, addr("::1")), stats.BadNDP},
		{"NS from an Ethernet group", ns(set(6, 0x33)), stats.BadSource},
		{"NS from a group", solicitFrame(t, allNodes, solNode, gatewayLL), stats.BadSource},
		{"NS from loopback", solicitFrame(t, addr("::1"), solNode, gatewayLL), stats.BadSource},
		{"detection with a source option", solicitFrame(t, zero6, solNode, gatewayLL, sourceOpt), stats.BadNDP},
		{"detection to a host", solicitFrame(t, zero6, gatewayLL, gatewayLL), stats.BadNDP},
		{"detection to all nodes", solicitFrame(t, zero6, allNodes, gatewayLL), stats.BadNDP},
		{"RS hop limit", rs(set(ip+7, 64)), stats.BadNDP},
		{"RS code", rs(set(icmp+1, 9)), stats.BadNDP},
		{"RS option of length 0", rs(set(icmp+9, 0)), stats.BadOption},
		{"RS without an address, with a source option", routerSolicitFrame(t, zero6, sourceOpt), stats.BadNDP},
	}
}

// fixChecksum makes the checksum of an ICMPv6 frame right; other frames are returned as they are.
func fixChecksum(frame []byte) []byte {
	const icmp = packet.EtherLen + packet.IPv6Len
	if len(frame) < icmp+4 || frame[12] != 0x86 || frame[13] != 0xdd || frame[20] != packet.ProtoICMPv6 {
		return frame
	}
	src, dst := netip.AddrFrom16([16]byte(frame[22:38])), netip.AddrFrom16([16]byte(frame[38:54]))
	frame[icmp+2], frame[icmp+3] = 0, 0
	sum := ^checksum.Checksum(frame[icmp:], packet.PseudoSum(src, dst, packet.ProtoICMPv6, len(frame)-icmp))
	binary.BigEndian.PutUint16(frame[icmp+2:], sum)
	return frame
}

// FuzzInput feeds whole frames, with the checksum mended so that the fuzzer gets past it. Every answer must
// decode, come from the gateway, and not be sent to a bad frame.
func FuzzInput(f *testing.F) {
	add := func(frames ...[]byte) {
		for _, frame := range frames {
			f.Add(frame, true, true)
		}
	}
	add(arpFrame(f, layers.ARPRequest, guestMAC, guest4, gateway4),
		arpFrame(f, layers.ARPRequest, guestMAC, zero4, mapped4),
		arpFrame(f, layers.ARPRequest, guestMAC, other4, other4),
		arpFrame(f, layers.ARPReply, guestMAC, guest4, gateway4),
		solicitFrame(f, guestLL, solNode, gatewayLL, sourceOpt),
		solicitFrame(f, zero6, solNode, mapped6),
		solicitFrame(f, zero6, solNode, other6),
		routerSolicitFrame(f, guestLL, sourceOpt),
		routerSolicitFrame(f, zero6),
		icmp6Frame(f, 143, 1, guestLL, allRouter, gopacket.Payload(make([]byte, 24))))
	add(echoFrames(f)...)
	for _, bad := range append(badARPFrames(f), badNDPFrames(f)...) {
		add(bad.frame)
	}
	f.Add(routerSolicitFrame(f, guestLL), true, false)
	f.Add(solicitFrame(f, guestLL, solNode, gatewayLL), false, false)
	f.Fuzz(func(t *testing.T, frame []byte, discovery, advertise bool) {
		c := testConfig(nil)
		c.Router.DNS, c.Router.Search = []netip.Addr{mapped6}, []string{"example.org"}
		if !advertise || !discovery {
			c.Router = nil
		}
		if !discovery {
			c.LinkLocal = netip.Addr{}
		}
		var s stats.Worker
		c.Stats = &s
		g := mustNew(t, c)
		out, handled, r := input(g, fixChecksum(bytes.Clone(frame)))
		switch {
		case !handled && (len(out) > 0 || s.Dropped() > 0):
			t.Fatalf("not handled, but %d answers and %d drops", len(out), s.Dropped())
		case r != stats.None:
			return
		case len(out) > 1 || s.Dropped() > 1 || len(out) > 0 && s.Dropped() > 0:
			t.Fatalf("%d answers and %d drops", len(out), s.Dropped())
		}
		for _, b := range out {
			p := decode(t, b)
			if eth := p.Layers()[0].(*layers.Ethernet); MAC(eth.SrcMAC) != ourMAC {
				t.Errorf("answered from %v", eth.SrcMAC)
			}
			var back packet.Packet
			if r := back.Parse(&packet.Frame{Bufs: [][]byte{b}, Len: len(b)}); r != stats.None {
				t.Errorf("our own parser calls the answer %v", r)
			}
		}
		if m := g.GuestMAC(); m != broadcast && !unicast(m) {
			t.Errorf("learned %x", m)
		}
	})
}
