package worker_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// TestUDP: datagrams of every length pass both ways, and the host socket has the guest's port.
func TestUDP(t *testing.T) {
	for _, to := range servers() {
		t.Run(to.Addr().String(), func(t *testing.T) {
			r := newRig(t)
			guest := at(like(to.Addr()), 5000)
			sizes := []int{0, 1, 100, 1472, 1473, 9000, 65000}
			if to.Addr().Is4() {
				sizes = append(sizes, 65492) // the longest that an MTU of 65520 carries
			}
			for i, n := range sizes {
				data := pattern(make([]byte, n), i, 0)
				r.inject(udpFrame(guest, to, data))
				r.settle()
				s := r.host.Last()
				if len(r.host.Sockets()) != 1 || s.Kind != hosttest.UDP || s.Peer != to || s.Local.Port() != 5000 {
					t.Fatalf("%d sockets, the last is %v", len(r.host.Sockets()), s)
				}
				d := s.Datagrams()
				if len(d) != i+1 || !bytes.Equal(d[i].Data, data) {
					t.Fatalf("%d bytes: %d datagrams, the last of %d bytes", n, len(d), len(d[len(d)-1].Data))
				}
				s.Deliver(data)
				g := r.only()
				if g.from != to || g.to != guest || g.udp == nil || !bytes.Equal(g.data, data) {
					t.Errorf("%d bytes: %v", n, g)
				}
			}
		})
	}
}

// TestUDPPortTaken: when the guest's port is not to be had on the host, another does.
func TestUDPPortTaken(t *testing.T) {
	for _, err := range []hostsock.Errno{unix.EADDRINUSE, unix.EACCES} {
		r := newRig(t)
		r.host.Fail(hosttest.OpenUDP, err, 1)
		r.inject(udpFrame(at(guest4, 53), at(server4, 53), []byte("?")))
		r.settle()
		if s := r.host.Last(); s == nil || s.Local.Port() == 53 || len(s.Datagrams()) != 1 {
			t.Errorf("%v: socket %v", err, s)
		}
		r.dropped(stats.NoPorts, 0)
	}
}

// TestUDPFlows: each pair of ends has a flow of its own, and answers find theirs.
func TestUDPFlows(t *testing.T) {
	r := newRig(t)
	type pair struct{ guest, peer netip.AddrPort }
	var pairs []pair
	for i := range uint16(5) {
		for _, to := range []netip.Addr{server4, server6, gw4, gw6} {
			pairs = append(pairs, pair{at(like(to), 5000), at(to, 100+i)}, pair{at(like(to), 5001+i), at(to, 53)})
		}
	}
	for range 2 { // the second round opens nothing
		for i, p := range pairs {
			r.inject(udpFrame(p.guest, p.peer, []byte{byte(i)}))
		}
		r.settle()
	}
	if n := len(r.host.Sockets()); n != len(pairs) {
		t.Fatalf("%d sockets for %d flows", n, len(pairs))
	}
	for i, s := range r.host.Sockets() {
		if d := s.Datagrams(); len(d) != 2 || d[0].Data[0] != byte(i) || d[1].Data[0] != byte(i) {
			t.Errorf("%v has sent %v", s, d)
		}
		s.Deliver([]byte{byte(i), 1})
	}
	r.settle()
	for _, g := range r.take() {
		if p := pairs[g.data[0]]; g.to != p.guest || g.from != p.peer {
			t.Errorf("answer %v, want %v", g, p)
		}
	}
	if s := r.w.Snapshot(); s.UDPFlows != uint64(len(pairs)) || s.Flows != s.UDPFlows {
		t.Errorf("%d UDP flows of %d", s.UDPFlows, s.Flows)
	}
}

