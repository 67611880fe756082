package worker_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// evicting has flows make room after 100 seconds, whatever their kind.
func evicting(c *worker.Config) {
	c.EvictAges = worker.EvictAges{Established: 100 * second, Transitory: 100 * second, Answered: 100 * second, Unanswered: 100 * second, Echo: 100 * second}
	c.UDPIdle, c.UDPFirst, c.ICMPIdle = 1e6*second, 1e6*second, 1e6*second
}

// evicted checks how many flows were ended for want of something, and that none was for want of anything else.
func (r *rig) evicted(why stats.Shortage, want uint64) {
	r.t.Helper()
	for s, n := range r.stats.Evictions {
		if stats.Shortage(s) == why && n != want || stats.Shortage(s) != why && n != 0 {
			r.t.Errorf("%d flows were evicted for want of %v, want %d for want of %v", n, stats.Shortage(s), want, why)
		}
	}
}

// shortages are what can be short, and how the worker is made to feel it when it has three TCP flows.
var shortages = []struct {
	what  stats.Shortage
	err   hostsock.Errno // of the host's calls
	limit func(c *worker.Config)
	drop  stats.Reason
}{
	{stats.OfFlows, 0, func(c *worker.Config) { c.MaxFlows = 3 }, stats.FlowTableFull},
	{stats.OfDescriptors, unix.EMFILE, func(*worker.Config) {}, stats.NoDescriptors},
	{stats.OfDescriptors, unix.ENFILE, func(*worker.Config) {}, stats.NoDescriptors},
	{stats.OfDescriptors, unix.ENOBUFS, func(*worker.Config) {}, stats.NoBuffers},
	{stats.OfBudget, 0, func(c *worker.Config) { c.Budget, c.MaxWindow = 200_000, 65535 }, stats.BudgetSpent},
}

// TestEvict: when something is short, the flow that was unused for the longest makes room, but only if it was for as long as it may; otherwise the new flow
// is refused at once. Both is counted, and nothing of the flow is left.
func TestEvict(t *testing.T) {
	for _, s := range shortages {
		t.Run(fmt.Sprint(s.what, s.err), func(t *testing.T) {
			r := newRig(t, evicting, s.limit)
			var flows []*guestConn
			var sockets []*hosttest.Socket
			for range 3 {
				flows, sockets = append(flows, r.connect(at(server4, 80))), append(sockets, r.host.Last())
				r.run(2 * second)
			}
			for r.w.Snapshot().Promised+20<<10 <= r.w.Snapshot().Budget && s.what == stats.OfBudget { // until a SYN is refused
				flows, sockets = append(flows, r.connect(at(server4, 80))), append(sockets, r.host.Last())
			}
			// The second one is used by the guest, the third by the peer: the first is the one to go.
			r.run(90 * second)
			flows[1].write(100, 100)
			flows[2].deliver(sockets[2], 1, 100)
			for _, c := range flows[3:] {
				c.write(100, 100)
			}
			r.pump()
			if late := r.dialShort(s.err, 1); late.opened || late.reset == nil {
				t.Fatalf("with all flows in use: opened %v, reset %v", late.opened, late.reset)
			}
			r.dropped(s.drop, 1)
			r.evicted(s.what, 0)
			r.run(10 * second)
			if next := r.dialShort(s.err, 1); !next.opened || next.reset != nil {
				t.Fatalf("with an idle flow: opened %v, reset %v", next.opened, next.reset)
			}
			r.dropped(s.drop, 1)
			r.evicted(s.what, 1)
			if flows[0].reset == nil || !sockets[0].Aborted() {
				t.Errorf("the idle flow: the guest has seen a reset: %v, the peer: %v", flows[0].reset != nil, sockets[0].Aborted())
			}
			for i, c := range flows[1:] {
				if c.reset != nil || sockets[1+i].Closed() {
					t.Errorf("flow %d, which was used, has ended", 1+i)
				}
			}
		})
	}
}

// dialShort opens a connection while so many attempts of the host to open a socket fail with err.
func (r *rig) dialShort(err hostsock.Errno, times int) *guestConn {
	r.t.Helper()
	r.host.Fail(hosttest.ConnectTCP, err, times)
	c := r.dial(at(server4, 80))
	r.pump()
	r.host.Fail(hosttest.ConnectTCP, 0, 0)
	return c
}

