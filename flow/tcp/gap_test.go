package tcp

import "testing"

// The first segment behind a gap is answered with as many duplicate ACKs as the environment says, every further one with one, until the
// next gap.
func TestGapACKs(t *testing.T) {
	for _, sack := range []bool{true, false} {
		w := roomyWorld(t)
		w.env.GapACKs = 3
		w.env.Lazy = true
		g := fullGuest
		g.total, g.sack = 1<<20, sack
		s := w.open(largeConfig, g)
		for i, step := range []struct {
			off  int64
			n    int
			acks int
			at   int64 // what they acknowledge
		}{
			{1001, 100, 3, 1},
			{1101, 100, 1, 1},
			{3001, 100, 1, 1}, // another gap, but the guest waits for the first
			{1001, 50, 1, 1},  // again
			{1, 1000, 1, 1201},
			{3101, 100, 3, 1201}, // which the guest has not heard of
			{3201, 100, 1, 1201},
			{1201, 1800, 1, 3301},
			{4001, 100, 3, 3301},
			{3301, 700, 1, 4101},
		} {
			s.in(ACK, step.off, step.n)
			got := s.take()
			if len(got) != step.acks {
				t.Fatalf("SACK %t, step %d: %d ACKs, want %d", sack, i, len(got), step.acks)
			}
			for _, m := range got {
				s.want("ACK", m, ACK, 1, 1, step.at)
				if m.window != got[0].window {
					t.Errorf("SACK %t, step %d: windows %d and %d: no duplicates", sack, i, got[0].window, m.window)
				}
				if n := len(s.sackBlocks(&m)); len(s.c.ooo) > 0 && (n > 0) != sack {
					t.Errorf("SACK %t, step %d: %d blocks", sack, i, n)
				}
				s.guest.receive(t, &m)
			}
		}
		s.finish()
	}
}

// An ACK that acknowledges something new is no duplicate: when what comes before the gap and what comes behind it arrive together, the
// duplicates follow it. A link that is full puts off those that are left.
func TestGapACKsAfterNews(t *testing.T) {
	w := roomyWorld(t)
	w.env.GapACKs = 3
	s := w.openSending(1 << 20)
	first, behind := s.guest.segment(ACK, 1, 1000), s.guest.segment(ACK, 2001, 1000)
	s.borrow(&first)
	s.borrow(&behind)
	s.settle()
	w.frames = 2
	s.output()
	if n := len(s.wires); n != 2 {
		t.Fatalf("%d segments on a link with room for 2", n)
	}
	w.frames = -1
	s.output()
	for i, m := range s.take() {
		s.want("ACK", m, ACK, 1, 1, 1001)
		s.guest.receive(t, &m)
		if i > 3 {
			t.Error("more than three duplicates")
		}
	}
	s.in(ACK, 1001, 1000)
	s.want("ACK", s.one("the gap is filled"), ACK, 1, 1, 3001)

	behind = s.guest.segment(ACK, 4001, 1000) // and filled before anything could be said
	s.input(&behind)
	s.in(ACK, 3001, 1000)
	s.want("ACK", s.one("the gap was filled at once"), ACK, 1, 1, 5001)
	s.finish()
}

// What arrives a second time is told in the first block, once (RFC 2883).
func TestDuplicateBlocks(t *testing.T) {
	w := roomyWorld(t)
	g := fullGuest
	g.total, g.times = 1<<20, false
	s := w.open(largeConfig, g)
	w.env.Lazy = true
	s.in(ACK, 1, 1000)
	s.none("in order")
	for i, step := range []struct {
		off  int64
		n    int
		want []block
	}{
		{501, 100, []block{{501, 601}}},
		{901, 200, []block{{901, 1001}}}, // half of it is new
		{2001, 500, []block{{2001, 2501}}},
		{2101, 100, []block{{2101, 2201}, {2001, 2501}}},
		{1, 100, []block{{1, 101}, {2001, 2501}}},
		{3001, 500, []block{{3001, 3501}, {2001, 2501}}},
		{2401, 200, []block{{2401, 2501}, {2001, 2601}, {3001, 3501}}}, // of which one half is new
		{4001, 1, []block{{4001, 4002}, {2001, 2601}, {3001, 3501}}},
		{5001, 1, []block{{5001, 5002}, {2001, 2601}, {3001, 3501}, {4001, 4002}}},
		{3001, 1, []block{{3001, 3002}, {3001, 3501}, {2001, 2601}, {4001, 4002}}}, // four fit without timestamps
		{1101, 900, []block{{3001, 3501}, {4001, 4002}, {5001, 5002}}},
	} {
		s.in(ACK, step.off, step.n)
		m := s.one("ACK")
		if got := s.sackBlocks(&m); !equal(got, step.want) {
			t.Errorf("step %d: blocks %v, want %v", i, got, step.want)
		}
		s.guest.receive(t, &m)
	}
	if n := w.stats.TCPDuplicate; n != 6 {
		t.Errorf("%d duplicates counted, want 6", n)
	}
	s.says(100) // no room for blocks beside data
	s.deliver()
	seg := s.guest.segment(ACK, 1, 10)
	s.input(&seg)
	s.says(100)
	if m := s.take(); len(m) != 2 || len(m[0].data) != 100 || len(s.sackBlocks(&m[1])) != 4 {
		t.Errorf("data and a duplicate: %+v", m)
	} else {
		s.wires = m
	}
	s.finish()
}