// TestUDPGSO: a GSO frame leaves as the datagrams it stands for.
func TestUDPGSO(t *testing.T) {
	for _, to := range servers() {
		for _, tc := range []struct{ n, size, count int }{
			{10000, 1400, 8}, {2800, 1400, 2}, {1400, 1400, 1}, {5, 1400, 1}, {0, 1400, 1}, {128, 1, 128}, {64000, 500, 128},
		} {
			t.Run(fmt.Sprintf("%v %d/%d", to.Addr(), tc.n, tc.size), func(t *testing.T) {
				r := newRig(t)
				r.link.Split(rand.New(rand.NewPCG(1, uint64(tc.n))), 20)
				guest := at(like(to.Addr()), 5000)
				data := pattern(make([]byte, tc.n), 1, 0)
				frame := udpFrame(guest, to, data)
				r.link.Inject(offload(guest.Addr(), to.Addr(), frame, uint16(tc.size)), frame)
				r.settle()
				var all []byte
				for i, d := range r.host.Last().Datagrams() {
					if len(d.Data) > tc.size || len(d.Data) < tc.size && i != tc.count-1 {
						t.Errorf("datagram %d has %d bytes", i, len(d.Data))
					}
					all = append(all, d.Data...)
				}
				if n := len(r.host.Last().Datagrams()); n != tc.count || !bytes.Equal(all, data) {
					t.Errorf("%d datagrams with %d bytes, want %d with %d", n, len(all), tc.count, tc.n)
				}
			})
		}
	}
}

// TestUDPGSOTooMany: no frame stands for more datagrams than a kernel makes of one: a guest could keep the worker busy.
func TestUDPGSOTooMany(t *testing.T) {
	r := newRig(t)
	frame := udpFrame(at(guest4, 5000), at(server4, 53), make([]byte, 60000))
	r.link.Inject(offload(guest4, server4, frame, 1), frame)
	r.settle()
	r.dropped(stats.BadVnetHeader, 1)
	if n := r.host.Calls(hosttest.SendDatagrams); n != 0 {
		t.Errorf("%d datagrams for one frame", n)
	}
}

// TestUDPIdle: a flow ends 30 s after its last datagram, or 180 s once it was answered, whoever began it.
func TestUDPIdle(t *testing.T) {
	for _, tc := range []struct {
		name             string
		inbound, answers bool
		limit            int64
	}{
		{"unanswered", false, false, 30},
		{"answered", false, true, 180},
		{"inbound unanswered", true, false, 30},
		{"inbound answered", true, true, 180},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			peer := at(server4, 7000)
			var in func()
			out := func() { r.inject(udpFrame(at(guest4, 5000), peer, []byte("out"))); r.settle() }
			if tc.inbound {
				l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, true)
				in = func() { l.DeliverFrom([]byte("in"), peer); r.settle() }
				in()
				if tc.answers {
					out()
				}
			} else {
				out()
				in = func() { r.host.Last().Deliver([]byte("in")); r.settle() }
				if tc.answers {
					in()
				}
			}
			alive := func(want bool) {
				t.Helper()
				if got := r.stats.UDPFlows == 1; got != want {
					t.Fatalf("at %d s: alive %v, want %v", r.host.Now()/second, got, want)
				}
			}
			for range 3 { // it lives as long as it is used, in either direction
				r.run((tc.limit - 1) * second)
				alive(true)
				if tc.inbound {
					in()
				} else {
					out()
				}
			}
			r.run((tc.limit - 1) * second)
			alive(true)
			r.run(1001 * millisecond)
			alive(false)
			if !tc.inbound && !r.host.Last().Closed() {
				t.Error("the socket is open")
			}
		})
	}
}

// TestUDPRefused: an ICMP error that reaches a flow's socket is passed on, and the flow goes on.
func TestUDPRefused(t *testing.T) {
	for _, to := range servers() {
		t.Run(to.Addr().String(), func(t *testing.T) {
			r := newRig(t)
			guest := at(like(to.Addr()), 5000)
			r.inject(udpFrame(guest, to, []byte("first")))
			r.settle()
			s := r.host.Last()
			s.Unreachable(unix.ECONNREFUSED)
			g := r.only()
			typ, code, quoted := quotation(t, g)
			if wantType, wantCode := portUnreachable(to.Addr()); typ != wantType || code != wantCode || g.from.Addr() != to.Addr() {
				t.Errorf("type %d code %d from %v", typ, code, g.from)
			}
			src, dst, proto, l4 := ends(t, quoted)
			if src != guest.Addr() || dst != to.Addr() || proto != packet.ProtoUDP ||
				!bytes.Equal(l4[:4], []byte{5000 >> 8, 5000 & 0xff, 0, 80}) {
				t.Errorf("quotes %v > %v, protocol %d, % x", src, dst, proto, l4)
			}
			s.Deliver([]byte("after all"))
			if g := r.only(); string(g.data) != "after all" {
				t.Errorf("answer %v", g)
			}
			r.dropped(stats.HostRefused, 1)
		})
	}
}

