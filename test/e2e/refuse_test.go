package e2e_test

import (
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// closedPort is one that nobody listens on.
const closedPort = 9

// TestConnectRefused checks that a refused connection is refused, and at once.
func TestConnectRefused(t *testing.T) {
	r := start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		for name, to := range map[string]string{"far": at(f.far, closedPort), "host": at(f.gateway, closedPort)} {
			times := make([]time.Duration, 20)
			for i := range times {
				began := time.Now()
				_, err := r.Guest.Dial("tcp", to, dialLimit)
				times[i] = time.Since(began)
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatalf("%s: %v, want refused", name, err)
				}
			}
			slices.Sort(times)
			if p50 := times[len(times)/2]; p50 > 10*time.Millisecond {
				t.Errorf("%s: refused after %v in the median, want at most 10 ms", name, p50)
			}
		}
	})
	if c := r.settle(); c.Drops["host_refused"] != 80 {
		t.Errorf("%d refusals counted, want 80", c.Drops["host_refused"])
	}
}

// TestUnreachable checks that the host's lack of a way is told to the guest as an ICMP error, and at once.
func TestUnreachable(t *testing.T) {
	r := start(t)
	routes := []struct {
		dst  string
		kind int
		want []error
	}{
		{"203.0.113.1/32", unix.RTN_UNREACHABLE, []error{unix.EHOSTUNREACH}},
		{"203.0.113.2/32", unix.RTN_PROHIBIT, []error{unix.EHOSTUNREACH, unix.EACCES}},
		{"203.0.113.3/32", unix.RTN_BLACKHOLE, []error{unix.EHOSTUNREACH}}, // connect(2) says EINVAL
		{"2001:db8:dead::1/128", unix.RTN_UNREACHABLE, []error{unix.EHOSTUNREACH}},
		{"2001:db8:dead::2/128", unix.RTN_PROHIBIT, []error{unix.EACCES}},
		{"2001:db8:dead::3/128", unix.RTN_BLACKHOLE, []error{unix.EHOSTUNREACH}},
	}
	for _, route := range routes {
		ip, dst, err := net.ParseCIDR(route.dst)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Host.Do(func() error { return netlink.RouteAdd(&netlink.Route{Dst: dst, Type: route.kind}) }); err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"tcp", "udp"} {
			began := time.Now()
			err := attempt(r, network, net.JoinHostPort(ip.String(), "80"))
			if !slices.ContainsFunc(route.want, func(e error) bool { return errors.Is(err, e) }) {
				t.Errorf("%s to %s: %v, want one of %v", network, route.dst, err, route.want)
			}
			if d := time.Since(began); d > time.Second {
				t.Errorf("%s to %s: told after %v", network, route.dst, d)
			}
		}
	}
	if c := r.settle(); c.Drops["host_unreachable"] == 0 {
		t.Errorf("nothing counted: %v", c.Drops)
	}
}

// attempt connects, or sends a datagram, and returns the error that comes back.
func attempt(r *rig, network, to string) error {
	c, err := r.Guest.Dial(network, to, 3*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if network == "tcp" {
		return errors.New("connected")
	}
	if err := wantErrors(c.(*net.UDPConn)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(udpLimit)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// wantErrors has a UDP socket report every ICMP error. Without it the kernel reports a refused port alone.
func wantErrors(c *net.UDPConn) error {
	if c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is6() {
		return setInt(c, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	}
	return setInt(c, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
}

// setInt sets a socket option.
func setInt(c syscall.Conn, level, option, value int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, value) })
	return errors.Join(err, set)
}

// TestNoRouter checks that a neighbour that does not answer is reported when the host has given up on it.
func TestNoRouter(t *testing.T) {
	r := start(t)
	// One solicitation, 100 ms: the kernel's own three take 3 s.
	for _, f := range []string{"ipv4", "ipv6"} {
		for _, kind := range []string{"mcast_solicit", "retrans_time_ms"} {
			value := map[string]string{"mcast_solicit": "1", "retrans_time_ms": "100"}[kind]
			if err := r.Host.Sysctl("net."+f+".neigh.eth0."+kind, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, to := range []string{"192.0.2.99", "2001:db8::99"} { // on the link, and not there
		if err := attempt(r, "tcp", net.JoinHostPort(to, "80")); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%s: %v, want unreachable", to, err)
		}
	}
	r.settle()
}

// TestReset checks both directions of a reset: SO_LINGER 0 at one end is ECONNRESET at the other.
func TestReset(t *testing.T) {
	r := start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		reset := func(c *net.TCPConn) error {
			return errors.Join(c.SetLinger(0), c.Close())
		}
		// wantReset reads one byte, and then the reset.
		wantReset := func(c net.Conn) error {
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err != nil {
				return err
			}
			if _, err := c.Read(b); !errors.Is(err, syscall.ECONNRESET) {
				return errors.New("no reset: " + errorText(err))
			}
			return nil
		}
		t.Run("by the guest", func(t *testing.T) {
			seen := make(chan error, 1)
			port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
				seen <- wantReset(c)
				return nil
			})
			c := mustDial(t, r.Guest, f.far, port)
			if _, err := c.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond) // a reset overtakes data that is not read yet
			if err := errors.Join(reset(c), <-seen); err != nil {
				t.Error(err)
			}
		})
		t.Run("by the server", func(t *testing.T) {
			proceed := make(chan struct{})
			port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
				_, err := c.Write([]byte{1})
				<-proceed
				return errors.Join(err, reset(c))
			})
			c := mustDial(t, r.Guest, f.far, port)
			time.AfterFunc(20*time.Millisecond, func() { close(proceed) })
			if err := wantReset(c); err != nil {
				t.Error(err)
			}
		})
		t.Run("by a server that closes with data unread", func(t *testing.T) {
			port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
				_, err := io.ReadFull(c, make([]byte, 1))
				time.Sleep(20 * time.Millisecond)
				return err
			})
			c := mustDial(t, r.Guest, f.far, port)
			if _, err := c.Write(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s, want a reset", errorText(err))
			}
		})
	})
	r.settle()
}

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}
