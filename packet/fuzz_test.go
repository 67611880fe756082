package packet_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// FuzzParse feeds arbitrary frames with arbitrary virtio-net headers to Parse: the answer must not depend on how
// the frame is cut into pieces, and whatever is accepted must lie within the frame.
func FuzzParse(f *testing.F) {
	none := make([]byte, packet.NetHdrLen)
	partial := packet.NetHdr{Flags: packet.FlagNeedsCsum, GSOType: packet.GSOTCPv4, GSOSize: 3, CsumStart: 34, CsumOffset: 16}
	gso := make([]byte, packet.NetHdrLen)
	partial.Encode(gso)
	for _, raw := range [][]byte{
		tcp4(f, "payload"), tcp6(f, "payload"), udp4(f, "payload"), udp6(f, "payload"), ping4(f, "payload"), ping6(f, "payload"),
		extended(f, []uint8{0, 60, 43}, make([]byte, 8), make([]byte, 16), make([]byte, 24)),
		extended(f, []uint8{44}, make([]byte, 8)),
	} {
		f.Add(none, raw, uint64(1))
		f.Add(gso, raw, uint64(2))
	}
	for _, bad := range badFrames(f) {
		f.Add(none, bad.raw, uint64(3))
	}
	f.Fuzz(func(t *testing.T, hdr, raw []byte, seed uint64) {
		var h packet.NetHdr
		h.Decode(append(hdr, none...))
		whole, cut := frame(raw), split(raw, seed)
		whole.Hdr, cut.Hdr = h, h
		var p, q packet.Packet
		r := p.Parse(whole)
		if other := q.Parse(cut); other != r {
			t.Fatalf("%v in one piece, %v in %d", r, other, len(cut.Bufs))
		}
		if r != stats.None {
			return
		}
		if p.EtherType == packet.EtherARP {
			if !bytes.Equal(p.L3(), q.L3()) {
				t.Fatal("the ARP message depends on the pieces")
			}
			return
		}
		if diff := cmp.Diff(look(&p), look(&q)); diff != "" {
			t.Fatalf("one piece and several differ:\n%s", diff)
		}
		if p.L4+p.L4Len > len(raw) || p.PayloadLen() < 0 || p.PayloadLen() != len(look(&p).Payload) {
			t.Fatalf("transport at %d, %d bytes with a header of %d, in a frame of %d", p.L4, p.L4Len, p.HeadLen, len(raw))
		}
		if !bytes.Equal(p.Transport(), raw[p.L4:p.L4+p.HeadLen]) {
			t.Fatal("the transport header is not the frame's")
		}
	})
}

// split cuts b into up to five pieces, some of which may be empty.
func split(b []byte, seed uint64) *packet.Frame {
	rnd := rand.New(rand.NewPCG(seed, 0))
	var cuts []int
	last := 0
	for range rnd.IntN(5) {
		last += rnd.IntN(len(b) - last + 1)
		cuts = append(cuts, last)
	}
	return frame(b, cuts...)
}
