package netns

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// openAll opens a socket of each kind, and has those of TCP listen at a port of the loopback address.
func openAll(t *testing.T, ns *Namespace, port int) {
	t.Helper()
	fds, err := ns.Open([]SocketKind{{}, {IPv6: true}, {UDP: true}, {IPv6: true, UDP: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(fds) })
	want := []struct{ domain, kind int }{{unix.AF_INET, unix.SOCK_STREAM}, {unix.AF_INET6, unix.SOCK_STREAM}, {unix.AF_INET, unix.SOCK_DGRAM}, {unix.AF_INET6, unix.SOCK_DGRAM}}
	for i, fd := range fds {
		domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		kind, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if domain != want[i].domain || kind != want[i].kind || err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("socket %d: domain %d, type %d, flags %#x, %v", i, domain, kind, flags, err)
		}
	}
	if err := unix.Bind(fds[0], &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fds[0], 1); err != nil {
		t.Fatal(err)
	}
}

// TestOpenCreated: sockets that Open opens are the namespace's, before its command runs and while it does.
func TestOpenCreated(t *testing.T) {
	ns := create(t, Config{})
	openAll(t, ns, 7001)
	if c, err := net.Dial("tcp", "127.0.0.1:7001"); err == nil {
		c.Close()
		t.Error("it listens outside")
	}
	in, w := pipe(t)
	in.Fd()
	out, outW := pipe(t)
	script := "ss -Hltn sport = 7001 | grep -c 127.0.0.1; cat; ss -Hltn sport = 7002 | grep -c 127.0.0.1"
	if err := ns.Start(Command{Argv: []string{"sh", "-c", script}, Env: os.Environ(), Stdin: in, Stdout: outW}); err != nil {
		t.Fatal(err)
	}
	outW.Close()
	openAll(t, ns, 7002)
	w.Close()
	var b [16]byte
	got := ""
	for {
		n, err := out.Read(b[:])
		if err != nil {
			break
		}
		got += string(b[:n])
	}
	if _, err := ns.Wait(); err != nil || got != "1\n1\n" {
		t.Errorf("inside %q listen; %v", got, err)
	}
}

// TestOpenAttached: the same of a namespace that was attached to.
func TestOpenAttached(t *testing.T) {
	target := startTarget(t, 0)
	defer end(t, target)
	ns, err := Attach(Target{PID: target.Process.Pid}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	defer closeAll(ns.TAP().FDs)
	openAll(t, ns, 7001)
	if got := inTarget(t, target, "sh", "-c", "ss -Hltn sport = 7001 | grep -c 127.0.0.1"); got != "1\n" {
		t.Errorf("inside %q listen", got)
	}
	if _, err := ns.Open(make([]SocketKind, MaxOpen+10)); err == nil {
		t.Error("more sockets than a message carries")
	}
}

// TestOwnSockets: of the host's own sockets those count that its loopback address leads to.
func TestOwnSockets(t *testing.T) {
	var listeners []net.Listener
	var counts, not []uint16
	for _, a := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0", "127.0.0.2:0"} {
		l, err := net.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		listeners = append(listeners, l)
		port := netip.MustParseAddrPort(l.Addr().String()).Port()
		if a == "127.0.0.2:0" {
			not = append(not, port)
		} else {
			counts = append(counts, port)
		}
	}
	s, err := OwnSockets()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var set PortSet
	if err := s.Listening(&set, false); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(counts, func(p uint16) bool { return !set.Has(p) }) || slices.ContainsFunc(not, set.Has) {
		t.Errorf("%v are %v; %v are not to be", listeners, slices.Collect(set.All()), not)
	}
}
