package worker_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
)

// numbered sends datagrams from first to end from the guest, their number in the first bytes, of lengths that differ.
func (r *rig) numbered(first, end int) {
	for i := first; i < end; i++ {
		data := make([]byte, 4+i%7)
		binary.BigEndian.PutUint32(data, uint32(i))
		r.inject(udpFrame(at(guest4, 5000), at(server4, 53), data))
	}
}

// numbers are those of the datagrams that a socket has sent, after the one that opened it. They have to be in order.
func (r *rig) numbers(s *hosttest.Socket) (all []int) {
	r.t.Helper()
	for _, d := range s.Datagrams()[1:] {
		n := int(binary.BigEndian.Uint32(d.Data))
		if len(all) > 0 && n <= all[len(all)-1] {
			r.t.Fatalf("datagram %d after %d", n, all[len(all)-1])
		}
		if len(d.Data) != 4+n%7 {
			r.t.Fatalf("datagram %d has %d bytes", n, len(d.Data))
		}
		all = append(all, n)
	}
	return all
}

// modes calls f for each mode, with flows that have sockets of their own, and with some that share theirs.
func modes(t *testing.T, f func(t *testing.T, o worker.Overload, edit func(c *worker.Config))) {
	for _, o := range []worker.Overload{worker.Backpressure, worker.Drop} {
		for _, shared := range []bool{false, true} {
			t.Run(fmt.Sprintf("mode %d, shared %v", o, shared), func(t *testing.T) {
				f(t, o, func(c *worker.Config) { c.Overload, c.EndpointIndependent = o, shared })
			})
		}
	}
}

// TestUDPHeld: what a host socket does not take for a moment is neither lost nor overtaken.
func TestUDPHeld(t *testing.T) {
	modes(t, func(t *testing.T, o worker.Overload, edit func(*worker.Config)) {
		r := newRig(t, edit)
		_, s := udpFlow(r, at(server4, 53))
		s.SetSpace(0)
		r.numbered(0, 30)
		r.settle()
		r.numbered(30, 60)
		r.settle()
		if n := len(r.numbers(s)); n != 0 || r.stats.UDPHeld != 60 {
			t.Errorf("mode %d: %d sent by a full socket, %d held", o, n, r.stats.UDPHeld)
		}
		s.SetSpace(100) // some
		r.settle()
		if n := len(r.numbers(s)); n == 0 || n == 60 || r.stats.UDPHeld != uint64(60-n) {
			t.Errorf("mode %d: %d sent, %d held", o, n, r.stats.UDPHeld)
		}
		s.SetSpace(hosttest.Unlimited)
		r.numbered(60, 70)
		r.settle()
		if n := len(r.numbers(s)); n != 70 || r.stats.UDPHeld != 0 || r.stats.Dropped() != 0 || r.stats.LinkStops != 0 {
			t.Errorf("mode %d: %d sent, %d held, %d dropped, %d stops", o, n, r.stats.UDPHeld, r.stats.Dropped(), r.stats.LinkStops)
		}
	})
}

// TestUDPNotOvertaken: a datagram for which there would be room waits behind one for which there is none.
func TestUDPNotOvertaken(t *testing.T) {
	modes(t, func(t *testing.T, _ worker.Overload, edit func(*worker.Config)) {
		r := newRig(t, edit)
		guest, s := udpFlow(r, at(server4, 53))
		s.SetSpace(5)
		r.inject(udpFrame(guest, at(server4, 53), []byte("the first")))
		r.settle()
		r.inject(udpFrame(guest, at(server4, 53), []byte("2nd")))
		r.settle()
		if got := contents(s); len(got) != 0 {
			t.Errorf("sent before its time: %q", got)
		}
		s.SetSpace(hosttest.Unlimited)
		r.settle()
		if got := contents(s); len(got) != 2 || got[0] != "the first" || got[1] != "2nd" {
			t.Errorf("sent: %q", got)
		}
	})
}