// TestUDPRefusedBeforeSend: an error that waits when the next datagram is sent is about an earlier one: the guest learns of
// it, and the datagram is sent all the same.
func TestUDPRefusedBeforeSend(t *testing.T) {
	for _, to := range servers() {
		t.Run(to.Addr().String(), func(t *testing.T) {
			r := newRig(t)
			guest := at(like(to.Addr()), 5000)
			r.inject(udpFrame(guest, to, []byte("first")))
			r.settle()
			s := r.host.Last()
			s.Fail(hosttest.SendDatagrams, unix.ECONNREFUSED, 1)
			frame := udpFrame(guest, to, []byte("second"))
			r.inject(append(frame, "padding that is not part of the packet"...))
			g := r.only()
			_, _, quoted := quotation(t, g)
			if _, _, _, l4 := ends(t, quoted); string(l4[packet.UDPLen:]) != "second" {
				t.Errorf("quotes %q", l4)
			}
			if d := s.Datagrams(); len(d) != 2 || string(d[1].Data) != "second" {
				t.Errorf("sent %v", d)
			}
			r.dropped(stats.HostRefused, 1)
		})
	}
}

// TestMarkedBeforeSend: an error that marks the socket although it was taken from the queue is an earlier datagram's: the next one is sent, and the guest is told once.
func TestMarkedBeforeSend(t *testing.T) {
	for _, err := range []hostsock.Errno{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.EACCES, unix.EMSGSIZE} {
		for _, tc := range []struct {
			name  string
			send  func(r *rig, seq uint16)
			count int
		}{
			{"UDP", func(r *rig, seq uint16) { r.inject(udpFrame(at(guest4, 5000), at(server4, 53), []byte{byte(seq)})) }, 1},
			{"echo", func(r *rig, seq uint16) { r.inject(echoFrame(guest4, server4, 7, seq, nil)) }, 1},
			{"one by one", func(r *rig, _ uint16) {
				r.host.Last().NoSegments = true
				for range 3 {
					r.inject(udpFrame(at(guest4, 5000), at(server4, 53), []byte("x")))
				}
			}, 3},
		} {
			t.Run(fmt.Sprintf("%s %v", tc.name, err), func(t *testing.T) {
				r := newRig(t)
				if tc.count > 1 {
					r.inject(udpFrame(at(guest4, 5000), at(server4, 53), []byte("first")))
				} else {
					tc.send(r, 1)
				}
				r.settle()
				s := r.host.Last()
				e := hostsock.SendError{Err: err, Type: 3, Code: 1, From: server4, Peer: at(server4, 53), Data: []byte{8, 0, 0, 0, 0, 7, 0, 1}}
				s.Answer(e)
				r.settle()
				told := len(r.take())
				if told != 1 || s.Unheard() != 0 {
					t.Fatalf("the guest gets %d frames, %d errors wait", told, s.Unheard())
				}
				mark := func() { s.Fail(hosttest.SendDatagrams, err, 1) } // after the queue was emptied
				if tc.count == 1 {
					mark()
				} else {
					s.OnSend = func([]byte) { s.OnSend = nil; mark() } // between the first and the second
				}
				tc.send(r, 2)
				r.settle()
				if n := len(s.Datagrams()); n != 1+tc.count {
					t.Errorf("%d datagrams have left, want %d", n, 1+tc.count)
				}
				if n := len(r.take()); n != 0 && err != unix.ECONNREFUSED {
					t.Errorf("the guest is told %d times more", n)
				}
			})
		}
	}
}

