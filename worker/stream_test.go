package worker_test

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// patternSum is the hash of the first n bytes of a flow's stream.
func patternSum(flow int, n int64) uint64 {
	h := fnv.New64a()
	h.Write(pattern(make([]byte, n), flow, 1))
	return h.Sum64()
}

// received checks that the host's peer of c has exactly the first n bytes of the guest's stream.
func (c *guestConn) received(s *hosttest.Socket, n int64) {
	c.r.t.Helper()
	if s.SentBytes() != n || s.SentSum() != patternSum(c.flow, n) {
		c.r.t.Errorf("flow %d: the host's peer has %d bytes, want %d; the right ones: %v",
			c.flow, s.SentBytes(), n, s.SentSum() == patternSum(c.flow, s.SentBytes()))
	}
}

// deliver has the host's peer of c send n bytes, the first at offset off.
func (c *guestConn) deliver(s *hosttest.Socket, off int64, n int) {
	s.Deliver(pattern(make([]byte, n), c.flow, off))
}

// upload writes n bytes in segments of at most size bytes, as the window allows.
func (c *guestConn) upload(n, size int) {
	c.r.t.Helper()
	for stuck := 0; n > 0; {
		k := c.write(n, size)
		n -= k
		c.r.pump()
		if k == 0 {
			if stuck++; stuck == 100 {
				c.r.t.Fatalf("flow %d: the window stays closed with %d bytes to go", c.flow, n)
			}
			c.r.run(10 * millisecond)
			c.r.pump()
		}
	}
}

// TestTransfer: both streams arrive whole, over links with and without offloads, and end in order.
func TestTransfer(t *testing.T) {
	for _, to := range servers() {
		for _, plain := range []bool{false, true} {
			for _, times := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v plain %v timestamps %v", to.Addr(), plain, times), func(t *testing.T) {
					features, mtu := allFeatures, 65520
					if plain {
						features, mtu = link.Features{}, 1500
					}
					r := newRigOn(t, linktest.New(features), func(c *worker.Config) { c.MTU = mtu })
					r.link.Split(rand.New(rand.NewPCG(1, 1)), 60)
					r.port++
					c := r.conn(at(like(to.Addr()), r.port), to)
					c.times = times
					if plain {
						c.mss = 1400
					}
					c.syn()
					r.pump()
					s := r.host.Last()
					const n = 3 << 20
					c.upload(n, int(c.mss))
					c.received(s, n)
					s.TakeSent()
					c.deliver(s, 1, n)
					r.pump()
					if c.rcvNxt != n+1 || c.duplicates > 0 || r.stats.TCPRetransmits > 0 {
						t.Errorf("the guest has %d bytes, want %d; %d duplicates, %d retransmissions",
							c.rcvNxt-1, n, c.duplicates, r.stats.TCPRetransmits)
					}
					if perFrame := n / c.dataFrames; plain && perFrame > 1448 || !plain && perFrame < 40000 {
						t.Errorf("%d bytes a frame", perFrame)
					}
					c.end()
					r.pump()
					if !s.WriteClosed() || s.Closed() {
						t.Errorf("write side closed %v, socket closed %v", s.WriteClosed(), s.Closed())
					}
					s.End()
					r.pump()
					if !c.ended || !s.Closed() || s.Aborted() {
						t.Errorf("guest saw the end %v, socket closed %v, aborted %v", c.ended, s.Closed(), s.Aborted())
					}
					r.idle()
				})
			}
		}
	}
}

