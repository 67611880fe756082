package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// Ports of the tests of -t and -u: on the host, and in the namespace.
const (
	outerPort = 18080
	innerPort = 8080
	samePort  = 18081
)

// TestForwardedTCP reaches servers in the namespace from beyond the host and from the host itself.
func TestForwardedTCP(t *testing.T) {
	const size = 32 << 20
	r := start(t, "-t", fmt.Sprintf("%d:%d,%d", outerPort, innerPort, samePort))
	bothFamilies(t, func(t *testing.T, f family) {
		peers := make(chan netip.AddrPort, 10)
		talk := func(c *net.TCPConn) error {
			peers <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
			return errors.Join(source(size)(c), newChecker(c).end(size))
		}
		serveAt(t, r.Guest, netip.AddrPortFrom(f.host, innerPort), talk)
		serveAt(t, r.Guest, netip.AddrPortFrom(f.host, samePort), talk)
		inet := lab.InetAddr4.Addr()
		if f.host.Is6() {
			inet = lab.InetAddr6.Addr()
		}
		cases := []struct {
			name string
			from *lab.Namespace
			to   netip.Addr
			port uint16
			seen netip.Addr // who the guest thinks has connected
		}{
			{"from inet", r.Inet, f.host, outerPort, inet},
			{"from inet, same port", r.Inet, f.host, samePort, inet},
			{"from the host's loopback", r.Host, f.loopback, outerPort, f.gateway},
			{"from the host, to its address", r.Host, f.host, outerPort, f.gateway},
		}
		for _, tc := range cases {
			t.Run(tc.name, func(t *testing.T) {
				c := mustDial(t, tc.from, tc.to, tc.port)
				local := c.LocalAddr().(*net.TCPAddr).AddrPort()
				sent := make(chan error, 1)
				go func() { sent <- errors.Join(sendPattern(c, 0, size), c.CloseWrite()) }()
				if err := errors.Join(newChecker(c).end(size), <-sent); err != nil {
					t.Fatal(err)
				}
				if peer := <-peers; peer.Addr() != tc.seen || peer.Port() != local.Port() {
					t.Errorf("the guest saw %v, want %v with port %d", peer, tc.seen, local.Port())
				}
			})
		}
	})
	if c := r.settle(); c.TCP.Accepted != 8 || c.TCP.Retransmits != 0 {
		t.Errorf("%+v, want 8 accepted and nothing sent again", c.TCP)
	}
}

// TestForwardedToClosedPort checks that the host peer sees a reset when nothing listens inside.
func TestForwardedToClosedPort(t *testing.T) {
	r := start(t, "-t", fmt.Sprint(outerPort))
	bothFamilies(t, func(t *testing.T, f family) {
		c, err := dial(r.Inet, f.host, outerPort)
		if err == nil { // the kernel accepts before vasta can ask
			defer c.Close()
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s, want a reset", errorText(err))
		}
	})
	r.settle()
}

// TestForwardedUDP exchanges datagrams that begin outside.
func TestForwardedUDP(t *testing.T) {
	r := start(t, "-u", fmt.Sprintf("%d:%d", outerPort, innerPort))
	bothFamilies(t, func(t *testing.T, f family) {
		inside, err := r.Guest.ListenPacket("udp", at(f.host, innerPort))
		if err != nil {
			t.Fatal(err)
		}
		defer inside.Close()
		cases := []struct {
			name string
			from *lab.Namespace
			to   netip.Addr
		}{{"from inet", r.Inet, f.host}, {"from the host's loopback", r.Host, f.loopback}}
		for _, tc := range cases {
			t.Run(tc.name, func(t *testing.T) {
				c, err := tc.from.Dial("udp", at(tc.to, outerPort), dialLimit)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				limit := time.Now().Add(udpLimit)
				if err := errors.Join(c.SetDeadline(limit), inside.SetDeadline(limit)); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 65536)
				for _, size := range []int{0, 1, 1472, 9000, 65000} {
					if _, err := c.Write(pattern[:size]); err != nil {
						t.Fatal(err)
					}
					n, from, err := inside.ReadFrom(buf)
					if err != nil || string(buf[:n]) != string(pattern[:size]) {
						t.Fatalf("%d bytes inside (%v), want %d", n, err, size)
					}
					peer := from.(*net.UDPAddr).AddrPort()
					if want := c.LocalAddr().(*net.UDPAddr).AddrPort(); tc.from == r.Inet && peer != want || peer.Port() != want.Port() {
						t.Errorf("the guest saw %v, want %v", peer, want)
					}
					if _, err := inside.WriteTo(pattern[size:2*size], from); err != nil {
						t.Fatal(err)
					}
					if n, err = c.Read(buf); err != nil || string(buf[:n]) != string(pattern[size:2*size]) {
						t.Fatalf("%d bytes back (%v), want %d", n, err, size)
					}
				}
			})
		}
	})
}

// TestPortTaken checks the one line that says why a port cannot be forwarded.
func TestPortTaken(t *testing.T) {
	l := newLab(t)
	listener, err := l.Host.Listen("tcp", at(netip.IPv6Unspecified(), outerPort))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	want := fmt.Sprintf("vasta: option -t: cannot listen on port [::]:%d: address already in use", outerPort)
	vastaFails(t, l, 1, want, "-q", "-t", fmt.Sprint(outerPort), "--", "true")
	vastaFails(t, l, 1, "vasta: option -t: cannot listen on port [::]:80: permission denied", "-q", "-t", "80", "--", "true")
}