func portUnreachable(a netip.Addr) (typ, code uint8) {
	if a.Is4() {
		return layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort
	}
	return layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodePortUnreachable
}

// TestUDPSocketFull: a datagram that the host's kernel has dropped is counted, and the guest is not told.
func TestUDPSocketFull(t *testing.T) {
	for _, tc := range []struct {
		err    hostsock.Errno
		reason stats.Reason
	}{{unix.ENOBUFS, stats.SocketFull}, {unix.EMSGSIZE, stats.TooLong}} {
		r := newRig(t)
		times := 1
		if tc.err == unix.EMSGSIZE {
			times = 2 // the first may be about an earlier one
		}
		r.host.Fail(hosttest.SendDatagrams, tc.err, times)
		for range 2 {
			r.inject(udpFrame(at(guest4, 5000), at(server4, 53), []byte("x")))
			r.nothing()
		}
		r.dropped(tc.reason, 1)
		if n := len(r.host.Last().Datagrams()); n != 1 {
			t.Errorf("%v: %d datagrams sent", tc.err, n)
		}
	}
}

// TestDatagramSocketFails: a socket that cannot be read any more does not keep the worker busy.
func TestDatagramSocketFails(t *testing.T) {
	for _, kind := range []hosttest.Kind{hosttest.UDP, hosttest.Ping} {
		for _, err := range []hostsock.Errno{unix.ENOMEM, unix.ENOTCONN} {
			t.Run(fmt.Sprintf("%v %v", kind, err), func(t *testing.T) {
				r := newRig(t)
				if kind == hosttest.UDP {
					r.inject(udpFrame(at(guest4, 5000), at(server4, 53), nil))
				} else {
					r.inject(echoFrame(guest4, server4, 1, 1, nil))
				}
				r.settle()
				r.host.Fail(hosttest.RecvDatagrams, err, hosttest.Always)
				r.host.Last().Deliver([]byte("x"))
				before := r.calls()
				r.run(second)
				if n := r.calls() - before; n > 80 { // 32 attempts, each with a look at the queue of errors
					t.Errorf("%d calls of the host", n)
				}
			})
		}
	}
}

// forward opens a forwarded port on the host and answers its socket.
func (r *rig) forward(listen netip.AddrPort, to uint16, udp bool) *hosttest.Socket {
	r.t.Helper()
	if err := r.w.Forward(forward.Port{Listen: listen, Dual: listen.Addr() == netip.IPv6Unspecified(), To: to}, udp); err != 0 {
		r.t.Fatalf("Forward %v: %v", listen, err)
	}
	r.settle()
	return r.host.Last()
}

// TestUDPForwarded: datagrams to a forwarded port reach the guest with the peer's address, and the answer leaves from the port.
func TestUDPForwarded(t *testing.T) {
	for _, tc := range []struct {
		listen, peer, seen, guest netip.AddrPort
	}{
		{at(netip.IPv4Unspecified(), 8000), at(server4, 7000), at(server4, 7000), at(guest4, 5000)},
		{at(netip.IPv6Unspecified(), 8000), at(server6, 7000), at(server6, 7000), at(guest6, 5000)},
		{at(netip.IPv6Unspecified(), 8000), at(server4, 7000), at(server4, 7000), at(guest4, 5000)},
		{at(netip.MustParseAddr("127.0.0.1"), 8000), at(netip.MustParseAddr("127.0.0.1"), 7000), at(gw4, 7000), at(guest4, 5000)},
		{at(netip.IPv6Loopback(), 8000), at(netip.IPv6Loopback(), 7000), at(gw6, 7000), at(guest6, 5000)},
		{at(netip.IPv4Unspecified(), 8000), at(guest4, 7000), at(alias4, 7000), at(guest4, 5000)},
		{at(netip.IPv6Unspecified(), 8000), at(guest6, 7000), at(alias6, 7000), at(guest6, 5000)},
	} {
		t.Run(fmt.Sprintf("%v at %v", tc.peer, tc.listen), func(t *testing.T) {
			r := newRig(t)
			l := r.forward(tc.listen, 5000, true)
			if l.Dual != (tc.listen.Addr() == netip.IPv6Unspecified()) {
				t.Errorf("dual %v", l.Dual)
			}
			for i := range 3 {
				data := []byte{byte(i)}
				l.DeliverFrom(data, tc.peer)
				if g := r.only(); g.from != tc.seen || g.to != tc.guest || !bytes.Equal(g.data, data) {
					t.Errorf("%v", g)
				}
				r.inject(udpFrame(tc.guest, tc.seen, data))
				r.settle()
				if d := l.Datagrams(); len(d) != i+1 || d[i].To != tc.peer || !bytes.Equal(d[i].Data, data) {
					t.Errorf("answers %v", d)
				}
			}
			if r.stats.UDPOpened != 1 || len(r.host.Sockets()) != 1 {
				t.Errorf("%d flows, %d sockets", r.stats.UDPOpened, len(r.host.Sockets()))
			}
		})
	}
}