// TestEvictOnce: when the host refuses a descriptor even after one was given up, the new flow is refused, and no other flow has to go.
func TestEvictOnce(t *testing.T) {
	r := newRig(t, evicting)
	for range 5 {
		r.connect(at(server4, 80))
	}
	r.run(200 * second)
	if c := r.dialShort(unix.EMFILE, hosttest.Always); c.reset == nil {
		t.Errorf("a SYN without a descriptor is not refused")
	}
	r.evicted(stats.OfDescriptors, 1)
	r.dropped(stats.NoDescriptors, 1)
}

// TestEvictNever: with ages of 0 nothing is ever ended for another flow.
func TestEvictNever(t *testing.T) {
	r := newRig(t, func(c *worker.Config) { c.MaxFlows = 1 })
	c := r.connect(at(server4, 80))
	r.run(7000 * second)
	if late := r.dialShort(0, 0); late.reset == nil || c.reset != nil {
		t.Errorf("the new flow is refused: %v, the old one: %v", late.reset != nil, c.reset != nil)
	}
	r.evicted(stats.OfFlows, 0)
}

// TestEvictAges: each kind of flow has an age of its own.
func TestEvictAges(t *testing.T) {
	ages := worker.DefaultEvictAges
	open := func(r *rig) *hosttest.Socket { r.connect(at(server4, 80)); return r.host.Last() }
	datagram := func(r *rig) *hosttest.Socket {
		r.inject(udpFrame(at(guest4, 4000), at(server4, 53), []byte("request")))
		r.settle()
		return r.host.Last()
	}
	for _, tc := range []struct {
		name string
		age  int64
		open func(r *rig) *hosttest.Socket
	}{
		{"established", ages.Established, open},
		{"opening", ages.Transitory, func(r *rig) *hosttest.Socket {
			r.host.OnOpen = nil // stays pending
			r.dial(at(server4, 80))
			r.pump()
			r.host.OnOpen = establish
			return r.host.Last()
		}},
		{"ended by the guest", ages.Transitory, func(r *rig) *hosttest.Socket {
			c := r.connect(at(server4, 80))
			s := r.host.Last()
			c.end()
			r.pump()
			return s
		}},
		{"ended by the peer", ages.Transitory, func(r *rig) *hosttest.Socket { s := open(r); s.End(); r.pump(); return s }},
		{"UDP answered", ages.Answered, func(r *rig) *hosttest.Socket { s := datagram(r); s.Deliver([]byte("answer")); r.settle(); return s }},
		{"UDP unanswered", ages.Unanswered, datagram},
		{"echo", ages.Echo, func(r *rig) *hosttest.Socket {
			r.inject(echoFrame(guest4, server4, 7, 1, nil))
			r.settle()
			return r.host.Last()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, func(c *worker.Config) {
				evicting(c)
				c.MaxFlows, c.EvictAges, c.KeepIdle = 1, ages, 1e6*second
			})
			s := tc.open(r)
			r.take()
			r.run(tc.age - second)
			r.take() // probes, which a guest answers one by one and not all at the end
			if late := r.dialShort(0, 0); late.reset == nil || s.Closed() {
				t.Errorf("after %d s: the new flow is refused: %v, the old one has ended: %v", tc.age/second-1, late.reset != nil, s.Closed())
			}
			r.run(3 * second)
			if next := r.dialShort(0, 0); !next.opened || !s.Closed() {
				t.Errorf("after %d s: the new flow is open: %v, the old one has ended: %v", tc.age/second+2, next.opened, s.Closed())
			}
			r.evicted(stats.OfFlows, 1)
		})
	}
}

