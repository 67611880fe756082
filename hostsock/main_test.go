package hostsock_test

import (
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vasta-net/vasta/hostsock"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const second = int64(time.Second)

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.MustParseAddr("::1")
)

func newSystem(t testing.TB) *hostsock.System {
	t.Helper()
	s, err := hostsock.NewSystem()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Release(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// newNetns moves the test's goroutine to a thread in a network namespace of its own with loopback up. The thread ends
// with the test, and the namespace with it. A subtest has a goroutine of its own and needs its own namespace.
func newNetns(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("cannot make a network namespace: %v (the tests run as root)", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
}

// linkLocal gives the test's namespace the address fe80::1 on lo.
func linkLocal(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr("fe80::1/128")
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD
	if err := netlink.AddrAdd(lo, addr); err != nil {
		t.Fatal(err)
	}
	// The kernel adds the address's route a little later.
	local := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: addr.IPNet}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, local, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil {
			t.Fatal(err)
		}
		if len(routes) > 0 {
			return
		}
	}
	t.Fatal("fe80::1 has no route after 5 s")
}

// allowPing opens ping sockets to the test's user in its namespace.
func allowPing(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
		t.Fatal(err)
	}
}

// must fails the test when a host call has failed.
func must(t testing.TB, err hostsock.Errno, what string) {
	t.Helper()
	if err != 0 {
		t.Fatalf("%s: %v", what, err)
	}
}

// localAddr asks the kernel, by other means than the package under test, where a socket is bound.
func localAddr(t testing.TB, fd int) netip.AddrPort {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	t.Fatalf("getsockname returned %T", sa)
	return netip.AddrPort{}
}

func listen(t testing.TB, s *hostsock.System, at netip.AddrPort, dual bool) (int, netip.AddrPort) {
	t.Helper()
	fd, err := s.ListenTCP(at, "", dual)
	must(t, err, "ListenTCP "+at.String())
	t.Cleanup(func() { s.Close(fd) })
	return fd, localAddr(t, fd)
}

func connect(t testing.TB, s *hostsock.System, to netip.AddrPort) int {
	t.Helper()
	fd, err := s.ConnectTCP(hostsock.Origin{}, to)
	must(t, err, "ConnectTCP "+to.String())
	return fd
}

// pair is an established connection: ours, and the one that accepted. The test closes both.
func pair(t testing.TB, s *hostsock.System, at netip.Addr) (client, server int) {
	t.Helper()
	l, addr := listen(t, s, netip.AddrPortFrom(at, 0), false)
	client = connect(t, s, addr)
	ready(t, s, client, func(e hostsock.Event) bool { return e.Out })
	must(t, s.ConnectResult(client), "ConnectResult")
	ready(t, s, l, func(e hostsock.Event) bool { return e.In }) // the client may be told first
	server, _, err := s.Accept(l)
	must(t, err, "Accept")
	return client, server
}

// ready watches fd in an epoll set of its own and waits until want is true of an event.
func ready(t testing.TB, s *hostsock.System, fd int, want func(hostsock.Event) bool) hostsock.Event {
	t.Helper()
	w := newSystem(t)
	must(t, w.Watch(fd, 7), "Watch")
	return next(t, w, want)
}

// next waits until an event for which want is true.
func next(t testing.TB, w *hostsock.System, want func(hostsock.Event) bool) hostsock.Event {
	t.Helper()
	var events [8]hostsock.Event
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		n := w.Wait(events[:], second/10)
		for _, e := range events[:n] {
			if want(e) {
				return e
			}
		}
	}
	t.Fatal("no such event within 5 s")
	return hostsock.Event{}
}

func isIn(e hostsock.Event) bool { return e.In }
