package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
	"golang.org/x/sys/unix"
)

// udpLimit bounds the wait for a datagram.
const udpLimit = 20 * time.Second

// echoUDP answers every datagram with itself behind a prefix, and returns its port.
func echoUDP(t *testing.T, ns *lab.Namespace, a string, prefix string) uint16 {
	t.Helper()
	c, err := ns.ListenPacket("udp", net.JoinHostPort(a, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			if _, err := c.WriteTo(append([]byte(prefix), buf[:n]...), from); err != nil {
				t.Errorf("echo of %d bytes to %v: %v", n, from, err)
			}
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

func listenUDP(t *testing.T, ns *lab.Namespace, a string) *net.UDPConn {
	t.Helper()
	c, err := ns.ListenPacket("udp", a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(udpLimit)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.UDPConn)
}

// TestUDP asks two servers from one socket, and checks that the port is kept and the answers are told apart.
func TestUDP(t *testing.T) {
	r := start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		far := echoUDP(t, r.Inet, f.far.String(), "far ")
		near := echoUDP(t, r.Host, f.loopback.String(), "near ")
		c := listenUDP(t, r.Guest, at(f.host, 0))
		for range 3 {
			for prefix, to := range map[string]string{"far ": at(f.far, far), "near ": at(f.gateway, near)} {
				peer, err := net.ResolveUDPAddr("udp", to)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.WriteTo([]byte("question"), peer); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 100)
				n, from, err := c.ReadFrom(buf)
				if err != nil || string(buf[:n]) != prefix+"question" || from.String() != to {
					t.Errorf("%q from %v (%v), want an answer of %s", buf[:n], from, err, to)
				}
			}
		}

		// The server's view: the source port is the guest's.
		server := listenUDP(t, r.Inet, at(f.far, 0))
		if _, err := c.WriteTo([]byte("x"), server.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		_, from, err := server.ReadFrom(make([]byte, 10))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := from.(*net.UDPAddr).AddrPort(), c.LocalAddr().(*net.UDPAddr).AddrPort(); got != want {
			t.Errorf("the server saw %v, want %v", got, want)
		}
	})
}

// TestUDPSizes sends datagrams of every order of size and back, up to the longest that UDP has: the guest's kernel cuts
// what is longer than its MTU.
func TestUDPSizes(t *testing.T) {
	for _, mtu := range []string{"65520", "1500", "1280"} {
		t.Run(mtu, func(t *testing.T) {
			r := start(t, "-m", mtu)
			bothFamilies(t, func(t *testing.T, f family) {
				port := echoUDP(t, r.Inet, f.far.String(), "")
				c, err := r.Guest.Dial("udp", at(f.far, port), dialLimit)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if err := c.SetDeadline(time.Now().Add(udpLimit)); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 65536)
				for _, size := range []int{0, 1, 1472, 1473, 9000, 65000, 65507} {
					if _, err := c.Write(pattern[:size]); err != nil {
						t.Fatal(err)
					}
					if n, err := c.Read(buf); err != nil || string(buf[:n]) != string(pattern[:size]) {
						t.Fatalf("%d bytes came back (%v), want %d", n, err, size)
					}
				}
			})
		})
	}
}

// TestUDPRefused checks that the ICMP error of a closed port reaches the guest's socket.
func TestUDPRefused(t *testing.T) {
	r := start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		for _, a := range []string{at(f.far, closedPort), at(f.gateway, closedPort)} {
			if err := attempt(r, "udp", a); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: %s, want refused", a, errorText(err))
			}
		}
	})
}

// TestUDPSegmentation sends GSO datagrams, which arrive as the datagrams that they stand for.
func TestUDPSegmentation(t *testing.T) {
	const size, segment = 30_000, 1400
	r := start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		server := listenUDP(t, r.Inet, at(f.far, 0))
		c, err := r.Guest.Dial("udp", server.LocalAddr().String(), dialLimit)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := setInt(c.(*net.UDPConn), unix.IPPROTO_UDP, unix.UDP_SEGMENT, segment); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Write(pattern[:size]); n != size || err != nil {
			t.Fatalf("sent %d: %v", n, err)
		}
		buf := make([]byte, 65536)
		for off := 0; off < size; off += segment {
			n, err := server.Read(buf)
			if want := pattern[off:min(off+segment, size)]; err != nil || string(buf[:n]) != string(want) {
				t.Fatalf("at offset %d: %d bytes (%v), want %d", off, n, err, len(want))
			}
		}
	})
	if c := r.now(); c.RxFrames > 100 {
		t.Errorf("%d frames: the guest's kernel has split the datagrams itself", c.RxFrames)
	}
}