// TestEvictAcrossKinds: of flows of several kinds the one that was unused for the longest goes.
func TestEvictAcrossKinds(t *testing.T) {
	open := []func(r *rig){
		func(r *rig) { r.connect(at(server6, 80)) },
		func(r *rig) { r.inject(udpFrame(at(guest4, 4000), at(server4, 53), []byte("request"))) },
		func(r *rig) { r.inject(echoFrame(guest4, server4, 7, 1, nil)) },
	}
	for first := range open {
		r := newRig(t, evicting, func(c *worker.Config) { c.MaxFlows = len(open) })
		for i := range open {
			open[(first+i)%len(open)](r)
			r.run(2 * second)
		}
		r.run(200 * second)
		sockets := r.host.Sockets()
		if next := r.dialShort(0, 0); !next.opened {
			t.Errorf("no room is made")
		}
		for i, s := range sockets {
			if s.Closed() != (i == 0) {
				t.Errorf("socket %d of %v: closed %v", i, s, s.Closed())
			}
		}
	}
}

// TestEvictLinkFull: room is made at once even when the link does not take the reset; the guest gets one for what it says next.
func TestEvictLinkFull(t *testing.T) {
	r := newRig(t, evicting, func(c *worker.Config) { c.MaxFlows = 1 })
	c := r.connect(at(server4, 80))
	s := r.host.Last()
	r.run(200 * second)
	r.link.SetFull(true)
	next := r.dial(at(server6, 80))
	r.run(5 * millisecond)
	if !s.Aborted() {
		t.Errorf("the idle flow's peer has not seen a reset")
	}
	r.link.SetFull(false)
	r.run(5 * millisecond)
	r.pump()
	c.ack()
	r.pump()
	if c.reset == nil || !next.opened {
		t.Errorf("the old flow is reset: %v, the new one is open: %v", c.reset != nil, next.opened)
	}
}

// TestAcceptEvicts: a connection from outside gets the descriptor of an idle flow, and waits where there is none.
func TestAcceptEvicts(t *testing.T) {
	r := newRig(t, evicting)
	l := r.forward(at(netip.IPv6Unspecified(), 8000), 5000, false)
	r.connect(at(server4, 80))
	s := r.host.Last()
	r.host.Fail(hosttest.Accept, unix.EMFILE, 1)
	r.conn(at(guest4, 5000), at(server4, 1000))
	l.Inbound(at(server4, 1000), at(guest4, 8000))
	r.pump()
	if s.Closed() || r.stats.TCPAccepted != 0 {
		t.Errorf("with no idle flow: the old one has ended: %v, %d accepted", s.Closed(), r.stats.TCPAccepted)
	}
	r.run(200 * second)
	r.pump()
	r.host.Fail(hosttest.Accept, unix.EMFILE, 1)
	r.conn(at(guest4, 5000), at(server4, 1001))
	l.Inbound(at(server4, 1001), at(guest4, 8000))
	r.pump()
	if !s.Closed() || r.stats.TCPAccepted != 2 {
		t.Errorf("with an idle flow: it has ended: %v, %d accepted, want 2", s.Closed(), r.stats.TCPAccepted)
	}
	r.evicted(stats.OfDescriptors, 1)
}

// TestOwnProbesAreNoUse: the guest's answers to our keepalive probes do not keep a flow from making room; what it says by itself does.
func TestOwnProbesAreNoUse(t *testing.T) {
	for _, speaks := range []bool{false, true} {
		r := newRig(t, evicting, func(c *worker.Config) { c.MaxFlows, c.KeepIdle = 1, 60*second })
		c := r.connect(at(server4, 80))
		for range 30 {
			r.run(10 * second)
			if speaks {
				c.ack()
			}
			r.pump()
		}
		if next := r.dialShort(0, 0); next.opened == speaks {
			t.Errorf("the guest speaks: %v, room is made: %v", speaks, next.opened)
		}
	}
}

// TestSendMemoryEvicts: without a page to read into, a flow goes whose guest has not acknowledged for long, and no other.
func TestSendMemoryEvicts(t *testing.T) {
	r := newRig(t, evicting, func(c *worker.Config) {
		_ = c.Send.Close()
		c.Send = newPool(t, 2<<16)
	})
	idle := r.connect(at(server4, 80))
	var silent []*guestConn
	for range 2 {
		c := r.connect(at(server4, 80))
		c.quiet = true
		c.deliver(r.host.Last(), 1, 60000)
		r.pump()
		silent = append(silent, c)
	}
	r.run(110 * second)
	d := r.connect(at(server4, 80))
	d.deliver(r.host.Last(), 1, 60000)
	r.run(10 * millisecond)
	r.pump()
	if d.rcvNxt != 60001 || idle.reset != nil || silent[0].reset == nil {
		t.Errorf("%d bytes arrived, the idle flow is reset: %v, the silent one: %v", d.rcvNxt-1, idle.reset != nil, silent[0].reset != nil)
	}
	r.evicted(stats.OfSendMemory, 1)
}

