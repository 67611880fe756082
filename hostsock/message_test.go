package hostsock_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/hostsock"
	"golang.org/x/sys/unix"
)

// room is memory for n messages of up to 64 KiB each.
func room(n int) []hostsock.Datagram {
	msgs := make([]hostsock.Datagram, n)
	for i := range msgs {
		msgs[i].Bufs = [][]byte{make([]byte, 1<<16)}
	}
	return msgs
}

// udpPair is two sockets of one address, the first connected to the second, which is not connected.
func udpPair(t *testing.T, s *hostsock.System, at netip.Addr) (client, server int) {
	t.Helper()
	server = udp(t, s, netip.AddrPortFrom(at, 0), netip.AddrPort{}, false)
	return udp(t, s, netip.AddrPort{}, localAddr(t, server), false), server
}

func TestBatchOfDatagrams(t *testing.T) {
	for _, at := range []netip.Addr{loopback4, loopback6} {
		s := newSystem(t)
		client, server := udpPair(t, s, at)
		msgs := make([]hostsock.Datagram, hostsock.MaxDatagrams+4)
		for i := range msgs {
			msgs[i] = hostsock.Datagram{Bufs: [][]byte{{byte(i)}, bytes.Repeat([]byte{byte(i)}, i*10)}, V6: at.Is6()}
		}
		sent := 0
		for sent < len(msgs) {
			n, err := s.SendDatagrams(client, msgs[sent:])
			if n == 0 || err != 0 {
				t.Fatalf("SendDatagrams = %d, %v", n, err)
			}
			sent += n
		}
		got := room(hostsock.MaxDatagrams)
		for i := 0; i < len(msgs); {
			n, err := s.RecvDatagrams(server, got)
			if n == 0 || err != 0 {
				t.Fatalf("RecvDatagrams = %d, %v", n, err)
			}
			for _, d := range got[:n] {
				if d.Len != 1+i*10 || d.Bufs[0][0] != byte(i) || d.Peer != localAddr(t, client) || d.Local != at || d.Segment != 0 || d.TTL == 0 || d.TOS != 0 {
					t.Errorf("%v: message %d: %d bytes of %d from %v to %v, segment %d, TTL %d, TOS %d",
						at, i, d.Len, d.Bufs[0][0], d.Peer, d.Local, d.Segment, d.TTL, d.TOS)
				}
				i++
			}
		}
		if n, err := s.RecvDatagrams(server, got); n != 0 || err != unix.EAGAIN {
			t.Errorf("RecvDatagrams of nothing = %d, %v", n, err)
		}
		if n, err := s.RecvDatagrams(server, nil); n != 0 || err != unix.EINVAL {
			t.Errorf("RecvDatagrams into nothing = %d, %v", n, err)
		}
		if n, err := s.SendDatagrams(client, nil); n != 0 || err != 0 {
			t.Errorf("SendDatagrams of nothing = %d, %v", n, err)
		}
	}
}

// One message that stands for several datagrams arrives as it was sent, if the socket at the other end can take it so.
func TestSegments(t *testing.T) {
	for _, at := range []netip.Addr{loopback4, loopback6} {
		for _, tc := range []struct{ size, segment int }{{10, 3}, {6400, 100}, {62000, 1000}, {1200, 1200}, {900, 1200}, {65000, 1400}} {
			t.Run(fmt.Sprintf("%v/%d of %d", at, tc.size, tc.segment), func(t *testing.T) {
				s := newSystem(t)
				client, server := udpPair(t, s, at)
				data := make([]byte, tc.size)
				for i := range data {
					data[i] = byte(i / tc.segment)
				}
				n, err := s.SendDatagrams(client, []hostsock.Datagram{{Bufs: [][]byte{data[:1], data[1:]}, Segment: tc.segment, V6: at.Is6()}})
				if n != 1 || err != 0 {
					t.Fatalf("SendDatagrams = %d, %v", n, err)
				}
				var whole []byte
				got := room(hostsock.MaxDatagrams)
				for len(whole) < tc.size {
					n, err := s.RecvDatagrams(server, got)
					if err != 0 {
						t.Fatalf("RecvDatagrams = %v after %d bytes", err, len(whole))
					}
					for _, d := range got[:n] {
						if d.Len > tc.segment && d.Segment != tc.segment || d.Len <= tc.segment && d.Segment != 0 {
							t.Errorf("%d bytes in segments of %d", d.Len, d.Segment)
						}
						whole = append(whole, d.Bufs[0][:d.Len]...)
					}
				}
				if !bytes.Equal(whole, data) {
					t.Error("what arrived is not what was sent")
				}
			})
		}
	}
}

