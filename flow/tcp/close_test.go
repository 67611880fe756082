package tcp

import (
	"testing"

	"github.com/vasta-net/vasta/stats"
)

func TestGuestReset(t *testing.T) {
	w := roomyWorld(t)
	g := fullGuest
	g.total = 1 << 20
	for _, tc := range []struct {
		name string
		off  int64 // of the reset; the next expected is 1001
		ends bool
		acks int // challenges
	}{
		{"exact", 1001, true, 0},
		{"in the window", 1002, false, 1},
		{"at the right edge", 65536 - 127, false, 1},
		{"beyond", 1 << 22, false, 0},
		{"old", 1000, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := w.open(largeConfig, g)
			s.in(ACK, 1, 1000)
			s.take()
			drops := w.stats.Drops[stats.TCPBadReset]
			seg := s.guest.segment(RST, tc.off, 0)
			seg.HasTimes = false
			s.input(&seg)
			s.output()
			if ended := s.c.State() == Closed; ended != tc.ends || ended && s.c.Why() != GuestReset {
				t.Errorf("ended %t as %d", ended, s.c.Why())
			}
			if n := len(s.wires); n != tc.acks {
				t.Errorf("%d segments in answer, want %d: %v", n, tc.acks, s.wires)
			}
			if counted := w.stats.Drops[stats.TCPBadReset] > drops; counted == tc.ends {
				t.Errorf("counted as bad: %t", counted)
			}
			s.reset()
		})
	}
}

// When both streams have ended and are acknowledged, a reset tells of a guest that has forgotten the connection: what is held for a
// slow host still gets there.
func TestResetAfterBothEnds(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(50000)
	s.host.room = 0
	s.hangsUp()
	s.guest.rcvNxt = 2 // it has our FIN
	s.in(FIN|ACK, 1, 50000)
	s.in(RST, 50002, 0)
	if s.c.State() != Open || s.c.HeldBytes() != 50000 {
		t.Fatalf("state %d with %d bytes held", s.c.State(), s.c.HeldBytes())
	}
	s.grant(-1)
	s.output()
	if s.c.Why() != Finished || s.host.got != 50000 || !s.host.shut {
		t.Errorf("ended as %d, the host got %d bytes, end %t", s.c.Why(), s.host.got, s.host.shut)
	}
}

// A SYN in the window is challenged (RFC 5961, 4.2): a guest that really began anew answers with a reset.
func TestSynWhenOpen(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	for _, off := range []int64{0, 1, 30000, 1 << 30} {
		s.in(SYN, off, 0)
		s.want("challenge", s.one("SYN"), ACK, 1, 1, 1)
		if s.c.State() != Open {
			t.Fatalf("state %d after a SYN at %d", s.c.State(), off)
		}
	}
	s.finish()
}

// A connection answers what may be forged ten times in five seconds, whatever it is; what the guest sends until it is acknowledged it
// always answers (RFC 5961, 7).
func TestChallengeLimit(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(10000)
	w.env.Now += 10e9
	s.in(ACK, 1, 1000)
	s.take()
	forged := []func(*Segment){
		func(seg *Segment) { seg.Flags, seg.Seq = RST, seg.Seq+1 },
		func(seg *Segment) { seg.Flags = SYN },
		func(seg *Segment) { seg.Ack++ },
		func(seg *Segment) { seg.TSVal -= 1 << 30 },
		func(seg *Segment) { seg.Seq += 1 << 24 },
		func(seg *Segment) { seg.Seq-- },
	}
	for round := range 2 {
		acks := 0
		for i := range 5 * len(forged) {
			seg := s.guest.segment(ACK, 1001, 0)
			forged[i%len(forged)](&seg)
			s.input(&seg)
			s.output()
			acks += len(s.take())
		}
		if acks != challengeLimit {
			t.Errorf("round %d: %d answers, want %d", round, acks, challengeLimit)
		}
		s.in(ACK, 1, 1000)
		s.want("ACK", s.one("data that came twice"), ACK, 1, 1, 1001)
		w.env.Now += challengePeriod
	}
	s.finish()
}

// A guest that lost its socket answers with what it was told last, which may be behind what has arrived since.
func TestGuestResetBehind(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1 << 20)
	w.env.Lazy = true
	s.in(ACK, 1, 1000)
	s.none("the ACK is put off")
	seg := s.guest.segment(RST, 1, 0)
	s.input(&seg)
	if s.c.State() != Closed || s.c.Why() != GuestReset {
		t.Errorf("state %d, end %d", s.c.State(), s.c.Why())
	}
}

// When the host side fails the guest sees a reset that it has to accept: at the next byte that it expects.
func TestHostReset(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	s.says(100000)
	s.deliver()
	s.c.HostFailed(&w.env)
	s.c.HostFailed(&w.env)
	s.output()
	s.want("reset", s.one("failed"), RST|ACK, s.guest.rcvNxt, s.guest.rcvNxt, 1)
	if s.c.State() != Closed || s.c.Why() != HostReset {
		t.Errorf("state %d, end %d", s.c.State(), s.c.Why())
	}
}

