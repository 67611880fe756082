package worker_test

import (
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/hostsock/hosttest"
	"golang.org/x/sys/unix"
)

// shut is a connection whose guest has shut its window after the first bytes, with so many more waiting in the host socket.
func shut(t *testing.T, to netip.AddrPort, waiting int) (*rig, *guestConn, *hosttest.Socket) {
	t.Helper()
	r := newRig(t)
	c := r.connect(to)
	s := r.host.Last()
	c.quiet = true
	c.deliver(s, 1, 1000)
	r.pump()
	c.window = 0
	c.ack()
	r.pump()
	if waiting > 0 {
		c.deliver(s, 1001, waiting)
	}
	r.pump()
	if s.Unread() != waiting {
		t.Fatalf("%d bytes wait, want %d", s.Unread(), waiting)
	}
	return r, c, s
}

// TestResetWhileShut: a reset of the host's peer reaches a guest that takes nothing, at once.
func TestResetWhileShut(t *testing.T) {
	for _, to := range servers() {
		for _, waiting := range []int{0, 5000} {
			r, c, s := shut(t, to, waiting)
			s.Reset(unix.ECONNRESET)
			r.pump()
			if c.reset == nil || !s.Closed() {
				t.Errorf("%v, %d bytes waiting: the guest has seen a reset: %t; the socket is closed: %t", to, waiting, c.reset != nil, s.Closed())
			}
			r.idle()
		}
	}
}

// TestResetBeforeShut: the reset came while the guest still took what waits, and then it took no more.
func TestResetBeforeShut(t *testing.T) {
	r := newRig(t)
	c := r.connect(servers()[0])
	s := r.host.Last()
	c.quiet = true
	c.window = 15 << 7
	c.ack()
	r.pump()
	c.deliver(s, 1, 5000)
	s.Reset(unix.ECONNRESET)
	r.pump()
	if c.reset != nil || c.rcvNxt != 1+15<<7 {
		t.Fatalf("reset %v, the guest has %d bytes of those that it asked for", c.reset, c.rcvNxt-1)
	}
	c.window = 0
	c.ack()
	r.pump()
	if c.reset == nil {
		t.Error("the guest has seen no reset")
	}
	r.idle()
}

// TestEndWhileShut: the end of the host's stream reaches a guest that takes nothing, at once if nothing comes before it, and
// after what does otherwise. Nobody looks for it all the time.
func TestEndWhileShut(t *testing.T) {
	r, c, s := shut(t, servers()[0], 0)
	s.End()
	r.pump()
	if !c.ended {
		t.Error("the guest has not seen the end")
	}
	c.end()
	r.pump()
	r.idle()

	r, c, s = shut(t, servers()[0], 3000)
	s.End()
	r.pump()
	for range 50 {
		c.write(1000, 1000)
		r.pump()
	}
	if n := r.host.Calls(hosttest.Peek); n > 2 {
		t.Errorf("the socket was looked at %d times", n)
	}
	if c.ended {
		t.Fatal("the end overtook what waits")
	}
	c.window, c.quiet = 1<<20, false
	c.ack()
	r.pump()
	if !c.ended || c.rcvNxt != 4002 {
		t.Errorf("the guest has %d bytes, the end %t", c.rcvNxt-1, c.ended)
	}
}

// TestResetBeforeAnswer: a host peer that gives up before the guest has answered its connection is not waited for.
func TestResetBeforeAnswer(t *testing.T) {
	r := newRig(t)
	l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, false)
	s := l.Inbound(at(server4, 7000), at(guest4, 8000))
	if g := r.only(); !g.tcp.SYN {
		t.Fatalf("the guest gets %+v", g.tcp)
	}
	s.Reset(unix.ECONNRESET)
	if g := r.only(); !g.tcp.RST || !s.Closed() {
		t.Errorf("the guest gets %+v, the socket is closed: %t", g.tcp, s.Closed())
	}
	r.idle()
}
