package worker_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// udpFlow opens a flow of the guest and returns its host socket, with nothing sent or counted yet.
func udpFlow(r *rig, to netip.AddrPort) (guest netip.AddrPort, s *hosttest.Socket) {
	r.t.Helper()
	guest = at(like(to.Addr()), 5000)
	r.inject(udpFrame(guest, to, nil))
	r.settle()
	return guest, r.host.Last()
}

// contents are the datagrams that a socket has sent, after the one that opened it.
func contents(s *hosttest.Socket) (all []string) {
	for _, d := range s.Datagrams()[1:] {
		all = append(all, string(d.Data))
	}
	return all
}

// TestUDPBatch: datagrams that come in one batch leave with few system calls, each as it was, in their order.
func TestUDPBatch(t *testing.T) {
	for _, to := range servers() {
		for _, tc := range []struct {
			name  string
			sizes []int
			calls int
		}{
			{"equal", []int{100, 100, 100, 100, 100, 100, 100}, 1},
			{"a shorter one ends a message", []int{100, 100, 60, 60, 60}, 1},
			{"all different", []int{1, 2, 3, 4, 5, 6, 7}, 1},
			{"growing", []int{10, 10, 11, 11, 12}, 1},
			{"empty ones", []int{0, 5, 5, 0, 0, 5}, 1},
			{"longer than one message", []int{30000, 30000, 30000, 30000, 30000}, 1},
		} {
			t.Run(fmt.Sprintf("%v/%s", to.Addr(), tc.name), func(t *testing.T) {
				r := newRig(t)
				guest, s := udpFlow(r, to)
				before := r.host.Calls(hosttest.SendDatagrams)
				var want []string
				for i, n := range tc.sizes {
					data := pattern(make([]byte, n), i, 0)
					want = append(want, string(data))
					r.inject(udpFrame(guest, to, data))
				}
				r.settle()
				got := contents(s)
				if len(got) != len(want) {
					t.Fatalf("%d datagrams, want %d", len(got), len(want))
				}
				for i := range want {
					if got[i] != want[i] {
						t.Errorf("datagram %d has %d bytes, want %d", i, len(got[i]), len(want[i]))
					}
				}
				if n := r.host.Calls(hosttest.SendDatagrams) - before; n != tc.calls {
					t.Errorf("%d calls, want %d", n, tc.calls)
				}
			})
		}
	}
}

// TestUDPBatchLength: short datagrams are taken from the link many at a time, and leave so; long ones few at a time.
func TestUDPBatchLength(t *testing.T) {
	const count = 4 * link.MaxBatch
	for _, tc := range []struct{ size, fewest, most int }{
		{100, count / link.MaxBatch, count/link.MaxBatch + 1}, // the length of the batch before decides
		{9000, count / 8, count/8 + 1},
	} {
		r := newRig(t)
		guest, _ := udpFlow(r, at(server4, 53))
		r.inject(udpFrame(guest, at(server4, 53), make([]byte, tc.size)))
		r.settle()
		before := r.host.Calls(hosttest.SendDatagrams)
		for range count {
			r.inject(udpFrame(guest, at(server4, 53), make([]byte, tc.size)))
		}
		r.settle()
		if n := r.host.Calls(hosttest.SendDatagrams) - before; n < tc.fewest || n > tc.most {
			t.Errorf("%d datagrams of %d bytes left with %d calls, want %d to %d", count, tc.size, n, tc.fewest, tc.most)
		}
	}
}

// TestUDPBatchOfFlows: what belongs to several flows is not mixed, though it comes in one batch.
func TestUDPBatchOfFlows(t *testing.T) {
	r := newRig(t)
	peers := []netip.AddrPort{at(server4, 53), at(server6, 53), at(server4, 54)}
	for round := range 2 {
		for i, to := range peers {
			r.inject(udpFrame(at(like(to.Addr()), 5000), to, []byte{byte(i), byte(round)}))
			r.inject(udpFrame(at(like(to.Addr()), 5000), to, []byte{byte(i), byte(round)}))
		}
		r.settle()
	}
	for i, s := range r.host.Sockets() {
		if s.Peer != peers[i] || len(s.Datagrams()) != 4 {
			t.Errorf("%v has sent %d datagrams", s, len(s.Datagrams()))
		}
		for k, d := range s.Datagrams() {
			if !bytes.Equal(d.Data, []byte{byte(i), byte(k / 2)}) {
				t.Errorf("%v: datagram %d is %v", s, k, d.Data)
			}
		}
	}
}

