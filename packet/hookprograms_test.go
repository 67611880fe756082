package packet

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/stats"
)

// What tcpdump 4.99.3 prints for tcpdump -ddd -y EN10MB 'udp port 53 or arp'
const dnsOrARP = `21
40 0 0 12
21 0 6 34525
48 0 0 20
21 0 16 17
40 0 0 54
21 13 0 53
40 0 0 56
21 11 12 53
21 0 9 2048
48 0 0 23
21 0 9 17
40 0 0 20
69 7 0 8191
177 0 0 14
72 0 0 14
21 3 0 53
72 0 0 16
21 1 2 53
21 0 1 2054
6 0 0 262144
6 0 0 0
`

// udpTo is a UDP frame over IPv4.
func udpTo(port byte, payload int) []byte {
	b := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, byte(28 + payload), 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2},
		0xc0, 0, 0, port, 0, byte(8+payload), 0, 0)
	sum := uint32(0)
	for i := 14; i < 34; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = ^(sum>>16 + sum&0xffff)
	b[24], b[25] = byte(sum>>8), byte(sum)
	return append(b, make([]byte, payload)...)
}

func TestFilterHook(t *testing.T) {
	program, err := ParseFilter(strings.NewReader(dnsOrARP))
	if err != nil {
		t.Fatal(err)
	}
	hook, err := FilterHook(program)
	if err != nil {
		t.Fatal(err)
	}
	arp := make([]byte, 42)
	arp[12], arp[13] = 8, 6
	dns, other := udpTo(53, 10), udpTo(54, 10)
	frames := []Frame{
		{Bufs: [][]byte{dns}, Len: len(dns)}, {Bufs: [][]byte{other}, Len: len(other)}, {Bufs: [][]byte{arp}, Len: len(arp)},
		{Bufs: [][]byte{dns[:20], dns[20:36], dns[36:]}, Len: len(dns)}, {Bufs: [][]byte{dns[:16]}, Len: 16},
	}
	verdicts := make([]Verdict, len(frames))
	hook(frames, verdicts)
	if !slices.Equal(verdicts, []Verdict{Pass, Drop, Pass, Pass, Drop}) {
		t.Errorf("verdicts %v", verdicts)
	}
	if n := testing.AllocsPerRun(100, func() { hook(frames, verdicts) }); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}

func TestParseFilterRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"": "empty", "\n": "empty", "x": `"x"`, "5000\n": "5000", "1\n": "says 1", "0\n": "says 0", "2\n6 0 0 0\n": "1 instructions", "1\n6 0 0\n": "3 numbers",
		"1\n70000 0 0 0\n": "70000", "1\n6 256 0 0\n": "256", "1\n6 0 0 4294967296\n": "4294967296", "1\n6 0 0 -1\n": "-1",
	} {
		if _, err := ParseFilter(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	for _, text := range []string{"1\n0 0 0 0\n", "2\n21 9 9 1\n6 0 0 0\n", "1\n65535 0 0 0\n", "2\n52 0 0 0\n6 0 0 0\n"} {
		program, err := ParseFilter(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := FilterHook(program); err == nil {
			t.Errorf("%q is taken for a filter", text)
		}
	}
}

// FuzzFilter: no program, however mangled, and no frame make the hook do more than drop.
func FuzzFilter(f *testing.F) {
	f.Add(dnsOrARP, udpTo(53, 4))
	f.Add("1\n6 0 0 1\n", []byte{})
	f.Add("2\n177 0 0 4294967295\n6 0 0 1\n", []byte{1})
	f.Fuzz(func(t *testing.T, text string, frame []byte) {
		program, err := ParseFilter(strings.NewReader(text))
		if err != nil {
			return
		}
		hook, err := FilterHook(program)
		if err != nil {
			return
		}
		var verdicts [1]Verdict
		hook([]Frame{{Bufs: [][]byte{frame}, Len: len(frame)}}, verdicts[:])
		if verdicts[0] != Pass && verdicts[0] != Drop {
			t.Errorf("verdict %v", verdicts[0])
		}
	})
}

func TestCountHook(t *testing.T) {
	var counts ProtocolCounts
	var drop [257]bool
	drop[ProtoUDP] = true
	udp := udpTo(1, 0)
	tcp := udpTo(1, 0)
	tcp[23] = ProtoTCP
	frames := []Frame{{Bufs: [][]byte{udp}, Len: len(udp)}, {Bufs: [][]byte{tcp}, Len: len(tcp)}, {Bufs: [][]byte{tcp[:15]}, Len: 15}}
	verdicts := make([]Verdict, 3)
	CountHook(&counts, &drop)(frames, verdicts)
	if !slices.Equal(verdicts, []Verdict{Drop, Pass, Pass}) || counts[ProtoUDP] != 1 || counts[ProtoTCP] != 1 || counts[NotIP] != 1 {
		t.Errorf("verdicts %v, %d UDP, %d TCP, %d others", verdicts, counts[ProtoUDP], counts[ProtoTCP], counts[NotIP])
	}
}

func TestSwapMACs(t *testing.T) {
	b := udpTo(1, 0)
	frames := []Frame{{Bufs: [][]byte{b}, Len: len(b)}, {Bufs: [][]byte{b[:5]}, Len: 5}}
	verdicts := make([]Verdict, 2)
	SwapMACs(frames, verdicts)
	if verdicts[0] != TX || verdicts[1] != Drop || !bytes.Equal(b[:12], []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}) {
		t.Errorf("%v %x", verdicts, b[:12])
	}
}

// TestTunnelHook: the outer packet parses, and the inner one is whole behind it.
func TestTunnelHook(t *testing.T) {
	for _, ends := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}} {
		src, dst := netip.MustParseAddr(ends[0]), netip.MustParseAddr(ends[1])
		hook, err := TunnelHook(src, dst)
		if err != nil {
			t.Fatal(err)
		}
		inner := udpTo(9, 20)
		room := append(make([]byte, 64), inner...)
		f := []Frame{{Bufs: [][]byte{room[64:]}, Len: len(inner)}, {Bufs: [][]byte{bytes.Clone(inner)}, Len: len(inner)}}
		f[0].SetRoom(room, 64)
		verdicts := make([]Verdict, 2)
		hook(f, verdicts)
		if verdicts[0] != TX || verdicts[1] != Drop {
			t.Fatalf("verdicts %v", verdicts)
		}
		var p Packet
		if r := p.Parse(&f[0]); r != stats.UnknownProtocol || p.Proto != protoIPIP || p.Src != src || p.Dst != dst {
			t.Errorf("the outer packet: %v, protocol %d, %v to %v", r, p.Proto, p.Src, p.Dst)
		}
		out := f[0].Bufs[0]
		if !bytes.Equal(out[:12], inner[:12]) || !bytes.Equal(out[len(out)-len(inner)+EtherLen:], inner[EtherLen:]) {
			t.Errorf("the inner packet: %x", out)
		}
	}
	if _, err := TunnelHook(netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.1")); err == nil {
		t.Error("a tunnel between families is made")
	}
}