// TestHalfClose: each direction ends on its own, and the other carries on for as long as it likes.
func TestHalfClose(t *testing.T) {
	const n = 1 << 20
	t.Run("upload first", func(t *testing.T) {
		r := newRig(t)
		c := r.connect(at(server4, 80))
		s := r.host.Last()
		c.upload(1000, 500)
		c.end()
		r.pump()
		if !s.WriteClosed() {
			t.Fatal("the host's peer does not see the end")
		}
		for i := range 4 {
			r.run(60 * second)
			c.deliver(s, 1+int64(i)*n, n)
			r.pump()
		}
		if c.rcvNxt != 4*n+1 {
			t.Errorf("the guest has %d bytes, want %d", c.rcvNxt-1, 4*n)
		}
		s.End()
		r.pump()
		c.received(s, 1000)
		if !c.ended || !s.Closed() || s.Aborted() {
			t.Errorf("guest saw the end %v, socket closed %v, aborted %v", c.ended, s.Closed(), s.Aborted())
		}
		r.idle()
	})
	t.Run("download first", func(t *testing.T) {
		r := newRig(t)
		c := r.connect(at(server6, 80))
		s := r.host.Last()
		c.deliver(s, 1, 1000)
		s.End()
		r.pump()
		if !c.ended || c.rcvNxt != 1002 {
			t.Fatalf("guest saw the end %v, at %d", c.ended, c.rcvNxt)
		}
		r.run(60 * second)
		c.upload(n, 60000)
		c.received(s, n)
		if s.WriteClosed() || s.Closed() {
			t.Error("the host's peer sees the end too early")
		}
		c.end()
		r.pump()
		if !s.WriteClosed() || !s.Closed() || s.Aborted() {
			t.Errorf("write side closed %v, socket closed %v, aborted %v", s.WriteClosed(), s.Closed(), s.Aborted())
		}
		r.idle()
	})
}

// TestGuestResets: the guest's reset is a reset for the host's peer, whatever the connection is about to do.
func TestGuestResets(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(c *guestConn, s *hosttest.Socket)
	}{
		{"idle", func(*guestConn, *hosttest.Socket) {}},
		{"data toward the guest in flight", func(c *guestConn, s *hosttest.Socket) {
			c.quiet = true
			c.deliver(s, 1, 100000)
			c.r.pump()
		}},
		{"data held for the host", func(c *guestConn, s *hosttest.Socket) {
			s.SetSpace(100)
			c.write(50000, 20000)
			c.r.pump()
		}},
		{"a hole in the guest's stream", func(c *guestConn, _ *hosttest.Socket) {
			c.send(layers.TCP{}, c.nxt+100, make([]byte, 100))
			c.r.pump()
		}},
		{"upload ended", func(c *guestConn, _ *hosttest.Socket) { c.end(); c.r.pump() }},
		{"download ended", func(c *guestConn, s *hosttest.Socket) { s.End(); c.r.pump() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			c := r.connect(at(server4, 80))
			s := r.host.Last()
			tc.do(c, s)
			c.send(layers.TCP{RST: true}, c.nxt, nil)
			r.pump()
			if !s.Aborted() {
				t.Error("the host's peer has not seen a reset")
			}
			if c.reset != nil {
				t.Error("the reset was answered by a reset")
			}
			r.idle()
		})
	}
	t.Run("while connecting", func(t *testing.T) {
		r := newRig(t)
		r.host.OnOpen = nil
		c := r.dial(at(server4, 80))
		r.settle()
		c.send(layers.TCP{RST: true}, 1, nil)
		r.nothing()
		if s := r.host.Last(); !s.Closed() {
			t.Error("the socket is open")
		}
		r.idle()
	})
}

// TestHostResets: a reset of the host's peer is a reset for the guest, whatever the connection is about to do, and the data
// that came before it arrives.
func TestHostResets(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(c *guestConn, s *hosttest.Socket)
		data int64 // that the guest has to have
	}{
		{"idle", func(*guestConn, *hosttest.Socket) {}, 0},
		{"data delivered", func(c *guestConn, s *hosttest.Socket) { c.deliver(s, 1, 70000) }, 70000},
		{"data held for the host", func(c *guestConn, s *hosttest.Socket) {
			s.SetSpace(100)
			c.write(50000, 20000)
			c.r.pump()
		}, 0},
		{"upload ended", func(c *guestConn, _ *hosttest.Socket) { c.end(); c.r.pump() }, 0},
		{"download ended", func(c *guestConn, s *hosttest.Socket) { s.End(); c.r.pump() }, 0},
	} {
		for _, full := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, link full %v", tc.name, full), func(t *testing.T) {
				r := newRig(t)
				c := r.connect(at(server6, 80))
				s := r.host.Last()
				tc.do(c, s)
				r.link.SetFull(full)
				s.Reset(unix.ECONNRESET)
				r.run(5 * millisecond)
				s.Spurious()
				r.run(5 * millisecond)
				r.link.SetFull(false)
				r.run(5 * millisecond)
				r.pump()
				if c.reset == nil {
					t.Fatal("the guest has not seen a reset")
				}
				if c.reset.Seq != c.irs+uint32(c.rcvNxt) {
					t.Errorf("the reset is at %d, the guest expects %d", c.reset.Seq-c.irs, c.rcvNxt)
				}
				if !full && c.rcvNxt-1 < tc.data {
					t.Errorf("the guest has %d bytes, %d were delivered before the reset", c.rcvNxt-1, tc.data)
				}
				if !s.Closed() {
					t.Error("the socket is open")
				}
				r.idle()
			})
		}
	}
}

