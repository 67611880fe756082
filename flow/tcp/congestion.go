package tcp

import "math"

// congestion is how much may fly toward the guest. The guest may be behind a bridge, a slow radio or a shaper of its own; the TAP
// itself loses nothing, and there the guest's window is the limit.
type congestion struct {
	mss       int64
	limit     int64 // largest cwnd
	initial   int64 // window to begin with, and after a rest, bytes
	cwnd      int64 // bytes
	ssthresh  int64 // bytes
	cubic     cubic
	start     hystart
	used      int64 // most that flew at once in this round
	usedEnd   int64 // offset that ends the round
	delivered int64 // PRR (RFC 6937): bytes that have arrived since recovery began
	out       int64 // bytes sent in it
	size      int64 // bytes outstanding at its beginning
}

// unlimited is ssthresh before the first loss.
const unlimited = math.MaxInt64

// begin sets the initial window: RFC 6928's on a long path; else ten segments, but at least one frame of the link, which is one burst of
// 64 KiB whatever its segments.
func (g *congestion) begin(mss, limit int64, far bool) {
	*g = congestion{mss: mss, limit: max(limit, 2*mss), ssthresh: unlimited}
	g.start.reset()
	g.initial = max(10*mss, 65536)
	if far {
		g.initial = max(min(10*mss, 14600), 2*mss)
	}
	g.initial = min(g.initial, g.limit)
	g.cwnd = g.initial
}

// sent notes that flying bytes are on their way after new data up to nxt was sent. What was used of the window
// decides whether it may grow (RFC 7661): a flow that its application or the guest's window limits learns nothing about the path.
func (g *congestion) sent(flying, una, nxt int64) {
	if una >= g.usedEnd {
		g.used, g.usedEnd = flying, nxt
	}
	g.used = max(g.used, flying)
}

// doubles reports whether slow start doubles the window in a round trip, which the conservative phase at its end does not.
func (g *congestion) doubles() bool { return g.cwnd < g.ssthresh && g.start.baseline == 0 }

// rest is called when a flow that has been idle for longer than its retransmission timeout sends again: what it knew of the path is
// old (RFC 5681, 4.1). ssthresh remembers most of it.
func (g *congestion) rest() {
	if g.cwnd > g.initial {
		g.ssthresh = max(g.ssthresh, g.cwnd/4*3)
		g.cwnd = g.initial
	}
}

// grow counts an acknowledgement of acked bytes (RFC 3465: by bytes, one acknowledgement covers up to a frame). nxt ends the
// round that is beginning, rtt is the time that the newest of them took, 0 when that is not known.
func (g *congestion) grow(now, acked, una, nxt, rtt, srtt int64) {
	if g.cwnd < g.ssthresh {
		acked = g.start.slow(g, acked, una, nxt, rtt)
		if g.cwnd < 2*g.used {
			g.cwnd = min(g.cwnd+acked, g.ssthresh, g.limit)
		}
		return
	}
	if g.used+g.mss <= g.cwnd || g.cwnd >= g.limit {
		g.cubic.pause(now)
		return
	}
	g.cwnd = min(g.cubic.grow(now, g.cwnd, g.mss, acked, srtt), g.limit)
}

// reduce answers a loss: ssthresh becomes what is left of the window. As in growth, the window counts for twice what was in flight at
// most: on the TAP a round trip is so short that little is, and that little says nothing of what the path takes.
func (g *congestion) reduce(flying int64) {
	window := min(g.cwnd, 2*max(g.used, flying))
	g.ssthresh = max(g.cubic.reduce(window), 2*g.mss)
}

// recover begins a recovery with size bytes outstanding.
func (g *congestion) recover(flying, size int64) {
	g.reduce(flying)
	g.delivered, g.out, g.size = 0, 0, max(size, 1)
}

// proportion sets cwnd for what may be sent after an acknowledgement in recovery (RFC 6937): as many bytes as reach ssthresh at its
// end while more than that flies, then as many as arrive, and in slow start while nothing more is lost.
func (g *congestion) proportion(delivered, flying int64, progress bool) {
	g.delivered += delivered
	var n int64
	if flying > g.ssthresh {
		n = (g.delivered*g.ssthresh+g.size-1)/g.size - g.out
	} else {
		n = g.delivered - g.out
		if progress {
			n = max(n, delivered) + g.mss
		}
		n = min(n, g.ssthresh-flying)
	}
	if g.out == 0 {
		n = max(n, g.mss) // the first retransmission goes at once
	}
	g.cwnd = flying + max(n, 0)
}

// timeout begins again with one segment (RFC 5681, 3.1). ssthresh is reduced once for one loss, whatever it takes to repair it.
func (g *congestion) timeout(first bool, flying int64) {
	if first {
		g.reduce(flying)
	}
	g.cwnd = g.mss
	g.used, g.usedEnd = 0, 0
	g.cubic.at = 0
}

// hystart ends the first slow start when the path's queue begins to fill, before it overflows (HyStart++, RFC 9406). It looks at every eight
// round-trip times on their own, not at all of a round together: a short queue fills and overflows within one round, whose beginning
// knows nothing of it (73 segments lost instead of 178 with a queue of 100 before 100 Mbit/s at 50 ms).
type hystart struct {
	roundEnd  int64 // offset that ends the round
	last, now int64 // shortest round-trip time of the round before and of this one, unlimited: none
	recent    int64 // ... of the last samples
	baseline  int64 // ... that began the conservative phase; 0: not in it
	samples   uint8 // how many recent ones there are
	rounds    uint8 // of the conservative phase
}

// The constants of RFC 9406, 4.3, but for two, of which it has 8 and 5: five rounds that add a quarter each treble the window, which is more
// than a path with a short queue holds (with a queue of a quarter of what is on the way, 8 flows: 710 segments lost instead of 975).
const (
	minRTTThresh  = 4 * millisecond
	maxRTTThresh  = 16 * millisecond
	minRTTDivisor = 16
	rttSamples    = 8
	cssDivisor    = 4
	cssRounds     = 2
)

func (h *hystart) reset() { *h = hystart{last: unlimited, now: unlimited, recent: unlimited} }

// slow counts an acknowledgement in slow start, and returns by how many bytes the window may grow for it.
func (h *hystart) slow(g *congestion, acked, una, nxt, rtt int64) int64 {
	if g.ssthresh != unlimited || rtt == 0 {
		return acked // only the first slow start is blind
	}
	if una >= h.roundEnd {
		h.roundEnd, h.last, h.now = nxt, h.now, unlimited
		if h.baseline != 0 {
			if h.rounds++; h.rounds > cssRounds {
				g.ssthresh = g.cwnd
			}
		}
	}
	h.now, h.recent = min(h.now, rtt), min(h.recent, rtt)
	if h.samples++; h.samples == rttSamples {
		switch {
		case h.baseline != 0 && h.recent < h.baseline: // it was no queue
			h.baseline = 0
		case h.baseline == 0 && h.last != unlimited && h.recent >= h.last+min(max(h.last/minRTTDivisor, minRTTThresh), maxRTTThresh):
			h.baseline, h.rounds = h.recent, 0
		}
		h.samples, h.recent = 0, unlimited
	}
	if h.baseline != 0 {
		return acked / cssDivisor
	}
	return acked
}
