package worker_test

import (
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

func endpointIndependent(c *worker.Config) { c.EndpointIndependent = true }

// TestEndpoint: one port of the guest has one host socket, whomever it talks to, and whoever has learned of it may talk to it. It closes with its last flow.
func TestEndpoint(t *testing.T) {
	for _, to := range servers() {
		r := newRig(t, endpointIndependent)
		guest := at(like(to.Addr()), 5000)
		for i := range uint16(3) {
			r.inject(udpFrame(guest, at(to.Addr(), 100+i), []byte{byte(i)}))
			r.inject(udpFrame(at(guest.Addr(), 5001), at(to.Addr(), 100+i), []byte{byte(i)}))
		}
		r.settle()
		open := r.sockets(hosttest.UDP)
		if len(open) != 2 || open[0].Local.Port() != 5000 || open[0].Peer.IsValid() || !open[0].Exclusive {
			t.Fatalf("%v: %d sockets, the first is %v", to, len(open), open[0])
		}
		for i, d := range open[0].Datagrams() {
			if d.To != at(to.Addr(), 100+uint16(i)) || d.Data[0] != byte(i) {
				t.Errorf("%v: sent %v", to, d)
			}
		}
		for _, port := range []uint16{101, 999} { // one that was asked, and one that was not
			open[0].DeliverFrom([]byte("in"), at(to.Addr(), port))
			if g := r.only(); g.from != at(to.Addr(), port) || g.to != guest {
				t.Errorf("%v: %v", to, g)
			}
		}
		r.inject(udpFrame(guest, at(to.Addr(), 999), []byte("answer")))
		r.nothing()
		if d := open[0].Datagrams(); len(d) != 4 || d[3].To != at(to.Addr(), 999) {
			t.Errorf("%v: answers %v", to, d)
		}
		if r.stats.UDPFlows != 7 {
			t.Errorf("%v: %d flows", to, r.stats.UDPFlows)
		}
		r.run(31 * second)
		if open[0].Closed() || !open[1].Closed() {
			t.Errorf("%v: after 31 s the first socket is closed: %t, the other: %t", to, open[0].Closed(), open[1].Closed())
		}
		r.run(160 * second)
		r.idle()
		if !open[0].Closed() {
			t.Errorf("%v: the socket is open without a flow", to)
		}
		r.inject(udpFrame(guest, to, []byte("again")))
		r.settle()
		if len(r.sockets(hosttest.UDP)) != 1 {
			t.Errorf("%v: no new socket", to)
		}
	}
}

// TestEndpointPortTaken: a port that another program has is replaced by another; one that is forwarded to the same port of the guest serves both ways.
func TestEndpointPortTaken(t *testing.T) {
	r := newRig(t, endpointIndependent)
	r.host.Fail(hosttest.OpenUDP, unix.EADDRINUSE, 1)
	r.inject(udpFrame(at(guest4, 5000), at(server4, 53), []byte("?")))
	r.settle()
	if s := r.host.Last(); s == nil || s.Local.Port() == 5000 || len(s.Datagrams()) != 1 {
		t.Errorf("socket %v", s)
	}
	l := r.forward(at(netip.IPv4Unspecified(), 8000), 6000, true)
	r.host.Fail(hosttest.OpenUDP, unix.EADDRINUSE, 1)
	r.inject(udpFrame(at(guest4, 6000), at(server4, 53), []byte("?")))
	r.settle()
	if d := l.Datagrams(); len(d) != 1 || d[0].To != at(server4, 53) {
		t.Errorf("the forwarded port has sent %v", d)
	}
	r.run(40 * second)
	r.idle()
	if l.Closed() {
		t.Error("the forwarded port is closed")
	}
}

// TestEndpointFails: a socket that cannot be had leaves nothing behind.
func TestEndpointFails(t *testing.T) {
	for _, tc := range []struct {
		op     hosttest.Op
		err    hostsock.Errno
		reason stats.Reason
	}{
		{hosttest.OpenUDP, unix.EMFILE, stats.NoDescriptors}, {hosttest.QueueErrors, unix.ENOMEM, stats.NoBuffers}, {hosttest.Watch, unix.ENOMEM, stats.NoBuffers},
	} {
		r := newRig(t, endpointIndependent)
		r.host.Fail(tc.op, tc.err, 1)
		r.inject(udpFrame(at(guest4, 5000), at(server4, 53), []byte("?")))
		r.nothing()
		r.dropped(tc.reason, 1)
		r.idle()
		if r.host.Open() != 0 {
			t.Errorf("%v: %d sockets are open", tc.op, r.host.Open())
		}
		r.inject(udpFrame(at(guest4, 5000), at(server4, 53), []byte("?")))
		r.nothing()
		if r.host.Open() != 1 {
			t.Errorf("%v: no socket afterwards", tc.op)
		}
	}
}

// TestEndpointOfOneWorker: flows of one port are all with the worker that has its socket, wherever their frames come.
func TestEndpointOfOneWorker(t *testing.T) {
	r := makeCrew(t, 2, endpointIndependent)
	t.Cleanup(r.close)
	for i := range 6 {
		r.crew.only = i % 2
		r.inject(udpFrame(at(guest4, 4000), at(server4, 53+uint16(i)), []byte{byte(i)}))
		r.settle()
	}
	if open := r.sockets(hosttest.UDP); len(open) != 1 || len(open[0].Datagrams()) != 6 {
		t.Errorf("%d sockets", len(open))
	}
	r.run(40 * second)
	r.idle()
}
