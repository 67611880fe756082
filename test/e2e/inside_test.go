package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// insideSize is what goes each way through a port of the namespace's loopback.
const insideSize = 64 << 20

// TestInsidePorts carries streams from the namespace's loopback to the host's: both ways at once, with one direction ended before the other, several at a time, each
// byte compared; and checks that what the host refuses or resets is reset inside, and the other way round.
func TestInsidePorts(t *testing.T) {
	l := newLab(t)
	r := startIn(t, l, "--no-map-gw", "-T", fmt.Sprintf("%d,%d:%d", samePort, outerPort, innerPort), "-T", fmt.Sprint(closedPort))
	before := r.usage()
	bothFamilies(t, func(t *testing.T, f family) {
		lo := f.loopback
		serveAt(t, r.Host, netip.AddrPortFrom(lo, samePort), func(c *net.TCPConn) error {
			sent := make(chan error, 1)
			go func() { sent <- errors.Join(sendPattern(c, 0, insideSize), c.CloseWrite()) }()
			return errors.Join(newChecker(c).end(insideSize), <-sent)
		})
		serveAt(t, r.Host, netip.AddrPortFrom(lo, innerPort), func(c *net.TCPConn) error {
			if err := newChecker(c).end(1000); err != nil { // the host has seen the end ...
				return err
			}
			return errors.Join(sendPattern(c, 0, insideSize), c.CloseWrite())
		})
		t.Run("both ways", func(t *testing.T) {
			parallel(t, 4, func(int) error {
				c, err := dial(r.Guest, lo, samePort)
				if err != nil {
					return err
				}
				defer c.Close()
				sent := make(chan error, 1)
				go func() { sent <- errors.Join(sendPattern(c, 0, insideSize), c.CloseWrite()) }()
				return errors.Join(newChecker(c).end(insideSize), <-sent)
			})
		})
		t.Run("half closed", func(t *testing.T) {
			c := mustDial(t, r.Guest, lo, outerPort)
			if err := errors.Join(sendPattern(c, 0, 1000), c.CloseWrite(), newChecker(c).end(insideSize)); err != nil {
				t.Error(err)
			}
		})
		t.Run("refused", func(t *testing.T) {
			c, err := dial(r.Guest, lo, closedPort)
			if err == nil { // else the reset was there before connect was asked how it went
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v, want a reset", errorText(err))
			}
		})
		t.Run("only there", func(t *testing.T) {
			if c, err := dial(r.Guest, f.host, samePort); err == nil {
				c.Close()
				t.Error("the port is open beside the loopback")
			}
			if c, err := dial(r.Guest, lo, samePort+1); err == nil {
				c.Close()
				t.Error("another port is open")
			}
		})
	})
	r.wantUsage(before)
}

// TestInsideReset checks both directions of a reset.
func TestInsideReset(t *testing.T) {
	r := start(t, "-T", fmt.Sprint(samePort))
	bothFamilies(t, func(t *testing.T, f family) {
		heard := make(chan error, 1)
		serveAt(t, r.Host, netip.AddrPortFrom(f.loopback, samePort), func(c *net.TCPConn) error {
			var b [1]byte
			if _, err := io.ReadFull(c, b[:]); err != nil {
				return err
			}
			if b[0] == 'r' {
				return c.SetLinger(0) // and it is closed
			}
			if _, err := c.Write(b[:]); err != nil { // the other end may reset it now
				return err
			}
			_, err := c.Read(b[:])
			heard <- err
			return nil
		})
		c := mustDial(t, r.Guest, f.loopback, samePort)
		if _, err := c.Write([]byte("r")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the host's reset is seen as %v", errorText(err))
		}
		c = mustDial(t, r.Guest, f.loopback, samePort)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
			t.Fatal(err)
		}
		if err := <-heard; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the namespace's reset is seen as %v", errorText(err))
		}
	})
	r.settle()
}

// TestInsideOtherFamily checks that a service that listens at one of the host's loopback addresses is reached by the other one inside, as "localhost" may lead to either.
func TestInsideOtherFamily(t *testing.T) {
	r := start(t, "-T", fmt.Sprintf("%d,%d", samePort, outerPort))
	saySelf(t, r.Host, netip.AddrPortFrom(families[0].loopback, samePort), "four")
	saySelf(t, r.Host, netip.AddrPortFrom(families[1].loopback, outerPort), "six")
	bothFamilies(t, func(t *testing.T, f family) {
		for port, want := range map[uint16]string{samePort: "four", outerPort: "six"} {
			if got := heard(t, r.Guest, f.loopback, port); got != want {
				t.Errorf("port %d says %q, want %q", port, got, want)
			}
		}
	})
}

