package tcp

import "testing"

// A host that takes nothing closes the guest's window, and not one byte of what was accepted is lost. The guest's probes are
// answered, with the window as it is.
func TestHostFull(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1 << 20)
	s.fill(10000)
	if got := s.c.HeldBytes(); got != s.guest.edge-1 || got < 65408 {
		t.Fatalf("%d bytes held, the right edge was %d", got, s.guest.edge)
	}
	closed := s.guest.edge
	for _, probe := range []struct {
		name string
		off  int64
		n    int
	}{{"an old byte's number", closed - 1, 0}, {"a byte beyond", closed, 1}, {"nothing", closed, 0}} {
		seg := s.guest.segment(ACK, probe.off, probe.n)
		s.input(&seg)
		if probe.n == 0 && probe.off == closed {
			s.output()
			s.none("an ACK is no probe")
			continue
		}
		s.output()
		m := s.one(probe.name)
		s.want(probe.name, m, ACK, 1, 1, closed)
		if m.window != 0 {
			t.Errorf("%s: the window is %d", probe.name, m.window)
		}
	}
	s.grant(-1)
	s.output()
	m := s.one("the host has room")
	s.want("window update", m, ACK, 1, 1, closed)
	if got := int64(m.window) << 7; got < 65408-128 {
		t.Errorf("a window of %d after all was taken", got)
	}
	s.finish()
}

// What a probe of a closed window acknowledges counts (RFC 9293, 3.10.7.4).
func TestProbeAcknowledges(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1 << 20)
	s.fill(60000)
	s.says(1000)
	s.deliver()
	s.in(ACK, s.guest.edge, 1)
	if s.c.una != 1001 {
		t.Errorf("unacknowledged from %d on, want 1001", s.c.una)
	}
	s.grant(-1)
	s.finish()
}

// While a host takes bytes in crumbs the guest is not told of every crumb (RFC 9293, 3.8.6.2.2).
func TestNoSillyWindow(t *testing.T) {
	w := roomyWorld(t)
	g := fullGuest
	g.total, g.mss = 1<<20, 1460
	cfg := largeConfig
	cfg.MSS = 1460
	s := w.open(cfg, g)
	s.fill(20000)
	last := s.watch.maxEdge
	for range 700 {
		s.grant(100)
		s.output()
		for _, m := range s.take() {
			s.guest.receive(t, &m)
			if gain := s.watch.maxEdge - last; gain < 2*1448 {
				t.Fatalf("an update of %d bytes", gain)
			}
			last = s.watch.maxEdge
		}
	}
	if last < 60000 {
		t.Errorf("the window opened up to %d only", last)
	}
	s.grant(-1)
	s.finish()
}

// The window doubles as long as the host takes everything, up to the cap, and no further.
func TestWindowGrows(t *testing.T) {
	for _, most := range []int64{16 << 10, 65535, 1 << 20, 4 << 20} {
		w := newWorld(t, limits{budget: 64 << 20, maxWindow: most, maxFlight: 1 << 20, conns: 1})
		g := fullGuest
		g.total = 30 << 20
		s := w.open(largeConfig, g)
		widest := int64(0)
		for s.guest.nxt <= s.guest.total {
			s.transmit(60000)
			s.deliver()
			widest = max(widest, s.guest.edge-s.guest.una)
		}
		if widest > most || widest < most-(1<<7) {
			t.Errorf("the widest window was %d, the cap is %d", widest, most)
		}
		s.finish()
		w.close()
	}
}

// No connection grows into all of what is left of the budget.
func TestWindowLeavesRoom(t *testing.T) {
	w := newWorld(t, limits{budget: 1 << 20, maxWindow: 1 << 20, maxFlight: 1 << 20, conns: 1})
	s := w.openSending(5 << 20)
	s.finish()
	if got := s.watch.maxEdge - s.watch.acked; s.c.target > 2*w.budget.Limit/8 || got > 2*w.budget.Limit/8+scaleSlack {
		t.Errorf("a window of %d, target %d, of a budget of %d", got, s.c.target, w.budget.Limit)
	}
	w.close()
}

// While more than half of the window is held, no more is promised.
func TestHostLags(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1 << 20)
	s.fill(60000)
	edge := s.watch.maxEdge
	s.grant(30000)
	s.in(ACK, 1, 10) // asks for an ACK
	s.one("a duplicate")
	if s.watch.maxEdge != edge {
		t.Errorf("the right edge went on by %d with %d bytes held", s.watch.maxEdge-edge, s.c.HeldBytes())
	}
	s.grant(20000)
	s.in(ACK, 1, 10)
	if s.watch.maxEdge == edge {
		t.Errorf("the right edge stays with %d bytes held", s.c.HeldBytes())
	}
	s.grant(-1)
	s.finish()
}