// TestSendFails: an error of the host socket while the guest's data is written ends the flow, also when data is held.
func TestSendFails(t *testing.T) {
	for _, err := range []unix.Errno{unix.EPIPE, unix.ECONNRESET, unix.ETIMEDOUT, unix.EHOSTUNREACH} {
		for _, held := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v held %v", err, held), func(t *testing.T) {
				r := newRig(t)
				c := r.connect(at(server4, 80))
				s := r.host.Last()
				if held {
					s.SetSpace(1000)
					c.write(60000, 6000)
					r.pump()
					s.Fail(hosttest.Send, err, hosttest.Always)
					s.SetSpace(hosttest.Unlimited)
				} else {
					s.Fail(hosttest.Send, err, hosttest.Always)
					c.write(100, 100)
				}
				r.pump()
				if c.reset == nil || !s.Aborted() {
					t.Errorf("guest saw a reset %v, the host's peer %v", c.reset != nil, s.Aborted())
				}
				r.idle()
				again := r.connect(at(server4, 80)) // the slot of the flow is as good as new
				again.upload(1000, 1000)
				again.received(r.host.Last(), 1000)
			})
		}
	}
}

// TestShutdownFails: a flow whose write side cannot be shut down ends, and its slot is as good as new.
func TestShutdownFails(t *testing.T) {
	r := newRig(t)
	for range 3 {
		c := r.connect(at(server4, 80))
		s := r.host.Last()
		s.Fail(hosttest.ShutdownWrite, unix.EIO, 1)
		c.end()
		r.pump()
		if c.reset == nil || !s.Closed() {
			t.Fatalf("guest saw a reset %v, socket closed %v", c.reset != nil, s.Closed())
		}
		r.idle()
	}
}

// TestHeldData: no byte that was acknowledged is lost or changed when the host socket takes little at a time and never what
// the segments are; what the guest may send is never taken back.
func TestHeldData(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := newRig(t)
			rng := rand.New(rand.NewPCG(seed, 0))
			r.link.Split(rng, 50)
			c := r.connect(at(server4, 80))
			s := r.host.Last()
			s.SetSpace(0)
			const n = 1 << 20
			for left, rounds := n, 0; left > 0 || s.SentBytes() < n; rounds++ {
				if rounds > 10000 {
					t.Fatalf("stalled: %d bytes not sent, the host's peer has %d", left, s.SentBytes())
				}
				left -= c.write(min(left, rng.IntN(200000)), 1+rng.IntN(40000))
				r.pump()
				if rng.IntN(4) == 0 { // full for a moment, whatever space there is
					s.Fail(hosttest.Send, unix.EAGAIN, 1)
					left -= c.write(min(left, 1), 1)
					r.pump()
					s.Fail(hosttest.Send, 0, 0)
					s.Spurious()
				}
				s.SetSpace(rng.IntN(60000))
				r.run(int64(rng.IntN(5)) * millisecond)
				r.pump()
			}
			c.received(s, n)
			if c.una != n+1 {
				t.Errorf("%d bytes are acknowledged, %d were sent", c.una-1, n)
			}
			if r.stats.TCPHeldBytes == 0 || r.stats.Drops[stats.NoBuffers] > 0 {
				t.Errorf("%d bytes were held, %d times without room", r.stats.TCPHeldBytes, r.stats.Drops[stats.NoBuffers])
			}
			c.abort()
			r.pump()
			r.idle()
		})
	}
}

