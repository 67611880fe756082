package worker_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

var loop4, loop6 = netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()

// inside opens a port of the namespace's loopback and answers its socket.
func (r *rig) inside(listen netip.AddrPort, to uint16, udp bool) *hosttest.Socket {
	r.t.Helper()
	kind := hosttest.Listener
	if udp {
		kind = hosttest.UDP
	}
	fd := r.host.Bare(kind)
	if err := r.w.ForwardInside(forward.Port{Inside: true, Listen: listen, To: to}, fd, udp); err != 0 {
		r.t.Fatalf("ForwardInside %v: %v", listen, err)
	}
	r.settle()
	return r.host.Socket(fd)
}

// spliced is a connection that was accepted inside and connected outside.
type spliced struct{ in, out *hosttest.Socket }

// splice connects from inside to l.
func (r *rig) splice(l *hosttest.Socket, port uint16) spliced {
	r.t.Helper()
	in := l.Inbound(at(l.Local.Addr(), port), l.Local)
	r.settle()
	out := r.host.Last()
	if out == in || out.Kind != hosttest.TCP {
		r.t.Fatalf("nothing was connected outside; the inner end is closed: %v", in.Closed())
	}
	return spliced{in, out}
}

// TestSplice: a connection to a port of the namespace's loopback reaches the host's, carries data both ways, and each end separately.
func TestSplice(t *testing.T) {
	for _, lo := range []netip.Addr{loop4, loop6} {
		t.Run(lo.String(), func(t *testing.T) {
			r := newRig(t)
			c := r.splice(r.inside(at(lo, 8000), 5000, false), 40000)
			if c.out.Peer != at(lo, 5000) {
				t.Fatalf("connected to %v", c.out.Peer)
			}
			up, down := bytes.Repeat([]byte("up"), 300000), bytes.Repeat([]byte("down"), 200000)
			c.in.Deliver(up)
			c.in.End()
			r.settle()
			if !bytes.Equal(c.out.TakeSent(), up) || !c.out.WriteClosed() || c.in.WriteClosed() || c.in.Closed() {
				t.Fatalf("outside: end %v; inside: end %v, closed %v", c.out.WriteClosed(), c.in.WriteClosed(), c.in.Closed())
			}
			c.out.Deliver(down) // half closed
			r.settle()
			if !bytes.Equal(c.in.TakeSent(), down) {
				t.Fatal("what came back is not what was sent")
			}
			c.out.End()
			r.settle()
			for _, s := range []*hosttest.Socket{c.in, c.out} {
				if !s.WriteClosed() || !s.Closed() || s.Aborted() {
					t.Errorf("%v: told of the end %v, closed %v, aborted %v", s, s.WriteClosed(), s.Closed(), s.Aborted())
				}
			}
			r.nothing()
			r.idle()
			if r.stats.TCPOpened != 1 || r.stats.TCPClosed != 1 || r.stats.TCPReset != 0 {
				t.Errorf("opened %d, closed %d, reset %d", r.stats.TCPOpened, r.stats.TCPClosed, r.stats.TCPReset)
			}
		})
	}
}