// Without window scaling a window is at most what 16 bits tell.
func TestUnscaledWindow(t *testing.T) {
	w := roomyWorld(t)
	g := fullGuest
	g.total, g.scale = 5<<20, -1
	s := w.open(largeConfig, g)
	s.finish()
	if s.watch.scale != 0 || s.c.rcvScale != 0 {
		t.Errorf("windows are scaled by %d", s.c.rcvScale)
	}
}

// When the other connections have taken the whole budget, each still has its floor, and a new one is refused.
func TestBudgetSpent(t *testing.T) {
	w := newWorld(t, limits{budget: 1 << 20, maxWindow: 1 << 20, maxFlight: 1 << 20, conns: 4})
	s := w.openSending(300000)
	w.spendBudget()
	if w.budget.Admit() {
		t.Error("a connection is admitted to a spent budget")
	}
	s.fill(60000)
	s.grant(-1)
	s.output()
	s.deliver()
	if got := s.guest.edge - s.guest.una; got < floorWindow-128 || got > floorWindow {
		t.Errorf("the window is %d when all is taken, the floor is %d", got, floorWindow)
	}
	s.finish()
	w.ballast, w.budget.Promised = 0, 0
	w.close()
}

// What Admit lets in never exceeds the budget, however small it is.
func TestAdmit(t *testing.T) {
	for limit := int64(0); limit < 300000; limit += 1000 {
		w := newWorld(t, limits{budget: limit, maxWindow: 4 << 20, maxFlight: 1 << 16, conns: 20})
		for w.budget.Admit() {
			w.accept(largeConfig, fullGuest) // check holds it against the limit
		}
		if want := limit >= floorWindow+scaleSlack; want != (len(w.conns) > 0) {
			t.Errorf("%d connections with a budget of %d", len(w.conns), limit)
		}
		for _, s := range w.conns {
			s.reset()
		}
		w.close()
	}
}

// Many small segments round the window up until the slack is used; then the acknowledgement lags, and catches up as soon as the
// host has room again, though the window hardly grows by that.
func TestWindowRounding(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1 << 20)
	s.host.room = 0
	s.in(ACK, 1, 1)
	for s.watch.acked == s.c.rcvNxt {
		if s.c.rcvNxt > 10000 {
			t.Fatal("the acknowledgement never lags")
		}
		s.in(ACK, s.c.rcvNxt, 1)
	}
	if lag := s.c.rcvNxt - s.watch.acked; lag >= 1<<7 {
		t.Errorf("the acknowledgement lags by %d, a unit is %d", lag, 1<<7)
	}
	s.take()
	s.grant(int(s.c.HeldBytes()))
	s.output()
	s.want("ACK", s.one("the host has room"), ACK, 1, 1, s.c.rcvNxt)
	s.finish()
}

// With the budget spent there is nothing to round up with, from the first segment on.
func TestWindowRoundingWithoutBudget(t *testing.T) {
	w := newWorld(t, limits{budget: 200000, maxWindow: 4 << 20, maxFlight: 1 << 20, conns: 1})
	s := w.openSending(1 << 20)
	s.host.room = 0
	w.spendBudget()
	edge := s.watch.maxEdge
	for range 300 {
		s.in(ACK, s.c.rcvNxt, 1) // watch and check hold what follows against the rules
	}
	if s.watch.maxEdge != edge {
		t.Errorf("the right edge went from %d to %d with a spent budget", edge, s.watch.maxEdge)
	}
	w.giveBudgetBack()
	s.grant(-1)
	s.finish()
	w.close()
}

// openGrown opens a connection whose guest has sent until the window was a large one.
func openGrown(t *testing.T) (*world, *subject) {
	w := roomyWorld(t)
	g := fullGuest
	g.total = 8 << 20
	s := w.open(largeConfig, g)
	for s.c.target < 1<<20 {
		s.transmit(60000)
		s.deliver()
	}
	return w, s
}

// When the window becomes less because more connections share it, its right edge stays where it is. A guest that sends a few bytes then, and waits for an
// answer, is told that they have arrived.
func TestWindowShrinksAndAllIsAcknowledged(t *testing.T) {
	w, s := openGrown(t)
	edge := s.watch.maxEdge
	w.env.NearWindow = 128 << 10
	for range 300 {
		s.in(ACK, s.c.rcvNxt, 4)
		s.want("ACK", s.one("four bytes"), ACK, 1, 1, s.c.rcvNxt)
	}
	if s.c.target != w.env.NearWindow || s.watch.maxEdge > edge+4*300 {
		t.Errorf("the target is %d, the right edge went from %d to %d for 1200 bytes", s.c.target, edge, s.watch.maxEdge)
	}
	s.finish()
}