// What is wider than the way is refused as segments: the caller has to send single datagrams, which are fragmented.
func TestSegmentsWiderThanTheWay(t *testing.T) {
	s := newSystem(t)
	client, _ := udpPair(t, s, loopback4)
	n, err := s.SendDatagrams(client, []hostsock.Datagram{{Bufs: [][]byte{make([]byte, 65507)}, Segment: 1}})
	if n != 0 || err != unix.EINVAL && err != unix.EMSGSIZE {
		t.Errorf("65507 segments: %d, %v", n, err)
	}
}

func TestServiceAndHopLimit(t *testing.T) {
	for _, at := range []netip.Addr{loopback4, loopback6} {
		s := newSystem(t)
		client, server := udpPair(t, s, at)
		want := hostsock.Datagram{TOS: 0xb9, TTL: 7}
		for _, to := range []netip.AddrPort{{}, localAddr(t, server)} {
			n, err := s.SendDatagrams(client, []hostsock.Datagram{{Bufs: [][]byte{{1}}, Peer: to, TOS: want.TOS, TTL: want.TTL, V6: at.Is6()}})
			if n != 1 || err != 0 {
				t.Fatalf("SendDatagrams = %d, %v", n, err)
			}
			got := room(1)
			n, err = s.RecvDatagrams(server, got)
			if n != 1 || err != 0 || got[0].TOS != want.TOS || got[0].TTL != want.TTL {
				t.Errorf("%v: TOS %#x, TTL %d, %v", at, got[0].TOS, got[0].TTL, err)
			}
		}
	}
}

// The address of this machine that a datagram came to is told, and the answer goes from there.
func TestAnswersFromTheAddressThatWasAsked(t *testing.T) {
	newNetns(t)
	s := newSystem(t)
	for _, c := range []struct {
		listen string
		dual   bool
		asked  string
	}{
		{"0.0.0.0:9000", false, "127.0.0.9:9000"},
		{"[::]:9100", true, "127.0.0.7:9100"},
		{"[::]:9200", true, "[::1]:9200"},
		{"[::]:9300", false, "[::1]:9300"},
	} {
		server := udp(t, s, netip.MustParseAddrPort(c.listen), netip.AddrPort{}, c.dual)
		asked := netip.MustParseAddrPort(c.asked)
		client := udp(t, s, netip.AddrPort{}, asked, false) // connected: it takes answers from there only
		must(t, sendTo(s, client, [][]byte{{1}}, netip.AddrPort{}), "the question")
		got := room(1)
		n, err := s.RecvDatagrams(server, got)
		if n != 1 || err != 0 || got[0].Local != asked.Addr() {
			t.Fatalf("%s at %s: %d, %v, came to %v", c.asked, c.listen, n, err, got[0].Local)
		}
		n, err = s.SendDatagrams(server, []hostsock.Datagram{{Bufs: [][]byte{{2}}, Peer: got[0].Peer, Local: got[0].Local}})
		if n != 1 || err != 0 {
			t.Fatalf("the answer: %d, %v", n, err)
		}
		if n, from, err := recvFrom(s, client, make([]byte, 4)); n != 1 || err != 0 || from != asked {
			t.Errorf("%s at %s: the answer is %d bytes from %v, %v", c.asked, c.listen, n, from, err)
		}
	}
}
