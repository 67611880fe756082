package worker_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// Routers on the way of the host.
var (
	router4 = netip.MustParseAddr("203.0.113.9")
	router6 = netip.MustParseAddr("2001:db8:9::9")
)

func routerLike(a netip.Addr) netip.Addr {
	if a.Is4() {
		return router4
	}
	return router6
}

// answers are errors of the network with what the kernel makes of them.
func answers(v6 bool) []hostsock.SendError {
	if v6 {
		return []hostsock.SendError{
			{Type: 3, Code: 0, Err: unix.EHOSTUNREACH}, {Type: 1, Code: 0, Err: unix.ENETUNREACH}, {Type: 1, Code: 1, Err: unix.EACCES},
			{Type: 1, Code: 3, Err: unix.EHOSTUNREACH}, {Type: 1, Code: 4, Err: unix.ECONNREFUSED}, {Type: 2, Code: 0, Info: 1400, Err: unix.EMSGSIZE},
			{Type: 4, Code: 1, Info: 40, Err: unix.EPROTO},
		}
	}
	all := []hostsock.SendError{
		{Type: 11, Code: 0, Err: unix.EHOSTUNREACH}, {Type: 12, Code: 0, Info: 1, Err: unix.EPROTO}, {Type: 3, Code: 4, Info: 1400, Err: unix.EMSGSIZE},
	}
	for code := uint8(0); code <= 15; code++ {
		if code != 4 {
			all = append(all, hostsock.SendError{Type: 3, Code: code, Err: unix.EHOSTUNREACH})
		}
	}
	return all
}

// checkAnswer checks an error toward the guest against the one of the network.
func checkAnswer(t *testing.T, g got, e *hostsock.SendError, guest, peer netip.Addr) (l4 []byte) {
	t.Helper()
	typ, code, quoted := quotation(t, g)
	if typ != e.Type || code != e.Code || g.from.Addr() != e.From || g.to.Addr() != guest {
		t.Errorf("type %d code %d from %v to %v, want %+v", typ, code, g.from, g.to, e)
	}
	if e.Err == unix.EMSGSIZE {
		mtu := uint32(0)
		if g.icmp4 != nil {
			mtu = uint32(g.icmp4.Seq)
		} else {
			mtu = binary.BigEndian.Uint32(g.data)
		}
		if mtu != e.Info {
			t.Errorf("MTU %d, want %d", mtu, e.Info)
		}
	}
	src, dst, _, l4 := ends(t, quoted)
	if src != guest || dst != peer {
		t.Errorf("quotes %v > %v, want %v > %v", src, dst, guest, peer)
	}
	return l4
}

// TestErrorsOfTheNetwork: what routers and hosts say about the guest's datagrams reaches it with their addresses, about the packet that it has sent.
func TestErrorsOfTheNetwork(t *testing.T) {
	for _, to := range servers() {
		for _, e := range answers(to.Addr().Is6()) {
			t.Run(fmt.Sprintf("%v %d.%d", to.Addr(), e.Type, e.Code), func(t *testing.T) {
				r := newRig(t)
				guest := at(like(to.Addr()), 5000)
				r.inject(udpFrame(guest, to, []byte("question")))
				r.settle()
				s := r.host.Last()
				e.From, e.Peer, e.Data = routerLike(to.Addr()), to, []byte("question")
				s.Answer(e)
				l4 := checkAnswer(t, r.only(), &e, guest.Addr(), to.Addr())
				if want := []byte{5000 >> 8, 5000 & 0xff, 0, 80, 0, 16, 0, 0, 'q', 'u', 'e', 's', 't', 'i', 'o', 'n'}; !bytes.Equal(l4, want) {
					t.Errorf("quotes % x, want % x", l4, want)
				}
				s.Deliver([]byte("after all"))
				if g := r.only(); string(g.data) != "after all" || s.Unheard() != 0 {
					t.Errorf("answer %v, %d errors wait", g, s.Unheard())
				}
			})
			t.Run(fmt.Sprintf("%v %d.%d ping", to.Addr(), e.Type, e.Code), func(t *testing.T) {
				r := newRig(t)
				guest := like(to.Addr())
				r.inject(echoFrame(guest, to.Addr(), 77, 5, []byte("data")))
				r.settle()
				s := r.host.Last()
				request := append([]byte(nil), s.Datagrams()[0].Data...)
				binary.BigEndian.PutUint16(request[4:], 999) // the socket's own identifier
				e.From, e.Peer, e.Data = routerLike(to.Addr()), at(to.Addr(), 0), request
				s.Answer(e)
				l4 := checkAnswer(t, r.only(), &e, guest, to.Addr())
				if len(l4) != 12 || binary.BigEndian.Uint16(l4[4:]) != 77 || binary.BigEndian.Uint16(l4[6:]) != 5 || string(l4[8:]) != "data" {
					t.Errorf("quotes % x", l4)
				}
				e.Data = nil // not a byte of it
				s.Answer(e)
				l4 = checkAnswer(t, r.only(), &e, guest, to.Addr())
				if len(l4) != 8 || binary.BigEndian.Uint16(l4[4:]) != 77 || l4[0] != request[0] {
					t.Errorf("quotes % x", l4)
				}
			})
		}
	}
}

