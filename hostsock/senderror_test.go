package hostsock_test

import (
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/hostsock"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// recvError takes one error of a socket.
func recvError(t *testing.T, s *hostsock.System, fd int) (hostsock.SendError, string) {
	t.Helper()
	e := hostsock.SendError{Data: make([]byte, 600)}
	must(t, s.RecvError(fd, &e), "RecvError")
	return e, string(e.Data[:e.Len])
}

func noError(t *testing.T, s *hostsock.System, fd int) {
	t.Helper()
	if err := s.RecvError(fd, &hostsock.SendError{}); err != unix.EAGAIN {
		t.Errorf("RecvError of none: %v", err)
	}
}

// An ICMP error comes with who has sent it, about whom it is, and what was sent; taken from the queue, it is pending no more.
func TestQueueErrors(t *testing.T) {
	for _, tc := range []struct {
		at, to    netip.Addr
		dual      bool
		typ, code uint8
	}{
		{loopback4, loopback4, false, 3, 3},
		{loopback6, loopback6, false, 1, 4},
		{netip.IPv6Unspecified(), loopback4, true, 3, 3},
		{netip.IPv6Unspecified(), loopback6, true, 1, 4},
	} {
		s := newSystem(t)
		gone, err := s.OpenUDP(hostsock.Origin{Addr: netip.AddrPortFrom(tc.to, 0)}, netip.AddrPort{}, false)
		must(t, err, "OpenUDP")
		to := localAddr(t, gone)
		s.Close(gone)
		c := udp(t, s, netip.AddrPortFrom(tc.at, 0), netip.AddrPort{}, tc.dual)
		must(t, s.QueueErrors(c, tc.at.Is6(), tc.dual), "QueueErrors")
		noError(t, s, c)
		for range 2 {
			must(t, sendTo(s, c, [][]byte{[]byte("hello")}, to), "sendTo")
			ready(t, s, c, func(e hostsock.Event) bool { return e.Error })
			e, data := recvError(t, s, c)
			if e.Err != unix.ECONNREFUSED || !e.ICMP || e.Type != tc.typ || e.Code != tc.code || e.From != tc.to || e.Peer != to || data != "hello" {
				t.Errorf("%v: %+v, %q", tc.to, e, data)
			}
			noError(t, s, c)
		}
		if _, _, err := recvFrom(s, c, make([]byte, 8)); err != unix.EAGAIN {
			t.Errorf("%v: RecvFrom after the error was taken: %v", tc.to, err)
		}
	}
}

// What has to stay whole and is too long is refused, with the width of the way; what may be cut is sent.
func TestDontFragment(t *testing.T) {
	newNetns(t)
	allowPing(t)
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetMTU(lo, 1400)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []netip.Addr{loopback4, loopback6} {
		s := newSystem(t)
		server := udp(t, s, netip.AddrPortFrom(at, 0), netip.AddrPort{}, false)
		client := udp(t, s, netip.AddrPort{}, localAddr(t, server), false)
		ping, err := s.OpenPing(0, at)
		must(t, err, "OpenPing")
		defer s.Close(ping)
		for _, fd := range []int{client, ping} {
			must(t, s.QueueErrors(fd, at.Is6(), false), "QueueErrors")
			msg := echo(at, 1, 1, string(make([]byte, 2000)))
			must(t, s.DontFragment(fd, at.Is6(), true), "DontFragment")
			if err := sendTo(s, fd, [][]byte{msg}, netip.AddrPort{}); err != unix.EMSGSIZE {
				t.Errorf("%v: %d bytes whole: %v", at, len(msg), err)
			}
			if e, _ := recvError(t, s, fd); e.ICMP || e.Err != unix.EMSGSIZE || e.Info != 1400 {
				t.Errorf("%v: %+v", at, e)
			}
			must(t, s.DontFragment(fd, at.Is6(), false), "DontFragment")
			must(t, sendTo(s, fd, [][]byte{msg}, netip.AddrPort{}), "sendTo")
			noError(t, s, fd)
		}
		for name, fd := range map[string]int{"server": server, "ping": ping} {
			ready(t, s, fd, isIn)
			if n, _, err := recvFrom(s, fd, make([]byte, 4096)); n != 2008 || err != 0 {
				t.Errorf("%v: %s got %d bytes, %v", at, name, n, err)
			}
		}
	}
}

// Sockets without a queue have no errors in it.
func TestSendErrorOfOtherSockets(t *testing.T) {
	s := newSystem(t)
	c, srv := pair(t, s, loopback4)
	defer s.Close(c)
	defer s.Close(srv)
	noError(t, s, c)
	if err := s.RecvError(-1, &hostsock.SendError{}); err != unix.EBADF {
		t.Errorf("RecvError of no socket: %v", err)
	}
	if err := s.QueueErrors(-1, true, true); err != unix.EBADF {
		t.Errorf("QueueErrors of no socket: %v", err)
	}
}
