package tcp

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// The initial window is ten segments, and at least one frame (RFC 6928).
func TestInitialWindow(t *testing.T) {
	for _, v := range []struct{ mss, limit, want int64 }{
		{1448, 4 << 20, 65536}, {65468, 4 << 20, 654680}, {8948, 4 << 20, 89480}, {65468, 200000, 200000}, {65468, 1000, 130936}, {48, 4 << 20, 65536},
	} {
		var g congestion
		g.begin(v.mss, v.limit, false)
		if g.cwnd != v.want {
			t.Errorf("segments of %d bytes, at most %d: %d, want %d", v.mss, v.limit, g.cwnd, v.want)
		}
	}
}

// Slow start doubles the window in a round trip in which it was used up, and leaves it alone otherwise.
func TestSlowStart(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, false, true)
	s.acks(1, 0)
	for off := int64(1); s.c.cc.cwnd < 500000; {
		cwnd := s.c.cc.cwnd
		s.says(int(cwnd))
		s.take()
		if got := s.c.nxt - off; got < cwnd-1000 || got > cwnd {
			t.Fatalf("%d bytes fly, the window is %d", got, cwnd)
		}
		w.env.Now += roundTrip
		for off < s.c.nxt {
			off = min(off+2000, s.c.nxt)
			s.acks(off, 0)
		}
		if got := s.c.cc.cwnd; got < 2*cwnd-1000 || got > 2*cwnd {
			t.Fatalf("the window goes from %d to %d in a round trip", cwnd, got)
		}
	}
	s.reset()

	s = narrow(w, false, true)
	s.acks(1, 0)
	cwnd := s.c.cc.cwnd
	for range 100 {
		s.says(10000)
		w.env.Now += roundTrip
		s.acks(s.c.nxt, 0)
	}
	if s.c.cc.cwnd != cwnd {
		t.Errorf("the window went from %d to %d with 10000 bytes in flight", cwnd, s.c.cc.cwnd)
	}
	s.reset()
}

// What does not fit into the congestion window is not read from the host.
func TestWindowBoundsReading(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, false, true)
	s.acks(1, 0)
	s.says(1 << 20)
	if got, want := s.host.said, s.c.cc.cwnd/1000*1000; got != want || s.c.WantRead(&w.env, 4) != 0 {
		t.Errorf("%d bytes were read in a window of %d, %d more are wanted", got, s.c.cc.cwnd, s.c.WantRead(&w.env, 4))
	}
	w.env.Now += roundTrip
	s.acks(1001, 0)
	if got := s.c.WantRead(&w.env, 4); got != 2000 {
		t.Errorf("%d bytes are wanted after 1000 were acknowledged in slow start", got)
	}
	s.reset()
}

// After more than a retransmission timeout without data the window is the initial one again (RFC 5681, 4.1).
func TestRestart(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, false, true)
	s.acks(1, 0)
	s.says(1000)
	w.env.Now += roundTrip
	s.acks(1001, 0)
	s.c.cc.cwnd = 1 << 20
	s.says(1000)
	w.env.Now += roundTrip
	s.acks(2001, 0)
	if s.c.cc.cwnd != 1<<20 {
		t.Errorf("window %d after a short pause", s.c.cc.cwnd)
	}
	w.env.Now += s.c.rto
	s.says(1000)
	if s.c.cc.cwnd != 65536 {
		t.Errorf("window %d after a long pause", s.c.cc.cwnd)
	}
	s.reset()
}

// RFC 9438 in floating point, step by step beside ours.
func TestCubicAgainstFormula(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mss := rapid.SampledFrom([]int64{1228, 1448, 8948, 65468}).Draw(t, "MSS")
		rtt := rapid.SampledFrom([]int64{millisecond, 20 * millisecond, 200 * millisecond}).Draw(t, "round trip")
		cwnd := rapid.Int64Range(10*mss, 500*mss).Draw(t, "window")
		var q cubic
		now := int64(1e12)
		low := cwnd
		if rapid.Bool().Draw(t, "after a loss") {
			low = q.reduce(cwnd)
			if low != cwnd*7/10 {
				t.Fatalf("%d of %d is left", low, cwnd)
			}
		}
		const c, alpha = 0.4, 3 * (1 - 0.7) / (1 + 0.7)
		m := float64(mss)
		wMax, w := float64(cwnd)/m, float64(low)/m
		k := math.Cbrt((wMax - w) / c)
		est, t0, prior := w, now, wMax
		if low == cwnd {
			prior = 0
		}
		got := low
		for range rapid.IntRange(1, 300).Draw(t, "acknowledgements") {
			acked := rapid.Int64Range(1, got).Draw(t, "acked")
			got = q.grow(now, got, mss, acked, rtt)

			at := func(t int64) float64 { return c*math.Pow(float64(t)/1e9-k, 3) + wMax }
			gain, least := float64(acked)/m/w, w
			if prior == 0 { // not of the RFC: no loss was seen
				least += float64(acked) / m / 20
			}
			if est < prior {
				gain *= alpha
			}
			est += gain
			friendly := max(w, est, least)
			concave := max(w+(min(max(at(now-t0+rtt), w), 1.5*w)-w)*float64(acked)/m/w, least)
			want, other := concave, friendly
			if at(now-t0) < est {
				want, other = friendly, concave
			}
			if math.Abs(at(now-t0)-est) > 0.01*est+0.1 {
				other = want // otherwise rounding, of the time to milliseconds above all, decides between the two
			}
			if d := min(math.Abs(float64(got)/m-want), math.Abs(float64(got)/m-other)); d > 0.02*want+1 {
				t.Fatalf("window %.2f segments, the formula gives %.2f, %.3f s after the loss", float64(got)/m, want, float64(now-t0)/1e9)
			}
			w = float64(got) / m // only the step is compared: deviations would add up
			now += rapid.Int64Range(0, 2*rtt).Draw(t, "pause")
		}
	})
}

