package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// becomes waits until a connection to a forwarded port ends as wanted: refused, or taken and answered.
func becomes(t *testing.T, ns *lab.Namespace, a netip.Addr, port uint16, refused bool) {
	t.Helper()
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(10 * time.Millisecond) {
		c, err := dial(ns, a, port)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if errors.Is(err, syscall.ECONNREFUSED) && refused || err == nil && !refused {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v port %d: %v, want refused: %v", a, port, errorText(err), refused)
		}
	}
}

// answering listens, and answers every connection with the byte that becomes reads, until the listener is closed.
func answering(t *testing.T, ns *lab.Namespace, a string) net.Listener {
	t.Helper()
	l, err := ns.Listen("tcp", a)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("x")) // read by becomes
			c.Close()
		}
	}()
	return l
}

// TestListenWhenReady checks that a forwarded port refuses connections by the kernel's own word until something listens inside, whoever asks, and again
// when that is gone; and that nobody else gets the port meanwhile.
func TestListenWhenReady(t *testing.T) {
	r := start(t, "--listen-when-ready", "-t", fmt.Sprintf("%d:%d,%d", outerPort, innerPort, samePort))
	bothFamilies(t, func(t *testing.T, f family) {
		if _, err := dial(r.Inet, f.host, outerPort); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("before anything listens: %v, want refused", errorText(err))
		}
		if l, err := r.Host.Listen("tcp", at(f.host, outerPort)); err == nil {
			l.Close()
			t.Error("another program gets the port")
		}
		only := netip.AddrPortFrom(f.loopback, innerPort)
		saySelf(t, r.Guest, only, "loopback")
		l := answering(t, r.Guest, at(f.host, innerPort))
		becomes(t, r.Inet, f.host, outerPort, false)
		becomes(t, r.Host, f.loopback, outerPort, false)
		if _, err := dial(r.Inet, f.host, samePort); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("another port: %v, want refused", errorText(err))
		}
		l.Close()
		becomes(t, r.Inet, f.host, outerPort, true)
	})
	r.settle()
}

// TestAutoPorts checks that what listens inside is forwarded under its own port, and not any more when it has ended. What the host has itself is left
// to it.
func TestAutoPorts(t *testing.T) {
	l := newLab(t)
	saySelf(t, l.Host, netip.AddrPortFrom(netip.IPv6Unspecified(), samePort), "host")
	r := startIn(t, l, "-t", "auto", "-u", "auto")
	f := families[0]
	inside, err := r.Guest.Listen("tcp", fmt.Sprintf(":%d", outerPort))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := inside.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("guest")) // read by becomes
			c.Close()
		}
	}()
	saySelf(t, r.Guest, netip.AddrPortFrom(netip.IPv6Unspecified(), samePort), "guest")
	datagrams, err := r.Guest.ListenPacket("udp", fmt.Sprintf(":%d", outerPort))
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	bothFamilies(t, func(t *testing.T, f family) {
		becomes(t, r.Inet, f.host, outerPort, false)
		if got := heard(t, r.Inet, f.host, samePort); got != "host" {
			t.Errorf("the host's own port leads to %q", got)
		}
		c, err := r.Inet.Dial("udp", at(f.host, outerPort), dialLimit)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		buf := make([]byte, 16)
		for deadline := time.Now().Add(settleLimit); ; {
			_, _ = c.Write([]byte("ping")) // refused until the port is forwarded
			if err := datagrams.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if n, _, err := datagrams.ReadFrom(buf); err == nil && string(buf[:n]) == "ping" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no datagram comes to the port")
			}
		}
	})
	inside.Close()
	becomes(t, r.Inet, f.host, outerPort, true)
	r.settle()
}

// TestClosedPortIsReset checks that the peer of a connection to a closed port of the guest sees a reset within 10 ms of the accept.
func TestClosedPortIsReset(t *testing.T) {
	r := start(t, "-t", fmt.Sprint(outerPort))
	bothFamilies(t, func(t *testing.T, f family) {
		times := make([]time.Duration, 20)
		for i := range times {
			began := time.Now()
			c, err := dial(r.Inet, f.host, outerPort)
			if err == nil { // the kernel accepts before vasta can ask
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
			times[i] = time.Since(began)
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("%s, want a reset", errorText(err))
			}
		}
		slices.Sort(times)
		if p50 := times[len(times)/2]; p50 > 10*time.Millisecond {
			t.Errorf("reset after %v in the median, want at most 10 ms", p50)
		}
	})
	r.settle()
}

// TestSourceAddresses checks who the guest sees, for every address that a peer may have.
func TestSourceAddresses(t *testing.T) {
	r := start(t, "-t", fmt.Sprintf("%d:%d", outerPort, innerPort))
	bothFamilies(t, func(t *testing.T, f family) {
		peers := make(chan netip.Addr, 1)
		serveAt(t, r.Guest, netip.AddrPortFrom(f.host, innerPort), func(c *net.TCPConn) error {
			peers <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
			_, err := c.Write([]byte("x"))
			return err
		})
		cases := []struct{ from, to, seen netip.Addr }{{f.loopback, f.loopback, f.gateway}, {f.host, f.host, f.gateway}}
		if f.loopback.Is4() {
			other := netip.MustParseAddr("127.3.4.5")
			cases = append(cases, struct{ from, to, seen netip.Addr }{other, f.loopback, f.gateway})
		}
		for _, tc := range cases {
			out, err := r.Host.Command(lab.Ordinary, "nc", "-d", "-N", "-w", "5", "-s", tc.from.String(), tc.to.String(), fmt.Sprint(outerPort)).Output()
			if err != nil || string(out) != "x" {
				t.Errorf("from %v: %q, %v", tc.from, out, err)
				continue
			}
			if seen := <-peers; seen != tc.seen {
				t.Errorf("%v is seen as %v, want %v", tc.from, seen, tc.seen)
			}
		}
	})
	r.settle()
}
