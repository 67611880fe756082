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
		{"SendTo, RecvFrom", func() {
			check("SendTo", s.SendTo(client, pieces, netip.AddrPort{}) == 0)
			n, from, err := s.RecvFrom(server, buf)
			check("RecvFrom", n == 1100 && err == 0)
			check("the answer", s.SendTo(server, pieces, from) == 0)
			n, _, err = s.RecvFrom(client, buf)
			check("RecvFrom", n == 1100 && err == 0)
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