// TestErrorsNotRelayed: what the guest must not be told, and what has no flow, is counted and dropped.
func TestErrorsNotRelayed(t *testing.T) {
	r := newRig(t)
	r.inject(udpFrame(at(guest4, 5000), at(server4, 80), []byte("x")))
	r.settle()
	s := r.host.Last()
	for _, typ := range []uint8{4, 5, 0, 8, 40} {
		s.Answer(hostsock.SendError{Type: typ, Err: unix.EHOSTUNREACH, From: router4, Peer: at(server4, 80)})
	}
	r.nothing()
	r.dropped(stats.UnknownProtocol, 5)
	l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, true)
	l.Answer(hostsock.SendError{Type: 3, Code: 3, Err: unix.ECONNREFUSED, From: server4, Peer: at(server4, 9)})
	r.nothing()
	r.dropped(stats.ICMPNoFlow, 1)
}

// TestErrorsAtForwardedPort: an error about an answer of the guest's server finds its flow by whom the answer was for, and the port goes on for everybody.
func TestErrorsAtForwardedPort(t *testing.T) {
	r := newRig(t)
	l := r.forward(at(netip.IPv6Unspecified(), 8000), 5000, true)
	for _, peer := range []netip.AddrPort{at(server4, 7000), at(server6, 7000), at(server4, 7001)} {
		l.DeliverFrom([]byte("in"), peer)
		r.only()
		r.inject(udpFrame(at(like(peer.Addr()), 5000), peer, []byte("out")))
		r.settle()
		e := hostsock.SendError{Type: 3, Code: 3, Err: unix.ECONNREFUSED, From: peer.Addr(), Peer: peer, Data: []byte("out")}
		if peer.Addr().Is6() {
			e.Type, e.Code = 1, 4
		}
		l.Answer(e)
		l4 := checkAnswer(t, r.only(), &e, like(peer.Addr()), peer.Addr())
		if from, to := binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:]); from != 5000 || to != peer.Port() {
			t.Errorf("quotes ports %d > %d", from, to)
		}
	}
	r.dropped(stats.HostRefused, 3)
	r.dropped(stats.HostError, 0)
}

