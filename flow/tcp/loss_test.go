package tcp

import (
	"math/rand/v2"
	"testing"

	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Both streams arrive over a link that goes on losing, and now and then repeating, segments in both directions.
func TestLossyLink(t *testing.T) {
	for seed := range uint64(6) {
		w := roomyWorld(t)
		g := fullGuest
		g.total, g.buffer, g.chunk, g.times = 200000, 30000, 1448, seed&1 != 0
		cfg := largeConfig
		cfg.MSS, cfg.MaxGSO = 1460, int(seed&2)<<14
		s := w.open(cfg, g)
		s.host.total = 1 << 20
		random := rand.New(rand.NewPCG(seed, 1))
		s.link = func() int {
			switch n := random.IntN(20); {
			case n < 2:
				return 0
			case n == 2:
				return 2
			}
			return 1
		}
		s.finish()
		if w.stats.TCPRetransmits == 0 || w.stats.TCPOutOfOrder == 0 {
			t.Errorf("%d retransmissions, %d segments out of order: nothing was lost", w.stats.TCPRetransmits, w.stats.TCPOutOfOrder)
		}
	}
}

// block is a SACK block in stream offsets.
type block [2]int64

func (s *subject) sackBlocks(m *wire) (b []block) {
	for _, r := range header.ParseTCPOptions(m.options).SACKBlocks {
		b = append(b, block{int64(uint32(r.Start) - s.guest.iss), int64(uint32(r.End) - s.guest.iss)})
	}
	return b
}

// Each segment behind a hole is acknowledged at once, with the holes of RFC 2018: the newest first, at most three
// beside timestamps.
func TestSackBlocks(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1 << 20)
	w.env.Lazy = true // these are never put off
	for i, step := range []struct {
		off  int64
		n    int
		want []block
	}{
		{1001, 100, []block{{1001, 1101}}},
		{3001, 100, []block{{3001, 3101}, {1001, 1101}}},
		{2001, 100, []block{{2001, 2101}, {1001, 1101}, {3001, 3101}}},
		{4001, 100, []block{{4001, 4101}, {1001, 1101}, {2001, 2101}}},
		{1101, 50, []block{{1001, 1151}, {2001, 2101}, {3001, 3101}}},  // adjoins
		{2951, 300, []block{{3001, 3101}, {2951, 3251}, {1001, 1151}}}, // covers, and so repeats
		{1951, 1100, []block{{2001, 2101}, {1951, 3251}, {1001, 1151}}},
		{1, 1000, []block{{1951, 3251}, {4001, 4101}}}, // the first hole is filled: 1151 is next
		{1151, 800, []block{{4001, 4101}}},
		{3251, 750, nil},
	} {
		s.in(ACK, step.off, step.n)
		m := s.one("out of order")
		if got := s.sackBlocks(&m); !equal(got, step.want) {
			t.Errorf("step %d: blocks %v, want %v", i, got, step.want)
		}
		s.guest.receive(t, &m)
	}
	if s.host.got != 4100 || s.guest.una != 4101 {
		t.Errorf("the host got %d bytes, %d are acknowledged", s.host.got, s.guest.una-1)
	}
	if frags := w.env.Hold.FragsInUse(); frags != 0 {
		t.Errorf("%d fragments are held after the holes are filled", frags)
	}
	s.finish()
}

func equal(a, b []block) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Data toward the guest leaves no room for SACK blocks; an ACK with them goes with it.
func TestSackBesideData(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1 << 20)
	s.says(10)
	s.take()
	seg := s.guest.segment(ACK, 2001, 100)
	s.input(&seg)
	s.says(100)
	m := s.take()
	if len(m) != 2 || len(m[0].data) != 100 || len(s.sackBlocks(&m[1])) != 1 {
		t.Fatalf("sent %+v, want data and an ACK with a block", m)
	}
	s.finish()
}

