package tcp

import (
	"bytes"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// parse makes a frame with gopacket and has a Segment read it.
func parse(t *testing.T, tcp layers.TCP, payload []byte) (s Segment, r stats.Reason) {
	t.Helper()
	ip := layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IPv4(10, 0, 2, 15), DstIP: net.IPv4(192, 0, 2, 1),
	}
	eth := layers.Ethernet{SrcMAC: make(net.HardwareAddr, 6), DstMAC: make(net.HardwareAddr, 6), EthernetType: layers.EthernetTypeIPv4}
	if err := tcp.SetNetworkLayerForChecksum(&ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, &eth, &ip, &tcp, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	b := buf.Bytes()
	f := packet.Frame{Bufs: [][]byte{b[:60], b[60:]}, Len: len(b)}
	if len(b) <= 60 {
		f.Bufs = [][]byte{b}
	}
	var p packet.Packet
	if r := p.Parse(&f); r != stats.None {
		t.Fatalf("packet.Parse: %v of %x", r, b)
	}
	s = Segment{SACKCount: 3, HasTimes: true, MSS: 9, SACKOK: true} // of the segment before
	r = s.Parse(&p)
	return s, r
}

func option(kind layers.TCPOptionKind, data ...byte) layers.TCPOption {
	return layers.TCPOption{OptionType: kind, OptionLength: uint8(2 + len(data)), OptionData: data}
}

var nop = layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1}

func TestParseSegment(t *testing.T) {
	payload := fromGuest.at(0, 1000)
	got, r := parse(t, layers.TCP{
		SrcPort: 4000, DstPort: 80, Seq: 0x01020304, Ack: 0x05060708, ACK: true, PSH: true, Window: 0x1234, Options: []layers.TCPOption{
			nop, nop, option(layers.TCPOptionKindTimestamps, 1, 2, 3, 4, 5, 6, 7, 8),
			option(77, 1, 2), // unknown
			nop, nop, option(layers.TCPOptionKindSACK, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4),
		},
	}, payload)
	if r != stats.None {
		t.Fatalf("refused: %v", r)
	}
	if !bytes.Equal(bytes.Join(got.Payload, nil), payload) {
		t.Error("wrong payload")
	}
	got.Payload = nil
	want := Segment{
		Seq: 0x01020304, Ack: 0x05060708, Flags: ACK | PSH, Window: 0x1234, Scale: -1, HasTimes: true,
		TSVal: 0x01020304, TSEcr: 0x05060708, SACKCount: 2, Len: 1000,
	}
	want.SACK[0], want.SACK[1] = [2]uint32{1, 2}, [2]uint32{3, 4}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}

	got, r = parse(t, layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 5, SYN: true, Window: 7, Options: []layers.TCPOption{
		option(layers.TCPOptionKindMSS, 5, 180), option(layers.TCPOptionKindWindowScale, 200), option(layers.TCPOptionKindSACKPermitted),
		{OptionType: layers.TCPOptionKindEndList, OptionLength: 1}, {OptionType: 2}, // behind the end anything may lie
	}}, nil)
	want = Segment{Seq: 5, Flags: SYN, Window: 7, MSS: 1460, Scale: 14, SACKOK: true}
	want.SACK = got.SACK // left as they were, SACKCount tells
	if d := cmp.Diff(want, got, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Payload" }, cmp.Ignore())); d != "" || r != stats.None {
		t.Error(r, d)
	}
}

func TestParseRefuses(t *testing.T) {
	got, r := parse(t, layers.TCP{SrcPort: 4000, DstPort: 80, SYN: true, Options: []layers.TCPOption{{OptionType: 3, OptionLength: 2}, nop, nop}}, nil)
	if r != stats.BadOption {
		t.Errorf("%v for a window scale without a value: %+v", r, got)
	}
}

// Every way in which options can be malformed.
func TestMalformedOptions(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    []byte
	}{
		{"kind without length", []byte{optNop, optMSS}},
		{"unknown kind without length", []byte{99}},
		{"length 0", []byte{99, 0, 0}},
		{"length 1", []byte{optNop, 99, 1}},
		{"longer than the header", []byte{99, 4, 0}},
		{"MSS of 3", []byte{optMSS, 3, 1, optNop}},
		{"MSS of 5", []byte{optMSS, 5, 1, 2, 3}},
		{"window scale of 2", []byte{optScale, 2}},
		{"window scale of 4", []byte{optScale, 4, 1, 1}},
		{"SACK permitted of 3", []byte{optSACKOK, 3, 0}},
		{"timestamps of 9", []byte{optTimes, 9, 0, 0, 0, 0, 0, 0, 0}},
		{"timestamps of 11", []byte{optTimes, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"SACK without blocks", []byte{optSACK, 2}},
		{"SACK with half a block", []byte{optSACK, 6, 0, 0, 0, 0}},
		{"SACK with five blocks", append([]byte{optSACK, 42}, make([]byte, 40)...)},
	} {
		s := Segment{Scale: -1}
		if s.parseOptions(tc.o) {
			t.Errorf("%s: taken as %+v", tc.name, s)
		}
	}
	for _, o := range [][]byte{nil, {optNop}, {optEnd, 99}, {99, 2}, {optSACK, 34, 33: 0}, {optScale, 3, 255}} {
		s := Segment{Scale: -1}
		if !s.parseOptions(o) {
			t.Errorf("%v is refused", o)
		}
	}
}

// Options are parsed without looking beyond them, whatever they are, and SACK blocks stay within their array.
func FuzzParseOptions(f *testing.F) {
	f.Add([]byte{optMSS, 4, 5, 180, optSACKOK, 2, optTimes, 10, 0, 0, 0, 1, 0, 0, 0, 2, optNop, optScale, 3, 7})
	f.Add([]byte{optNop, optNop, optSACK, 34, 33: 1})
	f.Add([]byte{99, 3, 0, optEnd, 1})
	f.Fuzz(func(t *testing.T, o []byte) {
		s := Segment{Scale: -1}
		ok := s.parseOptions(o[:len(o):len(o)])
		if s.SACKCount > len(s.SACK) || s.Scale > 14 {
			t.Errorf("%d blocks, scale %d", s.SACKCount, s.Scale)
		}
		if ok && len(o) > 0 && o[0] != optEnd {
			// What was accepted is accepted again behind padding, to the same effect.
			again := Segment{Scale: -1}
			if !again.parseOptions(append([]byte{optNop, optNop}, o...)) || again.MSS != s.MSS || again.Scale != s.Scale ||
				again.TSVal != s.TSVal || again.SACKCount != s.SACKCount {
				t.Errorf("%v differs behind padding: %+v, %+v", o, s, again)
			}
		}
	})
}
