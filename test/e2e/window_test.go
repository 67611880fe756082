package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// maxHeld bounds what vasta may hold for one host socket: the cap of one connection's window, and what rounding adds.
const maxHeld = 5 << 20

// TestSlowServer checks that a server that reads slowly slows the guest down: nothing is lost, nothing is sent again, and
// vasta holds no more than it has promised.
func TestSlowServer(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	r := start(t)
	for _, f := range families {
		done := make(chan error, 1)
		port := serve(t, r.Host, f.loopback, func(c *net.TCPConn) error {
			check := newChecker(c)
			for range 20 { // 1 MiB/s for two seconds
				if err := check.read(100 << 10); err != nil {
					return err
				}
				time.Sleep(100 * time.Millisecond)
			}
			err := check.end(size)
			done <- err
			return err
		})
		c := mustDial(t, r.Guest, f.gateway, port)
		sent := make(chan error, 1)
		go func() { sent <- errors.Join(sendPattern(c, 0, size), c.CloseWrite()) }()
		time.Sleep(time.Second)
		if held := r.now().Levels.HeldBytes; held == 0 || held > maxHeld {
			t.Errorf("%s: %d bytes held for a slow server, want some and at most %d", f.name, held, maxHeld)
		}
		if err := errors.Join(<-sent, <-done); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	r.wantNothingSentAgain()
	r.settle()
}

// TestZeroWindow checks that a guest that does not read for a while gets everything when it does.
func TestZeroWindow(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	r := start(t)
	for _, f := range families {
		port := serve(t, r.Host, f.loopback, source(size))
		c := mustDial(t, r.Guest, f.gateway, port)
		time.Sleep(3 * time.Second)
		if p := r.now().Levels.Pages; p > 2*maxHeld/65536 {
			t.Errorf("%s: %d pages in use for a guest that does not read", f.name, p)
		}
		if err := errors.Join(newChecker(c).end(size), c.Close()); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	r.settle()
}

// TestSmallWrites sends a stream in segments of one byte, both ways.
func TestSmallWrites(t *testing.T) {
	const writes = 100_000
	r := start(t)
	oneByOne := func(c *net.TCPConn) error { // Go sets TCP_NODELAY
		for i := range writes {
			if _, err := c.Write(pattern[i : i+1]); err != nil {
				return err
			}
		}
		return c.CloseWrite()
	}
	bothFamilies(t, func(t *testing.T, f family) {
		port := serve(t, r.Host, f.loopback, func(c *net.TCPConn) error {
			return errors.Join(newChecker(c).end(writes), oneByOne(c))
		})
		c := mustDial(t, r.Guest, f.gateway, port)
		if err := errors.Join(oneByOne(c), newChecker(c).end(writes)); err != nil {
			t.Error(err)
		}
	})
	r.wantNothingSentAgain()
	r.settle()
}

// TestUrgentData checks that urgent bytes stay where they were sent.
func TestUrgentData(t *testing.T) {
	r := start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		send := func(c *net.TCPConn) error {
			raw, err := c.SyscallConn()
			if err != nil {
				return err
			}
			if _, err := c.Write([]byte("ab")); err != nil {
				return err
			}
			var urgent error
			if err := raw.Write(func(fd uintptr) bool {
				urgent = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil)
				return !errors.Is(urgent, unix.EAGAIN)
			}); err != nil {
				return err
			}
			_, err = c.Write([]byte("cd"))
			return errors.Join(urgent, err, c.CloseWrite())
		}
		port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
			got, err := io.ReadAll(c) // SO_OOBINLINE is not set here: vasta's socket has to send it as ordinary data
			if err == nil && string(got) != "ab!cd" {
				err = fmt.Errorf("got %q, want the urgent byte in its place", got)
			}
			return err
		})
		c := mustDial(t, r.Guest, f.far, port)
		if err := send(c); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}

		port = serve(t, r.Inet, f.far, send)
		if got, err := io.ReadAll(mustDial(t, r.Guest, f.far, port)); err != nil || string(got) != "ab!cd" {
			t.Errorf("got %q (%v) from the server, want the urgent byte in its place", got, err)
		}
	})
	r.settle()
}

// TestShortConnections opens and closes many connections in turn and leaves nothing of them.
func TestShortConnections(t *testing.T) {
	const each = 5_000 // of 28,000 ports of an address pair
	r := start(t)
	for _, f := range families {
		port := serve(t, r.Inet, f.far, echoOne)
		if err := exchange(func() (net.Conn, error) { return dial(r.Guest, f.far, port) }); err != nil { // opens what vasta opens once
			t.Fatal(err)
		}
	}
	before := r.usage()
	for _, f := range families {
		port := serve(t, r.Inet, f.far, echoOne)
		parallel(t, 4, func(int) error {
			for i := range each / 4 {
				if err := exchange(func() (net.Conn, error) { return dial(r.Guest, f.far, port) }); err != nil {
					return fmt.Errorf("connection %d: %w", i, err)
				}
			}
			return nil
		})
	}
	c := r.settle()
	if c.TCP.Opened < 2*each || c.TCP.Opened != c.TCP.Closed {
		t.Errorf("%d opened and %d closed, want at least %d", c.TCP.Opened, c.TCP.Closed, 2*each)
	}
	r.wantUsage(before)
}

// echoOne answers one byte and ends.
func echoOne(c *net.TCPConn) error {
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	_, err := c.Write(b[:])
	return err
}

// exchange has a connection of one byte each way.
func exchange(dial func() (net.Conn, error)) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(dialLimit)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{'x'}); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != "x" {
		err = fmt.Errorf("got %q", got)
	}
	return err
}