// A guest that has filled a window which has become less since, and sends its last byte again, has no room still.
func TestFullWindowThatShrank(t *testing.T) {
	w, s := openGrown(t)
	s.host.room = 0
	w.env.NearWindow = 128 << 10
	for s.c.rcvNxt < s.watch.maxEdge {
		s.in(ACK, s.c.rcvNxt, int(min(60000, s.watch.maxEdge-s.c.rcvNxt)))
	}
	s.take()
	s.in(ACK, s.c.rcvNxt-1, 1)
	last := s.one("the last byte again")
	s.want("ACK", last, ACK, 1, 1, s.c.rcvNxt)
	if last.window != 0 {
		t.Errorf("a window of %d", last.window)
	}
	s.grant(-1)
	s.finish()
}

// An acknowledgement that lags catches up with what the guest sends again: it may have nothing else to send, or have lost what comes next, and would send the same
// until it gives up. Up to the right edge that it was told once, all is taken.
func TestSentAgainIsAcknowledged(t *testing.T) {
	for _, spent := range []bool{false, true} { // the slack is used up, or the budget
		w := newWorld(t, limits{budget: 1 << 20, maxWindow: 4 << 20, maxFlight: 1 << 20, conns: 1})
		g := fullGuest
		g.total = 1 << 20
		s := w.open(largeConfig, g)
		s.host.room = 0
		if spent {
			w.spendBudget()
		}
		for s.watch.acked == s.c.rcvNxt {
			if s.c.rcvNxt > 10000 {
				t.Fatal("the acknowledgement never lags")
			}
			s.in(ACK, s.c.rcvNxt, 1)
		}
		s.take()
		edge := s.watch.maxEdge
		for range 3 {
			s.in(ACK, s.watch.acked, int(s.c.rcvNxt-s.watch.acked)+1)
			s.want("ACK", s.one("sent again"), ACK, 1, 1, s.c.rcvNxt)
			s.in(ACK, s.c.rcvNxt-1, 1)
			s.want("ACK", s.one("the last byte again"), ACK, 1, 1, s.c.rcvNxt)
		}
		s.in(ACK, s.c.rcvNxt, int(edge-s.c.rcvNxt))
		s.want("ACK", s.one("all that was promised"), ACK, 1, 1, edge)
		if s.watch.maxEdge != edge {
			t.Errorf("the right edge went from %d to %d", edge, s.watch.maxEdge)
		}
		w.giveBudgetBack()
		s.grant(-1)
		s.finish()
		w.close()
	}
}

// The window of an older segment does not replace that of a newer one (RFC 9293, 3.10.7.4).
func TestWindowUpdateOrder(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(10000)
	tell := func(off int64, n int, window uint16) int64 {
		seg := s.guest.segment(ACK, off, n)
		seg.Window = window
		s.input(&seg)
		return (s.c.guestEdge - 1) >> 7
	}
	for i, tc := range []struct {
		off          int64
		n            int
		window, want uint16
	}{
		{1, 1000, 100, 100},
		{1001, 1, 60, 60},     // newer
		{501, 600, 50, 60},    // begins before
		{1101, 500, 200, 200}, // newer
		{1101, 600, 20, 20},   // as new
		{500, 10, 77, 20},     // a duplicate
	} {
		if got := tell(tc.off, tc.n, tc.window); got != int64(tc.want) {
			t.Errorf("segment %d: the window is %d, want %d", i, got, tc.want)
		}
	}
	s.output()
	s.finish()
}

// With nothing left to send the guest's window is no matter: it is not probed.
func TestNoProbeAfterEnd(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(10000)
	s.hangsUp()
	s.deliver()
	seg := s.guest.ack()
	seg.Window = 0
	s.input(&seg)
	s.output()
	if got := s.c.Deadline(&w.env) - w.env.Now; got != halfClosedIdle {
		t.Errorf("a timer runs for %d ms", got/1e6)
	}
	s.finish()
}