// TestUDPSocketWithoutSegments: where a message that stands for several datagrams is refused they are sent one by one, and from then on no
// such message is tried.
func TestUDPSocketWithoutSegments(t *testing.T) {
	for _, to := range servers() {
		r := newRig(t)
		guest, s := udpFlow(r, to)
		s.NoSegments = true
		data := pattern(make([]byte, 10000), 1, 0)
		for range 2 {
			frame := udpFrame(guest, to, data)
			r.link.Inject(offload(guest.Addr(), to.Addr(), frame, 1400), frame)
			for i := range 4 {
				r.inject(udpFrame(guest, to, data[i:i+100]))
			}
			r.settle()
		}
		var whole []byte
		got := contents(s)
		for _, d := range got {
			if len(d) > 1400 {
				t.Errorf("a datagram of %d bytes", len(d))
			}
			whole = append(whole, d...)
		}
		once := append(append(append(append(bytes.Clone(data), data[:100]...), data[1:101]...), data[2:102]...), data[3:103]...)
		if len(got) != 2*(8+4) || !bytes.Equal(whole, append(bytes.Clone(once), once...)) {
			t.Errorf("%d datagrams, %d bytes", len(got), len(whole))
		}
		if n := r.stats.Dropped(); n != 0 {
			t.Errorf("%d dropped", n)
		}
	}
}

// TestUDPBatchErrors: what fails in a batch concerns its datagram alone; a full socket takes nothing of what comes behind.
func TestUDPBatchErrors(t *testing.T) {
	for _, tc := range []struct {
		err    hostsock.Errno
		times  int
		reason stats.Reason
		drops  uint64
		sent   int
	}{
		{unix.EHOSTUNREACH, 1, stats.HostUnreachable, 0, 5}, // an older datagram's error, which the guest knows
		{unix.EHOSTUNREACH, 2, stats.HostUnreachable, 1, 4},
		{unix.EMSGSIZE, 2, stats.TooLong, 1, 4},
		{unix.ECONNREFUSED, 1, stats.HostRefused, 1, 5}, // an older datagram's error
		{unix.ECONNREFUSED, 2, stats.HostRefused, 2, 4}, // that one's, and then really this one's
		{unix.ENOBUFS, hosttest.Always, stats.SocketFull, 5, 0},
	} {
		r := newRig(t)
		guest, s := udpFlow(r, at(server4, 53))
		s.Fail(hosttest.SendDatagrams, tc.err, tc.times)
		for i := range 5 {
			r.inject(udpFrame(guest, at(server4, 53), make([]byte, 10+i)))
		}
		r.settle()
		r.dropped(tc.reason, tc.drops)
		if n := len(contents(s)); n != tc.sent {
			t.Errorf("%v: %d sent, want %d", tc.err, n, tc.sent)
		}
	}
}

// TestUDPSegmentsFull: of a frame that has to be sent in parts, what a full socket does not take is counted datagram by datagram.
func TestUDPSegmentsFull(t *testing.T) {
	r := newRig(t)
	to := at(server4, 53)
	guest, s := udpFlow(r, to)
	s.NoSegments = true
	s.SetSpace(2500)
	frame := udpFrame(guest, to, make([]byte, 9500))
	r.link.Inject(offload(guest.Addr(), to.Addr(), frame, 1000), frame)
	r.settle()
	if r.stats.UDPHeld != 8 {
		t.Errorf("%d held", r.stats.UDPHeld)
	}
	if n := len(contents(s)); n != 2 {
		t.Errorf("%d sent", n)
	}
}

