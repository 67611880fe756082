package tcp

import "testing"

// The window follows the round trip: the near one suffices while that is short, a long one gets twice what arrives in it, up to the cap.
func TestRightSize(t *testing.T) {
	const near, most = 1 << 20, 8 << 20
	for _, tc := range []struct {
		name     string
		rtt      int64 // nanoseconds
		times    bool
		perRound int64 // bytes that the guest sends in a round trip at most
		from, to int64 // what the widest window is between
	}{
		{"short", 100e3, true, 1 << 40, near - 256, near},
		{"short, without timestamps", 100e3, false, 1 << 40, near - 256, near},
		{"long", 20e6, true, 1 << 40, most - 256, most},
		{"long, without timestamps", 20e6, false, 1 << 40, most - 256, most},
		{"long, at a rate", 20e6, true, 1200e3, 2000e3, 2600e3},
		{"long, at a low rate", 20e6, true, 100e3, 65535, near},
		{"a millisecond", 1e6, true, 1 << 40, near - 256, near},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, limits{budget: 128 << 20, maxWindow: most, maxFlight: 1 << 20, conns: 1})
			w.env.NearWindow = near
			g := fullGuest
			g.total, g.times, g.buffer = 200<<20, tc.times, 8<<20
			if tc.perRound < 1<<40 {
				g.total = 40 * tc.perRound
			}
			s := w.dial(largeConfig, g)
			s.c.Connected()
			s.output()
			w.env.Now += tc.rtt
			s.deliver()
			s.answer()
			widest := int64(0)
			for s.guest.nxt <= s.guest.total {
				end := s.guest.nxt + tc.perRound
				edge := s.guest.edge
				s.guest.edge = min(edge, end) // what the path has room for
				s.transmit(60000)
				s.guest.edge = edge
				widest = max(widest, s.watch.maxEdge-s.watch.acked)
				w.env.Now += tc.rtt
				s.deliver()
			}
			if widest < tc.from || widest > tc.to {
				t.Errorf("the widest window was %d, want %d to %d", widest, tc.from, tc.to)
			}
			s.finish()
			w.close()
		})
	}
}