// A guest that closes its window is probed, ever more slowly but without end, as long as it answers; and when it opens
// its window, what waits is sent at once.
func TestGuestWindowClosed(t *testing.T) {
	w := roomyWorld(t)
	g := fullGuest
	g.buffer = 100 << 10
	s := w.open(largeConfig, g)
	s.says(200 << 10)
	for range 3 {
		s.deliver()
		s.answer() // the application takes nothing
		s.says(0)
	}
	has := s.guest.rcvNxt - 1 // short of the buffer by less than a unit of the window field
	if has <= g.buffer-1<<7 || s.c.WantRead(&w.env, 1) != 0 {
		t.Fatalf("the guest has %d bytes, %d more are wanted", s.guest.rcvNxt-1, s.c.WantRead(&w.env, 1))
	}
	at := w.env.Now
	last := int64(0)
	for i := range 60 {
		s.pass()
		s.want("probe", s.one("window closed"), ACK, has, has, 1)
		wait := w.env.Now - at
		if wait < last || wait > maxRTO || i > 9 && wait != maxRTO {
			t.Fatalf("probe %d after %d ms, the one before after %d", i, wait/1e6, last/1e6)
		}
		at, last = w.env.Now, wait
		s.guest.ackDue = true
		s.answer()
	}
	s.guest.readAll()
	s.guest.ackDue = true
	s.answer()
	if got := s.c.WantRead(&w.env, 1); got < 65000 {
		t.Errorf("%d bytes are wanted with an open window", got)
	}
	if s.c.probeAt != 0 || s.c.persists != 0 {
		t.Error("the probe runs on with an open window")
	}
	s.says(0)
	s.finish()
}

// A guest that takes its window back keeps what is in flight from it, for as long as it likes: it is probed, not given up.
func TestGuestShrinksWindow(t *testing.T) {
	for _, fin := range []bool{false, true} {
		w := roomyWorld(t)
		s := w.open(largeConfig, fullGuest)
		s.says(50000)
		if fin {
			s.hangsUp()
		}
		s.take() // lost
		seg := s.guest.ack()
		seg.Window = 0
		s.input(&seg)
		for i := range 40 {
			s.pass()
			probed := false
			for _, m := range s.take() {
				if len(m.data) > 0 {
					t.Fatalf("%d bytes for a closed window", len(m.data))
				}
				probed = true
			}
			if !probed {
				t.Fatalf("timeout %d sent nothing", i)
			}
			if s.c.State() != Open {
				t.Fatalf("given up after %d timeouts, though the guest answers", i)
			}
			again := s.guest.ack()
			again.Window = 0
			s.input(&again)
		}
		open := s.guest.ack()
		s.input(&open)
		s.output()
		s.deliver()
		if s.guest.rcvNxt < 50001 {
			t.Errorf("the guest has %d bytes with its window open", s.guest.rcvNxt-1)
		}
		s.finish()
	}
}

// A FIN that meets a closed window stays in flight until the guest reads on; the guest is alive as long as it answers.
func TestFinMeetsClosedWindow(t *testing.T) {
	w := roomyWorld(t)
	g := fullGuest
	g.buffer = 10000 // of which the application takes nothing
	g.buffer = g.buffer >> 7 << 7
	s := w.open(largeConfig, g)
	s.says(int(g.buffer))
	s.deliver()
	s.c.HostEOF()
	s.host.ended = true
	s.answer()
	if m := s.one("the host ended"); m.flags&FIN == 0 {
		t.Fatalf("no FIN: %+v", m)
	}
	for i := range 40 { // the guest drops it
		s.pass()
		s.take()
		seg := s.guest.ack()
		s.input(&seg)
		if s.c.State() != Open {
			t.Fatalf("given up after %d timeouts, though the guest answers", i)
		}
	}
	s.finish()
}

// A window that has no room for a segment is left alone while an acknowledgement is on its way that will open it, and used when
// none is.
func TestSmallGuestWindow(t *testing.T) {
	w := roomyWorld(t)
	g := fullGuest
	g.mss, g.scale, g.times = 1000, -1, false
	g.buffer = 2500
	cfg := largeConfig
	cfg.MSS, cfg.MaxGSO = 1000, 0
	s := w.open(cfg, g)
	s.host.total, s.host.ready = 10000, 10000
	for s.read(8192) {
		s.output()
	}
	if n := s.host.said; n != 2000 {
		t.Errorf("%d bytes in flight, want two segments", n)
	}
	s.deliver()
	seg := s.guest.segment(ACK, 1, 0) // two segments arrived, none was taken
	s.input(&seg)
	s.output()
	if n := s.c.WantRead(&w.env, 1); n != 500 {
		t.Errorf("%d bytes are wanted for a window of 500 with nothing in flight", n)
	}
	s.finish()
}

// MaxFlight bounds what is kept for retransmission, whatever the guest's window.
func TestMaxFlight(t *testing.T) {
	w := newWorld(t, limits{budget: 1 << 20, maxWindow: 1 << 20, maxFlight: 100000, conns: 1})
	s := w.open(largeConfig, fullGuest)
	s.says(1 << 20)
	if n := s.c.q.tail - s.c.una; n > 100000 || n < 100000-65480 {
		t.Errorf("%d bytes in flight, the cap is 100000", n)
	}
	s.finish()
	w.close()
}
