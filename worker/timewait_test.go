package worker_test

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/stats"
)

// hostEnded is a connection that the host ended first: the guest's FIN has been acknowledged, but the guest has not seen that.
func hostEnded(t *testing.T, to netip.AddrPort, times bool) (*rig, *guestConn, *hosttest.Socket) {
	t.Helper()
	r := newRig(t)
	r.port++
	c := r.conn(at(like(to.Addr()), r.port), to)
	c.times = times
	c.syn()
	r.pump()
	s := r.host.Last()
	s.End()
	r.pump()
	if !c.ended {
		t.Fatal("the guest has seen no FIN")
	}
	c.end()
	r.settle()
	r.take() // lost
	if !s.Closed() {
		t.Error("the host socket stays open")
	}
	r.idle()
	return r, c, s
}

// TestLastAckLost: the guest repeats its FIN, because our acknowledgement of it was lost, and is answered as often as it does; a long
// time after it is not known any more.
func TestLastAckLost(t *testing.T) {
	for _, to := range servers() {
		for _, times := range []bool{false, true} {
			r, c, _ := hostEnded(t, to, times)
			again := c.segment(layers.TCP{FIN: true}, c.nxt-1, nil)
			for wait := 200 * millisecond; wait <= 800*millisecond; wait *= 2 {
				r.run(wait)
				r.inject(again)
				g := r.only()
				if g.tcp.RST || !g.tcp.ACK || g.tcp.Ack != c.iss+uint32(c.nxt) || g.tcp.Seq != c.irs+uint32(c.rcvNxt) {
					t.Fatalf("%v: the answer is %+v", to, g.tcp)
				}
				if (len(g.tcp.Options) > 0) != times {
					t.Errorf("%v: options %v, timestamps %t", to, g.tcp.Options, times)
				}
			}
			c.ack() // asks for nothing
			r.nothing()
			r.run(6000 * millisecond)
			r.inject(again)
			if g := r.only(); !g.tcp.RST {
				t.Errorf("%v: the answer is %+v after a long time", to, g.tcp)
			}
			r.dropped(stats.TCPNoFlow, 1)
		}
	}
}

// TestReopened: the guest opens the next connection between the same ends at once. A SYN that is an old one's opens nothing.
func TestReopened(t *testing.T) {
	for _, to := range servers() {
		for _, times := range []bool{false, true} {
			r, c, _ := hostEnded(t, to, times)
			if !times {
				c.send(layers.TCP{SYN: true}, 0, nil) // the old one
				if g := r.only(); g.tcp.SYN || g.tcp.RST || r.stats.TCPOpened != 1 {
					t.Errorf("%v: an old SYN is answered with %+v", to, g.tcp)
				}
			}
			r.run(2 * millisecond)
			next := r.conn(c.local, c.remote)
			next.times = times
			if !times {
				next.iss = c.iss + uint32(c.nxt)
			}
			next.syn()
			r.pump()
			if !next.opened || r.stats.TCPOpened != 2 {
				t.Errorf("%v, timestamps %t: the next connection is not open", to, times)
			}
		}
	}
}

// TestResetInTimeWait: a guest that has forgotten the connection says so with the exact number, and then nothing is left of it.
func TestResetInTimeWait(t *testing.T) {
	r, c, _ := hostEnded(t, servers()[0], false)
	c.send(layers.TCP{RST: true}, c.nxt+1, nil) // forged
	again := c.segment(layers.TCP{FIN: true}, c.nxt-1, nil)
	r.inject(again)
	if g := r.only(); g.tcp.RST {
		t.Error("a reset with a wrong number ended it")
	}
	c.abort()
	r.inject(again)
	if g := r.only(); !g.tcp.RST {
		t.Errorf("the answer is %+v after a reset", g.tcp)
	}
}

// TestNoTimeWait: where the guest ended its stream first it has heard of our FIN, and answers it itself.
func TestNoTimeWait(t *testing.T) {
	r := newRig(t)
	c := r.connect(servers()[0])
	c.end()
	r.pump()
	r.host.Last().End()
	r.pump()
	r.idle()
	r.inject(c.segment(layers.TCP{FIN: true}, c.nxt-1, nil))
	if g := r.only(); !g.tcp.RST {
		t.Errorf("the answer is %+v", g.tcp)
	}
}

// TestManyTimeWaits: each is found among many, whichever ended early, and all go when their time has come.
func TestManyTimeWaits(t *testing.T) {
	const many = 300
	r := newRig(t)
	var conns []*guestConn
	var again [][]byte
	for range many {
		c := r.connect(servers()[len(conns)%len(servers())])
		r.host.Last().End()
		r.pump()
		c.end()
		r.pump()
		conns = append(conns, c)
		again = append(again, c.segment(layers.TCP{FIN: true}, c.nxt-1, nil))
	}
	r.idle()
	for i, c := range conns {
		if i%3 == 0 {
			c.abort()
		}
	}
	for round, resets := range []int{many / 3, many} {
		got := 0
		for i := range conns {
			r.inject(again[i])
			if g := r.only(); g.tcp.RST {
				got++
			}
		}
		if got != resets {
			t.Errorf("round %d: %d of %d are answered with a reset, want %d", round, got, many, resets)
		}
		r.run(8000 * millisecond)
	}
}
