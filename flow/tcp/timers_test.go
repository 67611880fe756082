package tcp

import "testing"

// RFC 6298 with a lower bound of 200 ms for what is added to the round-trip time, against the same in floating point.
func TestRetransmissionTimeout(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	s.c.srtt, s.c.rttvar, s.c.rto = 0, 0, initialRTO
	var srtt, rttvar float64
	for i, ms := range []int64{100, 100, 400, 100, 50, 900, 3, 3, 3, 3, 3, 3, 3, 3, 30000, 70000} {
		s.says(100)
		if got := s.c.rtoAt - w.env.Now; got != s.c.rto || s.c.Deadline(&w.env) > s.c.rtoAt {
			t.Fatalf("sample %d: the timer runs for %d, the timeout is %d", i, got, s.c.rto)
		}
		w.env.Now += ms * 1e6
		s.deliver()
		s.answer()
		r := float64(ms) * 1e6
		if i == 0 {
			srtt, rttvar = r, r/2
		} else {
			d := srtt - r
			rttvar += (max(d, -d) - rttvar) / 4
			srtt += (r - srtt) / 8
		}
		want := min(srtt+max(4*rttvar, 200e6), 60e9)
		if got := float64(s.c.rto); got < want-1000 || got > want+1000 {
			t.Errorf("sample %d of %d ms: %.1f ms, want %.1f", i, ms, got/1e6, want/1e6)
		}
	}
	s.finish()
}

// What was sent twice is not timed (Karn).
func TestRetransmissionIsNotTimed(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	s.says(100)
	s.pass()
	before := s.c.srtt
	w.env.Now += 5e9
	s.deliver()
	s.answer()
	if s.c.srtt != before {
		t.Errorf("round-trip time from %d to %d by a segment that was sent twice", before, s.c.srtt)
	}
	if s.c.rto != s.c.baseRTO() {
		t.Errorf("the timeout is %d after an acknowledgement, want %d", s.c.rto, s.c.baseRTO())
	}
	s.finish()
}

// Data that is never acknowledged is sent 16 times in all, each after twice the time up to a minute, and then the guest is given up.
func TestDeadGuest(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	s.says(100000)
	s.take()
	at, wait := w.env.Now, s.c.rto
	for i := range 15 {
		s.pass()
		if got := w.env.Now - at; got != wait {
			t.Fatalf("timeout %d after %d ms, want %d", i, got/1e6, wait/1e6)
		}
		at, wait = w.env.Now, min(2*wait, maxRTO)
		m := s.take()
		total := 0
		for _, m := range m {
			total += len(m.data)
		}
		if len(m) != 1 || total != 65468 {
			t.Fatalf("timeout %d sent %d bytes in %d segments, want one segment", i, total, len(m))
		}
	}
	s.pass()
	if m := s.one("given up"); m.flags != RST|ACK {
		t.Errorf("the guest is told %+v", m)
	}
	if s.c.State() != Closed || s.c.Why() != GuestSilent || w.stats.TCPTimeouts != 16 {
		t.Errorf("state %d, end %d, %d timeouts", s.c.State(), s.c.Why(), w.stats.TCPTimeouts)
	}
}

// Progress gives a guest all its retries again.
func TestRetriesStartAgain(t *testing.T) {
	w := roomyWorld(t)
	cfg := largeConfig
	cfg.MaxGSO, cfg.MSS = 0, 1012
	s := w.open(cfg, fullGuest)
	s.says(3000)
	for i := range 3 {
		for range 14 {
			s.take()
			s.pass()
		}
		seg := s.guest.ack()
		seg.Ack += uint32(1000 * (i + 1)) // one segment arrived
		s.input(&seg)
		s.output()
	}
	if s.c.State() != Open || s.c.Deadline(&w.env) != w.env.Now+w.env.KeepIdle {
		t.Errorf("state %d", s.c.State())
	}
	s.reset()
}

// A silent guest is probed and, if it stays silent, given up; one that answers is kept for ever.
func TestKeepalive(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	for range 20 {
		before := w.env.Now
		s.pass()
		if got := w.env.Now - before; got != w.env.KeepIdle {
			t.Fatalf("probed after %d s of silence", got/1e9)
		}
		s.want("probe", s.one("silence"), ACK, 0, 0, 1)
		s.guest.ackDue = true
		s.answer()
		s.none("the answer")
	}
	s.pass()
	for i := range 8 {
		before := w.env.Now
		s.pass()
		if got := w.env.Now - before; got != probeInterval || s.c.State() != Open {
			t.Fatalf("probe %d after %d s, state %d", i, got/1e9, s.c.State())
		}
	}
	s.take()
	s.pass()
	if m := s.one("dead"); m.flags&RST == 0 || s.c.Why() != GuestSilent {
		t.Errorf("end %d, the guest is told %+v", s.c.Why(), m)
	}
}

