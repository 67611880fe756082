package packet_test

import (
	"strings"
	"testing"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// gsoFrame is a frame of 64 KiB in two pieces with a partial checksum.
func gsoFrame(t testing.TB) *packet.Frame {
	f := frame(tcp4(t, strings.Repeat("x", 65000)), 4096)
	f.Hdr = packet.NetHdr{Flags: packet.FlagNeedsCsum, GSOType: packet.GSOTCPv4, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}
	return f
}

func parseAll(t testing.TB, p *packet.Packet, iov [][]byte, frames []*packet.Frame) {
	for _, f := range frames {
		if r := p.Parse(f); r != stats.None {
			t.Fatal(r)
		}
		if len(p.Payload(iov[:0])) == 0 {
			t.Fatal("no payload")
		}
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	frames := []*packet.Frame{gsoFrame(t), frame(tcp6(t, "payload")), frame(udp4(t, "payload"), 30), frame(ping6(t, "payload"))}
	p, iov := new(packet.Packet), make([][]byte, 0, 4)
	if n := testing.AllocsPerRun(100, func() { parseAll(t, p, iov, frames) }); n != 0 {
		t.Errorf("%v allocations for %d frames", n, len(frames))
	}
}

func BenchmarkParse(b *testing.B) {
	for _, c := range []struct {
		name string
		f    *packet.Frame
	}{
		{"TCP GSO frame", gsoFrame(b)},
		{"UDP with a full checksum of 1472 bytes", frame(udp4(b, strings.Repeat("x", 1472)))},
	} {
		b.Run(c.name, func(b *testing.B) {
			p, iov := new(packet.Packet), make([][]byte, 0, 4)
			frames := []*packet.Frame{c.f}
			b.ReportAllocs()
			for b.Loop() {
				parseAll(b, p, iov, frames)
			}
		})
	}
}