// markFrame gives a frame a service byte and a hop limit.
func markFrame(frame []byte, v4 bool, tos, ttl uint8) {
	ip := frame[packet.EtherLen:]
	if v4 {
		ip[1], ip[8] = tos, ttl
		fixIPv4(frame)
	} else {
		ip[0], ip[1], ip[7] = 0x60|tos>>4, tos<<4, ttl
	}
}

// TestUDPServiceAndHopLimit: the service byte, with ECN, and the hop limit are those of the sender, both ways.
func TestUDPServiceAndHopLimit(t *testing.T) {
	for _, to := range servers() {
		r := newRig(t)
		guest, s := udpFlow(r, to)
		for i, mark := range []struct{ tos, ttl uint8 }{{0, 64}, {0xb9, 3}, {0xb9, 3}, {2, 255}, {0, 64}} {
			frame := udpFrame(guest, to, []byte("out"))
			markFrame(frame, to.Addr().Is4(), mark.tos, mark.ttl)
			r.inject(frame)
			r.settle()
			d := s.Datagrams()[len(s.Datagrams())-1]
			if d.TTL == 0 {
				d.TTL = 64 // left to the host's kernel
			}
			if d.TOS != mark.tos || d.TTL != mark.ttl {
				t.Errorf("%v: %d leaves with TOS %#x, TTL %d; want %#x, %d", to, i, d.TOS, d.TTL, mark.tos, mark.ttl)
			}
			s.DeliverDatagram(hostsock.Datagram{Bufs: [][]byte{[]byte("in")}, Peer: to, TOS: mark.tos, TTL: mark.ttl})
			g := r.only()
			var tos, ttl uint8
			switch ip := g.Packet().NetworkLayer().(type) {
			case *layers.IPv4:
				tos, ttl = ip.TOS, ip.TTL
			case *layers.IPv6:
				tos, ttl = ip.TrafficClass, ip.HopLimit
			}
			if tos != mark.tos || ttl != mark.ttl {
				t.Errorf("%v: %d arrives with TOS %#x, TTL %d; want %#x, %d", to, i, tos, ttl, mark.tos, mark.ttl)
			}
		}
	}
}

// TestUDPFramesForGuest: what was received together goes to the guest in few frames, each datagram as it was.
func TestUDPFramesForGuest(t *testing.T) {
	for _, to := range servers() {
		for _, tc := range []struct {
			name   string
			sizes  []int
			frames int
		}{
			{"one", []int{100}, 1},
			{"equal", []int{100, 100, 100, 100}, 1},
			{"a shorter one ends a frame", []int{100, 100, 60, 60}, 2},
			{"growing", []int{10, 20, 30, 40}, 4},
			{"empty ones", []int{0, 0, 7, 7}, 3},
			{"longer than one frame", []int{30000, 30000, 30000, 30000}, 2},
		} {
			for _, uso := range []bool{true, false} {
				t.Run(fmt.Sprintf("%v/%s/%t", to.Addr(), tc.name, uso), func(t *testing.T) {
					features := allFeatures
					features.USO = uso
					r := newRigOn(t, linktest.New(features))
					_, s := udpFlow(r, to)
					var want, got []string
					for i, n := range tc.sizes {
						data := pattern(make([]byte, n), i, 0)
						want = append(want, string(data))
						s.Deliver(data)
					}
					r.settle()
					frames := r.take()
					for _, g := range frames {
						got = append(got, datagrams(g)...)
					}
					if fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("%d datagrams, want %d", len(got), len(want))
					}
					if !uso {
						tc.frames = len(tc.sizes)
					}
					if len(frames) != tc.frames {
						t.Errorf("%d frames, want %d", len(frames), tc.frames)
					}
				})
			}
		}
	}
}

// datagrams are those that a frame for the guest stands for.
func datagrams(g got) (all []string) {
	size := int(g.Hdr.GSOSize)
	if g.Hdr.GSOType == packet.GSONone {
		size = len(g.data)
	}
	for rest := g.data; ; rest = rest[size:] {
		if len(rest) <= size {
			return append(all, string(rest))
		}
		all = append(all, string(rest[:size]))
	}
}