// TestUDPStopsTheLink: with a socket that stays full, back-pressure leaves the rest in the link, and nothing is lost; drop loses what is too much.
func TestUDPStopsTheLink(t *testing.T) {
	const count, limit, batch = 500, 64, 32
	modes(t, func(t *testing.T, o worker.Overload, edit func(*worker.Config)) {
		r := newRig(t, edit)
		_, s := udpFlow(r, at(server4, 53))
		s.SetSpace(0)
		r.numbered(0, count)
		r.settle()
		if held := r.stats.UDPHeld; held < limit || held >= limit+batch {
			t.Errorf("mode %d: %d held", o, held)
		}
		for range count { // a few at a time
			s.SetSpace(50)
			r.run(millisecond)
		}
		s.SetSpace(hosttest.Unlimited)
		r.settle()
		sent := len(r.numbers(s))
		switch o {
		case worker.Backpressure:
			if sent != count || r.stats.Dropped() != 0 || r.stats.LinkStops == 0 || r.stats.LinkStalls != 0 {
				t.Errorf("back-pressure: %d sent, %d dropped, %d stops, %d stalls", sent, r.stats.Dropped(), r.stats.LinkStops, r.stats.LinkStalls)
			}
			// Woken at half: from one stop to the next so many go as are held beyond half of the limit, and what is taken from the link then is a batch.
			if most := uint64(count/(limit/2+batch/2)) + 1; r.stats.LinkStops > most {
				t.Errorf("%d stops for %d datagrams, at most %d", r.stats.LinkStops, count, most)
			}
		case worker.Drop:
			if sent < limit || sent == count || r.stats.LinkStops != 0 {
				t.Errorf("drop: %d sent, %d stops", sent, r.stats.LinkStops)
			}
			r.dropped(stats.SocketFull, uint64(count-sent))
		}
	})
}

// TestUDPStall: a socket that takes nothing for a second does not hold up the others for longer, and what it loses from then on is counted.
func TestUDPStall(t *testing.T) {
	t.Run("own socket", func(t *testing.T) { udpStall(t, false) })
	t.Run("shared socket", func(t *testing.T) { udpStall(t, true) })
}

func udpStall(t *testing.T, shared bool) {
	r := newRig(t, func(c *worker.Config) { c.EndpointIndependent = shared })
	_, full := udpFlow(r, at(server4, 53))
	full.SetSpace(0)
	r.numbered(0, 300)
	other := udpFrame(at(guest4, 5001), at(server4, 54), []byte("hello"))
	r.inject(other)
	r.run(900 * millisecond)
	if r.host.Last() != full {
		t.Error("the link is read while a flow stops it")
	}
	r.run(200 * millisecond)
	if s := r.host.Last(); s == full || len(s.Datagrams()) != 1 {
		t.Error("another flow waits for longer than a second")
	}
	if r.stats.LinkStalls != 1 {
		t.Errorf("%d stalls", r.stats.LinkStalls)
	}
	full.SetSpace(hosttest.Unlimited)
	r.settle()
	sent := len(r.numbers(full))
	r.dropped(stats.SocketFull, uint64(300-sent))
	if sent < 64 || r.stats.UDPHeld != 0 {
		t.Errorf("%d sent, %d held", sent, r.stats.UDPHeld)
	}
	// It has sent what it held, and may stop the link again.
	full.SetSpace(0)
	r.numbered(300, 500)
	r.settle()
	if r.stats.LinkStops != 2 {
		t.Errorf("%d stops", r.stats.LinkStops)
	}
	full.SetSpace(hosttest.Unlimited)
	r.settle()
	if n := len(r.numbers(full)); n != sent+200 {
		t.Errorf("%d sent, then %d", sent, n)
	}
}

// TestUDPHeldAtTheEnd: what a flow holds when it ends is counted, the link is read again, and no page is left.
func TestUDPHeldAtTheEnd(t *testing.T) {
	t.Run("own socket", func(t *testing.T) { udpHeldAtTheEnd(t, false) })
	t.Run("shared socket", func(t *testing.T) { udpHeldAtTheEnd(t, true) })
}

func udpHeldAtTheEnd(t *testing.T, shared bool) {
	r := newRig(t, func(c *worker.Config) { c.EndpointIndependent = shared })
	_, s := udpFlow(r, at(server4, 53))
	s.SetSpace(0)
	r.numbered(0, 64)
	r.run(500 * second)
	if n := r.stats.Drops[stats.SocketFull]; n != 64 || r.stats.UDPFlows != 0 {
		t.Errorf("%d counted, %d flows", n, r.stats.UDPFlows)
	}
	r.idle()
	r.numbered(64, 65)
	r.settle()
	if s := r.host.Last(); len(s.Datagrams()) != 1 {
		t.Error("the link is not read any more")
	}
}

