package vasta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/netns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if netns.StageMain() {
		return
	}
	os.Exit(m.Run())
}

// space is a network namespace with a thread of its own in it.
type space struct {
	t     testing.TB
	calls chan func()
	fd    int
}

// newSpace makes a namespace that lasts as long as the test.
func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{t: t, calls: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		if err == nil {
			var h *netlink.Handle
			if h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err == nil {
				err = h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}})
				h.Close()
			}
		}
		made <- err
		for fn := range s.calls {
			fn()
		}
	}()
	if err := <-made; err != nil {
		t.Fatalf("cannot make a network namespace: %v (the tests run as root)", err)
	}
	t.Cleanup(func() {
		close(s.calls)
		unix.Close(s.fd)
	})
	return s
}

// link is the namespace as a network's link.
func (s *space) link() vasta.Link {
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return vasta.NetNS(fd)
}

// do runs fn inside.
func (s *space) do(fn func()) {
	done := make(chan struct{})
	s.calls <- func() {
		defer close(done)
		fn()
	}
	<-done
}

// listen listens inside.
func (s *space) listen(network, address string) (l net.Listener) {
	s.t.Helper()
	var err error
	s.do(func() { l, err = net.Listen(network, address) })
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// dial connects from inside to an address given in numbers.
func (s *space) dial(network, address string) (c net.Conn, err error) {
	s.do(func() { c, err = (&net.Dialer{Timeout: patience}).Dial(network, address) })
	return c, err
}

// patience bounds what is waited for and comes at once, unless something is broken.
const patience = 20 * time.Second

var (
	guest4, guest6     = netip.MustParsePrefix("10.0.2.15/24"), netip.MustParsePrefix("fd00::15/64")
	gateway4, gateway6 = netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("fe80::2")
)

// comesBack connects from inside to an address behind which [echo] serves, and sends want, which is to come back whole.
func (s *space) comesBack(address string, want []byte) {
	s.t.Helper()
	c, err := s.dial("tcp", address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	go func() {
		_, _ = c.Write(want)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(c); !bytes.Equal(got, want) || err != nil {
		s.t.Errorf("%s: %d bytes of %d came back, %v", address, len(got), len(want), err)
	}
}

// echo sends back what each connection sends, until l is closed.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

// plain is a network of fixed addresses, whatever the host's are.
func plain() vasta.Config {
	return vasta.Config{
		Guest: vasta.Guest{Address4: guest4, Address6: guest6, Gateway: vasta.AddrPair{V4: gateway4, V6: gateway6}},
		Host:  vasta.Host{Fixed: true},
	}
}

// running is a network that works until the test ends.
func running(t testing.TB, c vasta.Config, l vasta.Link) *vasta.Network {
	t.Helper()
	n, err := vasta.New(c, l)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, vasta.ErrGone) {
			t.Errorf("Run: %v", err)
		}
		if err := n.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	select {
	case <-n.Ready():
	case err := <-ended:
		ended <- err
		t.Fatalf("Run: %v", err)
	}
	return n
}

// hostServer greets whoever connects to the host's address, until the test ends.
func hostServer(t testing.TB, address, greeting string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	greet(l, greeting)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// greet greets whoever connects to l, until that is closed.
func greet(l net.Listener, greeting string) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, greeting)
			c.Close()
		}
	}()
}