// Time in which the window was not used up is none of cubic's.
func TestCubicPauses(t *testing.T) {
	var q, still cubic
	w1, w2 := q.reduce(1<<20), still.reduce(1<<20)
	now := int64(1e9)
	w1, w2 = q.grow(now, w1, 1448, 1448, roundTrip), still.grow(now, w2, 1448, 1448, roundTrip)
	q.pause(now + 100e9)
	w1, w2 = q.grow(now+100e9+millisecond, w1, 1448, 1448, roundTrip), still.grow(now+millisecond, w2, 1448, 1448, roundTrip)
	if w1 != w2 {
		t.Errorf("windows %d and %d", w1, w2)
	}
}

// A window at which there was a loss below the one before leaves room for others (RFC 9438, 4.7).
func TestFastConvergence(t *testing.T) {
	var q cubic
	q.reduce(1000000)
	if q.wMax != 1000000 {
		t.Errorf("wMax %d", q.wMax)
	}
	q.reduce(800000)
	if q.wMax != 680000 {
		t.Errorf("wMax %d after a second loss", q.wMax)
	}
}

// HyStart++ (RFC 9406, 4.2): a round trip longer by a sixteenth, at least 4 ms, makes growth slow; two rounds of that end slow start, a
// shorter one takes it back.
func TestHystart(t *testing.T) {
	var g congestion
	g.begin(1000, 64<<20, false)
	una := int64(0)
	round := func(rtt int64) int64 {
		before, nxt := g.cwnd, una+g.cwnd
		g.used = g.cwnd
		for range 16 {
			una += before / 16
			g.grow(1e9, before/16, una, nxt, rtt, rtt)
		}
		return (g.cwnd*100 + 50) / before
	}
	for i, v := range []struct{ rtt, percent int64 }{
		{20, 200}, {20, 200}, {23, 200}, {23, 200}, {28, 155}, // in the middle of the round the eighth sample tells
		{22, 160}, {22, 200}, // it was no queue
		{30, 155}, {30, 125}, {30, 100},
	} {
		if got := round(v.rtt * millisecond); got < v.percent-8 || got > v.percent+8 {
			t.Errorf("round %d of %d ms: the window is %d %% of the one before, want %d", i, v.rtt, got, v.percent)
		}
	}
	if g.ssthresh == unlimited {
		t.Error("slow start goes on")
	}
}

// What is sent in a recovery (RFC 6937): while more flies than is to fly at its end, in proportion to what arrives; afterwards as much as arrives,
// or a segment more.
func TestProportionalRate(t *testing.T) {
	var g congestion
	g.begin(1000, 4<<20, false)
	g.cwnd, g.used = 100000, 100000
	pipe := int64(99000)
	g.recover(pipe, 100000)
	if g.ssthresh != 70000 {
		t.Fatalf("threshold %d", g.ssthresh)
	}
	sent := int64(0)
	for range 95 {
		pipe -= 1000
		g.proportion(1000, pipe, false)
		if n := (g.cwnd - pipe) / 1000 * 1000; n > 0 {
			pipe += n
			g.out += n
			sent += n
		}
	}
	if want := int64(95 * 700); sent < want-1000 || sent > want+1000 || pipe < 68000 || pipe > 71000 {
		t.Errorf("%d bytes were sent for 95000, %d fly", sent, pipe)
	}
	pipe = 30000 // much more was lost
	g.proportion(1000, pipe, false)
	if g.cwnd <= pipe || g.cwnd > g.ssthresh {
		t.Errorf("window %d far below the threshold, %d fly", g.cwnd, pipe)
	}
	pipe = 69500
	g.proportion(1000, pipe, true)
	if g.cwnd != g.ssthresh {
		t.Errorf("window %d beyond the threshold", g.cwnd)
	}
}

// In recovery cwnd may be nothing for a moment, which must not be what new data is paced by: a segment would hold the next one back for seconds.
func TestPaceInRecovery(t *testing.T) {
	w := roomyWorld(t)
	s := narrow(w, true, true)
	c := s.c
	c.srtt, c.recovery = 20*millisecond, recoveryFast
	c.cc.cwnd, c.cc.ssthresh = 0, 20000
	if rate := c.paceRate(); rate < 20000/20 {
		t.Errorf("%d bytes a millisecond, want at least %d", rate, 20000/20)
	}
	s.reset()
}
