package worker_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// refused checks that the guest's SYN was answered by a reset that it has to accept.
func (c *guestConn) refused() {
	c.r.t.Helper()
	t := c.reset
	switch {
	case t == nil:
		c.r.t.Errorf("flow %d: not refused; segments %d, other frames %v", c.flow, len(c.segments), c.r.other)
	case !t.ACK || t.Ack != c.iss+1:
		c.r.t.Errorf("flow %d: refused by a reset that acknowledges %d, want %d", c.flow, t.Ack, c.iss+1)
	}
}

func servers() []netip.AddrPort { return []netip.AddrPort{at(server4, 80), at(server6, 80)} }

// TestConnectRefused: a connection that the host's peer refuses is refused at once, whenever the host learns of it.
func TestConnectRefused(t *testing.T) {
	for _, to := range servers() {
		for _, when := range []string{"immediately", "later"} {
			t.Run(fmt.Sprintf("%v %s", to.Addr(), when), func(t *testing.T) {
				r := newRig(t)
				r.host.OnOpen = func(s *hosttest.Socket) hostsock.Errno {
					if when == "immediately" {
						return unix.ECONNREFUSED
					}
					r.host.At(r.host.Now()+5*millisecond, func() { s.Refuse(unix.ECONNREFUSED) })
					return 0
				}
				c := r.dial(to)
				start := r.host.Now()
				r.run(6 * millisecond)
				r.pump()
				c.refused()
				r.dropped(stats.HostRefused, 1)
				r.idle()
				if took := r.host.Now() - start; took > 6*millisecond {
					t.Errorf("took %d ns", took)
				}
				if len(c.segments) != 1 || len(r.other) != 0 {
					t.Errorf("%d segments and %d other frames", len(c.segments), len(r.other))
				}
			})
		}
	}
}

// quotation is the packet that an ICMP error is about, and the error's type and code.
func quotation(t *testing.T, g got) (typ, code uint8, quoted gopacket.Packet) {
	t.Helper()
	const unused = 4 // bytes between checksum and quotation (RFC 792, RFC 4443); gopacket knows them for ICMPv4
	switch {
	case g.icmp4 != nil:
		return g.icmp4.TypeCode.Type(), g.icmp4.TypeCode.Code(), gopacket.NewPacket(g.data, layers.LayerTypeIPv4, gopacket.Default)
	case g.icmp6 != nil:
		return g.icmp6.TypeCode.Type(), g.icmp6.TypeCode.Code(), gopacket.NewPacket(g.data[unused:], layers.LayerTypeIPv6, gopacket.Default)
	}
	t.Fatalf("%v is no ICMP message", g)
	return 0, 0, nil
}

// ends are the addresses of a quoted packet and the first bytes behind its IP header.
func ends(t *testing.T, quoted gopacket.Packet) (src, dst netip.Addr, proto uint8, l4 []byte) {
	t.Helper()
	switch ip := quoted.NetworkLayer().(type) {
	case *layers.IPv4:
		return netip.AddrFrom4([4]byte(ip.SrcIP)), netip.AddrFrom4([4]byte(ip.DstIP)), uint8(ip.Protocol), ip.Payload
	case *layers.IPv6:
		return netip.AddrFrom16([16]byte(ip.SrcIP)), netip.AddrFrom16([16]byte(ip.DstIP)), uint8(ip.NextHeader), ip.Payload
	}
	t.Fatal("the quoted packet has no IP header")
	return
}