// evictModel is a worker with few flows, and what is known of each: when it was last used.
type evictModel struct {
	*rig
	flows map[*guestConn]int64
	ended map[*guestConn]bool // the guest's stream
	ages  worker.EvictAges
}

// use notes that c was used now.
func (m *evictModel) use(c *guestConn) { m.flows[c] = m.host.Now() }

// TestEvictModel: whatever the order of uses, openings and endings, only flows past their age make room, the one unused for the longest first, to a
// second, and a new flow is refused only when there is none.
func TestEvictModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 6
		m := &evictModel{flows: make(map[*guestConn]int64), ended: make(map[*guestConn]bool)}
		m.rig = makeRig(t, linktest.New(allFeatures), func(c *worker.Config) {
			evicting(c)
			c.MaxFlows = limit
			m.ages = c.EvictAges
		})
		defer m.discard()
		some := func(t *rapid.T) *guestConn {
			var open []*guestConn
			for i := range int(m.port) + 1 { // in a certain order
				for c := range m.flows {
					if int(c.local.Port()) == i {
						open = append(open, c)
					}
				}
			}
			if len(open) == 0 {
				t.Skip("no flow")
			}
			return rapid.SampledFrom(open).Draw(t, "flow")
		}
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				full := len(m.flows) == limit
				c := m.dial(at(server4, 80))
				m.pump()
				var gone []*guestConn
				oldest := m.host.Now()
				for f, at := range m.flows {
					oldest = min(oldest, at)
					if f.reset != nil {
						gone = append(gone, f)
					}
				}
				switch idle := m.host.Now() - oldest; {
				case !full && (!c.opened || len(gone) > 0):
					t.Fatalf("with room: opened %v, %d flows are gone", c.opened, len(gone))
				case full && c.opened != (len(gone) == 1):
					t.Fatalf("opened %v, but %d flows are gone", c.opened, len(gone))
				case full && c.opened && (m.host.Now()-m.flows[gone[0]] < m.ages.Established || m.flows[gone[0]] > oldest+second):
					t.Fatalf("a flow that was unused for %d ns is gone, one for %d", m.host.Now()-m.flows[gone[0]], idle)
				case full && !c.opened && idle >= m.ages.Established+second:
					t.Fatalf("refused, but a flow was unused for %d ns", idle)
				}
				for _, f := range gone {
					delete(m.flows, f)
				}
				if c.opened {
					m.use(c)
				}
			},
			"guest writes": func(t *rapid.T) {
				c := some(t)
				if m.ended[c] {
					t.Skip("it has ended")
				}
				c.write(10, 10)
				m.pump()
				m.use(c)
			},
			"guest ends its stream": func(t *rapid.T) { // which makes it of another class
				c := some(t)
				if m.ended[c] {
					t.Skip("it has")
				}
				c.end()
				m.ended[c] = true
				m.pump()
				m.use(c)
			},
			"guest resets": func(t *rapid.T) {
				c := some(t)
				c.abort()
				m.pump()
				delete(m.flows, c)
			},
			"time": func(t *rapid.T) {
				m.run(rapid.Int64Range(1, 60_000).Draw(t, "ms") * millisecond)
			},
			"": func(t *rapid.T) {
				if s := m.w.Snapshot(); s.Flows != uint64(len(m.flows)) || s.PeakFlows < s.Flows || s.PeakFlows > limit || s.PeakPromised < s.Promised {
					t.Fatalf("%d flows, %d at most, want %d", s.Flows, s.PeakFlows, len(m.flows))
				}
			},
		})
		for c := range m.flows {
			c.abort()
		}
		m.run(10 * millisecond)
		m.pump()
		m.idle()
		m.close()
	})
}
