package icmp

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/packet"
)

var (
	peer4, guest4 = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.2")
	peer6, guest6 = netip.MustParseAddr("2001:db8:1::7"), netip.MustParseAddr("2001:db8::2")
)

// packetTo is a packet from a peer to the guest, from its IP header on, and what its ends are.
func packetTo(t testing.TB, v6 bool, above ...gopacket.SerializableLayer) []byte {
	t.Helper()
	proto := map[gopacket.LayerType]layers.IPProtocol{
		layers.LayerTypeTCP: layers.IPProtocolTCP, layers.LayerTypeUDP: layers.IPProtocolUDP, layers.LayerTypeICMPv4: layers.IPProtocolICMPv4,
		layers.LayerTypeICMPv6: layers.IPProtocolICMPv6, layers.LayerTypeSCTP: layers.IPProtocolSCTP,
	}[above[0].LayerType()]
	var ip gopacket.SerializableLayer = &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: peer4.AsSlice(), DstIP: guest4.AsSlice()}
	if v6 {
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: peer6.AsSlice(), DstIP: guest6.AsSlice()}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, append([]gopacket.SerializableLayer{ip}, above...)...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// reports are errors that the guest may send, by what they are about.
func reports(t testing.TB) map[string][]byte {
	all := make(map[string][]byte)
	for _, v6 := range []bool{false, true} {
		name, typ := "4", byte(3)
		echo := gopacket.SerializableLayer(&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoReply, 0), Id: 77})
		if v6 {
			name, typ = "6", 1
			echo = &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoReply, 0)}
		}
		head := []byte{typ, 3, 0, 0, 0, 0, 0, 0} // port unreachable
		if v6 {
			head[1] = 4
		}
		all["tcp"+name] = append(head[:8:8], packetTo(t, v6, &layers.TCP{SrcPort: 80, DstPort: 5000, Seq: 0x12345678, DataOffset: 5})...)
		all["udp"+name] = append(head[:8:8], packetTo(t, v6, &layers.UDP{SrcPort: 53, DstPort: 5001})...)
		if v6 {
			all["echo6"] = append(head[:8:8], packetTo(t, v6, echo, &layers.ICMPv6Echo{Identifier: 77})...)
			whole := packetTo(t, v6, &layers.UDP{SrcPort: 53, DstPort: 5001})
			cut := slices.Concat(whole[:40], make([]byte, packet.FragmentLen))
			packet.PutFragment(cut[40:], cut[6], 9, 0, true)
			cut[6] = packet.ProtoFragment
			all["fragment6"] = append(head[:8:8], append(cut, whole[40:]...)...)
		} else {
			all["echo4"] = append(head[:8:8], packetTo(t, v6, echo)...)
		}
	}
	return all
}