// TestUnreachable: what the host cannot reach is told by an ICMP error that names the packet it is about.
func TestUnreachable(t *testing.T) {
	const port = 41000
	for _, tc := range []struct {
		err          hostsock.Errno
		code4, code6 uint8
	}{
		{unix.ENETUNREACH, layers.ICMPv4CodeNet, layers.ICMPv6CodeNoRouteToDst},
		{unix.EHOSTUNREACH, layers.ICMPv4CodeHost, layers.ICMPv6CodeAddressUnreachable},
		{unix.EACCES, layers.ICMPv4CodeCommAdminProhibited, layers.ICMPv6CodeAdminProhibited},
	} {
		for _, to := range servers() {
			for _, proto := range []string{"tcp", "tcp later", "udp", "udp later", "ping"} {
				t.Run(fmt.Sprintf("%v %v %s", tc.err, to.Addr(), proto), func(t *testing.T) {
					r := newRig(t)
					r.host.OnOpen = func(s *hosttest.Socket) hostsock.Errno {
						switch proto {
						case "tcp later":
							r.host.At(r.host.Now()+1, func() { s.Refuse(tc.err) })
							return 0
						case "udp later":
							r.host.At(r.host.Now()+1, func() { s.Unreachable(tc.err) })
							return 0
						}
						return tc.err
					}
					guest := at(like(to.Addr()), port)
					var want []byte // of the transport header
					switch proto {
					case "tcp", "tcp later":
						r.conn(guest, to).syn()
						want = []byte{port >> 8, port & 0xff, 0, 80, 0x10, 0, 0, 0}
					case "udp", "udp later":
						r.inject(udpFrame(guest, to, []byte("hello")))
						want = []byte{port >> 8, port & 0xff, 0, 80}
					default:
						r.inject(echoFrame(guest.Addr(), to.Addr(), port, 7, []byte("ping")))
						want = []byte{8, 0}
						if guest.Addr().Is6() {
							want[0] = 128
						}
					}
					r.run(2 * millisecond)
					g := r.only()
					typ, code, quoted := quotation(t, g)
					wantType, wantCode, router := uint8(layers.ICMPv4TypeDestinationUnreachable), tc.code4, gw4
					if guest.Addr().Is6() {
						wantType, wantCode, router = layers.ICMPv6TypeDestinationUnreachable, tc.code6, gw6
					}
					if typ != wantType || code != wantCode {
						t.Errorf("type %d code %d, want %d and %d", typ, code, wantType, wantCode)
					}
					if g.from.Addr() != router || g.to.Addr() != guest.Addr() {
						t.Errorf("from %v to %v", g.from, g.to)
					}
					src, dst, _, l4 := ends(t, quoted)
					if src != guest.Addr() || dst != to.Addr() || len(l4) < 8 || string(l4[:len(want)]) != string(want) {
						t.Errorf("quotes %v > %v % x, want % x", src, dst, l4, want)
					}
					r.dropped(stats.HostUnreachable, 1)
					if r.stats.ICMPErrorsSent != 1 {
						t.Errorf("%d ICMP errors counted", r.stats.ICMPErrorsSent)
					}
					if proto != "udp later" { // a UDP flow may go on
						r.idle()
					}
				})
			}
		}
	}
}

// openFailures are the ways in which a machine runs out of something, and how each is counted.
var openFailures = []struct {
	err    hostsock.Errno
	reason stats.Reason
}{
	{unix.EMFILE, stats.NoDescriptors},
	{unix.ENFILE, stats.NoDescriptors},
	{unix.ENOBUFS, stats.NoBuffers},
	{unix.ENOMEM, stats.NoBuffers},
	{unix.EADDRNOTAVAIL, stats.NoPorts},
}

// TestOpenFails: when a machine has run out of something, new flows are refused at once and counted, old ones live on,
// nothing spins, and everything works again afterwards.
func TestOpenFails(t *testing.T) {
	for _, op := range []hosttest.Op{hosttest.ConnectTCP, hosttest.Watch, hosttest.OpenUDP, hosttest.OpenPing} {
		for _, tc := range openFailures {
			for _, to := range servers() {
				t.Run(fmt.Sprintf("%v %v %v", op, tc.err, to.Addr()), func(t *testing.T) {
					r := newRig(t)
					old := r.connect(to)
					open := r.host.Open()
					before := r.calls()
					r.host.Fail(op, tc.err, hosttest.Always)
					attempts := uint64(0)
					guest := like(to.Addr())
					if op == hosttest.ConnectTCP || op == hosttest.Watch {
						c := r.dial(to)
						r.pump()
						c.refused()
						attempts++
					}
					if op == hosttest.OpenUDP || op == hosttest.Watch {
						r.inject(udpFrame(at(guest, 5000), at(to.Addr(), 53), []byte("?")))
						attempts++
					}
					if op == hosttest.OpenPing || op == hosttest.Watch {
						r.inject(echoFrame(guest, to.Addr(), 1, 1, nil))
						attempts++
					}
					r.run(second)
					r.dropped(tc.reason, attempts)
					if n := r.calls() - before; n > 20 {
						t.Errorf("%d calls of the host", n)
					}
					if r.host.Open() != open {
						t.Errorf("%d sockets are open, %d were", r.host.Open(), open)
					}
					old.write(1000, 1000)
					r.pump()
					if s := r.sockets(hosttest.TCP); s[0].SentBytes() != 1000 {
						t.Errorf("the old connection carried %d bytes", s[0].SentBytes())
					}
					r.host.Fail(op, 0, 0)
					r.connect(to)
				})
			}
		}
	}
}

