package worker_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// TestTCPForwarded: a connection to a forwarded port reaches the guest, which sees its peer's address, and carries data both
// ways to the end.
func TestTCPForwarded(t *testing.T) {
	loop4 := netip.MustParseAddr("127.0.0.1")
	for _, tc := range []struct {
		listen, peer, seen, guest netip.AddrPort
	}{
		{at(netip.IPv4Unspecified(), 8000), at(server4, 7000), at(server4, 7000), at(guest4, 5000)},
		{at(netip.IPv6Unspecified(), 8000), at(server6, 7000), at(server6, 7000), at(guest6, 5000)},
		{at(netip.IPv6Unspecified(), 8000), at(server4, 7000), at(server4, 7000), at(guest4, 5000)},
		{at(loop4, 8000), at(loop4, 7000), at(gw4, 7000), at(guest4, 5000)},
		{at(netip.IPv6Loopback(), 8000), at(netip.IPv6Loopback(), 7000), at(gw6, 7000), at(guest6, 5000)},
		{at(netip.IPv4Unspecified(), 8000), at(guest4, 7000), at(alias4, 7000), at(guest4, 5000)},
	} {
		t.Run(fmt.Sprintf("%v at %v", tc.peer, tc.listen), func(t *testing.T) {
			r := newRig(t)
			l := r.forward(tc.listen, 5000, false)
			c := r.conn(tc.guest, tc.seen)
			s := l.Inbound(tc.peer, tc.listen)
			c.deliver(s, 1, 1000) // the peer speaks first
			r.pump()
			if !c.opened || c.rcvNxt != 1001 {
				t.Fatalf("opened %v, the guest has %d bytes; other frames %v", c.opened, c.rcvNxt-1, r.other)
			}
			c.upload(100000, 60000)
			c.received(s, 100000)
			c.end()
			s.End()
			r.pump()
			if !c.ended || !s.Closed() || s.Aborted() {
				t.Errorf("guest saw the end %v, socket closed %v, aborted %v", c.ended, s.Closed(), s.Aborted())
			}
			r.idle()
			if r.stats.TCPAccepted != 1 || r.stats.TCPOpened != 0 {
				t.Errorf("accepted %d, opened %d", r.stats.TCPAccepted, r.stats.TCPOpened)
			}
		})
	}
}

// TestForwardedRefused: when the guest refuses a connection, or does not answer, the host's peer sees a reset.
func TestForwardedRefused(t *testing.T) {
	for _, answers := range []bool{true, false} {
		t.Run(fmt.Sprintf("answers %v", answers), func(t *testing.T) {
			r := newRig(t)
			l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, false)
			s := l.Inbound(at(server4, 7000), at(guest4, 8000))
			syn := r.only()
			if flags(syn.tcp) != "S" || syn.to != at(guest4, 5000) {
				t.Fatalf("the guest gets %v", syn)
			}
			if answers {
				r.inject(tcpFrame(syn.to, syn.from, layers.TCP{RST: true, ACK: true, Ack: syn.tcp.Seq + 1}, nil))
				r.nothing()
			} else {
				for range 300 {
					r.run(second)
				}
				if n := len(r.take()); n < 3 {
					t.Errorf("%d further frames for a guest that does not answer", n)
				}
			}
			if !s.Aborted() {
				t.Error("the host's peer has not seen a reset")
			}
			r.idle()
		})
	}
}

// TestForwardFails: a port that cannot be opened is reported to who asked for it, and leaves nothing behind.
func TestForwardFails(t *testing.T) {
	for _, udp := range []bool{false, true} {
		for _, op := range []hosttest.Op{hosttest.ListenTCP, hosttest.OpenUDP, hosttest.Watch} {
			if op == hosttest.ListenTCP && udp || op == hosttest.OpenUDP && !udp {
				continue
			}
			r := newRig(t)
			r.host.Fail(op, unix.EADDRINUSE, 1)
			p := forward.Port{Listen: at(netip.IPv4Unspecified(), 80), To: 80, Device: "eth0"}
			if err := r.w.Forward(p, udp); err != unix.EADDRINUSE {
				t.Errorf("%v: %v", op, err)
			}
			if r.host.Open() != 0 {
				t.Errorf("%v: %d sockets are open", op, r.host.Open())
			}
			if err := r.w.Forward(p, udp); err != 0 || r.host.Last().Device != "eth0" || r.host.Last().Local != p.Listen {
				t.Errorf("the second time: %v, %v", err, r.host.Last())
			}
		}
	}
}

