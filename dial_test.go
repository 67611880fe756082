package vasta_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/vasta-net/vasta"
	"golang.org/x/net/nettest"
)

// TestDialConforms: a connection into the guest is a net.Conn in every way that golang.org/x/net/nettest knows of, and so is the guest's end.
func TestDialConforms(t *testing.T) {
	for _, tc := range []struct{ network, address string }{{"tcp4", ":7000"}, {"tcp6", "[fd00::15]:7000"}} {
		t.Run(tc.network, func(t *testing.T) {
			inside := newSpace(t)
			n := running(t, plain(), inside.link())
			l := inside.listen(tc.network, ":7000")
			defer l.Close()
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				if c1, err = n.Dial(t.Context(), tc.network, tc.address); err != nil {
					return nil, nil, nil, err
				}
				if c2, err = l.Accept(); err != nil {
					return nil, nil, nil, err
				}
				return c1, c2, func() {
					c1.Close()
					c2.Close()
				}, nil
			})
		})
	}
}

// TestListenConforms: the same for connections that the guest makes to a listener of this program.
func TestListenConforms(t *testing.T) {
	inside := newSpace(t)
	n := running(t, plain(), inside.link())
	l, err := n.Listen("tcp", "198.51.100.7:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		if c2, err = inside.dial("tcp", "198.51.100.7:80"); err != nil {
			return nil, nil, nil, err
		}
		if c1, err = l.Accept(); err != nil {
			return nil, nil, nil, err
		}
		return c1, c2, func() {
			c1.Close()
			c2.Close()
		}, nil
	})
}

func TestDialAddresses(t *testing.T) {
	inside := newSpace(t)
	n := running(t, plain(), inside.link())
	l := inside.listen("tcp", ":7000")
	defer l.Close()
	for address, want := range map[string][2]string{
		":7000":           {gateway4.String(), "10.0.2.15:7000"},
		"10.0.2.15:7000":  {gateway4.String(), "10.0.2.15:7000"},
		"0.0.0.0:7000":    {gateway4.String(), "10.0.2.15:7000"},
		"[fd00::15]:7000": {gateway6.String(), "[fd00::15]:7000"},
	} {
		c, err := n.Dial(t.Context(), "tcp", address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		local := c.LocalAddr().(*net.TCPAddr).AddrPort()
		if local.Addr().String() != want[0] || c.RemoteAddr().String() != want[1] {
			t.Errorf("%s: from %v to %v, want from %s to %s", address, local, c.RemoteAddr(), want[0], want[1])
		}
		seen := in.RemoteAddr().(*net.TCPAddr).AddrPort()
		if seen.Addr().Unmap().WithZone("") != local.Addr() || seen.Port() != local.Port() {
			t.Errorf("%s: the guest sees %v, not %v", address, seen, local)
		}
		c.Close()
		in.Close()
	}
}

// TestDialErrors: a mistake, a guest that refuses, a guest that is silent, and a network that ends.
func TestDialErrors(t *testing.T) {
	inside := newSpace(t)
	n := running(t, plain(), inside.link())
	for _, tc := range []struct{ network, address string }{
		{"udp", ":80"}, {"tcp", "localhost:80"}, {"tcp", "10.0.2.15"}, {"tcp", ":0"}, {"tcp", ":http"}, {"tcp4", "[fd00::15]:80"}, {"tcp6", "10.0.2.15:80"},
	} {
		if c, err := n.Dial(t.Context(), tc.network, tc.address); err == nil {
			c.Close()
			t.Errorf("%s %s: no error", tc.network, tc.address)
		} else if _, ok := errors.AsType[*net.OpError](err); !ok {
			t.Errorf("%s %s: %T", tc.network, tc.address, err)
		}
	}
	if _, err := n.Dial(t.Context(), "udp", ":80"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("udp: %v", err)
	}
	if _, err := n.Dial(t.Context(), "tcp", ":9"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port where nobody listens: %v", err)
	}
	if _, err := n.Dial(t.Context(), "tcp6", ":9"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the same, IPv6: %v", err)
	}
	// An address that nobody inside has is not answered.
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	failed := make(chan error)
	go func() {
		_, err := n.Dial(ctx, "tcp", "10.0.2.77:80")
		failed <- err
	}()
	flows := func() uint64 {
		s, err := n.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Total.TCPFlows
	}
	for flows() == 0 {
	}
	cancel(cause)
	if err := <-failed; !errors.Is(err, cause) {
		t.Errorf("a silent guest: %v", err)
	}
	for flows() != 0 { // it is given up
	}
	if _, err := n.Dial(ctx, "tcp", ":80"); !errors.Is(err, cause) {
		t.Errorf("a context that has ended: %v", err)
	}
	go func() {
		_, err := n.Dial(context.Background(), "tcp", "10.0.2.78:80")
		failed <- err
	}()
	for flows() == 0 {
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, vasta.ErrClosed) && !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("a network that is closed meanwhile: %v", err)
	}
	if _, err := n.Dial(t.Context(), "tcp", ":80"); !errors.Is(err, vasta.ErrClosed) {
		t.Errorf("a closed network: %v", err)
	}
}