// TestFlowTableFull: a flow that the table has no room for is refused, and there is room again when one ends.
func TestFlowTableFull(t *testing.T) {
	r := newRig(t, func(c *worker.Config) { c.MaxFlows = 2 })
	first := r.connect(at(server4, 80))
	r.connect(at(server6, 80))
	c := r.dial(at(server4, 81))
	r.pump()
	c.refused()
	r.inject(udpFrame(at(guest4, 5000), at(server4, 53), nil))
	r.inject(echoFrame(guest6, server6, 1, 1, nil))
	r.settle()
	r.dropped(stats.FlowTableFull, 3)
	if n := r.host.Open(); n != 2 {
		t.Errorf("%d sockets are open", n)
	}
	first.abort()
	r.pump()
	r.connect(at(server4, 81))
}

// TestBudgetSpent: a connection whose window the budget cannot carry is refused; datagrams need no budget.
func TestBudgetSpent(t *testing.T) {
	r := newRig(t, func(c *worker.Config) { c.Budget = 100 << 10 })
	var live []*guestConn
	for {
		c := r.dial(at(server4, uint16(1000+len(live))))
		r.pump()
		if !c.opened {
			c.refused()
			break
		}
		if live = append(live, c); len(live) > 10 {
			t.Fatal("a budget of 100 KiB carries more than 10 connections")
		}
	}
	if len(live) == 0 {
		t.Fatal("a budget of 100 KiB carries no connection")
	}
	r.dropped(stats.BudgetSpent, 1)
	if s := r.w.Snapshot(); s.Promised > s.Budget {
		t.Errorf("%d bytes promised of %d", s.Promised, s.Budget)
	}
	r.inject(udpFrame(at(guest4, 5000), at(server4, 53), nil))
	r.settle()
	if len(r.sockets(hosttest.UDP)) != 1 {
		t.Error("no UDP flow")
	}
	for _, c := range live {
		c.abort()
	}
	r.pump()
	r.connect(at(server4, 80))
}

// TestDuplicateSyn: the guest's repeated SYN while the connect is pending opens nothing and is not answered.
func TestDuplicateSyn(t *testing.T) {
	r := newRig(t)
	r.host.OnOpen = nil
	c := r.dial(at(server4, 80))
	r.run(second)
	c.syn()
	r.run(second)
	r.nothing()
	if n := r.host.Calls(hosttest.ConnectTCP); n != 1 {
		t.Errorf("%d connects", n)
	}
	r.host.Last().Establish()
	r.pump()
	if !c.opened || len(c.segments) != 1 {
		t.Errorf("opened %v after %d segments", c.opened, len(c.segments))
	}
	c.abort()
	r.pump()
	r.idle()
}

// TestSynAckRepeated: when the guest does not answer the SYN/ACK it is repeated; when it never does, the host's peer sees a reset.
func TestSynAckRepeated(t *testing.T) {
	r := newRig(t)
	c := r.dial(at(server4, 80))
	c.quiet = true
	for range 300 {
		r.run(second)
		r.pump()
	}
	if n := len(c.segments); n < 4 || c.reset == nil {
		t.Errorf("%d segments, reset %v", n, c.reset != nil)
	}
	if !r.host.Last().Aborted() {
		t.Error("the host's peer has not seen a reset")
	}
	r.idle()
}