// TestInsideUDP carries datagrams of all sizes from the namespace's loopback to the host's and back, of several clients at once.
func TestInsideUDP(t *testing.T) {
	l := newLab(t)
	ports := map[string]uint16{}
	for _, f := range families {
		ports[f.name] = echoUDP(t, l.Host, f.loopback.String(), "")
	}
	r := startIn(t, l, "-U", fmt.Sprintf("%d:%d,%d:%d", outerPort, ports["IPv4"], outerPort+1, ports["IPv6"]))
	bothFamilies(t, func(t *testing.T, f family) {
		port := uint16(outerPort)
		if f.loopback.Is6() {
			port++
		}
		var clients [4]net.Conn
		for i := range clients {
			c, err := r.Guest.Dial("udp", at(f.loopback, port), dialLimit)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			clients[i] = c
		}
		buf := make([]byte, 1<<16)
		for _, size := range []int{1, 0, 512, 1472, 9000, 40000, 65507, 2} {
			for i, c := range clients { // one at a time: the answering socket has room for few of the longest
				want := pattern[i*1000:][:size]
				if err := c.SetDeadline(time.Now().Add(dialLimit)); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Write(want); err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				if n, err := c.Read(buf); err != nil || string(buf[:n]) != string(want) {
					t.Fatalf("%d bytes came back for %d, %v", n, size, err)
				}
			}
		}
	})
	if c := r.now(); c.UDP.Opened != 8 {
		t.Errorf("%d flows of UDP", c.UDP.Opened)
	}
}

// TestInsideAuto checks that what the host listens on is found at the namespace's loopback while it lasts, but not what vasta itself listens on there.
func TestInsideAuto(t *testing.T) {
	r := start(t, "-T", "auto", "-U", "auto", "-t", fmt.Sprint(outerPort))
	f := families[0]
	l := answering(t, r.Host, at(f.loopback, samePort))
	becomes(t, r.Guest, f.loopback, samePort, false)
	if _, err := dial(r.Guest, f.loopback, outerPort); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port of vasta's own: %v, want refused", errorText(err))
	}
	l.Close()
	becomes(t, r.Guest, f.loopback, samePort, true)
}

// TestInsideAttached checks ports inside a namespace that vasta is attached to, also below 1024.
func TestInsideAttached(t *testing.T) {
	l := newLab(t)
	cmd, _ := target(t, l)
	ns, err := l.Open("guest", fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	vasta := l.Host.Command(lab.Ordinary, vastaPath, "attach", "-q", "--ready-fd", "3", "-T", fmt.Sprintf("%d,80:%d", samePort, samePort), "-t", "none", "-u", "none", "-U", "none",
		fmt.Sprint(cmd.Process.Pid))
	if err := runUntilReady(vasta); err != nil {
		t.Fatal(err)
	}
	defer func() {
		vasta.Kill()
		_ = vasta.Wait() // killed
	}()
	bothFamilies(t, func(t *testing.T, f family) {
		saySelf(t, l.Host, netip.AddrPortFrom(f.loopback, samePort), "host")
		for _, port := range []uint16{samePort, 80} {
			if got := heard(t, ns, f.loopback, port); got != "host" {
				t.Errorf("port %d says %q", port, got)
			}
		}
	})
}

// TestManyInsidePorts opens a thousand ports inside, and checks what is said of one that cannot be had.
func TestManyInsidePorts(t *testing.T) {
	const first, last = 20000, 20999
	r := start(t, "-T", fmt.Sprintf("%d-%d:%d-%d", first, last, first+1000, last+1000))
	f := families[0]
	for _, port := range []uint16{first, last} {
		saySelf(t, r.Host, netip.AddrPortFrom(f.loopback, port+1000), fmt.Sprint(port))
		if got := heard(t, r.Guest, f.loopback, port); got != fmt.Sprint(port) {
			t.Errorf("port %d says %q", port, got)
		}
	}
	l := newLab(t)
	cmd, _ := target(t, l)
	ns, err := l.Open("guest", fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	taken, err := ns.Listen("tcp", at(netip.IPv4Unspecified(), samePort))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	vastaFails(t, l, 1, fmt.Sprintf("vasta: option -T: cannot listen on port 127.0.0.1:%d of the namespace: address already in use", samePort),
		"attach", "-q", "-T", fmt.Sprint(samePort), fmt.Sprint(cmd.Process.Pid))
}
