package worker_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// modelConn is what the model knows of one TCP connection, whoever began it.
type modelConn struct {
	*guestConn
	s         *hosttest.Socket // nil until the worker has opened one
	toHost    int64            // bytes that the host's peer has received
	delivered int64            // bytes that the host's peer has sent

	guestEnded, hostEnded bool
	aborted               bool // by the guest
	broken                bool // by the host's peer
}

// over says that one of the ends has given the connection up.
func (c *modelConn) over() bool { return c.aborted || c.broken || c.reset != nil }

// model is a worker with many flows, guests and peers that do as they like, and what has to be true of them.
type model struct {
	*rig
	tcp       []*modelConn
	listener  *hosttest.Socket
	datagrams int // sent by the guest so far
	pending   bool
	refuse    hostsock.Errno
}

func newModel(t *rapid.T) *model {
	features := allFeatures
	features.Again = rapid.Bool().Draw(t, "the link is looked at")
	q := linktest.New(features)
	q.Split(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), 70)
	return newModelOn(makeRig(t, q, modelLimits))
}

// modelLimits makes limits that a model reaches.
func modelLimits(c *worker.Config) { c.MaxFlows = 20; c.Budget = 2 << 20; c.MaxFlight = 256 << 10 }

func newModelOn(r *rig) *model {
	m := &model{rig: r}
	m.listener = m.forward(at(netip.IPv6Unspecified(), 8000), 5000, false)
	m.host.OnOpen = func(s *hosttest.Socket) hostsock.Errno {
		if s.Kind != hosttest.TCP {
			return 0
		}
		if err := m.refuse; err != 0 {
			m.refuse = 0
			return err
		}
		m.attach(m.tcp[int(s.Peer.Port())-1000], s)
		if !m.pending {
			s.Establish()
		}
		return 0
	}
	return m
}

// attach gives a connection its host socket, which checks what is sent to it.
func (m *model) attach(c *modelConn, s *hosttest.Socket) {
	c.s = s
	s.OnSend = func(b []byte) {
		if !bytes.Equal(b, pattern(make([]byte, len(b)), c.flow, 1+c.toHost)) {
			m.t.Errorf("flow %d: wrong bytes at %d of the stream toward the host", c.flow, c.toHost)
		}
		c.toHost += int64(len(b))
	}
}

