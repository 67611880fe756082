package hostsock_test

import (
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/hostsock"
	"golang.org/x/sys/unix"
)

func TestNoAllocations(t *testing.T) {
	s := newSystem(t)
	c, srv := pair(t, s, loopback4)
	defer s.Close(c)
	defer s.Close(srv)
	server, err := s.OpenUDP(hostsock.Origin{Addr: netip.AddrPortFrom(loopback6, 0)}, netip.AddrPort{}, false)
	must(t, err, "OpenUDP")
	defer s.Close(server)
	to := localAddr(t, server)
	client, err := s.OpenUDP(hostsock.Origin{}, to, false)
	must(t, err, "OpenUDP")
	defer s.Close(client)
	must(t, s.Watch(srv, 1), "Watch")

	pieces := [][]byte{make([]byte, 100), make([]byte, 1000)}
	buf := make([]byte, 4096)
	msgs := []hostsock.Datagram{{Bufs: pieces, TOS: 2, TTL: 9, V6: true}, {Bufs: pieces, V6: true}}
	room := [][]byte{make([]byte, 4096)}
	got := []hostsock.Datagram{{Bufs: room}, {Bufs: [][]byte{make([]byte, 4096)}}}
	events := make([]hostsock.Event, 4)
	check := func(what string, ok bool) {
		if !ok {
			t.Errorf("%s failed", what)
		}
	}
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"Send, Wait, Recv", func() {
			n, err := s.Send(c, pieces)
			check("Send", n == 1100 && err == 0)
			check("Wait", s.Wait(events, second) == 1)
			n, err = s.Recv(srv, [][]byte{buf})
			check("Recv", n == 1100 && err == 0)
			_, err = s.Recv(srv, [][]byte{buf})
			check("Recv of nothing", err == unix.EAGAIN)
		}},
		{"poll", func() { check("Wait", s.Wait(events, 0) == 0) }},
		{"sendTo, RecvFrom", func() {
			n, err := s.SendDatagrams(client, msgs)
			check("SendDatagrams", n == len(msgs) && err == 0)
			n, err = s.RecvDatagrams(server, got)
			check("RecvDatagrams", n == len(msgs) && err == 0 && got[0].Len == 1100 && got[1].Len == 1100)
			got[0].Bufs = pieces
			n, err = s.SendDatagrams(server, got[:1])
			got[0].Bufs = room
			check("the answer", n == 1 && err == 0)
			n, err = s.RecvDatagrams(client, got)
			check("its arrival", n == 1 && err == 0)
		}},
		{"ConnectTCP, Abort", func() {
			fd, err := s.ConnectTCP(hostsock.Origin{Device: "lo"}, to)
			check("ConnectTCP", err == 0)
			s.Abort(fd)
		}},
	} {
		if n := testing.AllocsPerRun(100, c.do); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}