// TestManyPieces: a frame in more pieces than one call of the host takes is carried whole, and the flow does not stall.
func TestManyPieces(t *testing.T) {
	for _, held := range []bool{false, true} {
		t.Run(fmt.Sprintf("held %v", held), func(t *testing.T) {
			r := newRig(t)
			c := r.connect(at(server4, 80))
			s := r.host.Last()
			if held {
				s.SetSpace(0)
			}
			const n = 64000
			frame := c.segment(layers.TCP{PSH: true}, c.nxt, pattern(make([]byte, n), c.flow, c.nxt))
			hdr := offload(guest4, server4, frame, 1400)
			var bufs [][]byte
			for b := range bytes.SplitSeq(frame, nil) { // one byte each: 64 KiB of pieces
				bufs = append(bufs, b)
			}
			r.link.Lend(hdr, bufs)
			c.nxt += n
			r.pump()
			if held {
				s.SetSpace(hosttest.Unlimited)
				r.pump()
			}
			r.run(2 * second)
			c.received(s, n)
			c.write(10, 10)
			r.pump()
			c.received(s, n+10)
		})
	}
}

// TestOutOfOrder: segments that overtake each other are put in order, and what is missing is said.
func TestOutOfOrder(t *testing.T) {
	for seed := range uint64(20) {
		r := newRig(t)
		rng := rand.New(rand.NewPCG(seed, 1))
		c := r.connect(at(server6, 80))
		s := r.host.Last()
		var total int64
		for range 20 {
			n := min(c.edge-c.nxt, int64(1+rng.IntN(60000)))
			base := c.nxt
			c.nxt += n
			total += n
			cuts := []int64{0, n}
			for range rng.IntN(10) {
				cuts = append(cuts, rng.Int64N(n+1))
			}
			order := rng.Perm(len(cuts))
			for _, i := range order { // overlapping pieces, in any order, that together are everything
				from := cuts[i]
				to := min(n, from+1+rng.Int64N(n))
				c.send(layers.TCP{}, base+from, pattern(make([]byte, to-from), c.flow, base+from))
			}
			r.pump()
			c.send(layers.TCP{}, base, pattern(make([]byte, n), c.flow, base))
			r.pump()
			if c.una != c.nxt {
				t.Fatalf("seed %d: acknowledged to %d, want %d", seed, c.una, c.nxt)
			}
		}
		c.received(s, total)
		if r.w.Snapshot().FragsInUse != 0 {
			t.Errorf("seed %d: %d fragments are in use", seed, r.w.Snapshot().FragsInUse)
		}
	}
}

// TestLinkFull: a full link delays what TCP says, and loses nothing of it.
func TestLinkFull(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(3, 3))
	c := r.dial(at(server4, 80))
	r.link.SetFull(true)
	r.run(20 * millisecond)
	r.link.SetFull(false)
	r.run(5 * millisecond)
	r.pump()
	if !c.opened {
		t.Fatal("the SYN/ACK is lost")
	}
	s := r.host.Last()
	var down int64
	for range 100 {
		n := rng.IntN(200000)
		c.deliver(s, 1+down, n)
		down += int64(n)
		up := c.write(rng.IntN(100000), 30000)
		r.link.Refuse(rng.IntN(8))
		r.link.SetFull(rng.IntN(2) == 0)
		r.run(3 * millisecond)
		r.link.SetFull(false)
		r.run(3 * millisecond)
		r.pump()
		if up > 0 && c.una != c.nxt {
			t.Fatalf("acknowledged to %d, want %d", c.una, c.nxt)
		}
	}
	r.run(second)
	r.pump()
	if c.rcvNxt != down+1 {
		t.Errorf("the guest has %d bytes, want %d", c.rcvNxt-1, down)
	}
	c.received(s, c.nxt-1)
	if r.stats.TCPRetransmits != 0 || r.stats.Drops[stats.LinkFull] != 0 {
		t.Errorf("%d retransmissions, %d frames lost", r.stats.TCPRetransmits, r.stats.Drops[stats.LinkFull])
	}
	if _, refused := r.link.Sent(); refused == 0 {
		t.Error("the link was never full")
	}
	c.end()
	s.End()
	r.link.SetFull(true)
	r.run(10 * millisecond)
	r.link.SetFull(false)
	r.run(10 * millisecond)
	r.pump()
	if !c.ended || !s.Closed() {
		t.Errorf("guest saw the end %v, socket closed %v", c.ended, s.Closed())
	}
	r.idle()
}

