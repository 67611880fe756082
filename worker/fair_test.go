package worker_test

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/worker"
)

// crowd is a rig with bulk flows toward the guest, whose peers always have more to send.
type crowd struct {
	*rig
	flows   []*guestConn
	sockets []*hosttest.Socket
	sent    []int64 // by each peer
}

// newCrowd opens n bulk flows to a guest with so large a window.
func newCrowd(t *testing.T, n, window int) *crowd {
	t.Helper()
	c := &crowd{rig: newRig(t), sent: make([]int64, n)}
	for range n {
		g := c.connect(at(server4, 80))
		g.window = window
		c.flows, c.sockets = append(c.flows, g), append(c.sockets, c.host.Last())
	}
	c.refill()
	return c
}

// refill sees to it that every peer has a megabyte to send.
func (c *crowd) refill() {
	for i, s := range c.sockets {
		if n := 1<<20 - s.Unread(); n > 1<<19 {
			c.flows[i].deliver(s, 1+c.sent[i], n)
			c.sent[i] += int64(n)
		}
	}
}

// step does one iteration, and gives the guest what was sent to it, which it answers. It returns the frames.
func (c *crowd) step() []got {
	c.t.Helper()
	c.w.Step(0)
	frames := c.take()
	for _, g := range frames {
		if f := c.conns[[2]netip.AddrPort{g.to, g.from}]; f != nil && g.tcp != nil {
			f.input(g)
		}
	}
	c.refill()
	return frames
}

// steps does so many iterations.
func (c *crowd) steps(n int) {
	c.t.Helper()
	for range n {
		c.step()
	}
}

// TestFairShares: flows toward the guest get the same number of bytes, whether their peers send much or little at a time.
func TestFairShares(t *testing.T) {
	for _, n := range []int{2, 12} {
		c := newCrowd(t, n, 4<<20)
		for i, s := range c.sockets {
			if i%2 == 0 {
				s.MaxRecv = 3000 // as a socket that is filled in small pieces
			}
		}
		c.steps(10 * n) // from slow start
		before := make([]int64, n)
		for i, f := range c.flows {
			before[i] = f.rcvNxt
		}
		c.steps(10 * n)
		least, most := int64(1<<62), int64(0)
		for i, f := range c.flows {
			if i%2 == 1 {
				got := f.rcvNxt - before[i]
				least, most = min(least, got), max(most, got)
			}
		}
		if least == 0 || most > least+512<<10 {
			t.Errorf("%d flows: they got between %d and %d bytes", n, least, most)
		}
	}
}

// TestLoneAnswerFirst: an answer to a flow that was silent is sent in the iteration that learns of it, whatever waits in bulk, and
// whatever the protocol.
func TestLoneAnswerFirst(t *testing.T) {
	for _, window := range []int{4 << 20, 60_000} { // with the second, bulk waits for the guest as well
		c := newCrowd(t, 24, window)
		lone := c.connect(at(server6, 80))
		tcp := c.host.Last()
		c.inject(udpFrame(at(guest4, 4000), at(server4, 53), []byte("request")))
		c.inject(echoFrame(guest4, server4, 7, 1, nil))
		c.steps(20)
		udp, ping := c.theSocket(hosttest.UDP), c.theSocket(hosttest.Ping)
		for round := range 20 {
			lone.deliver(tcp, 1+int64(round)*10, 10)
			udp.Deliver([]byte("answer"))
			ping.Deliver([]byte{0, 0, 0, 0, 0, 0, 0, 1})
			if answers := c.look(lone); answers != 3 {
				t.Fatalf("window %d, round %d: %d of 3 answers were sent after the look at the events", window, round, answers)
			}
			if round%2 == 1 {
				c.steps(8) // a round of all; in less than that the lone ones would have had their shares
			}
		}
	}
}

// look goes on until the events have been looked at, and returns how many answers to lone and to datagrams were sent by the end of the
// iteration.
func (c *crowd) look(lone *guestConn) (answers int) {
	c.t.Helper()
	for looks := c.host.Calls(hosttest.Wait); looks == c.host.Calls(hosttest.Wait); {
		for _, g := range c.step() {
			if g.udp != nil || g.icmp4 != nil || g.tcp != nil && g.to == lone.local && len(g.data) > 0 {
				answers++
			}
		}
	}
	return answers
}