// TestUnknownSegment: a segment of no flow is answered by a reset, as RFC 9293 says (3.10.7.1), a reset never.
func TestUnknownSegment(t *testing.T) {
	for _, tc := range []struct {
		name     string
		t        layers.TCP
		payload  int
		want     string
		seq, ack uint32
	}{
		{"ACK", layers.TCP{ACK: true, Seq: 7, Ack: 1000}, 0, "R", 1000, 0},
		{"ACK with data", layers.TCP{ACK: true, Seq: 7, Ack: 1000}, 9, "R", 1000, 0},
		{"FIN ACK", layers.TCP{ACK: true, FIN: true, Seq: 7, Ack: 5}, 0, "R", 5, 0},
		{"FIN", layers.TCP{FIN: true, Seq: 7}, 0, "R.", 0, 8},
		{"nothing", layers.TCP{Seq: 7}, 3, "R.", 0, 10},
		{"SYN FIN", layers.TCP{SYN: true, FIN: true, Seq: 7}, 0, "R.", 0, 9},
		{"SYN ACK", layers.TCP{SYN: true, ACK: true, Seq: 7, Ack: 3}, 0, "R", 3, 0},
		{"RST", layers.TCP{RST: true, Seq: 7}, 0, "", 0, 0},
		{"RST ACK", layers.TCP{RST: true, ACK: true, Seq: 7, Ack: 3}, 0, "", 0, 0},
		{"SYN RST", layers.TCP{RST: true, SYN: true, Seq: 7}, 0, "", 0, 0},
	} {
		for _, to := range servers() {
			t.Run(fmt.Sprintf("%s %v", tc.name, to.Addr()), func(t *testing.T) {
				r := newRig(t)
				guest := at(like(to.Addr()), 5000)
				r.inject(tcpFrame(guest, to, tc.t, make([]byte, tc.payload)))
				r.settle()
				r.dropped(stats.TCPNoFlow, 1)
				if tc.want == "" {
					r.nothing()
					return
				}
				g := r.only()
				if g.from != to || g.to != guest || flags(g.tcp) != tc.want || g.tcp.Seq != tc.seq || g.tcp.Ack != tc.ack {
					t.Errorf("%v seq %d ack %d, want %s seq %d ack %d", g, g.tcp.Seq, g.tcp.Ack, tc.want, tc.seq, tc.ack)
				}
			})
		}
	}
}

// TestDestinations: what the guest's addresses stand for on the host, for every protocol.
func TestDestinations(t *testing.T) {
	for _, tc := range []struct {
		to, want netip.AddrPort // want is invalid for none
		ping     netip.Addr
	}{
		{at(server4, 80), at(server4, 80), server4},
		{at(server6, 80), at(server6, 80), server6},
		{at(gw4, 80), at(netip.MustParseAddr("127.0.0.1"), 80), netip.MustParseAddr("127.0.0.1")},
		{at(gw6, 80), at(netip.IPv6Loopback(), 80), netip.IPv6Loopback()},
		{at(alias4, 80), at(guest4, 80), guest4},
		{at(alias6, 80), at(guest6, 80), guest6},
		{at(dns4, 53), at(resolver4, 53), dns4},
		{at(dns6, 53), at(resolver4, 53), dns6},
		{at(dns4, 80), at(dns4, 80), dns4},
		{to: at(netip.MustParseAddr("127.0.0.1"), 80)},
		{to: at(netip.MustParseAddr("224.0.0.251"), 5353)},
		{to: at(netip.MustParseAddr("255.255.255.255"), 67)},
		{to: at(netip.MustParseAddr("0.0.0.0"), 80)},
		{to: at(netip.IPv6Loopback(), 80)},
		{to: at(netip.MustParseAddr("ff02::fb"), 5353)},
		{to: at(netip.IPv6Unspecified(), 80)},
		{to: at(netip.MustParseAddr("::ffff:127.0.0.1"), 80)},
	} {
		t.Run(tc.to.String(), func(t *testing.T) {
			r := newRig(t)
			r.dial(tc.to)
			guest := like(tc.to.Addr())
			r.inject(udpFrame(at(guest, 5000), tc.to, dnsQuery(1, "example.")))
			r.inject(echoFrame(guest, tc.to.Addr(), 1, 1, nil))
			r.settle()
			if !tc.want.IsValid() {
				r.nothing()
				r.dropped(stats.BadDestination, 3)
				if n := len(r.host.Sockets()); n != 0 {
					t.Errorf("%d sockets", n)
				}
				return
			}
			s := r.host.Sockets()
			if len(s) != 3 {
				t.Fatalf("%d sockets, want 3", len(s))
			}
			if s[0].Peer != tc.want || s[1].Peer != tc.want || s[2].Peer != at(tc.ping, 0) {
				t.Errorf("TCP to %v, UDP to %v, ping to %v", s[0].Peer, s[1].Peer, s[2].Peer)
			}
		})
	}
}