// TestPing checks that echo requests are answered by inet and by the host behind the gateway.
func TestPing(t *testing.T) {
	r := start(t, "-m", "1500") // longer messages are cut, both ways
	bothFamilies(t, func(t *testing.T, f family) {
		for _, a := range []string{f.far.String(), f.gateway.String()} {
			for _, size := range []string{"8", "1400", "60000"} {
				c := r.Guest.Command(lab.Root, "ping", "-n", "-c", "2", "-i", "0.01", "-W", "2", "-s", size, a)
				if out, err := c.CombinedOutput(); err != nil {
					t.Errorf("%s bytes to %s: %v: %s", size, a, err, out)
				}
			}
		}
	})
}

// TestPingForbidden checks that a machine that does not let users ping is told of, once, and that the guest is told each time.
func TestPingForbidden(t *testing.T) {
	l := newLab(t)
	if err := l.Host.Sysctl("net.ipv4.ping_group_range", "1 0"); err != nil {
		t.Fatal(err)
	}
	r := startIn(t, l)
	for _, f := range families {
		c := r.Guest.Command(lab.Root, "ping", "-n", "-c", "2", "-i", "0.01", "-W", "1", f.far.String())
		if out, err := c.CombinedOutput(); err == nil {
			t.Errorf("%s: answered: %s", f.name, out)
		} else if !strings.Contains(string(out), "Packet filtered") && !strings.Contains(string(out), "Administratively prohibited") {
			t.Errorf("%s: ping does not say why: %s", f.name, out)
		}
	}
	if n := len(linesWith(r.log.String(), "ping_group_range")); n != 1 {
		t.Errorf("%d lines about ping_group_range, want one: %s", n, r.log)
	}
}

// TestEndpointIndependent: with the option one port of the namespace has one port of the host for all its peers, and hears whoever sends to it; without, its
// peers alone.
func TestEndpointIndependent(t *testing.T) {
	for _, independent := range []bool{false, true} {
		t.Run(fmt.Sprint(independent), func(t *testing.T) {
			var options []string
			if independent {
				options = append(options, "--endpoint-independent")
			}
			r := start(t, options...)
			bothFamilies(t, func(t *testing.T, f family) {
				c := listenUDP(t, r.Guest, at(f.host, 0))
				first, second, stranger := listenUDP(t, r.Inet, at(f.far, 0)), listenUDP(t, r.Inet, at(f.far, 0)), listenUDP(t, r.Inet, at(f.far, 0))
				var seen [2]string
				for i, server := range []*net.UDPConn{first, second} {
					if _, err := c.WriteTo([]byte("hello"), server.LocalAddr()); err != nil {
						t.Fatal(err)
					}
					_, from, err := server.ReadFrom(make([]byte, 10))
					if err != nil {
						t.Fatal(err)
					}
					seen[i] = from.String()
				}
				if seen[0] != seen[1] {
					t.Errorf("the servers saw %v", seen)
				}
				to, err := net.ResolveUDPAddr("udp", seen[0])
				if err != nil {
					t.Fatal(err)
				}
				if _, err := stranger.WriteTo([]byte("stranger"), to); err != nil {
					t.Fatal(err)
				}
				if _, err := first.WriteTo([]byte("friend"), to); err != nil {
					t.Fatal(err)
				}
				want := []string{"friend"}
				if independent {
					want = []string{"stranger", "friend"}
				}
				for _, w := range want {
					buf := make([]byte, 100)
					if n, from, err := c.ReadFrom(buf); err != nil || string(buf[:n]) != w {
						t.Errorf("%q from %v (%v), want %q", buf[:n], from, err, w)
					}
				}
			})
		})
	}
}

// TestSourceFlows: with the option an address has no more flows than it may, and is told so.
func TestSourceFlows(t *testing.T) {
	r := start(t, "--source-flows", "3", "--queues", "1")
	bothFamilies(t, func(t *testing.T, f family) {
		server := listenUDP(t, r.Inet, at(f.far, 0))
		for i := range 4 {
			c, err := r.Guest.Dial("udp", server.LocalAddr().String(), dialLimit)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if i < 3 {
				if _, _, err := server.ReadFrom(make([]byte, 10)); err != nil {
					t.Error(err)
				}
				continue
			}
			if err := c.SetReadDeadline(time.Now().Add(udpLimit)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 10)); !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.EACCES) {
				t.Errorf("flow %d: %v, want that it is forbidden", i, err)
			}
		}
	})
	if d := r.now().Drops; d["source_full"] != 2 {
		t.Errorf("drops %v, want 2 of them for the source", d)
	}
}