// theSocket is the one open socket of a kind.
func (c *crowd) theSocket(kind hosttest.Kind) *hosttest.Socket {
	c.t.Helper()
	open := c.rig.sockets(kind)
	if len(open) != 1 {
		c.t.Fatalf("%d sockets of kind %v", len(open), kind)
	}
	return open[0]
}

// TestComingAndGoing: a flow whose peer sends again as soon as everything was read is not served before the others for ever.
func TestComingAndGoing(t *testing.T) {
	c := newCrowd(t, 40, 4<<20)
	c.steps(40)
	const size = 40000
	f, s := c.flows[0], c.sockets[0]
	c.flows, c.sockets = c.flows[1:], c.sockets[1:]
	own := c.sent[0]
	c.sent = c.sent[1:]
	for s.Unread() > 0 {
		c.step()
	}
	before, others := f.rcvNxt, c.flows[0].rcvNxt
	for range 200 {
		if s.Unread() == 0 {
			f.deliver(s, 1+own, size)
			own += size
		}
		c.step()
	}
	if got, fair := f.rcvNxt-before, c.flows[0].rcvNxt-others; got > fair+512<<10 {
		t.Errorf("the flow that comes and goes got %d bytes, one in bulk %d", got, fair)
	}
}

// TestManyDatagrams: a socket full of datagrams does not keep a stream waiting, nor the other way round.
func TestManyDatagrams(t *testing.T) {
	c := newCrowd(t, 1, 4<<20)
	c.inject(udpFrame(at(guest4, 4000), at(server4, 53), []byte("request")))
	c.steps(20)
	udp := c.theSocket(hosttest.UDP)
	for range 2000 {
		udp.Deliver(make([]byte, 100))
	}
	var run, stream, frames, whole int
	for udp.Unread() > 0 {
		for _, g := range c.step() {
			if g.udp != nil {
				frames++
				whole += len(datagrams(g))
				run++
			} else if len(g.data) > 0 {
				stream++
				run = 0
			}
			if run > 40 {
				t.Fatalf("%d frames of datagrams in a row", run)
			}
		}
	}
	if whole != 2000 || stream < frames/2 {
		t.Errorf("%d datagrams in %d frames, and %d frames of the stream", whole, frames, stream)
	}
}

// TestLooksAtEvents: however much there is to do, the events are looked at after about a megabyte of work.
func TestLooksAtEvents(t *testing.T) {
	c := newCrowd(t, 16, 4<<20)
	c.steps(50)
	bytes, looks := c.stats.TxBytes, c.host.Calls(hosttest.Wait)
	c.steps(400)
	bytes, looks = c.stats.TxBytes-bytes, c.host.Calls(hosttest.Wait)-looks
	if per := bytes / uint64(max(looks, 1)); per > 2<<20 {
		t.Errorf("%d bytes for each look at the events", per)
	}
}

// TestResidence: how long frames were inside is counted, each frame once, from when the worker could know of it.
func TestResidence(t *testing.T) {
	var clock func() int64
	r := newRig(t, func(c *worker.Config) {
		host := c.Clock
		clock = host
		c.Clock = func() int64 { return clock() }
	})
	g := r.connect(at(server4, 80))
	s := r.host.Last()
	r.settle()
	in, out := &r.stats.Residence.FromGuest, &r.stats.Residence.ToGuest
	if in.Count() != r.stats.RxFrames || out.Count() != r.stats.TxFrames || in.Max() != 0 || out.Max() != 0 {
		t.Errorf("%d of %d frames from the guest are counted, %d of %d to it; the longest stay %d and %d",
			in.Count(), r.stats.RxFrames, out.Count(), r.stats.TxFrames, in.Max(), out.Max())
	}
	var late int64 // each reading of the clock finds it later by 10 µs
	host := r.host.Now
	clock = func() int64 { late += 10_000; return host() + late }
	for range 100 { // a dozen batches
		g.send(layers.TCP{}, g.nxt, nil)
	}
	r.settle()
	if in.Max() < 10_000 || in.Max() > 50_000 {
		t.Errorf("a frame from the guest was inside for %d ns", in.Max())
	}
	g.deliver(s, 1, 200_000)
	r.settle()
	if in.Count() != r.stats.RxFrames || out.Count() != r.stats.TxFrames || out.Max() < 10_000 || out.Max() > 1_000_000 {
		t.Errorf("%d of %d frames from the guest are counted, %d of %d to it; one was inside for %d ns",
			in.Count(), r.stats.RxFrames, out.Count(), r.stats.TxFrames, out.Max())
	}
}