// A guest of whose end only the reset was lost is found out within a minute once the host has ended, and one that is there is left alone.
func TestKeepaliveOfHalfClosed(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	s.hangsUp()
	s.deliver()
	acked := s.guest.ack()
	s.input(&acked)
	for range 3 {
		before := w.env.Now
		s.pass()
		if got := w.env.Now - before; got != halfClosedIdle {
			t.Fatalf("probed after %d s of silence", got/1e9)
		}
		s.one("probe")
		s.input(&acked)
	}
	s.pass()
	s.one("probe")
	reset := acked
	reset.Flags, reset.HasTimes = RST, false
	s.input(&reset)
	if s.c.State() != Closed || s.c.Why() != GuestReset {
		t.Errorf("state %d, end %d after the reset", s.c.State(), s.c.Why())
	}
}

// A process that was stopped for hours does not take that for the guest's silence: each probe is waited for.
func TestKeepaliveAfterStop(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	w.env.Now += 100 * w.env.KeepIdle
	s.expire() // fails when the timer runs on
	s.want("probe", s.one("after a long stop"), ACK, 0, 0, 1)
	if got := s.c.Deadline(&w.env) - w.env.Now; got != probeInterval {
		t.Errorf("the next probe follows after %d s", got/1e9)
	}
	s.finish()
}

// The guest's own keepalive is answered.
func TestGuestKeepalive(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1000)
	s.in(ACK, 1, 500)
	s.take()
	s.in(ACK, 500, 0)
	s.want("empty", s.one("keepalive"), ACK, 1, 1, 501)
	s.in(ACK, 500, 1)
	s.want("one byte", s.one("keepalive"), ACK, 1, 1, 501)
	if s.host.got != 500 {
		t.Errorf("the host got %d bytes of 500", s.host.got)
	}
	s.finish()
}

// A keepalive that is due before the handshake has ended starts no timer that runs on without end.
func TestKeepaliveBeforeOpen(t *testing.T) {
	w := roomyWorld(t)
	w.env.KeepIdle = 100e6 // shorter than the SYN's first retransmission
	s := w.accept(largeConfig, fullGuest)
	if at := s.c.Deadline(&w.env); at != 0 {
		t.Errorf("a timer runs before the SYN is sent, for %d", at-w.env.Now)
	}
	s.output()
	s.pass()
	if got := len(s.take()); got != 2 {
		t.Errorf("%d SYNs after one timeout", got)
	}
	s.reset()
}

// With an idle limit a connection that carries nothing is given up, however lively the guest; what is carried either way, also from
// what is held, keeps it.
func TestIdleLimit(t *testing.T) {
	w := roomyWorld(t)
	w.env.IdleLimit = 10e9
	s := w.openSending(1 << 20)
	carry := []func(){
		func() { s.in(ACK, s.c.rcvNxt, 1) },
		func() { s.says(1); s.deliver(); s.answer() },
		func() { s.host.room = 0; s.in(ACK, s.c.rcvNxt, 100) },
		func() { s.grant(50) },
		func() { s.grant(50) },
	}
	for i, f := range carry {
		w.env.Now += 9e9
		f()
		if got := s.c.Deadline(&w.env) - w.env.Now; got != 10e9 {
			t.Errorf("after %d: %d ms left", i, got/1e6)
		}
	}
	w.env.Now += 9e9
	s.in(ACK, s.c.rcvNxt-1, 0) // carries nothing
	s.take()
	s.pass()
	if m := s.one("idle"); m.flags&RST == 0 || s.c.Why() != GuestSilent {
		t.Errorf("end %d, the guest is told %+v", s.c.Why(), m)
	}
}

// An ACK that is put off is sent when data can carry it, when a quarter of the window has come, or when the worker has nothing
// else to do.
func TestLazyAck(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1 << 20)
	w.env.Lazy = true
	s.in(ACK, 1, 1000)
	s.none("put off")
	if !s.c.AckPending() {
		t.Fatal("nothing is pending")
	}
	s.says(10)
	s.want("carried", s.one("data"), ACK, 1, 11, 1001)
	if s.c.AckPending() {
		t.Error("pending after it was carried")
	}
	s.in(ACK, 1001, 1000)
	s.none("put off")
	w.env.Lazy = false
	s.output()
	s.want("flushed", s.one("nothing else to do"), ACK, 11, 11, 2001)
	w.env.Lazy = true
	s.in(ACK, 2001, 40000)
	s.want("at once", s.one("a quarter of the window"), ACK, 11, 11, 42001)
	s.finish()
}