// TestUDPHeldSegments: held messages that stand for several datagrams are sent one by one by a socket that does not take such.
func TestUDPHeldSegments(t *testing.T) {
	r := newRig(t)
	guest, s := udpFlow(r, at(server4, 53))
	s.NoSegments = true
	s.SetSpace(6) // three of them
	for i := range 20 {
		r.inject(udpFrame(guest, at(server4, 53), []byte(fmt.Sprintf("%02d", i))))
	}
	r.settle()
	if n := len(contents(s)); n != 3 || r.stats.UDPHeld != 17 {
		t.Errorf("%d sent, %d held", n, r.stats.UDPHeld)
	}
	s.SetSpace(5) // two more, of the same message
	r.settle()
	if n := len(contents(s)); n != 5 || r.stats.UDPHeld != 15 {
		t.Errorf("%d sent, %d held", n, r.stats.UDPHeld)
	}
	s.SetSpace(hosttest.Unlimited)
	r.settle()
	got := contents(s)
	if len(got) != 20 || r.stats.Dropped() != 0 {
		t.Fatalf("%d sent, %d dropped", len(got), r.stats.Dropped())
	}
	for i, d := range got {
		if d != fmt.Sprintf("%02d", i) {
			t.Errorf("datagram %d is %q", i, d)
		}
	}
}

// TestUDPLinkFullDrops: with --overload drop, datagrams for a full link are lost and counted, at once.
func TestUDPLinkFullDrops(t *testing.T) {
	r := newRig(t, func(c *worker.Config) { c.Overload = worker.Drop })
	_, s := udpFlow(r, at(server4, 53))
	r.link.SetFull(true)
	for range 100 {
		s.Deliver([]byte("x"))
	}
	r.run(100 * millisecond)
	if s.Unread() != 0 {
		t.Errorf("%d wait", s.Unread())
	}
	r.dropped(stats.LinkFull, 100)
	r.link.SetFull(false)
	s.Deliver([]byte("y"))
	r.run(10 * millisecond)
	if got := r.take(); len(got) != 1 {
		t.Errorf("%d frames", len(got))
	}
}

// TestEchoLinkFull: replies for a full link wait, in their order.
func TestEchoLinkFull(t *testing.T) {
	for _, o := range []worker.Overload{worker.Backpressure, worker.Drop} {
		r := newRig(t, func(c *worker.Config) { c.Overload = o })
		r.inject(echoFrame(guest4, server4, 100, 1, []byte("x")))
		r.settle()
		s := r.host.Last()
		r.link.SetFull(true)
		for i := range 20 {
			reply := append([]byte(nil), s.Datagrams()[0].Data...)
			reply[0], reply[7] = 0, byte(i)
			s.Deliver(reply)
		}
		r.run(2 * second) // idle for so long that memory is given back
		r.link.SetFull(false)
		r.run(10 * millisecond)
		all := r.take()
		want := 20
		if o == worker.Drop {
			want = 0
		}
		r.dropped(stats.LinkFull, uint64(20-want))
		if len(all) != want {
			t.Errorf("mode %d: %d replies of %d", o, len(all), want)
		}
		for i, g := range all {
			if _, seq, data := echoReply(t, g); int(seq) != i || string(data) != "x" {
				t.Errorf("reply %d has sequence %d, %q", i, seq, data)
			}
		}
	}
}

// TestEchoEndsWhileTheLinkIsFull: a reply that waits for a flow that has ended is counted.
func TestEchoEndsWhileTheLinkIsFull(t *testing.T) {
	r := newRig(t)
	r.inject(echoFrame(guest4, server4, 100, 1, []byte("x")))
	r.settle()
	reply := append([]byte(nil), r.host.Last().Datagrams()[0].Data...)
	reply[0] = 0
	r.link.SetFull(true)
	r.host.Last().Deliver(reply)
	r.run(200 * second)
	r.link.SetFull(false)
	r.run(second)
	r.nothing()
	r.dropped(stats.LinkFull, 1)
	r.idle()
}