// TestSources: a guest may not use any address.
func TestSources(t *testing.T) {
	for _, src := range []string{"127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "ff02::1", "::ffff:192.0.2.2"} {
		t.Run(src, func(t *testing.T) {
			r := newRig(t)
			from, to := netip.MustParseAddr(src), server4
			if from.Is6() {
				to = server6
			}
			r.inject(tcpFrame(at(from, 5000), at(to, 80), layers.TCP{SYN: true}, nil))
			r.inject(udpFrame(at(from, 5000), at(to, 80), nil))
			r.inject(echoFrame(from, to, 1, 1, nil))
			r.nothing()
			r.dropped(stats.BadSource, 3)
			if n := len(r.host.Sockets()); n != 0 {
				t.Errorf("%d sockets", n)
			}
		})
	}
}

// TestSwitchedOff: a protocol that an option switches off is counted and not carried.
func TestSwitchedOff(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*worker.Config)
		kind hosttest.Kind
	}{
		{"NoTCP", func(c *worker.Config) { c.NoTCP = true }, hosttest.TCP},
		{"NoUDP", func(c *worker.Config) { c.NoUDP = true }, hosttest.UDP},
		{"NoICMP", func(c *worker.Config) { c.NoICMP = true }, hosttest.Ping},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, tc.edit)
			r.dial(at(server4, 80))
			r.inject(udpFrame(at(guest4, 5000), at(server4, 80), nil))
			r.inject(echoFrame(guest4, server4, 1, 1, nil))
			r.inject(arpFrame(gw4))
			r.settle()
			r.dropped(stats.Disabled, 1)
			for _, s := range r.host.Sockets() {
				if s.Kind == tc.kind {
					t.Errorf("%v was opened", s)
				}
			}
			if n := len(r.host.Sockets()); n != 2 {
				t.Errorf("%d sockets", n)
			}
			replies := 0
			for _, g := range r.take() {
				if binary.BigEndian.Uint16(g.Data[12:]) == packet.EtherARP {
					replies++
				}
			}
			if replies != 1 {
				t.Errorf("%d ARP replies", replies)
			}
		})
	}
}

// TestTCPServiceAndHopLimit: a connection leaves with the hop limit of the guest's SYN and the service byte of its segments, as they change, but for ECN.
func TestTCPServiceAndHopLimit(t *testing.T) {
	for _, to := range servers() {
		r := newRig(t)
		v4 := to.Addr().Is4()
		syn := func(tos, ttl uint8) (*guestConn, *hosttest.Socket) {
			r.port++
			c := r.conn(at(like(to.Addr()), r.port), to)
			c.nxt, c.quiet = 1, true // what it would say by itself has no service byte
			frame := c.segment(layers.TCP{SYN: true}, 0, nil)
			markFrame(frame, v4, tos, ttl)
			r.inject(frame)
			r.pump()
			return c, r.host.Last()
		}
		c, s := syn(0x4b, 255)
		if s.TOS != 0x48 || s.TTL != 255 {
			t.Errorf("%v: connected with TOS %#x, TTL %d", to, s.TOS, s.TTL)
		}
		calls := r.host.Calls(hosttest.SetTOS)
		for _, tos := range []uint8{0x48, 0x20, 0x22, 0} {
			frame := c.segment(layers.TCP{}, c.nxt, nil)
			markFrame(frame, v4, tos, 255)
			r.inject(frame)
			r.settle()
			if s.TOS != tos&^3 {
				t.Errorf("%v: sends with TOS %#x, want %#x", to, s.TOS, tos&^3)
			}
		}
		if n := r.host.Calls(hosttest.SetTOS) - calls; n != 2 {
			t.Errorf("%v: told %d times of two changes", to, n)
		}
		if _, s := syn(0, 64); s.TOS != 0 || s.TTL != 0 {
			t.Errorf("%v: connected with TOS %#x, TTL %d, want the host's own", to, s.TOS, s.TTL)
		}
	}
}