// TestLinkFullSleeps: a worker whose link is full looks again from time to time, and does not spin.
func TestLinkFullSleeps(t *testing.T) {
	r := newRig(t)
	c := r.connect(at(server4, 80))
	s := r.host.Last()
	r.link.SetFull(true)
	c.deliver(s, 1, 1<<20)
	start, _ := r.link.Sent()
	r.run(100 * millisecond)
	sent, refused := r.link.Sent()
	if sent != start || refused < 50 || refused > 250 {
		t.Errorf("%d frames sent, %d refused in 100 ms", sent-start, refused)
	}
	r.link.SetFull(false)
	r.run(5 * millisecond)
	r.pump()
	if c.rcvNxt != 1<<20+1 {
		t.Errorf("the guest has %d bytes", c.rcvNxt-1)
	}
}

// TestResetWhileLinkFull: a connection that the guest has reset while the link was full, with data held, ends quietly.
func TestResetWhileLinkFull(t *testing.T) {
	r := newRig(t)
	c := r.connect(at(server4, 80))
	s := r.host.Last()
	s.SetSpace(10)
	r.link.SetFull(true)
	c.write(30000, 10000)
	r.run(2 * millisecond)
	c.abort()
	s.SetSpace(hosttest.Unlimited)
	r.run(2 * millisecond)
	s.Spurious()
	r.run(2 * millisecond)
	r.link.SetFull(false)
	r.run(2 * millisecond)
	if !s.Aborted() {
		t.Error("the host's peer has not seen a reset")
	}
	r.idle()
}

// TestSendMemorySpent: when there is no page to read into, the host's data waits in its socket, the worker sleeps, and it
// goes on when guests have acknowledged something.
func TestSendMemorySpent(t *testing.T) {
	const pages, n = 4, 1 << 20
	r := newRig(t, func(c *worker.Config) {
		_ = c.Send.Close()
		c.Send = newPool(t, pages<<16)
	})
	var silent []*guestConn
	for i := range pages { // each may have one page, which it keeps
		c := r.connect(at(server4, 80))
		c.quiet = true
		c.deliver(r.host.Sockets()[i], 1, n)
		r.pump()
		if c.rcvNxt < 2 {
			t.Fatalf("flow %d: nothing reached the guest", i)
		}
		silent = append(silent, c)
	}
	d := r.connect(at(server6, 80))
	before := r.calls()
	d.deliver(r.host.Last(), 1, n)
	r.run(100 * millisecond)
	if calls := r.calls() - before; calls > 300 {
		t.Errorf("%d calls of the host in 100 ms", calls)
	}
	r.pump()
	if d.rcvNxt != 1 {
		t.Errorf("%d bytes reached the guest without a page to read into", d.rcvNxt-1)
	}
	for range 100 {
		for _, c := range silent {
			c.quiet = false
			c.ack()
		}
		r.run(10 * millisecond)
		r.pump()
	}
	for _, c := range append(silent, d) {
		if c.rcvNxt != n+1 {
			t.Errorf("flow %d: the guest has %d bytes, want %d", c.flow, c.rcvNxt-1, n)
		}
	}
}

// TestSilentGuests: connections whose guest does not acknowledge leave memory for one whose guest does, which runs on.
func TestSilentGuests(t *testing.T) {
	const pages, n = 32, 1 << 20
	r := newRig(t, func(c *worker.Config) {
		_ = c.Send.Close()
		c.Send = newPool(t, pages<<16)
	})
	for range 20 {
		c := r.connect(at(server4, 80))
		c.quiet = true
		c.deliver(r.host.Last(), 1, n)
	}
	r.pump()
	d := r.connect(at(server6, 80))
	d.deliver(r.host.Last(), 1, n)
	r.pump()
	if d.rcvNxt != n+1 || r.stats.Drops[stats.NoBuffers] > 0 {
		t.Errorf("the guest has %d bytes of %d; %d times there was no page", d.rcvNxt-1, n, r.stats.Drops[stats.NoBuffers])
	}
}

// TestZeroWindow: a guest that cannot take more is asked from time to time, and gets the rest when it can.
func TestZeroWindow(t *testing.T) {
	r := newRig(t)
	c := r.connect(at(server4, 80))
	s := r.host.Last()
	c.window = 0
	c.ack()
	r.pump()
	c.deliver(s, 1, 5000)
	before := len(c.segments)
	r.run(60 * second)
	r.pump()
	if n := len(c.segments) - before; n < 2 || n > 60 || c.rcvNxt != 1 {
		t.Errorf("%d probes in a minute, the guest has %d bytes", n, c.rcvNxt-1)
	}
	c.window = 1 << 20
	c.ack()
	r.pump()
	if c.rcvNxt != 5001 {
		t.Errorf("the guest has %d bytes", c.rcvNxt-1)
	}
}