// A connection that fails while bytes are held has nothing more to give, and reserves nothing: a worker that goes on with
// its round must not bring anything back.
func TestFailedWhileDraining(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1 << 20)
	s.host.room = 0
	s.in(ACK, 1, 20000)
	if n := s.c.HeldBytes(); n != 20000 {
		t.Fatalf("%d bytes held", n)
	}
	s.c.HostFailed(&w.env) // from within the drain
	s.c.Drained(&w.env, 0)
	s.check()
	if n, b := s.c.HeldBytes(), s.c.Held(&w.env, nil, 8); n != 0 || len(b) != 0 {
		t.Errorf("%d bytes in %d pieces held after the end", n, len(b))
	}
	s.c.Settle(&w.env, 0)
	seg := s.guest.segment(ACK, 20001, 100)
	s.input(&seg)
	if len(s.c.Borrowed()) != 0 || s.c.WantRead(&w.env, 1) != 0 || s.c.ShutdownDue() || s.c.Deadline(&w.env) != 0 {
		t.Error("a closed connection wants something")
	}
	s.c.Timeout(&w.env)
	s.output()
	if m := s.take(); m[len(m)-1].flags != RST|ACK {
		t.Errorf("the guest is told %+v", m[len(m)-1])
	}
}

// Either side may end its stream and go on receiving for as long as it likes.
func TestHalfClose(t *testing.T) {
	const long = 40 << 20
	t.Run("the guest ends, and downloads", func(t *testing.T) {
		w := roomyWorld(t)
		g := fullGuest
		g.total = 1000
		s := w.open(largeConfig, g)
		s.transmit(1000)
		if !s.host.shut || s.host.got != 1000 {
			t.Fatalf("the host got %d bytes, end %t", s.host.got, s.host.shut)
		}
		if s.c.State() != Open {
			t.Fatalf("state %d", s.c.State())
		}
		s.host.total = long
		s.finish()
	})
	t.Run("the host ends, and is uploaded to", func(t *testing.T) {
		w := roomyWorld(t)
		g := fullGuest
		g.total = long
		s := w.open(largeConfig, g)
		s.hangsUp()
		s.want("FIN", s.one("the host ended"), FIN|ACK, 1, 1, 1)
		s.guest.ackDue = true
		seg := s.guest.ack()
		seg.Ack++
		s.guest.rcvNxt++ // the FIN is acknowledged
		s.input(&seg)
		s.output()
		if s.c.State() != Open {
			t.Fatalf("state %d", s.c.State())
		}
		if at := s.c.Deadline(&w.env); at != w.env.Now+halfClosedIdle {
			t.Errorf("a timer but the keepalive runs, for in %d ms", (at-w.env.Now)/1e6)
		}
		s.finish()
	})
}

// Both FINs cross.
func TestSimultaneousClose(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	s.hangsUp()
	s.want("our FIN", s.one("the host ended"), FIN|ACK, 1, 1, 1)
	s.in(FIN|ACK, 1, 0) // sent before ours arrived
	if !s.host.shut {
		t.Error("the host's stream is not ended")
	}
	s.want("ACK of theirs", s.one("the guest ended"), ACK, 2, 2, 2)
	s.guest.nxt, s.guest.rcvNxt = 2, 2
	s.in(ACK, 2, 0)
	s.none("the end")
	if s.c.State() != Closed || s.c.Why() != Finished {
		t.Errorf("state %d, end %d", s.c.State(), s.c.Why())
	}
}

// The connection is not over before the guest's FIN is acknowledged, even if the link is full.
func TestLastAckWaitsForLink(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	s.hangsUp()
	s.deliver()
	w.frames = 0
	s.in(FIN|ACK, 1, 0) // acknowledges ours
	if s.c.State() != Open {
		t.Fatalf("state %d with the last ACK unsent", s.c.State())
	}
	w.frames = -1
	s.output()
	s.want("the last ACK", s.one("link has room"), ACK, 2, 2, 2)
	if s.c.State() != Closed || s.c.Why() != Finished {
		t.Errorf("state %d, end %d", s.c.State(), s.c.Why())
	}
}

func TestFinWithData(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(5000)
	s.in(FIN|ACK|PSH, 1, 5000)
	if s.host.got != 5000 || !s.host.shut {
		t.Errorf("the host got %d bytes, end %t", s.host.got, s.host.shut)
	}
	s.want("ACK", s.one("FIN with data"), ACK, 1, 1, 5002)
	s.says(3000)
	s.take()
	s.host.total += 2000
	s.host.ready = s.host.total
	s.read(0)
	s.hangsUp()
	s.want("data and FIN", s.one("the host ended"), FIN|ACK, 3001, 5001, 5002)
	s.finish()
}

