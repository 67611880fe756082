package worker_test

import (
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock/hosttest"
)

// TestOneWorkerWhileCalm: connections that come one after the other are all the first worker's, whatever queue they come on, also when the end of one and the
// beginning of the next are seen together.
func TestOneWorkerWhileCalm(t *testing.T) {
	const workers, rounds = 3, 12
	var peers []*hosttest.Socket
	r := newCrew(t, workers)
	r.run(millisecond)
	for i := range rounds {
		r.crew.only = i % workers
		c := r.connect(at(server4, 80))
		peers = append(peers, r.host.Last())
		c.upload(1000, 1000)
		r.crew.only = 0 // the link has learned
		c.end()
	}
	for _, s := range peers {
		s.End()
	}
	r.pump()
	for _, c := range r.conns {
		if !c.ended {
			t.Errorf("connection from %v has not ended", c.local)
		}
	}
	if s := r.total(); r.stats.TCPOpened != rounds || s.HandedOver != 0 {
		t.Errorf("the first worker opened %d of %d connections; %d frames were handed over", r.stats.TCPOpened, rounds, s.HandedOver)
	}
	r.checkCrew()
}

// TestQueuesGivenBack: with more than one connection, bulk, or frames for another worker's flow, every worker takes the frames of its own queue. When it is calm
// again for a while, and a worker has no flow, the first worker does.
func TestQueuesGivenBack(t *testing.T) {
	for _, tc := range []struct {
		name string
		stir func(r *rig, s *hosttest.Socket, c *guestConn)
	}{
		{"connections", func(r *rig, _ *hosttest.Socket, _ *guestConn) { r.connect(at(server4, 81)) }},
		{"bulk", func(r *rig, s *hosttest.Socket, c *guestConn) { c.upload(200000, 60000) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newCrew(t, 2)
			other := r.crew.members[1]
			r.run(millisecond)
			r.crew.only = 1
			c := r.connect(at(server4, 80))
			s := r.host.Last()
			if other.stats.TCPOpened != 0 {
				t.Fatal("the queue was not lent")
			}
			r.crew.only = 0
			tc.stir(r, s, c)
			r.settle()
			r.crew.only = 1
			r.connect(at(server4, 82))
			if other.stats.TCPOpened != 1 {
				t.Error("the queue was not given back")
			}
			if n := r.total().HandedOver; n != 0 {
				t.Errorf("%d frames were handed over", n)
			}
			for _, c := range r.conns {
				c.abort()
			}
			r.pump()
			r.take()
			for range 3 { // each of which ends with a wait
				r.run(20 * millisecond)
			}
			before := r.stats.TCPOpened
			if r.connect(at(server4, 83)); r.stats.TCPOpened != before+1 {
				t.Error("the queue was not lent again")
			}
			r.checkCrew()
		})
	}
}

// TestLentQueueOfFlow: a worker that has got a flow while its queue is lent has that back with the guest's first frame.
func TestLentQueueOfFlow(t *testing.T) {
	r := newCrew(t, 2)
	other := r.crew.members[1]
	if err := other.w.Forward(forward.Port{Listen: at(netip.IPv4Unspecified(), 8000), To: 5000}, true); err != 0 {
		t.Fatal(err)
	}
	l := r.host.Last()
	r.run(millisecond)
	l.DeliverFrom([]byte("x"), at(server4, 7000))
	r.pump()
	r.crew.only = 1
	for range 3 {
		r.inject(udpFrame(at(guest4, 5000), at(server4, 7000), []byte("answer")))
		r.settle()
	}
	if n := len(l.Datagrams()); n != 3 || other.stats.UDPFlows != 1 {
		t.Errorf("%d answers of 3 have arrived; the worker has %d flows", n, other.stats.UDPFlows)
	}
	if n := r.total().HandedOver; n != 1 {
		t.Errorf("%d frames were handed over, want the first", n)
	}
	r.checkCrew()
}