// some draws one of the connections for which ok holds; the action is not possible without one.
func (m *model) some(t *rapid.T, ok func(c *modelConn) bool) *modelConn {
	var fit []*modelConn
	for _, c := range m.tcp {
		if ok(c) {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		t.Skip("no such connection")
	}
	return rapid.SampledFrom(fit).Draw(t, "connection")
}

// alive says that both ends are there and the host socket is open.
func alive(c *modelConn) bool { return c.s != nil && !c.s.Closed() && !c.over() }

func (m *model) register(guest, peer netip.AddrPort) *modelConn {
	c := &modelConn{guestConn: m.conn(guest, peer)}
	m.tcp = append(m.tcp, c)
	return c
}

func (m *model) actions() map[string]func(*rapid.T) {
	size := rapid.Custom(func(t *rapid.T) int { // small numbers alone would never fill anything
		return rapid.IntRange(0, 1000).Draw(t, "n") * rapid.SampledFrom([]int{1, 10, 300}).Draw(t, "times")
	})
	seldom := rapid.IntRange(0, 3) // 0 in one of several cases
	return map[string]func(*rapid.T){
		"guest connects": func(t *rapid.T) {
			to := rapid.SampledFrom([]netip.Addr{server4, server6}).Draw(t, "server")
			m.pending = seldom.Draw(t, "pending") == 0
			m.refuse = rapid.SampledFrom([]hostsock.Errno{0, 0, 0, 0, 0, 0, unix.ECONNREFUSED, unix.EMFILE, unix.ENETUNREACH}).Draw(t, "error")
			c := m.register(at(like(to), 30000+uint16(len(m.tcp))), at(to, 1000+uint16(len(m.tcp))))
			c.times = rapid.Bool().Draw(t, "timestamps")
			c.syn()
			m.run(2 * millisecond)
			m.route()
		},
		"peer connects": func(t *rapid.T) {
			peer := at(rapid.SampledFrom([]netip.Addr{server4, server6}).Draw(t, "peer"), 1000+uint16(len(m.tcp)))
			c := m.register(at(like(peer.Addr()), 5000), peer)
			m.attach(c, m.listener.Inbound(peer, at(guest4, 8000)))
		},
		"connect succeeds": func(t *rapid.T) {
			m.some(t, func(c *modelConn) bool { return alive(c) && c.s.Connecting() }).s.Establish()
		},
		"connect fails": func(t *rapid.T) {
			c := m.some(t, func(c *modelConn) bool { return alive(c) && c.s.Connecting() })
			c.s.Refuse(rapid.SampledFrom([]hostsock.Errno{unix.ECONNREFUSED, unix.EHOSTUNREACH}).Draw(t, "error"))
			c.broken = true
		},
		"guest writes": func(t *rapid.T) {
			c := m.some(t, func(c *modelConn) bool { return c.opened && !c.guestEnded && !c.over() })
			c.write(size.Draw(t, "bytes"), rapid.IntRange(500, 60000).Draw(t, "segment"))
		},
		"guest ends": func(t *rapid.T) {
			c := m.some(t, func(c *modelConn) bool { return c.opened && !c.guestEnded && !c.over() })
			c.end()
			c.guestEnded = true
		},
		"guest resets": func(t *rapid.T) {
			if seldom.Draw(t, "really") != 0 {
				t.Skip("not now")
			}
			c := m.some(t, func(c *modelConn) bool { return c.opened && !c.over() })
			c.abort()
			c.aborted = true
		},
		"guest falls silent, or speaks": func(t *rapid.T) {
			c := m.some(t, func(c *modelConn) bool { return c.opened && !c.over() })
			if c.quiet = !c.quiet; !c.quiet {
				c.ack()
			}
		},
		"peer writes": func(t *rapid.T) {
			c := m.some(t, func(c *modelConn) bool { return alive(c) && !c.s.Connecting() && !c.hostEnded })
			n := size.Draw(t, "bytes")
			c.deliver(c.s, 1+c.delivered, n)
			c.delivered += int64(n)
		},
		"peer ends": func(t *rapid.T) {
			c := m.some(t, func(c *modelConn) bool { return alive(c) && !c.s.Connecting() && !c.hostEnded })
			c.s.End()
			c.hostEnded = true
		},
		"peer resets": func(t *rapid.T) {
			if seldom.Draw(t, "really") != 0 {
				t.Skip("not now")
			}
			c := m.some(t, alive)
			c.s.Reset(unix.ECONNRESET)
			c.broken = true
		},
		"peer takes some": func(t *rapid.T) {
			m.some(t, alive).s.SetSpace(rapid.SampledFrom([]int{hosttest.Unlimited, 0, 1, 1000, 5000, 70000}).Draw(t, "space"))
		},
		"host call fails": func(t *rapid.T) {
			if seldom.Draw(t, "really") != 0 {
				t.Skip("not now")
			}
			op := rapid.SampledFrom([]hosttest.Op{hosttest.Watch, hosttest.Accept, hosttest.OpenUDP, hosttest.OpenPing,
				hosttest.Send, hosttest.Recv, hosttest.ShutdownWrite}).Draw(t, "call")
			m.host.Fail(op, rapid.SampledFrom([]hostsock.Errno{unix.EMFILE, unix.ENOTCONN, unix.ECONNRESET}).Draw(t, "error"), 1)
		},
		"link": func(t *rapid.T) {
			m.link.SetFull(rapid.Bool().Draw(t, "full"))
			m.link.Refuse(rapid.IntRange(0, 5).Draw(t, "refuse"))
		},
		"datagram": func(t *rapid.T) {
			to := rapid.SampledFrom([]netip.Addr{server4, server6, gw4, dns6}).Draw(t, "to")
			port := rapid.Uint16Range(1, 8).Draw(t, "port")
			m.inject(udpFrame(at(like(to), 40000+port), at(to, 53), make([]byte, size.Draw(t, "bytes")%60000)))
			m.inject(echoFrame(like(to), to, port, 1, nil))
			m.datagrams++
		},
		"answer": func(t *rapid.T) {
			for _, s := range m.sockets(hosttest.UDP) {
				s.Deliver([]byte("answer"))
			}
			for _, s := range m.sockets(hosttest.Ping) {
				s.Unreachable(unix.EHOSTUNREACH)
			}
		},
		"events without cause": func(t *rapid.T) {
			m.some(t, alive).s.Spurious()
			m.host.Inject(hostsock.Event{Token: rapid.Uint64Range(0, 1<<58).Draw(t, "token") &^ (0xffffff << 8), In: true, Out: true})
		},
		"time": func(t *rapid.T) {
			m.run(rapid.Int64Range(1, 2000).Draw(t, "ms") * millisecond)
		},
		"": func(*rapid.T) { m.check() },
	}
}

// check lets everybody hear what was said, and checks what is always true.
func (m *model) check() {
	m.t.Helper()
	m.run(2 * millisecond)
	m.route()
	s := m.total()
	if s.Promised > s.Budget || s.Held > s.Promised {
		m.t.Fatalf("%d bytes are held, %d promised, of a budget of %d", s.Held, s.Promised, s.Budget)
	}
	for _, c := range m.tcp {
		if c.s == nil {
			continue
		}
		c.s.TakeSent()
		if c.s.Closed() && !c.s.Aborted() && !c.over() && (!c.guestEnded || !c.hostEnded) {
			m.t.Fatalf("flow %d: closed before its time", c.flow)
		}
	}
}

// route gives what was sent to the guest to its connections.
func (m *model) route() {
	for _, g := range m.take() {
		if c := m.conns[[2]netip.AddrPort{g.to, g.from}]; c != nil && g.tcp != nil {
			c.input(g)
		}
	}
}

// finish has everybody speak and listen until all is said, and checks that everything arrived that had to.
func (m *model) finish() {
	m.t.Helper()
	m.link.SetFull(false)
	m.link.Refuse(0)
	for op := hosttest.Watch; op <= hosttest.OpenGroup; op++ {
		m.host.Fail(op, 0, 0)
	}
	m.pending, m.refuse = false, 0
	m.run(200 * millisecond)
	m.pump()
	for _, c := range m.tcp {
		c.quiet = false
		if c.s != nil && !c.s.Closed() { // after both ends even a reset leaves what is held to the host
			c.s.SetSpace(hosttest.Unlimited)
		}
		if c.over() {
			if c.guestEnded && c.hostEnded && c.s != nil && !c.s.Closed() {
				c.s.SetSpace(hosttest.Unlimited) // both ends were acknowledged before the reset: what is held is still the peer's
			}
			continue
		}
		if c.s != nil && !c.s.Closed() {
			c.s.Establish()
			c.s.End()
			c.hostEnded = true
		}
		if c.opened {
			c.ack()
		}
	}
	m.run(5 * millisecond)
	m.pump()
	for _, c := range m.tcp {
		if c.opened && !c.guestEnded && !c.over() {
			c.end()
			c.guestEnded = true
		}
	}
	for range 5 {
		m.run(70 * second)
		m.pump()
	}
	for _, c := range m.tcp {
		m.finished(c)
	}
	m.idle()
}

// finished checks the end of one connection.
func (m *model) finished(c *modelConn) {
	m.t.Helper()
	switch {
	case c.s != nil && !c.s.Closed():
		m.t.Errorf("flow %d: the host socket is open", c.flow)
	case c.aborted && c.s != nil && !c.broken && !c.s.Aborted() && !(c.guestEnded && c.hostEnded):
		m.t.Errorf("flow %d: the guest's reset is not the peer's", c.flow)
	case c.over() || !c.opened:
	case c.toHost != c.nxt-2 || c.una != c.nxt: // SYN and FIN take one each
		m.t.Errorf("flow %d: the guest sent %d bytes, %d arrived, acknowledged to %d", c.flow, c.nxt-2, c.toHost, c.una)
	case c.rcvNxt != c.delivered+2 || !c.ended:
		m.t.Errorf("flow %d: the peer sent %d bytes, the guest is at %d, end %v", c.flow, c.delivered, c.rcvNxt, c.ended)
	}
}

// TestModel: whatever guests, peers, link and host do, streams arrive whole or end by a reset, promises are kept, and in the end nothing
// is left.
func TestModel(t *testing.T) {
	for i := range 10 { // rapid's default is 100 schedules, which is few
		t.Run(fmt.Sprint(i), rapid.MakeCheck(func(t *rapid.T) {
			m := newModel(t)
			defer m.discard()
			t.Repeat(m.actions())
			m.finish()
			m.close()
		}))
	}
}