// The end reaches the host behind the last byte that it had no room for, not before.
func TestFinWaitsForHeld(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(50000)
	s.host.room = 0
	s.in(FIN|ACK, 1, 50000)
	s.want("ACK", s.one("held"), ACK, 1, 1, 50002)
	if s.host.shut || s.c.HeldBytes() != 50000 {
		t.Fatalf("end %t with %d bytes held", s.host.shut, s.c.HeldBytes())
	}
	s.grant(49999)
	s.output()
	if s.host.shut {
		t.Fatal("the end overtook the last byte")
	}
	s.grant(1)
	s.output()
	if !s.host.shut {
		t.Fatal("the end did not follow the last byte")
	}
	s.finish()
}

func TestFinOutOfOrder(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(3000)
	s.in(FIN|ACK, 2001, 1000)
	s.want("ACK", s.one("a hole before it"), ACK, 1, 1, 1)
	if s.host.shut {
		t.Fatal("ended before the hole was filled")
	}
	s.in(ACK, 1, 2000)
	s.want("ACK", s.one("the hole is filled"), ACK, 1, 1, 3002)
	if s.host.got != 3000 || !s.host.shut {
		t.Errorf("the host got %d bytes, end %t", s.host.got, s.host.shut)
	}
	s.finish()
}

// A bare FIN ahead of its data is remembered.
func TestFinAheadOfData(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(3000)
	s.in(FIN|ACK, 3001, 0)
	s.in(ACK, 1, 3000)
	if s.host.got != 3000 || !s.host.shut {
		t.Errorf("the host got %d bytes, end %t", s.host.got, s.host.shut)
	}
	s.finish()
}

// Nothing lies behind the FIN, whenever it arrives; and no FIN lies before data that has arrived.
func TestDataBehindFin(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(1000)
	s.in(FIN|ACK, 1001, 0)
	s.in(ACK, 501, 2000)
	s.in(ACK, 2001, 2000)
	s.in(ACK, 1, 3000)
	if s.host.got != 1000 || !s.host.shut {
		t.Fatalf("the host got %d bytes, end %t", s.host.got, s.host.shut)
	}
	s.in(ACK, 1002, 2000)
	s.in(FIN|ACK, 3002, 0)
	s.take()
	s.in(FIN|ACK, 1001, 0)
	s.want("ACK", s.one("the FIN again"), ACK, 1, 1, 1002)
	s.finish()

	s = w.openSending(5000)
	s.in(ACK, 2001, 1000)
	s.in(FIN|ACK, 101, 0) // a lie
	s.in(ACK, 1, 2000)
	if s.host.got != 3000 || s.host.shut {
		t.Errorf("the host got %d bytes, end %t", s.host.got, s.host.shut)
	}
	s.finish()
}

// A FIN is within a window that has room for it alone, and behind a window that its data does not fit the FIN is not taken.
func TestFinAndWindow(t *testing.T) {
	for _, tc := range []struct {
		name   string
		beyond int64 // how far the stream goes beyond the right edge
	}{{"within", 0}, {"beyond", 100}} {
		t.Run(tc.name, func(t *testing.T) {
			w := roomyWorld(t)
			g := fullGuest
			g.total = 1 << 20
			s := w.open(largeConfig, g)
			s.host.room = 0
			s.in(ACK, 1, 60000)
			edge := s.watch.maxEdge
			s.guest.total = edge - 1 + tc.beyond
			s.in(FIN|ACK, 60001, int(edge+tc.beyond-60001))
			if got, want := s.watch.acked, edge; tc.beyond == 0 && got != want+1 || tc.beyond > 0 && got != want {
				t.Errorf("%d is acknowledged, the right edge is %d", got, want)
			}
			s.grant(-1)
			s.finish()
		})
	}
}

// Our FIN is sent again until it is acknowledged, alone or with the data that was lost with it, and given up as data is.
func TestFinRetransmission(t *testing.T) {
	w := roomyWorld(t)
	s := w.open(largeConfig, fullGuest)
	s.hangsUp()
	s.take()
	s.pass()
	s.want("again", s.one("FIN lost"), FIN|ACK, 1, 1, 1)
	s.deliver()
	s.finish()

	s = w.open(largeConfig, fullGuest)
	s.says(5000)
	s.hangsUp()
	s.take()
	s.pass()
	s.want("again", s.one("data and FIN lost"), FIN|ACK, 1, 5001, 1)
	for range 14 {
		s.pass()
	}
	s.take()
	s.pass()
	if m := s.one("given up"); m.flags&RST == 0 || s.c.Why() != GuestSilent {
		t.Errorf("end %d, the guest is told %+v", s.c.Why(), m)
	}
}
