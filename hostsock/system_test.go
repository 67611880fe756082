package hostsock_test

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vasta-net/vasta/hostsock"
	"golang.org/x/sys/unix"
)

// openFds is how many descriptors this process has.
func openFds(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestWaitTimeouts(t *testing.T) {
	s := newSystem(t)
	var events [4]hostsock.Event
	if n := s.Wait(nil, -1); n != 0 {
		t.Errorf("Wait for no events = %d", n)
	}
	if n := s.Wait(events[:], 0); n != 0 {
		t.Errorf("Wait on an empty set = %d", n)
	}
	// Far less than a millisecond must still be waited for.
	for _, d := range []time.Duration{time.Microsecond, 5 * time.Millisecond} {
		begin := time.Now()
		if n := s.Wait(events[:], int64(d)); n != 0 {
			t.Errorf("Wait on an empty set = %d", n)
		}
		if took := time.Since(begin); took < d || took > 2*time.Second {
			t.Errorf("a wait of %v took %v", d, took)
		}
	}
	if got := s.Counters().Wait; got != 3 {
		t.Errorf("%d waits counted, want 3", got)
	}
}

func TestWaitWithoutLimitIsWokenAndTokensAreWhole(t *testing.T) {
	s := newSystem(t)
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const token = 0xfedc_ba98_7654_3210
	must(t, s.Watch(fd, token), "Watch")
	var events [4]hostsock.Event
	if n := s.Wait(events[:], second); n != 1 || events[0] != (hostsock.Event{Token: token, Out: true}) {
		t.Fatalf("Wait = %d, %+v", n, events[0])
	}
	if n := s.Wait(events[:], 0); n != 0 {
		t.Fatalf("a second Wait = %d, %+v: not edge-triggered", n, events[0])
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}()
	if n := s.Wait(events[:], -1); n != 1 || !events[0].In || events[0].Token != token {
		t.Fatalf("Wait = %d, %+v", n, events[0])
	}
	if err := s.Watch(fd, token); err != unix.EEXIST {
		t.Errorf("watching twice: %v", err)
	}
	if err := s.Watch(-1, token); err != unix.EBADF {
		t.Errorf("watching nothing: %v", err)
	}
}

func TestMoreEventsThanRoom(t *testing.T) {
	s := newSystem(t)
	const total = 300
	for i := range total {
		fd, err := s.OpenUDP(hostsock.Origin{Addr: netip.AddrPortFrom(loopback4, 0)}, netip.AddrPort{}, false)
		must(t, err, "OpenUDP")
		defer s.Close(fd)
		must(t, s.Watch(fd, uint64(i)), "Watch")
	}
	seen := make(map[uint64]bool)
	for _, room := range []int{7, 1000, 1000} {
		events := make([]hostsock.Event, room)
		n := s.Wait(events, second)
		if n == 0 || n > room {
			t.Fatalf("Wait with room for %d = %d", room, n)
		}
		for _, e := range events[:n] {
			seen[e.Token] = true
		}
	}
	if len(seen) != total {
		t.Errorf("%d of %d sockets reported", len(seen), total)
	}
}

// TestOutOfDescriptors lowers the limit of the whole process, so it must not run beside other tests.
func TestOutOfDescriptors(t *testing.T) {
	newNetns(t)
	allowPing(t)
	s := newSystem(t)
	l, addr := listen(t, s, netip.AddrPortFrom(loopback4, 0), false)
	waiting := connect(t, s, addr)
	defer s.Close(waiting)
	ready(t, s, l, isIn)

	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	top, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0) // the lowest free descriptor
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(top)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(top), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}
	_, connectErr := s.ConnectTCP(hostsock.Origin{}, addr)
	_, listenErr := s.ListenTCP(addr, "", false)
	_, udpErr := s.OpenUDP(hostsock.Origin{}, addr, false)
	_, pingErr := s.OpenPing(1, loopback4)
	_, _, acceptErr := s.Accept(l)
	_, systemErr := hostsock.NewSystem()
	restore()

	for what, err := range map[string]hostsock.Errno{
		"ConnectTCP": connectErr, "ListenTCP": listenErr, "OpenUDP": udpErr, "OpenPing": pingErr, "Accept": acceptErr,
	} {
		if err != unix.EMFILE {
			t.Errorf("%s: %v, want EMFILE", what, err)
		}
	}
	if systemErr == nil {
		t.Error("NewSystem worked without a descriptor")
	}
	conn, _, acceptErr := s.Accept(l)
	must(t, acceptErr, "Accept afterwards: the connection must still wait")
	s.Close(conn)
}
