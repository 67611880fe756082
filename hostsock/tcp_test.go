package hostsock_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/hostsock"
	"golang.org/x/sys/unix"
)

func TestConnectSendRecvClose(t *testing.T) {
	for _, at := range []netip.Addr{loopback4, loopback6} {
		t.Run(at.String(), func(t *testing.T) {
			s := newSystem(t)
			c, srv := pair(t, s, at)
			n, err := s.Send(c, [][]byte{[]byte("hel"), nil, []byte("lo")})
			if n != 5 || err != 0 {
				t.Fatalf("Send = %d, %v", n, err)
			}
			ready(t, s, srv, isIn)
			buf := make([]byte, 16)
			if n, err = s.Recv(srv, [][]byte{buf}); err != 0 || string(buf[:n]) != "hello" {
				t.Fatalf("Recv = %q, %v", buf[:n], err)
			}
			if _, err = s.Recv(srv, [][]byte{buf}); err != unix.EAGAIN {
				t.Fatalf("Recv with nothing to read: %v", err)
			}
			s.Close(c)
			ready(t, s, srv, isIn)
			if n, err = s.Recv(srv, [][]byte{buf}); n != 0 || err != 0 {
				t.Fatalf("Recv at the end = %d, %v", n, err)
			}
			s.Close(srv)
		})
	}
}

func TestSendTakesAtMost64Pieces(t *testing.T) {
	s := newSystem(t)
	c, srv := pair(t, s, loopback4)
	defer s.Close(c)
	defer s.Close(srv)
	pieces := make([][]byte, 70)
	for i := range pieces {
		pieces[i] = []byte{byte(i), byte(i)}
	}
	before := s.Counters()
	if n, err := s.Send(c, pieces); n != 128 || err != 0 {
		t.Fatalf("Send = %d, %v; want the first 64 pieces", n, err)
	}
	if got := s.Counters().Send - before.Send; got != 1 {
		t.Errorf("%d system calls", got)
	}
}

func TestShortWriteThenEAGAINThenOut(t *testing.T) {
	s := newSystem(t)
	c, srv := pair(t, s, loopback4)
	defer s.Close(c)
	defer s.Close(srv)
	must(t, s.Watch(c, 9), "Watch")
	next(t, s, func(e hostsock.Event) bool { return e.Token == 9 && e.Out })

	chunk := bytes.Repeat([]byte("x"), 1<<20)
	sent := 0
	for {
		n, err := s.Send(c, [][]byte{chunk})
		if err == unix.EAGAIN {
			break
		}
		must(t, err, "Send")
		sent += n
	}
	if sent == 0 {
		t.Fatal("nothing was taken")
	}
	for got := 0; got < sent; {
		n, err := s.Recv(srv, [][]byte{chunk})
		if err == unix.EAGAIN {
			ready(t, s, srv, isIn)
			continue
		}
		must(t, err, "Recv")
		got += n
	}
	next(t, s, func(e hostsock.Event) bool { return e.Token == 9 && e.Out })
}