// TestUDPSegmentsForGuest: a message that stands for several datagrams goes on as one frame where the link carries such.
func TestUDPSegmentsForGuest(t *testing.T) {
	for _, to := range servers() {
		for _, uso := range []bool{true, false} {
			r := newRigOn(t, linktest.New(link.Features{Csum: true, USO: uso}), func(c *worker.Config) { c.MTU = 1500 })
			_, s := udpFlow(r, to)
			data := pattern(make([]byte, 14100), 1, 0)
			s.DeliverDatagram(hostsock.Datagram{Bufs: [][]byte{data}, Peer: to, Segment: 1400})
			r.link.Refuse(3)
			r.run(20 * millisecond)
			frames, want := r.take(), 1
			if !uso {
				want = 11
			}
			var whole []byte
			for _, g := range frames {
				for _, d := range datagrams(g) {
					if len(d) > 1400 {
						t.Errorf("a datagram of %d bytes", len(d))
					}
					whole = append(whole, d...)
				}
			}
			if len(frames) != want || !bytes.Equal(whole, data) {
				t.Errorf("USO %t: %d frames, %d bytes", uso, len(frames), len(whole))
			}
			r.dropped(stats.LinkFull, 0)
		}
	}
}

// TestUDPLinkFull: what UDP says to a full link waits until there is room, in its order, and nothing else of the socket is read meanwhile.
func TestUDPLinkFull(t *testing.T) {
	for _, forwarded := range []bool{false, true} {
		r := newRig(t)
		peer := at(server4, 53)
		var s *hosttest.Socket
		if forwarded {
			s = r.forward(at(netip.IPv4Unspecified(), 8000), 5000, true)
		} else {
			_, s = udpFlow(r, peer)
		}
		r.link.SetFull(true)
		const n = 100
		for i := range n {
			s.DeliverFrom([]byte{byte(i)}, peer)
			if i%10 == 0 {
				r.run(2 * millisecond)
			}
		}
		r.run(5 * millisecond)
		if s.Unread() < n-hostsock.MaxDatagrams {
			t.Errorf("%d of %d are left in the socket", s.Unread(), n)
		}
		r.link.SetFull(false)
		r.run(20 * millisecond)
		var all []string
		for _, g := range r.take() {
			all = append(all, datagrams(g)...)
		}
		for i, d := range all {
			if d[0] != byte(i) {
				t.Fatalf("datagram %d is %d", i, d[0])
			}
		}
		if len(all) != n || r.stats.Dropped() != 0 {
			t.Errorf("%d of %d arrive, %d dropped", len(all), n, r.stats.Dropped())
		}
	}
}

// TestUDPFlowEndsWhileTheLinkIsFull: what waits for a flow that has ended is counted.
func TestUDPFlowEndsWhileTheLinkIsFull(t *testing.T) {
	r := newRig(t)
	_, s := udpFlow(r, at(server4, 53))
	r.link.SetFull(true)
	s.Deliver([]byte("x"))
	s.Deliver([]byte("y"))
	r.run(200 * second)
	r.link.SetFull(false)
	r.run(second)
	if got := r.take(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	r.dropped(stats.LinkFull, 2)
}

// TestUDPAnswersFromTheAddressThatWasAsked: the answer to a peer of a forwarded port leaves from the address that the peer asked last.
func TestUDPAnswersFromTheAddressThatWasAsked(t *testing.T) {
	r := newRig(t)
	l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, true)
	peer := at(server4, 7000)
	for _, local := range []netip.Addr{netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("192.0.2.78")} {
		l.DeliverDatagram(hostsock.Datagram{Bufs: [][]byte{{1}}, Peer: peer, Local: local})
		r.settle()
		r.inject(udpFrame(at(guest4, 5000), peer, []byte{2}))
		r.settle()
		d := l.Datagrams()
		if last := d[len(d)-1]; last.To != peer || last.From != local {
			t.Errorf("the answer goes from %v to %v", last.From, last.To)
		}
	}
}