// TestUDPForwardedMany: a flood at one forwarded port does not keep the worker from everything else, and is carried whole.
func TestUDPForwardedMany(t *testing.T) {
	r := newRig(t)
	l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, true)
	const n = 5000
	for i := range n {
		l.DeliverFrom(binary.BigEndian.AppendUint16(nil, uint16(i)), at(server4, 7000+uint16(i%10)))
	}
	before := r.host.Calls(hosttest.RecvDatagrams)
	r.w.Step(0)
	if n := r.host.Calls(hosttest.RecvDatagrams) - before; n > 200 {
		t.Errorf("%d datagrams in one iteration", n)
	}
	r.settle()
	for i, g := range r.take() {
		if int(binary.BigEndian.Uint16(g.data)) != i {
			t.Fatalf("datagram %d is %x", i, g.data)
		}
	}
	if r.stats.TxFrames != n || r.stats.UDPOpened != 10 {
		t.Errorf("%d frames, %d flows", r.stats.TxFrames, r.stats.UDPOpened)
	}
}

// TestListenerFails: a forwarded port whose socket cannot be read does not keep the worker busy, and recovers.
func TestListenerFails(t *testing.T) {
	for _, tc := range []struct {
		op  hosttest.Op
		err hostsock.Errno
	}{
		{hosttest.Accept, unix.EMFILE}, {hosttest.Accept, unix.ENFILE}, {hosttest.Accept, unix.ENOBUFS}, {hosttest.Accept, unix.ENOMEM},
		{hosttest.Accept, unix.EINVAL},
		{hosttest.RecvDatagrams, unix.ENOMEM}, {hosttest.RecvDatagrams, unix.ENOBUFS},
	} {
		t.Run(fmt.Sprintf("%v %v", tc.op, tc.err), func(t *testing.T) {
			r := newRig(t)
			udp := tc.op == hosttest.RecvDatagrams
			l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, udp)
			r.host.Fail(tc.op, tc.err, hosttest.Always)
			if udp {
				l.DeliverFrom([]byte("hello"), at(server4, 7000))
			} else {
				l.Inbound(at(server4, 7000), at(guest4, 8000))
			}
			before := r.calls()
			for range 1000 { // other traffic does not make it try more often
				r.inject(arpFrame(gw4))
				r.run(millisecond)
			}
			if n := r.calls() - before; n > 200 {
				t.Errorf("%d calls of the host in a second", n)
			}
			r.take()
			r.host.Fail(tc.op, 0, 0)
			r.run(150 * millisecond)
			if g := r.only(); g.from != at(server4, 7000) || g.to != at(guest4, 5000) {
				t.Errorf("the guest sees %v", g)
			}
		})
	}
}

