package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
	"github.com/vishvananda/netlink"
)

// TestMTUs moves content through links of unusual MTUs, given by the option or set inside later.
func TestMTUs(t *testing.T) {
	const size = 8 << 20
	for _, tc := range []struct {
		option string
		later  int // set inside, 0 for not
	}{{"1280", 0}, {"9000", 0}, {"0", 0}, {"65520", 1400}, {"1500", 1280}} {
		t.Run(fmt.Sprintf("%s, then %d", tc.option, tc.later), func(t *testing.T) {
			r := start(t, "-m", tc.option)
			if tc.later != 0 {
				if err := r.Guest.Do(func() error {
					link, err := netlink.LinkByName(lab.LinkName)
					return errors.Join(err, netlink.LinkSetMTU(link, tc.later))
				}); err != nil {
					t.Fatal(err)
				}
			}
			bothFamilies(t, func(t *testing.T, f family) {
				if err := errors.Join(
					download(r.Guest, f.far, serve(t, r.Inet, f.far, source(size)), size),
					upload(r.Guest, f.gateway, serve(t, r.Host, f.loopback, sink(size)), size),
				); err != nil {
					t.Error(err)
				}
			})
			r.wantNothingSentAgain()
		})
	}
	r := start(t, "-4", "-m", "68")
	if err := download(r.Guest, families[0].far, serve(t, r.Inet, families[0].far, source(10_000)), 10_000); err != nil {
		t.Errorf("MTU 68: %v", err)
	}
}

// TestOneFamily checks that a family that is switched off is not there, and that the other one works.
func TestOneFamily(t *testing.T) {
	for i, option := range []string{"-4", "-6"} {
		t.Run(option, func(t *testing.T) {
			r := start(t, option, "-t", fmt.Sprint(outerPort))
			on, off := families[i], families[1-i]
			if err := download(r.Guest, on.far, serve(t, r.Inet, on.far, source(1000)), 1000); err != nil {
				t.Error(err)
			}
			if _, err := dial(r.Guest, off.far, closedPort); !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
				t.Errorf("%s: %v, want no route", off.name, err)
			}
			serveAt(t, r.Guest, netip.AddrPortFrom(on.host, outerPort), echoOne)
			if err := exchange(func() (net.Conn, error) { return dial(r.Inet, on.host, outerPort) }); err != nil {
				t.Error(err)
			}
			if c, err := dial(r.Inet, off.host, outerPort); err == nil {
				if err = echoes(c); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%s from outside: %s, want refused or reset", off.name, errorText(err))
				}
			} else if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s from outside: %v, want refused or reset", off.name, err)
			}
		})
	}
}

// TestMappings reaches the host under the addresses that options name.
func TestMappings(t *testing.T) {
	r := start(t, "--map-host-loopback", "192.0.2.77", "--map-host-loopback", "2001:db8::77",
		"--map-guest-addr", "192.0.2.88", "--map-guest-addr", "2001:db8::88")
	mapped := map[string]struct{ loopback, self netip.Addr }{
		"IPv4": {netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("192.0.2.88")},
		"IPv6": {netip.MustParseAddr("2001:db8::77"), netip.MustParseAddr("2001:db8::88")},
	}
	bothFamilies(t, func(t *testing.T, f family) {
		m := mapped[f.name]
		if err := download(r.Guest, m.loopback, serve(t, r.Host, f.loopback, source(1000)), 1000); err != nil {
			t.Errorf("the host's loopback: %v", err)
		}
		if err := download(r.Guest, m.self, serve(t, r.Host, f.host, source(1000)), 1000); err != nil {
			t.Errorf("the host's own address: %v", err)
		}
		port := serve(t, r.Host, f.loopback, func(c *net.TCPConn) error { return fmt.Errorf("connection from %v", c.RemoteAddr()) })
		if _, err := dial(r.Guest, f.gateway, port); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the gateway: %s, want the router to refuse", errorText(err))
		}
	})
}