// More holes than a connection remembers: what opens another one is dropped, what touches a known range is not.
func TestHolesAreBounded(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1 << 20)
	for i := range int64(maxOOO) {
		s.in(ACK, 101+200*i, 100)
	}
	s.in(ACK, 101+200*maxOOO, 100)
	if n := w.stats.Drops[stats.TCPOutOfOrderFull]; n != 1 || len(s.c.ooo) != maxOOO {
		t.Fatalf("%d drops, %d ranges", n, len(s.c.ooo))
	}
	s.in(ACK, 101+200*(maxOOO-1)+100, 100)
	if n := w.stats.Drops[stats.TCPOutOfOrderFull]; n != 1 {
		t.Errorf("what adjoins a range was dropped")
	}
	s.finish()
}

// A range that was held out of order and then arrives again in order is given to the host once, and its memory comes back, though
// the ring of fragments grows meanwhile.
func TestHeldRangeComesAgain(t *testing.T) {
	for _, room := range []int{-1, 0, 1000, 9000, 20000, 39000} {
		w := roomyWorld(t)
		g := fullGuest
		g.total = 1 << 20
		s := w.open(largeConfig, g)
		s.in(ACK, 5001, 3000)
		s.in(ACK, 20001, 3000)
		s.host.room = room
		s.in(ACK, 1, 40000)
		s.in(ACK, 50001, 10000)
		if room < 0 && s.host.got != 40000 {
			t.Errorf("the host got %d bytes of 40000", s.host.got)
		}
		s.grant(30000)
		s.in(ACK, 40001, 10000)
		s.grant(-1)
		if s.host.got != 60000 {
			t.Errorf("room %d: the host got %d bytes of 60000", room, s.host.got)
		}
		if frags := w.env.Hold.FragsInUse(); frags != 0 {
			t.Errorf("room %d: %d fragments are held", room, frags)
		}
		s.finish()
	}
}

// When the pool has nothing left, what is not stored is not acknowledged, and not taken for stored.
func TestPoolExhausted(t *testing.T) {
	for _, left := range []int{0, 1, 2} {
		w := roomyWorld(t)
		g := fullGuest
		g.total = 100000
		s := w.open(largeConfig, g)
		s.host.room = 0
		s.in(ACK, 16001, 100)
		var taken []pagepool.Frag
		for {
			f, ok := w.env.Hold.GetFrag()
			if !ok {
				break
			}
			taken = append(taken, f)
		}
		put := func(n int) {
			for range n {
				w.env.Hold.PutFrag(taken[len(taken)-1])
				taken = taken[:len(taken)-1]
			}
		}
		put(left)
		free := func() { put(len(taken)) }
		// These would join what is held at 16001, but do not reach it; the second one reaches the end of what there is.
		s.c.Input(&w.env, segmentOf(s, 4097, 11904))
		s.c.Settle(&w.env, 0)
		s.c.Input(&w.env, segmentOf(s, 1, 4000))
		s.c.Settle(&w.env, 0)
		if n := w.stats.Drops[stats.NoBuffers]; n == 0 {
			t.Errorf("%d fragments left: nothing is counted", left)
		}
		if held := s.c.HeldBytes(); held > int64(left)*4096 {
			t.Errorf("%d fragments left: %d bytes held", left, held)
		}
		free()
		s.output()
		s.in(ACK, 1, 4096) // up to what was tried above
		s.grant(-1)
		if want := int64(4096 + max(0, min(left*4096-1, 4095))); left == 1 && s.host.got != want {
			t.Errorf("%d fragments left: the host got %d bytes, want %d", left, s.host.got, want)
		}
		s.finish()
	}
}

// segmentOf is a segment of the guest with its length filled in, for Input itself.
func segmentOf(s *subject, off int64, n int) *Segment {
	seg := s.guest.segment(ACK, off, n)
	seg.Len = n
	s.watch.arrives(s, &seg)
	return &seg
}

// An acknowledgement that changes the window, carries data, or meets nothing in flight is no duplicate.
func TestNoDuplicateAcks(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(100000)
	for range 5 {
		s.in(ACK, 1, 0)
	}
	s.says(1000)
	s.take()
	for i := range 5 {
		s.in(ACK, s.c.rcvNxt, 100)
		seg := s.guest.ack()
		seg.Window -= uint16(i + 1)
		s.input(&seg)
	}
	s.output()
	for _, m := range s.take() {
		if len(m.data) > 0 {
			t.Errorf("retransmitted: %+v", m)
		}
	}
	s.finish()
}

