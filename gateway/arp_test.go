package gateway

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/stats"
)

var zero4 = netip.IPv4Unspecified()

// arpFrame is an ARP message from the guest.
func arpFrame(t testing.TB, op uint16, senderMAC MAC, sender, target netip.Addr) []byte {
	eth := &layers.Ethernet{SrcMAC: hw(guestMAC), DstMAC: hw(broadcast), EthernetType: layers.EthernetTypeARP}
	return build(t, eth, &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: op,
		SourceHwAddress: senderMAC[:], SourceProtAddress: sender.AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: target.AsSlice(),
	})
}

func TestARP(t *testing.T) {
	for _, c := range []struct {
		name           string
		op             uint16
		sender, target netip.Addr
		answered       bool
	}{
		{"gateway", layers.ARPRequest, guest4, gateway4, true},
		{"mapped address", layers.ARPRequest, guest4, mapped4, true},
		{"any other", layers.ARPRequest, guest4, other4, true},
		{"from a second address of the guest", layers.ARPRequest, other4, gateway4, true},
		{"the guest itself", layers.ARPRequest, other4, guest4, false},
		{"announcement", layers.ARPRequest, guest4, guest4, false},
		{"announcement of a second address", layers.ARPRequest, other4, other4, false},
		{"probe for the guest's address", layers.ARPRequest, zero4, guest4, false},
		{"probe for a second address", layers.ARPRequest, zero4, other4, false},
		{"probe for the gateway's", layers.ARPRequest, zero4, gateway4, true},
		{"probe for a mapped one", layers.ARPRequest, zero4, mapped4, true},
		{"reply", layers.ARPReply, guest4, gateway4, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s stats.Worker
			g := mustNew(t, testConfig(&s))
			out, handled, r := input(g, arpFrame(t, c.op, guestMAC, c.sender, c.target))
			if !handled || r != stats.None || s.Dropped() != 0 {
				t.Fatalf("handled %v, %v, %d drops", handled, r, s.Dropped())
			}
			if g.GuestMAC() != guestMAC {
				t.Errorf("the guest is at %x", g.GuestMAC())
			}
			if !c.answered {
				if len(out) > 0 {
					t.Errorf("answered with %x", out)
				}
				return
			}
			if len(out) != 1 {
				t.Fatalf("%d answers, want 1", len(out))
			}
			p := decode(t, out[0])
			eth, arp := p.Layers()[0].(*layers.Ethernet), p.Layers()[1].(*layers.ARP)
			if eth.SrcMAC.String() != hw(ourMAC).String() || eth.DstMAC.String() != hw(guestMAC).String() {
				t.Errorf("answered from %v to %v", eth.SrcMAC, eth.DstMAC)
			}
			want := layers.ARP{
				BaseLayer: arp.BaseLayer, AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4,
				HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPReply,
				SourceHwAddress: ourMAC[:], SourceProtAddress: c.target.AsSlice(),
				DstHwAddress: guestMAC[:], DstProtAddress: c.sender.AsSlice(),
			}
			if diff := cmp.Diff(want, *arp); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// badFrame is a frame that the gateway counts and drops.
type badFrame struct {
	name  string
	frame []byte
	want  stats.Reason
}

// checkRefused gives each frame to a gateway of its own.
func checkRefused(t *testing.T, frames []badFrame) {
	t.Helper()
	for _, c := range frames {
		t.Run(c.name, func(t *testing.T) {
			var s stats.Worker
			g := mustNew(t, testConfig(&s))
			out, handled, r := input(g, c.frame)
			if r != stats.None || !handled || len(out) > 0 {
				t.Errorf("parsed as %v, handled %v, answers %x", r, handled, out)
			}
			if got := dropped(t, &s); got != c.want {
				t.Errorf("counted as %v, want %v", got, c.want)
			}
			if g.GuestMAC() != broadcast {
				t.Error("an address was learned from a bad frame")
			}
		})
	}
}

func TestBadARP(t *testing.T) { checkRefused(t, badARPFrames(t)) }

// badARPFrames are frames that have to be refused, one for each check.
func badARPFrames(t testing.TB) []badFrame {
	good := func() []byte { return arpFrame(t, layers.ARPRequest, guestMAC, guest4, gateway4) }
	set := func(off int, b byte) []byte {
		f := good()
		f[off] = b
		return f
	}
	addr := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	return []badFrame{
		{"short", good()[:41], stats.ShortFrame},
		{"hardware type", set(15, 6), stats.BadARP},
		{"protocol type", set(16, 0x86), stats.BadARP},
		{"hardware address length", set(18, 8), stats.BadARP},
		{"protocol address length", set(19, 16), stats.BadARP},
		{"operation", set(21, 3), stats.BadARP},
		{"group as the sender's hardware", arpFrame(t, 1, broadcast, guest4, gateway4), stats.BadARP},
		{"no sender's hardware", arpFrame(t, 1, MAC{}, guest4, gateway4), stats.BadARP},
		{"group as the sender", arpFrame(t, 1, guestMAC, addr("224.0.0.1"), gateway4), stats.BadARP},
		{"broadcast as the sender", arpFrame(t, 1, guestMAC, addr("255.255.255.255"), gateway4), stats.BadARP},
		{"loopback as the sender", arpFrame(t, 1, guestMAC, addr("127.0.0.1"), gateway4), stats.BadARP},
		{"target none", arpFrame(t, 1, guestMAC, guest4, zero4), stats.BadARP},
		{"target a group", arpFrame(t, 1, guestMAC, guest4, addr("239.1.1.1")), stats.BadARP},
		{"target broadcast", arpFrame(t, 1, guestMAC, guest4, addr("255.255.255.255")), stats.BadARP},
		{"target loopback", arpFrame(t, 1, guestMAC, guest4, addr("127.0.0.1")), stats.BadARP},
	}
}