func TestParseReport(t *testing.T) {
	all := reports(t)
	for name, want := range map[string]Report{
		"tcp4":      {Proto: packet.ProtoTCP, SrcPort: 80, DstPort: 5000, Seq: 0x12345678},
		"udp4":      {Proto: packet.ProtoUDP, SrcPort: 53, DstPort: 5001},
		"echo4":     {Proto: packet.ProtoICMP, SrcPort: 77},
		"tcp6":      {Proto: packet.ProtoTCP, SrcPort: 80, DstPort: 5000, Seq: 0x12345678},
		"udp6":      {Proto: packet.ProtoUDP, SrcPort: 53, DstPort: 5001},
		"echo6":     {Proto: packet.ProtoICMPv6, SrcPort: 77},
		"fragment6": {Proto: packet.ProtoUDP, SrcPort: 53, DstPort: 5001},
	} {
		v6 := name[len(name)-1] == '6'
		want.Src, want.Dst, want.Error = peer4, guest4, Error{Type: 3, Code: 3}
		if v6 {
			want.Src, want.Dst, want.Error = peer6, guest6, Error{V6: true, Type: 1, Code: 4}
		}
		got, ok := ParseReport(v6, all[name])
		if want.Proto == packet.ProtoUDP {
			want.Seq = got.Seq // length and checksum
		}
		if !ok || got != want {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
		if !got.Refused() || got.TooBig() {
			t.Errorf("%s: refused %t, too big %t", name, got.Refused(), got.TooBig())
		}
		for n := range all[name] {
			if n < 8+28 {
				if r, ok := ParseReport(v6, all[name][:n]); ok {
					t.Errorf("%s: %d bytes say %+v", name, n, r)
				}
			}
		}
	}
}

func TestBadReports(t *testing.T) {
	for name, spoil := range map[string]func(b []byte){
		"no error":       func(b []byte) { b[0] = 0 },
		"version":        func(b []byte) { b[8] = 0x35 },
		"header length":  func(b []byte) { b[8] = 0x4f },
		"short header":   func(b []byte) { b[8] = 0x44 },
		"later fragment": func(b []byte) { b[8+7] = 1 },
		"protocol":       func(b []byte) { b[8+9] = 132 },
		"other family":   func(b []byte) { b[8+9] = packet.ProtoICMPv6 },
		"echo request":   func(b []byte) { b[8+9], b[8+20] = packet.ProtoICMP, 8 },
	} {
		b := reports(t)["udp4"]
		spoil(b)
		if r, ok := ParseReport(false, b); ok {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for name, spoil := range map[string]func(b []byte){
		"no error":       func(b []byte) { b[0] = 129 },
		"version":        func(b []byte) { b[8] = 0x45 },
		"later fragment": func(b []byte) { b[8+40+3] = 8 },
		"extension":      func(b []byte) { b[8+6] = 0 },
	} {
		b := reports(t)["fragment6"]
		spoil(b)
		if r, ok := ParseReport(true, b); ok {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// Which errors say that nobody wants the packet, and which that it was too long.
func TestMeaning(t *testing.T) {
	for _, tc := range []struct {
		v6              bool
		typ, code       uint8
		refused, tooBig bool
	}{
		{false, 3, 0, false, false}, {false, 3, 1, false, false}, {false, 3, 2, true, false}, {false, 3, 3, true, false}, {false, 3, 4, false, true},
		{false, 3, 9, true, false}, {false, 3, 10, true, false}, {false, 3, 13, true, false}, {false, 11, 0, false, false}, {false, 12, 3, false, false},
		{true, 1, 0, false, false}, {true, 1, 1, true, false}, {true, 1, 3, false, false}, {true, 1, 4, true, false}, {true, 1, 5, true, false},
		{true, 2, 0, false, true}, {true, 3, 0, false, false}, {true, 4, 1, false, false},
	} {
		e := Error{V6: tc.v6, Type: tc.typ, Code: tc.code}
		if e.Refused() != tc.refused || e.TooBig() != tc.tooBig {
			t.Errorf("%+v: refused %t, too big %t", e, e.Refused(), e.TooBig())
		}
	}
}

// FuzzParseReport: whatever a guest says, what is read of it lies within it, and a packet that was understood is one whose ends are given.
func FuzzParseReport(f *testing.F) {
	for name, b := range reports(f) {
		f.Add(name[len(name)-1] == '6', b)
		f.Add(name[len(name)-1] != '6', b)
	}
	f.Fuzz(func(t *testing.T, v6 bool, b []byte) {
		r, ok := ParseReport(v6, b)
		if !ok {
			return
		}
		if r.Src.Is6() != v6 || r.Dst.Is6() != v6 || r.V6 != v6 || len(b) < HeaderLen+packet.IPv4Len+HeaderLen {
			t.Fatalf("%d bytes: %+v", len(b), r)
		}
		if again, _ := ParseReport(v6, append(b[:len(b):len(b)], 1, 2, 3)); again != r {
			t.Fatalf("%+v, with more behind it %+v", r, again)
		}
		var out [HeaderLen + MaxError6]byte
		if got, ok := ParseReport(v6, r.Put(out[:], b[HeaderLen:])); !ok || got != r {
			t.Fatalf("%+v, written and read %+v", r, got)
		}
	})
}