// TestSpliceFull: an end that takes nothing holds up its way alone, with little in memory, and goes on with not a byte missing.
func TestSpliceFull(t *testing.T) {
	r := newRig(t)
	c := r.splice(r.inside(at(loop4, 8000), 8000, false), 40000)
	data := make([]byte, 2<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	c.out.SetSpace(100_000)
	c.in.Deliver(data)
	c.in.End()
	r.settle()
	if n := c.in.Unread(); n < len(data)-100_000-4*65536 {
		t.Errorf("only %d bytes were left in the kernel", n)
	}
	c.out.Deliver([]byte("still"))
	r.settle()
	if got := string(c.in.TakeSent()); got != "still" {
		t.Errorf("the other way carries %q", got)
	}
	for !c.out.WriteClosed() {
		before := c.out.SentBytes()
		c.out.SetSpace(150_001)
		r.settle()
		if c.out.SentBytes() == before && !c.out.WriteClosed() {
			t.Fatalf("stuck after %d bytes", before)
		}
	}
	if !bytes.Equal(c.out.TakeSent(), data) {
		t.Error("what has arrived is not what was sent")
	}
	c.out.End()
	r.settle()
	r.idle()
}

// TestSpliceReset: a reset of one end is a reset of the other, also while bytes wait and when one stream has ended.
func TestSpliceReset(t *testing.T) {
	for _, inner := range []bool{true, false} {
		for _, state := range []string{"idle", "full", "half closed"} {
			t.Run(fmt.Sprintf("inner %v, %s", inner, state), func(t *testing.T) {
				r := newRig(t)
				c := r.splice(r.inside(at(loop4, 8000), 8000, false), 40000)
				first, second := c.out, c.in
				if inner {
					first, second = c.in, c.out
				}
				switch state {
				case "full":
					second.SetSpace(0)
					first.Deliver(make([]byte, 300000))
				case "half closed":
					first.End()
				}
				r.settle()
				first.Reset(unix.ECONNRESET)
				r.settle()
				if !second.Aborted() || !first.Closed() {
					t.Errorf("the other end was reset: %v; this one is closed: %v", second.Aborted(), first.Closed())
				}
				r.idle()
			})
		}
	}
}

// TestSpliceRefused: what the host refuses at one loopback address is tried at the other, and reset at once when that refuses too.
func TestSpliceRefused(t *testing.T) {
	for _, second := range []bool{true, false} {
		t.Run(fmt.Sprintf("the other takes it: %v", second), func(t *testing.T) {
			r := newRig(t)
			var asked []netip.AddrPort
			r.host.OnOpen = func(s *hosttest.Socket) hostsock.Errno {
				if asked = append(asked, s.Peer); second && s.Peer.Addr() == loop4 {
					s.Establish()
				} else {
					s.Refuse(unix.ECONNREFUSED)
				}
				return 0
			}
			l := r.inside(at(loop6, 8000), 9000, false)
			in := l.Inbound(at(loop6, 40000), l.Local)
			r.settle()
			if len(asked) != 2 || asked[0] != at(loop6, 9000) || asked[1] != at(loop4, 9000) {
				t.Fatalf("asked %v", asked)
			}
			if in.Aborted() == second || in.Closed() == second {
				t.Errorf("the inner end is closed: %v, reset: %v", in.Closed(), in.Aborted())
			}
			if !second {
				r.dropped(stats.HostRefused, 1)
				r.idle()
			}
		})
	}
}

// TestSplicePolicy: rules see the host's loopback address, the one that is connected to.
func TestSplicePolicy(t *testing.T) {
	_, edit := withRules(t, "allow out tcp ::1\ndeny out 127.0.0.1\ndeny out udp ::1")
	r := newRig(t, edit)
	r.host.OnOpen = func(s *hosttest.Socket) hostsock.Errno {
		s.Refuse(unix.ECONNREFUSED)
		return 0
	}
	for i, lo := range []netip.Addr{loop4, loop6} { // of IPv6, the second attempt is denied
		l := r.inside(at(lo, 8000), 8000, false)
		in := l.Inbound(at(lo, 40000), l.Local)
		r.settle()
		if !in.Aborted() {
			t.Errorf("%v: not reset", lo)
		}
		r.dropped(stats.PolicyDenied, uint64(i+1))
	}
	u := r.inside(at(loop6, 8000), 8000, true)
	u.DeliverFrom([]byte("x"), at(loop6, 40000))
	r.settle()
	r.dropped(stats.PolicyDenied, 3)
	if n := len(r.sockets(hosttest.UDP)); n != 1 {
		t.Errorf("%d UDP sockets are open", n)
	}
	r.idle()
}

// TestSpliceLimits: connections that the host does not answer are bounded; those that are idle make room; --idle-timeout ends one.
func TestSpliceLimits(t *testing.T) {
	t.Run("unanswered", func(t *testing.T) {
		const limit = 512
		r := newRig(t)
		r.host.OnOpen = nil // connects stay pending
		l := r.inside(at(loop4, 8000), 8000, false)
		for i := range limit + 10 {
			l.Inbound(at(loop4, uint16(20000+i)), l.Local)
		}
		r.run(millisecond)
		if r.stats.TCPOpened != limit || r.stats.TCPAcceptsHeld == 0 {
			t.Errorf("%d connections were accepted, held %d times", r.stats.TCPOpened, r.stats.TCPAcceptsHeld)
		}
		for _, s := range r.host.Sockets() {
			s.Refuse(unix.ETIMEDOUT)
		}
		r.host.OnOpen = establish
		r.run(second)
		if r.stats.TCPOpened != limit+10 || r.stats.TCPFlows != 10 {
			t.Errorf("%d accepted after the others had ended, %d flows", r.stats.TCPOpened, r.stats.TCPFlows)
		}
	})
	t.Run("idle", func(t *testing.T) {
		r := newRig(t, func(c *worker.Config) { c.IdleLimit = 60 * second })
		c := r.splice(r.inside(at(loop4, 8000), 8000, false), 40000)
		r.run(50 * second)
		c.in.Deliver([]byte("x"))
		r.run(50 * second)
		if c.in.Closed() {
			t.Fatal("ended although it was used")
		}
		r.run(20 * second)
		if !c.in.Aborted() || !c.out.Aborted() {
			t.Error("it was not ended")
		}
		r.idle()
	})
	t.Run("evicted", func(t *testing.T) {
		r := newRig(t, func(c *worker.Config) {
			c.MaxFlows = 2
			c.EvictAges = worker.DefaultEvictAges
		})
		l := r.inside(at(loop4, 8000), 8000, false)
		a, b := r.splice(l, 40000), r.splice(l, 40001)
		r.run(7000 * second)
		b.in.Deliver([]byte("x"))
		r.run(500 * second)
		r.splice(l, 40002)
		if !a.in.Aborted() || !a.out.Aborted() || b.in.Closed() {
			t.Errorf("the idle one is gone: %v, the other: %v", a.in.Closed(), b.in.Closed())
		}
	})
	t.Run("no descriptors", func(t *testing.T) {
		r := newRig(t)
		l := r.inside(at(loop4, 8000), 8000, false)
		r.host.Fail(hosttest.ConnectTCP, unix.EMFILE, 1)
		in := l.Inbound(at(loop4, 40000), l.Local)
		r.settle()
		if !in.Aborted() {
			t.Error("not reset")
		}
		r.dropped(stats.NoDescriptors, 1)
		r.idle()
	})
}

// TestSpliceUnforward: a port that is closed leaves its connections alone, and ends the flows of UDP, which use it.
func TestSpliceUnforward(t *testing.T) {
	r := newRig(t)
	l, u := r.inside(at(loop4, 8000), 8000, false), r.inside(at(loop4, 8000), 8000, true)
	c := r.splice(l, 40000)
	u.DeliverFrom([]byte("x"), at(loop4, 40000))
	r.settle()
	if r.w.Unforward(forward.Port{Listen: at(loop4, 8000)}, false) {
		t.Error("a port of the host was closed")
	}
	for _, udp := range []bool{false, true} {
		if !r.w.Unforward(forward.Port{Inside: true, Listen: at(loop4, 8000)}, udp) {
			t.Errorf("UDP %v: not closed", udp)
		}
	}
	c.in.Deliver([]byte("on"))
	r.settle()
	if got := string(c.out.TakeSent()); got != "on" || !l.Closed() || !u.Closed() || r.stats.UDPFlows != 0 || r.stats.TCPFlows != 1 {
		t.Errorf("carried %q; listener closed %v, %v; flows %d, %d", got, l.Closed(), u.Closed(), r.stats.TCPFlows, r.stats.UDPFlows)
	}
}

// TestAcross: datagrams to a UDP port of the namespace's loopback reach the host's, each sender's by a socket of its own, and answers go back to whom they are for.
func TestAcross(t *testing.T) {
	for _, lo := range []netip.Addr{loop4, loop6} {
		t.Run(lo.String(), func(t *testing.T) {
			r := newRig(t)
			in := r.inside(at(lo, 8000), 5000, true)
			for i, word := range []string{"one", "two", "", "one again"} {
				in.DeliverFrom([]byte(word), at(lo, uint16(40000+i%2)))
			}
			r.settle()
			out := r.sockets(hosttest.UDP)[1:]
			if len(out) != 2 || out[0].Peer != at(lo, 5000) {
				t.Fatalf("%d sockets outside: %v", len(out), out)
			}
			for i, want := range [][]string{{"one", ""}, {"two", "one again"}} {
				var got []string
				for _, d := range out[i].Datagrams() {
					got = append(got, string(d.Data))
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("sender %d: %q outside, want %q", i, got, want)
				}
			}
			long := make([]byte, 65507)
			out[1].Deliver([]byte("answer"))
			out[1].Deliver(long)
			r.settle()
			back := in.Datagrams()
			if len(back) != 2 || string(back[0].Data) != "answer" || len(back[1].Data) != len(long) || back[0].To != at(lo, 40001) {
				t.Fatalf("%d answers: %v", len(back), back)
			}
			r.run(100 * second)
			if r.stats.UDPFlows != 1 {
				t.Errorf("%d flows after 100 s, want the one that was answered", r.stats.UDPFlows)
			}
			r.run(100 * second)
			r.nothing()
			r.idle()
		})
	}
}

// TestAcrossRefused: that nobody is at the host's port costs no datagram but those that were refused, and nothing is said to the link.
func TestAcrossRefused(t *testing.T) {
	r := newRig(t)
	in := r.inside(at(loop4, 8000), 5000, true)
	in.DeliverFrom([]byte("first"), at(loop4, 40000))
	r.settle()
	out := r.host.Last()
	out.Answer(hostsock.SendError{Err: unix.ECONNREFUSED, Type: 3, Code: 3, From: loop4, Peer: at(loop4, 5000), Data: []byte("first")})
	in.DeliverFrom([]byte("second"), at(loop4, 40000))
	r.settle()
	if n := len(out.Datagrams()); n != 2 {
		t.Errorf("%d datagrams have left", n)
	}
	r.dropped(stats.HostRefused, 1)
	r.nothing()
}