// TestLimitUnsent fills sockets whose peer does not read: with the limit hardly more waits than may go out.
func TestLimitUnsent(t *testing.T) {
	s := newSystem(t)
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	unsent := func(limited bool) int {
		c, srv := pair(t, s, loopback4)
		defer s.Close(c)
		defer s.Close(srv)
		if limited {
			must(t, s.LimitUnsent(c), "LimitUnsent")
		}
		for {
			if _, err := s.Send(c, [][]byte{chunk}); err == unix.EAGAIN {
				break
			} else if err != 0 {
				t.Fatalf("Send: %v", err)
			}
		}
		n, err := unix.IoctlGetInt(c, unix.SIOCOUTQNSD)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const most = 128<<10 + 64<<10 // what LimitUnsent says, and the last Send
	if free, limited := unsent(false), unsent(true); free <= most || limited > most {
		t.Errorf("%d bytes wait without the limit, %d with it; want at most %d with it, and more without", free, limited, most)
	}
}

func TestConnectRefused(t *testing.T) {
	for _, at := range []netip.Addr{loopback4, loopback6} {
		t.Run(at.String(), func(t *testing.T) {
			s := newSystem(t)
			_, addr := listen(t, s, netip.AddrPortFrom(at, 0), false)
			taken, err := s.ListenTCP(netip.AddrPortFrom(at, addr.Port()), "", false)
			if err != unix.EADDRINUSE {
				t.Fatalf("second listener: fd %d, %v", taken, err)
			}
			free := freePort(t, s, at)
			c := connect(t, s, free)
			defer s.Close(c)
			e := ready(t, s, c, func(e hostsock.Event) bool { return e.Error })
			if !e.Hangup {
				t.Errorf("event %+v, want Hangup too", e)
			}
			if err := s.ConnectResult(c); err != unix.ECONNREFUSED {
				t.Fatalf("ConnectResult = %v", err)
			}
			if err := s.ConnectResult(c); err != 0 {
				t.Fatalf("a second ConnectResult = %v: the error was taken already", err)
			}
		})
	}
}

// freePort is an address where nothing listens.
func freePort(t *testing.T, s *hostsock.System, at netip.Addr) netip.AddrPort {
	t.Helper()
	fd, err := s.ListenTCP(netip.AddrPortFrom(at, 0), "", false)
	must(t, err, "ListenTCP")
	defer s.Close(fd)
	return localAddr(t, fd)
}

func TestConnectUnreachableLeavesNoDescriptor(t *testing.T) {
	newNetns(t)
	s := newSystem(t)
	before := openFds(t)
	for _, to := range []string{"192.0.2.1:80", "[2001:db8::1]:80", "[::ffff:192.0.2.1]:80"} {
		fd, err := s.ConnectTCP(hostsock.Origin{}, netip.MustParseAddrPort(to))
		if err != unix.ENETUNREACH || fd != -1 {
			t.Errorf("ConnectTCP %s = %d, %v; want ENETUNREACH", to, fd, err)
		}
	}
	if after := openFds(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestConnectFromOrigin(t *testing.T) {
	cases := []struct {
		name string
		from hostsock.Origin
		port uint16
	}{
		{"address", hostsock.Origin{Addr: netip.MustParseAddrPort("127.0.0.9:0")}, 0},
		{"address and port", hostsock.Origin{Addr: netip.MustParseAddrPort("127.0.0.9:4321")}, 4321},
		{"mapped address", hostsock.Origin{Addr: netip.MustParseAddrPort("[::ffff:127.0.0.9]:0")}, 0},
		{"address and device", hostsock.Origin{Addr: netip.MustParseAddrPort("127.0.0.9:0"), Device: "lo"}, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			newNetns(t)
			s := newSystem(t)
			l, addr := listen(t, s, netip.AddrPortFrom(loopback4, 0), false)
			fd, err := s.ConnectTCP(c.from, addr)
			must(t, err, "ConnectTCP")
			ready(t, s, l, isIn)
			conn, peer, err := s.Accept(l)
			must(t, err, "Accept")
			if peer != localAddr(t, fd) || peer.Addr() != netip.MustParseAddr("127.0.0.9") || c.port != 0 && peer.Port() != c.port {
				t.Errorf("peer is %v", peer)
			}
			late, err2 := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT)
			if err2 != nil || (late == 1) != (c.port == 0) {
				t.Errorf("IP_BIND_ADDRESS_NO_PORT = %d, %v", late, err2)
			}
			s.Abort(fd)
			s.Abort(conn)
		})
	}
	addr := netip.MustParseAddrPort("127.0.0.1:80")
	refused := []struct {
		name string
		from hostsock.Origin
		to   netip.AddrPort
		want hostsock.Errno
	}{
		{"no target", hostsock.Origin{}, netip.AddrPort{}, unix.EINVAL},
		{"foreign address", hostsock.Origin{Addr: netip.MustParseAddrPort("192.0.2.7:0")}, addr, unix.EADDRNOTAVAIL},
		{"other family", hostsock.Origin{Addr: netip.MustParseAddrPort("[::1]:0")}, addr, unix.EAFNOSUPPORT},
		{"no such device", hostsock.Origin{Device: "none0"}, addr, unix.ENODEV},
		{"impossible device", hostsock.Origin{Device: "a-name-that-is-too-long"}, addr, unix.ENODEV},
		{"no such zone", hostsock.Origin{}, netip.MustParseAddrPort("[fe80::1%none0]:80"), unix.ENODEV},
		{"impossible zone", hostsock.Origin{}, netip.MustParseAddrPort("[fe80::1%a-name-that-is-too-long]:80"), unix.ENODEV},
	}
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			newNetns(t)
			s := newSystem(t)
			before := openFds(t)
			if fd, err := s.ConnectTCP(c.from, c.to); err != c.want || fd != -1 {
				t.Errorf("ConnectTCP = %d, %v; want %v", fd, err, c.want)
			}
			if after := openFds(t); after != before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
		})
	}
}

func TestOptionsOfBothEnds(t *testing.T) {
	s := newSystem(t)
	c, srv := pair(t, s, loopback6)
	defer s.Close(c)
	defer s.Close(srv)
	for name, fd := range map[string]int{"connected": c, "accepted": srv} {
		for _, o := range []struct {
			name          string
			level, option int
		}{
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY},
			{"SO_OOBINLINE", unix.SOL_SOCKET, unix.SO_OOBINLINE},
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE},
		} {
			if v, err := unix.GetsockoptInt(fd, o.level, o.option); v != 1 || err != nil {
				t.Errorf("%s socket: %s = %d, %v", name, o.name, v, err)
			}
		}
		if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || fl&unix.O_NONBLOCK == 0 {
			t.Errorf("%s socket blocks (%#x, %v)", name, fl, err)
		}
		if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || fl&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s socket survives exec (%#x, %v)", name, fl, err)
		}
	}
}