// TestAddresses gives the guest addresses that the host does not have: outside, connections come from the host's.
func TestAddresses(t *testing.T) {
	r := start(t, "-a", "10.1.2.3/24", "-g", "10.1.2.1", "-a", "fd01::3/64", "-g", "fd01::1", "-o", lab.HostAddr4.Addr().String())
	bothFamilies(t, func(t *testing.T, f family) {
		peer := make(chan netip.Addr, 1)
		port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
			peer <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
			return echoOne(c)
		})
		if err := exchange(func() (net.Conn, error) { return dial(r.Guest, f.far, port) }); err != nil {
			t.Fatal(err)
		}
		if got := <-peer; got != f.host {
			t.Errorf("the server saw %v, want %v", got, f.host)
		}
		gateway := netip.MustParseAddr("10.1.2.1")
		if f.host.Is6() {
			gateway = netip.MustParseAddr("fd01::1")
		}
		if err := download(r.Guest, gateway, serve(t, r.Host, f.loopback, source(1000)), 1000); err != nil {
			t.Errorf("the gateway: %v", err)
		}
	})
}

// TestFilters checks that a protocol that is switched off does not pass, and that the others do.
func TestFilters(t *testing.T) {
	f := families[0]
	works := func(t *testing.T, r *rig) (tcp, udp, icmp bool) {
		t.Helper()
		c, err := r.Guest.Dial("tcp", at(f.far, serve(t, r.Inet, f.far, func(*net.TCPConn) error { return nil })), time.Second)
		if tcp = err == nil; tcp {
			c.Close()
		}
		u, err := r.Guest.Dial("udp", at(f.far, echoUDP(t, r.Inet, f.far.String(), "")), dialLimit)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if _, err := u.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := u.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadFull(u, make([]byte, 1))
		udp = err == nil
		ping := r.Guest.Command(lab.Root, "ping", "-n", "-c", "1", "-W", "1", f.far.String())
		_, err = ping.CombinedOutput()
		return tcp, udp, err == nil
	}
	for _, option := range []string{"--no-tcp", "--no-udp", "--no-icmp"} {
		r := start(t, option)
		tcp, udp, icmp := works(t, r)
		got := strings.TrimSpace(fmt.Sprintln(map[bool]string{false: "--no-tcp"}[tcp], map[bool]string{false: "--no-udp"}[udp], map[bool]string{false: "--no-icmp"}[icmp]))
		if got != option {
			t.Errorf("with %s these do not work: %s", option, got)
		}
		if r.now().Drops["disabled"] == 0 {
			t.Errorf("%s: nothing is counted", option)
		}
	}
}

// TestManyPorts forwards a thousand ports of both protocols, and reaches the first and the last.
func TestManyPorts(t *testing.T) {
	const first, last = 20000, 20999
	ports := fmt.Sprintf("%d-%d", first, last)
	r := start(t, "-t", ports, "-u", ports)
	f := families[0]
	for _, port := range []uint16{first, last} {
		serveAt(t, r.Guest, netip.AddrPortFrom(f.host, port), echoOne)
		if err := exchange(func() (net.Conn, error) { return dial(r.Inet, f.host, port) }); err != nil {
			t.Errorf("port %d: %v", port, err)
		}
	}
	r.settle()
	r.wantIdle("with many ports")
}

// TestIdleTimeout checks that a silent connection ends, and one that is used does not.
func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	r := start(t, "--idle-timeout", "2")
	f := families[0]
	port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
		_, _ = io.Copy(c, c) // reset when it is silent
		return nil
	})
	silent, used := mustDial(t, r.Guest, f.far, port), mustDial(t, r.Guest, f.far, port)
	if err := echoes(silent); err != nil {
		t.Fatal(err)
	}
	for range 35 {
		time.Sleep(100 * time.Millisecond)
		if err := echoes(used); err != nil {
			t.Fatalf("the connection that is used: %v", err)
		}
	}
	if _, err := silent.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the silent connection: %s, want a reset", errorText(err))
	}
	if err := used.Close(); err != nil {
		t.Error(err)
	}
	r.settle()
}
