package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestChaos has many connections at once whose ends write, read, pause, close, half-close and reset at random, and nothing left of
// them. What a receiver gets before the end is always right.
func TestChaos(t *testing.T) {
	const (
		clients = 64
		rounds  = 12
		most    = 512 << 10 // bytes of one direction
	)
	r := start(t, "-t", fmt.Sprintf("%d:%d", outerPort, innerPort))
	before := r.usage()
	// behave does what an end of a connection may do. Errors of the stream are in order: the other end may reset it.
	behave := func(c *net.TCPConn, rng *rand.Rand) error {
		send, receive := int64(rng.IntN(most)), int64(rng.IntN(2*most))
		reset, half, pause := rng.IntN(4) == 0, rng.IntN(2) == 0, rng.IntN(3) == 0
		delay := time.Duration(rng.IntN(50)) * time.Millisecond
		// Both ends may wait for more than the other sends.
		if err := c.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			if sendPattern(c, 0, send) == nil && half {
				_ = c.CloseWrite() // reset by the other end
			}
		}()
		if pause {
			time.Sleep(delay)
		}
		check := newChecker(c)
		err := check.read(receive)
		var wrong *mismatch
		if !errors.As(err, &wrong) {
			err = nil
		}
		if reset {
			_ = c.SetLinger(0) // closed below
			_ = c.Close()
		}
		<-wrote
		_ = c.Close() // twice after a reset
		return err
	}
	server := func(c *net.TCPConn) error { return behave(c, rand.New(rand.NewPCG(rand.Uint64(), 1))) }
	for _, f := range families {
		far, near := serve(t, r.Inet, f.far, server), serve(t, r.Host, f.loopback, server)
		serveAt(t, r.Guest, netip.AddrPortFrom(f.host, innerPort), server)
		parallel(t, clients, func(i int) error {
			rng := rand.New(rand.NewPCG(uint64(i), 2))
			for range rounds {
				var c *net.TCPConn
				var err error
				switch i % 3 {
				case 0:
					c, err = dial(r.Guest, f.far, far)
				case 1:
					c, err = dial(r.Guest, f.gateway, near)
				default:
					c, err = dial(r.Inet, f.host, outerPort)
				}
				if errors.Is(err, syscall.ECONNRESET) {
					continue // the server's reset was there before connect was asked how it went
				}
				if err != nil {
					return err
				}
				if err := behave(c, rng); err != nil {
					return err
				}
			}
			return nil
		})
	}
	r.wantUsage(before)
	if n := snmp(t, r.Guest, "RetransSegs"); n != 0 {
		t.Logf("the guest sent %d segments again", n)
	}
}

// TestSamePortAgain opens connections from one source port, each as soon as the one before is over, by a reset or by the server's
// end: what is left of the old one must not be in the new one's way.
func TestSamePortAgain(t *testing.T) {
	const times = 100
	r := start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		for _, reset := range []bool{true, false} {
			port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					return err
				}
				if _, err := c.Write([]byte{'x'}); err != nil || !reset {
					return err
				}
				_, err := c.Read(make([]byte, 1))
				if !errors.Is(err, syscall.ECONNRESET) {
					return fmt.Errorf("%s, want a reset", errorText(err))
				}
				return nil
			})
			var local net.Addr
			for i := range times {
				d := net.Dialer{Timeout: dialLimit, LocalAddr: local, Control: reuseAddr}
				var conn net.Conn
				eventually(t, "the guest waits for the last ACK", func() bool {
					err := r.Guest.Do(func() (err error) { conn, err = d.Dial("tcp", at(f.far, port)); return err })
					if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
						t.Fatalf("reset %v, connection %d: %v", reset, i, err)
					}
					return err == nil
				})
				c := conn.(*net.TCPConn)
				local = c.LocalAddr()
				err := errors.Join(c.SetDeadline(time.Now().Add(dialLimit)), echoesOne(c))
				if reset {
					err = errors.Join(err, c.SetLinger(0))
				} else if _, e := c.Read(make([]byte, 1)); e != io.EOF {
					err = errors.Join(err, fmt.Errorf("%s, want the end", errorText(e)))
				}
				if err = errors.Join(err, c.Close()); err != nil {
					t.Fatalf("reset %v, connection %d: %v", reset, i, err)
				}
			}
		}
	})
	if n := snmp(t, r.Guest, "RetransSegs"); n != 0 {
		t.Errorf("the guest had to repeat %d segments: its SYN was not answered", n)
	}
	r.settle()
}

func reuseAddr(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return errors.Join(err, set)
}

// echoesOne has one byte sent back.
func echoesOne(c net.Conn) error {
	if _, err := c.Write([]byte{'x'}); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}