// TestGuestSilent: a guest that does not answer any more is given up: the host's peer sees a reset.
func TestGuestSilent(t *testing.T) {
	for _, tc := range []struct {
		name string
		data int
	}{{"with data in flight", 1000}, {"idle", 0}} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			c := r.connect(at(server4, 80))
			s := r.host.Last()
			c.quiet = true
			c.deliver(s, 1, tc.data)
			for range 4 {
				r.run(3600 * second)
			}
			r.take()
			if !s.Aborted() {
				t.Error("the host's peer has not seen a reset")
			}
			r.idle()
		})
	}
}

// TestPeerSpeaksFirst: data that the host's peer sent before the guest has answered the SYN/ACK is not forgotten.
func TestPeerSpeaksFirst(t *testing.T) {
	r := newRig(t)
	c := r.dial(at(server4, 25))
	c.quiet = true
	r.pump()
	s := r.host.Last()
	c.deliver(s, 1, 100)
	s.End()
	r.run(10 * millisecond)
	c.quiet = false
	c.ack()
	r.pump()
	if c.rcvNxt != 102 || !c.ended {
		t.Errorf("the guest has %d bytes, end %v", c.rcvNxt-1, c.ended)
	}
}

// TestUrgentData: urgent data of the host's peer is carried in line, and what comes behind it does not wait.
func TestUrgentData(t *testing.T) {
	r := newRig(t)
	c := r.connect(at(server4, 23))
	s := r.host.Last()
	c.deliver(s, 1, 1000)
	s.DeliverUrgent(pattern(make([]byte, 1), c.flow, 1001)[0])
	c.deliver(s, 1002, 5000)
	r.pump()
	if c.rcvNxt != 6002 {
		t.Errorf("the guest has %d bytes, want 6001", c.rcvNxt-1)
	}
}

// TestPeerIsHidden: frames toward the guest come from the address that the guest had asked for, not from where that leads.
func TestPeerIsHidden(t *testing.T) {
	for _, to := range []netip.Addr{gw4, gw6, dns4, dns6, alias4, alias6} {
		r := newRig(t)
		c := r.connect(at(to, 53))
		c.deliver(r.host.Last(), 1, 10)
		r.pump()
		if c.rcvNxt != 11 {
			t.Errorf("%v: the guest has %d bytes", to, c.rcvNxt-1)
		}
	}
}

// After a time without the processor, the worker hears what the guest said meanwhile before it takes the guest for silent, however much that is.
func TestTimersHearTheGuestFirst(t *testing.T) {
	r := newRig(t)
	c := r.connect(at(server4, 80))
	c.deliver(r.host.Last(), 1, 200000)
	c.quiet = true
	r.pump()
	if c.rcvNxt != 200001 {
		t.Fatalf("the guest has %d bytes", c.rcvNxt-1)
	}
	for range 1000 {
		c.send(layers.TCP{}, c.nxt+1<<30, nil) // out of the window
	}
	c.ack()
	r.host.Advance(10 * second)
	r.settle()
	if n := r.stats.TCPRetransmits + r.stats.TCPTimeouts; n != 0 || r.stats.Drops[stats.TCPOutOfWindow] != 1000 {
		t.Errorf("%d timeouts, %d retransmissions, %d frames heard", r.stats.TCPTimeouts, r.stats.TCPRetransmits, r.stats.Drops[stats.TCPOutOfWindow])
	}
	// A guest that never stops talking is not heard for ever: timers run, after a while.
	c.deliver(r.host.Last(), 200001, 1000)
	r.pump()
	r.host.Advance(10 * second)
	for n := 0; n < 200 && r.stats.TCPRetransmits == 0; n++ {
		for range 500 {
			c.send(layers.TCP{}, c.nxt+1<<30, nil)
		}
		r.w.Step(0)
	}
	if r.stats.TCPRetransmits == 0 {
		t.Error("no timer runs while the guest talks")
	}
	r.pump()
	c.abort()
	r.pump()
}