// A fast retransmission that the guest's acknowledgement overtakes is not sent, and does not disturb the timing.
func TestFastRetransmitOvertaken(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	s.says(1000)
	for range 3 {
		seg := s.guest.ack()
		s.input(&seg)
	}
	s.deliver()
	s.answer()
	s.none("all is acknowledged")
	if s.c.rtoAt != 0 {
		t.Errorf("retransmission at %d, with nothing in flight", s.c.rtoAt)
	}
	s.finish()
}

// Acknowledgements of what was never sent, or long ago, are answered and otherwise ignored (RFC 5961, 5.2).
func TestUnacceptableAck(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1000)
	s.says(1000)
	s.take()
	for _, off := range []int64{1002, 1 << 30, -(8 << 20), -(1 << 20)} { // the guest's window was a MiB at most
		seg := s.guest.segment(ACK, 1, 100)
		seg.Ack = largeConfig.ISS + uint32(off)
		s.input(&seg)
		s.output()
		s.want("answer", s.one("acknowledges what it cannot"), ACK, 1001, 1001, 1)
		if s.c.una != 1 || s.host.got != 0 {
			t.Errorf("%d: acknowledged up to %d, the host got %d bytes", off, s.c.una, s.host.got)
		}
	}
	far := s.guest.segment(ACK, 1<<24, 10) // what lies outside the window acknowledges nothing, and does not order windows
	far.Ack += 1000
	far.Window = 0
	s.input(&far)
	s.output()
	s.want("answer", s.one("outside the window"), ACK, 1001, 1001, 1)
	if s.c.una != 1 {
		t.Errorf("acknowledged up to %d by a segment outside the window", s.c.una)
	}
	s.in(PSH, 1, 100) // no ACK
	s.none("a segment without ACK")
	if s.host.got != 0 {
		t.Errorf("the host got %d bytes of a segment without ACK", s.host.got)
	}
	s.finish()
}

// PAWS (RFC 7323, 5): what is older than the newest in order is dropped and answered, unless the guest was silent for so long
// that its clock may have gone half round.
func TestOldTimestamps(t *testing.T) {
	w := roomyWorld(t)
	g := fullGuest
	g.total = 10000
	g.clock = 0xfffffff0 // wraps
	s := w.open(largeConfig, g)
	for range 40 {
		s.in(ACK, s.guest.nxt, 10)
		s.guest.nxt += 10
	}
	s.take()
	old := s.guest.segment(ACK, s.guest.nxt, 10)
	old.TSVal -= 2
	s.input(&old)
	s.output()
	m := s.one("an old timestamp")
	s.want("answer", m, ACK, 1, 1, s.guest.nxt)
	if o := header.ParseTCPOptions(m.options); o.TSEcr != s.guest.clock-1 {
		t.Errorf("timestamp %d is echoed, want %d", o.TSEcr, s.guest.clock-1)
	}
	if n := w.stats.Drops[stats.TCPPAWS]; n != 1 || s.host.got != 400 {
		t.Errorf("%d drops, the host got %d bytes", n, s.host.got)
	}
	bare := s.guest.segment(ACK, s.guest.nxt, 10)
	bare.HasTimes = false // as some middle boxes leave them
	s.input(&bare)
	if s.host.got != 410 {
		t.Errorf("a segment without timestamp was dropped")
	}
	w.env.Now += pawsLife
	s.guest.clock += 1<<31 + 100
	s.in(ACK, 411, 10)
	if s.host.got != 420 {
		t.Errorf("a guest's clock that went half round is taken for old")
	}
	s.finish()
}

// The timestamp that is echoed is that of the segment that moved the acknowledgement, not of one behind a hole.
func TestTimestampEcho(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(10000)
	echo := func() uint32 { return header.ParseTCPOptions(s.one("ACK").options).TSEcr }
	s.in(ACK, 1, 100)
	first := s.guest.clock
	if got := echo(); got != first {
		t.Errorf("echo %d, want %d", got, first)
	}
	s.in(ACK, 201, 100)
	if got := echo(); got != first {
		t.Errorf("echo %d behind a hole, want %d", got, first)
	}
	s.in(ACK, 101, 100)
	if got := echo(); got != s.guest.clock {
		t.Errorf("echo %d, want %d", got, s.guest.clock)
	}
	s.finish()
}