// TestResets: a reset is a reset, both ways, and the end of a stream is the end.
func TestResets(t *testing.T) {
	inside := newSpace(t)
	n := running(t, plain(), inside.link())
	l := inside.listen("tcp", ":7000")
	defer l.Close()
	pair := func() (*vasta.Conn, *net.TCPConn) {
		c, err := n.Dial(t.Context(), "tcp", ":7000")
		if err != nil {
			t.Fatal(err)
		}
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			c.Close()
			in.Close()
		})
		return c.(*vasta.Conn), in.(*net.TCPConn)
	}
	c, in := pair()
	_ = in.SetLinger(0)
	in.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the guest has reset, and Read says: %v", err)
	}
	c, in = pair()
	if _, err := in.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("this end was closed with bytes unread, and the guest reads: %v", err)
	}
	c, in = pair()
	if err := c.CloseRead(); err != nil {
		t.Fatal(err)
	}
	for err := error(nil); err == nil; { // the first bytes are on their way before the guest hears of it
		if _, err = in.Write([]byte("nobody reads")); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("nobody reads, and the guest's Write says: %v", err)
		}
	}
	c, in = pair()
	want := bytes.Repeat([]byte("half"), 1<<18)
	go func() {
		_, _ = c.Write(want)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the guest has read %d bytes of %d: %v", len(got), len(want), err)
	}
	if _, err := in.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if got, err := io.ReadAll(c); string(got) != "answer" || err != nil {
		t.Errorf("behind the end of the other direction came %q, %v", got, err)
	}
}

// TestListen: who listens where, and who is asked.
func TestListen(t *testing.T) {
	inside := newSpace(t)
	c := plain()
	c.Mapping.Gateway = true
	n := running(t, c, inside.link())
	port := hostServer(t, "127.0.0.1:0", "the host")
	open := map[string]string{
		"10.0.2.2:80": "router", "198.51.100.7:80": "one", ":80": "any", "[2001:db8::7]:80": "one of IPv6",
	}
	for address, greeting := range open {
		l, err := n.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		greet(l, greeting)
		if _, err := n.Listen("tcp", address); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s a second time: %v", address, err)
		}
		defer l.Close()
	}
	ask := func(address, want string) {
		t.Helper()
		in, err := inside.dial("tcp", address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			return
		}
		defer in.Close()
		if got, err := io.ReadAll(in); string(got) != want || err != nil {
			t.Errorf("%s answers %q, %v; want %q", address, got, err, want)
		}
	}
	ask("10.0.2.2:80", "router")
	ask("198.51.100.7:80", "one")
	ask("198.51.100.8:80", "any")
	ask("[2001:db8::7]:80", "one of IPv6")
	ask("[2001:db8::8]:80", "any")
	ask(net.JoinHostPort("10.0.2.2", itoa(port.Port())), "the host")
	l, err := n.Listen("tcp", "198.51.100.9:81")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a second Close: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept behind it: %v", err)
	}
}

// TestDialOfSeveralWorkers: connections both ways at once, where the link has several queues and a frame may come to any.
func TestDialOfSeveralWorkers(t *testing.T) {
	inside := newSpace(t)
	c := plain()
	c.Limits.Queues = 3
	n := running(t, c, inside.link())
	l := inside.listen("tcp", ":7000")
	defer l.Close()
	go echo(l)
	ours, err := n.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	go echo(ours)
	talk := func(c net.Conn, i int) {
		defer c.Close()
		want := bytes.Repeat([]byte{byte(i)}, 100_000)
		go func() { _, _ = c.Write(want) }()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	var all sync.WaitGroup
	for i := range 40 {
		c, err := n.Dial(t.Context(), "tcp", ":7000")
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() { talk(c, i) })
		d, err := inside.dial("tcp", "198.51.100.7:80")
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() { talk(d, i) })
	}
	all.Wait()
	s, err := n.Stats(t.Context())
	if err != nil || len(s.Workers) != 3 || s.Total.TCPOpened != 40 || s.Total.TCPAccepted != 40 {
		t.Errorf("%d workers, %d opened, %d accepted, %v; want 3, 40 and 40", len(s.Workers), s.Total.TCPOpened, s.Total.TCPAccepted, err)
	}
}

// BenchmarkDial moves data into the guest and out of it, through a connection of the program's own.
func BenchmarkDial(b *testing.B) {
	inside := newSpace(b)
	n := running(b, plain(), inside.link())
	l := inside.listen("tcp", ":7000")
	defer l.Close()
	for _, in := range []bool{true, false} {
		b.Run(map[bool]string{true: "in", false: "out"}[in], func(b *testing.B) {
			from, err := n.Dial(b.Context(), "tcp", ":7000")
			if err != nil {
				b.Fatal(err)
			}
			to, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			if !in {
				from, to = to, from
			}
			defer to.Close()
			block := make([]byte, 256<<10)
			b.SetBytes(int64(len(block)))
			go func() {
				defer from.Close()
				for range b.N {
					if _, err := from.Write(block); err != nil {
						b.Error(err)
						return
					}
				}
			}()
			b.ResetTimer()
			got := make([]byte, len(block))
			for range b.N {
				if _, err := io.ReadFull(to, got); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