func TestAbortIsAResetForThePeer(t *testing.T) {
	s := newSystem(t)
	c, srv := pair(t, s, loopback4)
	defer s.Close(srv)
	if n, err := s.Send(c, [][]byte{[]byte("lost")}); n != 4 || err != 0 {
		t.Fatalf("Send = %d, %v", n, err)
	}
	s.Abort(c)
	e := ready(t, s, srv, func(e hostsock.Event) bool { return e.Error })
	if !e.In || !e.End || !e.Hangup {
		t.Errorf("event %+v, want In, End and Hangup too", e)
	}
	if err := s.ConnectResult(srv); err != unix.ECONNRESET {
		t.Errorf("the peer's error is %v", err)
	}
}

func TestHalfClose(t *testing.T) {
	s := newSystem(t)
	c, srv := pair(t, s, loopback6)
	defer s.Close(c)
	defer s.Close(srv)
	must(t, s.ShutdownWrite(c), "ShutdownWrite")
	e := ready(t, s, srv, isIn)
	if !e.End || e.Hangup {
		t.Errorf("event %+v: one direction is closed", e)
	}
	buf := make([]byte, 8)
	if n, err := s.Recv(srv, [][]byte{buf}); n != 0 || err != 0 {
		t.Fatalf("Recv = %d, %v; want the end", n, err)
	}
	if n, err := s.Send(srv, [][]byte{[]byte("answer")}); n != 6 || err != 0 {
		t.Fatalf("Send into the open direction = %d, %v", n, err)
	}
	ready(t, s, c, isIn)
	if n, err := s.Recv(c, [][]byte{buf}); err != 0 || string(buf[:n]) != "answer" {
		t.Fatalf("Recv = %q, %v", buf[:n], err)
	}
	if _, err := s.Send(c, [][]byte{[]byte("x")}); err != unix.EPIPE {
		t.Errorf("Send after ShutdownWrite: %v (and no SIGPIPE)", err)
	}
}

func TestUrgentDataStaysInLine(t *testing.T) {
	s := newSystem(t)
	c, srv := pair(t, s, loopback4)
	defer s.Close(c)
	defer s.Close(srv)
	for _, part := range []struct {
		text  string
		flags int
	}{{"a", 0}, {"b", unix.MSG_OOB}, {"c", 0}} {
		if err := unix.Sendto(c, []byte(part.text), part.flags, nil); err != nil {
			t.Fatal(err)
		}
	}
	var got []byte
	buf := make([]byte, 8)
	for len(got) < 3 {
		n, err := s.Recv(srv, [][]byte{buf})
		if err == unix.EAGAIN {
			ready(t, s, srv, isIn)
			continue
		}
		must(t, err, "Recv")
		got = append(got, buf[:n]...)
	}
	if string(got) != "abc" {
		t.Errorf("received %q", got)
	}
}

func TestListenFamilies(t *testing.T) {
	cases := []struct {
		name             string
		at               string
		dual             bool
		v4, v6, mappedOK bool
	}{
		{"IPv4 any", "0.0.0.0:7000", false, true, false, true},
		{"IPv4 any ignores dual", "0.0.0.0:7000", true, true, false, true},
		{"IPv6 any", "[::]:7000", false, false, true, false},
		{"both", "[::]:7000", true, true, true, true},
		{"IPv6 address ignores dual", "[::1]:7000", true, false, true, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			newNetns(t)
			s := newSystem(t)
			l, _ := listen(t, s, netip.MustParseAddrPort(c.at), c.dual)
			for to, want := range map[string]bool{"127.0.0.1:7000": c.v4, "[::1]:7000": c.v6, "[::ffff:127.0.0.1]:7000": c.mappedOK} {
				target := netip.MustParseAddrPort(to)
				fd := connect(t, s, target)
				ready(t, s, fd, func(e hostsock.Event) bool { return e.Out || e.Error })
				if err := s.ConnectResult(fd); (err == 0) != want {
					t.Errorf("connect to %s: %v", to, err)
				}
				if want {
					conn, peer, err := s.Accept(l)
					must(t, err, "Accept")
					if peer.Addr() != target.Addr().Unmap() {
						t.Errorf("accepted %v, want the unmapped address of %s", peer, to)
					}
					s.Abort(conn)
				}
				s.Abort(fd)
			}
			if _, _, err := s.Accept(l); err != unix.EAGAIN {
				t.Errorf("Accept with nobody waiting: %v", err)
			}
		})
	}
	s := newSystem(t)
	if fd, err := s.ListenTCP(netip.AddrPort{}, "", true); err != unix.EINVAL {
		t.Errorf("ListenTCP nowhere = %d, %v", fd, err)
	}
	if fd, err := s.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), "none0", false); err != unix.ENODEV {
		t.Errorf("ListenTCP on no device = %d, %v", fd, err)
	}
}

