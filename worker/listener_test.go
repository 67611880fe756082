package worker_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/worker"
)

// halfOpenLimit is what worker.maxHalfOpen says.
const halfOpenLimit = 512

// TestHalfOpen: of a flood of connections to a guest that is silent, so many as may wait for it are taken and the others left in the host's queue; each
// that the guest answers makes room for another, and other ports go on.
func TestHalfOpen(t *testing.T) {
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			edit := func(c *worker.Config) { c.Budget, c.MaxFlows = 32<<20, 4000 }
			var r *rig
			if workers == 1 {
				r = newRig(t, edit)
			} else {
				r = newCrew(t, workers, edit)
			}
			l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, false)
			other := r.forward(at(netip.IPv4Unspecified(), 8001), 5001, false)
			const n = halfOpenLimit + 300
			for i := range uint16(n) {
				l.Inbound(at(server4, 7000+i), at(guest4, 8000))
			}
			r.settle()
			syns := r.take()
			if s := r.total(); len(syns) != halfOpenLimit || s.TCPHalfOpen != halfOpenLimit || s.TCPAccepted != halfOpenLimit || s.TCPAcceptsHeld != 1 {
				t.Fatalf("%d SYNs for the guest, %d half open, %d accepted, held %d times", len(syns), s.TCPHalfOpen, s.TCPAccepted, s.TCPAcceptsHeld)
			}
			other.Inbound(at(server4, 7000), at(guest4, 8001))
			if g := r.only(); flags(g.tcp) != "S" || g.to.Port() != 5001 {
				t.Errorf("a connection to another port: %v", g)
			}
			for _, syn := range syns[:100] {
				r.conn(syn.to, syn.from).input(syn)
			}
			for _, syn := range syns[100:200] {
				r.inject(tcpFrame(syn.to, syn.from, layers.TCP{RST: true, ACK: true, Ack: syn.tcp.Seq + 1}, nil))
			}
			r.settle()
			r.take()
			r.run(second / 2)
			more := 0
			for _, g := range r.take() {
				if flags(g.tcp) == "S" {
					more++
				}
			}
			if s := r.total(); more != 200 || s.TCPHalfOpen != halfOpenLimit+1 || s.TCPAccepted != halfOpenLimit+201 {
				t.Errorf("%d further SYNs, %d half open, %d accepted", more, s.TCPHalfOpen, s.TCPAccepted)
			}
			// A guest that never answers: those that are given up make room for the rest, and nothing is left at last.
			for range 300 {
				r.run(second)
				r.take()
			}
			if s := r.total(); s.TCPHalfOpen != 0 || s.TCPAccepted != n+1 || s.TCPFlows != 100 {
				t.Errorf("after minutes %d half open, %d accepted, %d flows", s.TCPHalfOpen, s.TCPAccepted, s.TCPFlows)
			}
			for _, c := range r.conns {
				c.abort()
			}
			r.pump()
			r.idle()
		})
	}
}

// TestSetReady: a deferred port refuses connections until it is said to be ready, and again when it is not any more.
func TestSetReady(t *testing.T) {
	r := newRig(t)
	p := forward.Port{Listen: at(netip.IPv4Unspecified(), 8000), To: 5000, Deferred: true}
	if err := r.w.Forward(p, false); err != 0 {
		t.Fatal(err)
	}
	l := r.host.Last()
	knock := func(port uint16) (refused bool) {
		s := l.Inbound(at(server4, port), at(guest4, 8000))
		r.settle()
		if syns := r.take(); len(syns) == 1 {
			r.inject(tcpFrame(syns[0].to, syns[0].from, layers.TCP{RST: true, ACK: true, Ack: syns[0].tcp.Seq + 1}, nil))
			r.nothing()
			return false
		}
		return s.Aborted()
	}
	for i, ready := range []bool{false, true, true, false, false, true} {
		if err := r.w.SetReady(p, ready); err != 0 {
			t.Fatalf("step %d: %v", i, err)
		}
		if refused := knock(7000 + uint16(i)); refused == ready {
			t.Errorf("step %d: ready %v, refused %v", i, ready, refused)
		}
	}
	r.idle()
}

// TestUnforward: a port that is closed takes nothing any more; TCP connections through it go on, UDP flows end; its place is used again, and what
// was reported of the former port does not concern the next one.
func TestUnforward(t *testing.T) {
	r := newRig(t)
	first := forward.Port{Listen: at(netip.IPv4Unspecified(), 8000), To: 5000}
	datagrams := forward.Port{Listen: at(netip.IPv4Unspecified(), 8000), To: 5000}
	l := r.forward(first.Listen, first.To, false)
	u := r.forward(datagrams.Listen, datagrams.To, true)
	c := r.conn(at(guest4, 5000), at(server4, 7000))
	s := l.Inbound(at(server4, 7000), at(guest4, 8000))
	u.DeliverFrom([]byte("x"), at(server4, 7000))
	r.pump()
	if !c.opened || r.stats.UDPFlows != 1 {
		t.Fatalf("opened %v, %d UDP flows", c.opened, r.stats.UDPFlows)
	}
	u.DeliverFrom([]byte("late"), at(server4, 7001))
	if !r.w.Unforward(first, false) || !r.w.Unforward(datagrams, true) || r.w.Unforward(first, false) {
		t.Error("Unforward does not know what is forwarded")
	}
	if !l.Closed() || !u.Closed() || r.stats.UDPFlows != 0 {
		t.Errorf("sockets closed: %v, %v; %d UDP flows", l.Closed(), u.Closed(), r.stats.UDPFlows)
	}
	next := r.forward(at(netip.IPv4Unspecified(), 9000), 5001, false)
	r.settle()
	if n := r.host.Calls(hosttest.Accept); n != 2 { // the first connection, and EAGAIN
		t.Errorf("%d attempts to accept", n)
	}
	c.upload(1000, 1000)
	c.received(s, 1000)
	next.Inbound(at(server4, 7002), at(guest4, 9000))
	if g := r.only(); g.to.Port() != 5001 {
		t.Errorf("the next port leads to %v", g)
	}
}