// TestErrorBeforeSend: an error that fails the next datagram in its stead is told, and the datagram is sent all the same.
func TestErrorBeforeSend(t *testing.T) {
	for _, to := range servers() {
		for _, proto := range []string{"udp", "ping"} {
			t.Run(fmt.Sprintf("%v %s", to.Addr(), proto), func(t *testing.T) {
				r := newRig(t)
				guest := at(like(to.Addr()), 5000)
				send := func(data string) {
					if proto == "udp" {
						r.inject(udpFrame(guest, to, []byte(data)))
					} else {
						r.inject(echoFrame(guest.Addr(), to.Addr(), 7, 1, []byte(data)))
					}
				}
				send("first")
				r.settle()
				s := r.host.Last()
				e := answers(to.Addr().Is6())[0]
				e.From, e.Peer, e.Data = routerLike(to.Addr()), to, []byte("first...")
				send("second") // taken from the link before the socket's event
				s.Answer(e)
				checkAnswer(t, r.only(), &e, guest.Addr(), to.Addr())
				if d := s.Datagrams(); len(d) != 2 || !bytes.HasSuffix(d[1].Data, []byte("second")) {
					t.Errorf("sent %v", d)
				}
			})
		}
	}
}

// TestFloodOfErrors: errors without end do not keep the worker from the rest, and are all told.
func TestFloodOfErrors(t *testing.T) {
	r := newRig(t)
	r.inject(udpFrame(at(guest4, 5000), at(server4, 80), []byte("x")))
	r.settle()
	s := r.host.Last()
	const n = 2000
	for range n {
		s.Answer(hostsock.SendError{Type: 11, Err: unix.EHOSTUNREACH, From: router4, Peer: at(server4, 80)})
	}
	before := r.host.Calls(hosttest.RecvError)
	r.w.Step(0)
	if n := r.host.Calls(hosttest.RecvError) - before; n > 200 {
		t.Errorf("%d errors in one iteration", n)
	}
	r.settle()
	if got := len(r.take()); got != n || s.Closed() {
		t.Errorf("%d errors told, closed %t", got, s.Closed())
	}
}

// TestDontFragment: what the guest wants whole goes whole or not at all, and it is told how wide the way is; what it lets others cut is sent.
func TestDontFragment(t *testing.T) {
	for _, to := range servers() {
		for _, proto := range []string{"udp", "ping"} {
			t.Run(fmt.Sprintf("%v %s", to.Addr(), proto), func(t *testing.T) {
				r := newRig(t)
				v6 := to.Addr().Is6()
				guest := at(like(to.Addr()), 5000)
				r.host.OnOpen = func(s *hosttest.Socket) hostsock.Errno { s.PathMTU = 1400; return 0 }
				frame := func(n int, df bool) []byte {
					data := make([]byte, n)
					f := udpFrame(guest, to, data)
					if proto == "ping" {
						f = echoFrame(guest.Addr(), to.Addr(), 7, 1, data)
					}
					if !v6 {
						setDF(f, df)
					}
					return f
				}
				r.inject(frame(2000, true))
				typ, code, quoted := quotation(t, r.only())
				if want := uint8(3); v6 && typ != 2 || !v6 && (typ != want || code != 4) {
					t.Errorf("type %d, code %d", typ, code)
				}
				if src, dst, _, _ := ends(t, quoted); src != guest.Addr() || dst != to.Addr() {
					t.Errorf("quotes %v > %v", src, dst)
				}
				r.dropped(stats.TooLong, 1)
				s := r.host.Last()
				r.inject(frame(1000, true))
				r.nothing()
				if v6 {
					for _, part := range cut(frame(3000, true), 1400, 1) {
						r.inject(part)
					}
				} else {
					r.inject(frame(3000, false))
				}
				r.nothing()
				r.inject(frame(1001, true))
				r.nothing()
				if d := s.Datagrams(); len(d) != 3 || !s.Whole(v6) || r.host.Calls(hosttest.DontFragment) != 3 {
					t.Errorf("%d sent, whole %t, told %d times", len(d), s.Whole(v6), r.host.Calls(hosttest.DontFragment))
				}
			})
		}
	}
}

// setDF writes an IPv4 frame's DF.
func setDF(frame []byte, on bool) {
	ip := frame[packet.EtherLen:][:packet.IPv4Len]
	ip[6] = 0
	if on {
		ip[6] = 0x40
	}
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip, 0))
}