// TestAcceptRefused: connections for which there is no room, or no address to show the guest, are reset at once and counted;
// the port goes on.
func TestAcceptRefused(t *testing.T) {
	only4 := func(c *worker.Config) { c.Map.Guest[forward.V6] = netip.Addr{} }
	for _, tc := range []struct {
		name   string
		edit   func(*worker.Config)
		before func(r *rig)
		peer   netip.AddrPort
		reason stats.Reason
	}{
		{"no guest of that family", only4, func(*rig) {}, at(server6, 7000), stats.BadDestination},
		{"table full", func(c *worker.Config) { c.MaxFlows = 1 }, func(r *rig) { r.connect(at(server4, 1)) }, at(server4, 7000), stats.FlowTableFull},
		{"budget spent", func(c *worker.Config) { c.Budget = 70 << 10 }, func(r *rig) { r.connect(at(server4, 1)) }, at(server4, 7000), stats.BudgetSpent},
		{"ends in use", func(*worker.Config) {}, func(r *rig) { r.port = 4999; r.connect(at(server4, 7000)) }, at(server4, 7000), stats.NoPorts},
		{"cannot be watched", func(*worker.Config) {}, func(r *rig) { r.host.Fail(hosttest.Watch, unix.ENOMEM, 1) }, at(server4, 7000), stats.NoBuffers},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, tc.edit)
			l := r.forward(at(netip.IPv6Unspecified(), 8000), 5000, false)
			tc.before(r)
			s := l.Inbound(tc.peer, at(guest4, 8000))
			r.settle()
			if !s.Aborted() {
				t.Error("the host's peer has not seen a reset")
			}
			r.dropped(tc.reason, 1)
			for _, c := range r.conns {
				c.abort()
			}
			r.pump()
			r.take()
			l.Inbound(at(server4, 7001), at(guest4, 8000))
			if g := r.only(); flags(g.tcp) != "S" {
				t.Errorf("the next connection: %v", g)
			}
		})
	}
}

// TestAcceptTransient: an error that is about one connection only does not keep the next one waiting.
func TestAcceptTransient(t *testing.T) {
	for _, err := range []hostsock.Errno{unix.ECONNABORTED, unix.EPROTO} {
		r := newRig(t)
		l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, false)
		r.host.Fail(hosttest.Accept, err, 3)
		l.Inbound(at(server4, 7000), at(guest4, 8000))
		if g := r.only(); flags(g.tcp) != "S" {
			t.Errorf("%v: %v", err, g)
		}
		r.dropped(stats.HostError, 3)
	}
}

// TestAcceptMany: a flood of connections at one port does not keep the worker from everything else, and all are taken.
func TestAcceptMany(t *testing.T) {
	r := newRig(t, func(c *worker.Config) { c.Budget = 32 << 20 })
	l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, false)
	const n = 500
	for i := range uint16(n) {
		l.Inbound(at(server4, 7000+i), at(guest4, 8000))
	}
	before := r.host.Calls(hosttest.Accept)
	r.w.Step(0)
	if n := r.host.Calls(hosttest.Accept) - before; n > 64 {
		t.Errorf("%d connections in one iteration", n)
	}
	r.settle()
	if got := len(r.take()); got != n || r.stats.TCPAccepted != n {
		t.Errorf("%d SYNs for the guest, %d accepted", got, r.stats.TCPAccepted)
	}
}

// TestForwardedDataOpens: what the host's peer has said by the time the guest accepts goes with the segment that opens the connection; without any, that is sent at once.
func TestForwardedDataOpens(t *testing.T) {
	for _, said := range []string{"", "hello"} {
		r := newRig(t)
		s := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, false).Inbound(at(server4, 7000), at(guest4, 8000))
		s.Deliver([]byte(said))
		syn := r.only()
		r.inject(tcpFrame(syn.to, syn.from, layers.TCP{SYN: true, ACK: true, Seq: 1000, Ack: syn.tcp.Seq + 1, Window: 65535}, nil))
		if g := r.only(); string(g.data) != said || g.tcp.Ack != 1001 {
			t.Errorf("%q: %v with %q", said, g, g.data)
		}
	}
}