// TestPing: echo requests pass with their identifier, which the host may change on the way.
func TestPing(t *testing.T) {
	for _, to := range servers() {
		t.Run(to.Addr().String(), func(t *testing.T) {
			r := newRig(t)
			guest := like(to.Addr())
			for i, n := range []int{0, 56, 1472, 60000} {
				for id := uint16(100); id < 103; id++ {
					data := pattern(make([]byte, n), int(id), 0)
					r.inject(echoFrame(guest, to.Addr(), id, uint16(i), data))
					r.settle()
					s := r.host.Sockets()[id-100]
					request := s.Datagrams()[i].Data
					if s.Kind != hosttest.Ping || len(request) != 8+n || !bytes.Equal(request[8:], data) {
						t.Fatalf("%v sends %d bytes", s, len(request))
					}
					reply := append([]byte(nil), request...)
					reply[0] = 0
					if guest.Is6() {
						reply[0] = 129
					}
					binary.BigEndian.PutUint16(reply[4:], 999) // the socket's own identifier
					s.Deliver(reply)
					g := r.only()
					if g.from.Addr() != to.Addr() || g.to.Addr() != guest {
						t.Errorf("%v", g)
					}
					gotID, gotSeq, gotData := echoReply(t, g)
					if gotID != id || int(gotSeq) != i || !bytes.Equal(gotData, data) {
						t.Errorf("id %d, sequence %d, %d bytes", gotID, gotSeq, len(gotData))
					}
				}
			}
			if len(r.host.Sockets()) != 3 {
				t.Errorf("%d sockets for 3 identifiers", len(r.host.Sockets()))
			}
			r.run(61 * second)
			r.idle()
		})
	}
}

// echoReply takes an echo reply apart.
func echoReply(t *testing.T, g got) (id, seq uint16, data []byte) {
	t.Helper()
	switch {
	case g.icmp4 != nil && g.icmp4.TypeCode.Type() == layers.ICMPv4TypeEchoReply:
		return g.icmp4.Id, g.icmp4.Seq, g.data
	case g.icmp6 != nil && g.icmp6.TypeCode.Type() == layers.ICMPv6TypeEchoReply:
		return binary.BigEndian.Uint16(g.data), binary.BigEndian.Uint16(g.data[2:]), g.data[4:]
	}
	t.Fatalf("%v is no echo reply", g)
	return 0, 0, nil
}

// TestPingStrangeReplies: what is no echo reply, or too long for the link, does not reach the guest.
func TestPingStrangeReplies(t *testing.T) {
	r := newRig(t, func(c *worker.Config) { c.MTU = 1500 })
	r.inject(echoFrame(guest4, server4, 1, 1, nil))
	r.settle()
	s := r.host.Last()
	for _, b := range [][]byte{nil, {0}, {0, 0, 0, 0, 0, 0, 0}, {8, 0, 0, 0, 0, 0, 0, 0}, {3, 1, 0, 0, 0, 0, 0, 0}} {
		s.Deliver(b)
	}
	r.nothing()
	s.Deliver(make([]byte, 1480))
	if g := r.only(); len(g.data) != 1472 {
		t.Errorf("%d bytes", len(g.data))
	}
}

// TestPingForbidden: when the user may not open echo sockets the guest is told, and the log once.
func TestPingForbidden(t *testing.T) {
	r := newRig(t)
	r.host.Fail(hosttest.OpenPing, unix.EACCES, hosttest.Always)
	for range 3 {
		r.inject(echoFrame(guest4, server4, 1, 1, nil))
		if g := r.only(); g.icmp4 == nil || g.icmp4.TypeCode.Code() != layers.ICMPv4CodeCommAdminProhibited {
			t.Errorf("%v", g)
		}
	}
	if n := bytes.Count(r.log.Bytes(), []byte("ping_group_range")); n != 1 {
		t.Errorf("%d warnings: %s", n, r.log.String())
	}
}

// TestOtherICMP: the guest's ICMP messages that are neither echo requests nor errors are dropped, and errors that quote nothing.
func TestOtherICMP(t *testing.T) {
	r := newRig(t)
	for _, typ := range []uint8{0, 3, 5, 13} {
		r.inject(serialize(guest4, server4, layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0)}))
	}
	for _, typ := range []uint8{1, 3, 129} {
		r.inject(serialize(guest6, server6, layers.IPProtocolICMPv6, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}, &layers.ICMPv6Echo{}))
	}
	r.nothing()
	r.dropped(stats.UnknownProtocol, 4)
	r.dropped(stats.BadTransport, 3)
	if n := len(r.host.Sockets()); n != 0 {
		t.Errorf("%d sockets", n)
	}
}