// TestListenLater: a bound socket keeps its port from others and refuses connections until it listens, and again when it does not any more;
// connections that waited by then are reset.
func TestListenLater(t *testing.T) {
	for _, addr := range []netip.Addr{loopback4, loopback6} {
		t.Run(addr.String(), func(t *testing.T) {
			s := newSystem(t)
			l, err := s.BindTCP(freePort(t, s, addr), "", false)
			must(t, err, "BindTCP")
			defer s.Close(l)
			at := localAddr(t, l)
			must(t, s.Watch(l, 7), "Watch")
			refused := func() {
				t.Helper()
				c, err := s.ConnectTCP(hostsock.Origin{}, at)
				if err == 0 {
					err = s.ConnectResult(c)
					s.Close(c)
				}
				if err != unix.ECONNREFUSED {
					t.Errorf("connecting: %v, want refused", err)
				}
			}
			refused()
			if fd, err := s.ListenTCP(at, "", false); err != unix.EADDRINUSE {
				t.Errorf("another socket for the port: %v", err)
				s.Close(fd)
			}
			for range 2 {
				must(t, s.Listen(l), "Listen")
				c := connect(t, s, at)
				conn, _, err := s.Accept(l)
				must(t, err, "Accept")
				s.Close(conn)
				s.Close(c)
				waits := connect(t, s, at)
				must(t, s.Unlisten(l), "Unlisten")
				if _, err := s.Recv(waits, [][]byte{make([]byte, 1)}); err != unix.ECONNRESET {
					t.Errorf("a connection that waited: %v, want reset", err)
				}
				s.Close(waits)
				refused()
			}
		})
	}
}

// TestAdopt: sockets that somebody else has opened listen, and are bound, as those of our own.
func TestAdopt(t *testing.T) {
	for _, a := range []netip.Addr{loopback4, loopback6} {
		t.Run(a.String(), func(t *testing.T) {
			s := newSystem(t)
			domain := unix.AF_INET
			if a.Is6() {
				domain = unix.AF_INET6
			}
			for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
				var fds [2]int
				var err error
				for i := range fds {
					if fds[i], err = unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
						t.Fatal(err)
					}
					defer s.Close(fds[i])
				}
				adopt := s.AdoptTCP
				if kind == unix.SOCK_DGRAM {
					adopt = s.AdoptUDP
				}
				if err := adopt(fds[0], netip.AddrPortFrom(a, 0)); err != 0 {
					t.Fatal(err)
				}
				if kind == unix.SOCK_STREAM {
					if on, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_ACCEPTCONN); on == 0 {
						t.Errorf("it does not listen (%v)", err)
					}
				}
				if err := adopt(fds[1], localAddr(t, fds[0])); err != unix.EADDRINUSE {
					t.Errorf("type %d: a port that another socket has: %v", kind, err)
				}
			}
		})
	}
}

// TestTCPServiceAndHopLimit: a connection is begun with them, and the service byte changes later; ECN stays the kernel's.
func TestTCPServiceAndHopLimit(t *testing.T) {
	for _, a := range []netip.Addr{loopback4, loopback6} {
		t.Run(a.String(), func(t *testing.T) {
			s := newSystem(t)
			l, to := listen(t, s, netip.AddrPortFrom(a, 0), false)
			defer s.Close(l)
			fd, err := s.ConnectTCP(hostsock.Origin{TOS: 0xb8, TTL: 7}, to)
			must(t, err, "ConnectTCP")
			defer s.Close(fd)
			level, tos, ttl := unix.SOL_IP, unix.IP_TOS, unix.IP_TTL
			if a.Is6() {
				level, tos, ttl = unix.SOL_IPV6, unix.IPV6_TCLASS, unix.IPV6_UNICAST_HOPS
			}
			is := func(wantTOS, wantTTL int) {
				t.Helper()
				gotTOS, err := unix.GetsockoptInt(fd, level, tos)
				gotTTL, err2 := unix.GetsockoptInt(fd, level, ttl)
				if gotTOS != wantTOS || gotTTL != wantTTL || err != nil || err2 != nil {
					t.Errorf("TOS %#x, TTL %d (%v, %v), want %#x and %d", gotTOS, gotTTL, err, err2, wantTOS, wantTTL)
				}
			}
			is(0xb8, 7)
			must(t, s.SetTOS(fd, a.Is6(), 0x20), "SetTOS")
			is(0x20, 7)
		})
	}
}
