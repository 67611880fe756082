package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/vasta-net/vasta/internal/lab"
)

// saySelf serves a word at a port of a namespace, to whoever connects.
func saySelf(t *testing.T, ns *lab.Namespace, a netip.AddrPort, word string) {
	t.Helper()
	serveAt(t, ns, a, func(c *net.TCPConn) error {
		_, err := c.Write([]byte(word))
		return err
	})
}

// heard is what nc reads from a port.
func heard(t *testing.T, ns *lab.Namespace, a netip.Addr, port uint16) string {
	t.Helper()
	out, err := ns.Command(lab.Ordinary, "nc", "-d", "-N", "-w", "5", a.String(), fmt.Sprint(port)).Output()
	if err != nil {
		t.Errorf("nc %v %d: %v", a, port, err)
	}
	return string(out)
}

// TestPortsOfAddresses checks that one port of several addresses leads to a port each.
func TestPortsOfAddresses(t *testing.T) {
	lo4, lo6, host4, host6 := families[0].loopback, families[1].loopback, families[0].host, families[1].host
	var args []string
	for i, a := range []netip.Addr{lo4, lo6, host4, host6} {
		args = append(args, "-t", fmt.Sprintf("[%v]/%d:%d", a, outerPort, innerPort+i))
	}
	r := start(t, args...)
	for i, a := range []netip.Addr{lo4, lo6, host4, host6} {
		guest := host4
		if a.Is6() {
			guest = host6
		}
		saySelf(t, r.Guest, netip.AddrPortFrom(guest, innerPort+uint16(i)), a.String())
	}
	for _, a := range []netip.Addr{lo4, lo6, host4, host6} {
		if got := heard(t, r.Host, a, outerPort); got != a.String() {
			t.Errorf("%v leads to the port of %q", a, got)
		}
	}
}

// TestFreePorts checks that a list of exclusions forwards all ports but those, and passes over one that somebody has.
func TestFreePorts(t *testing.T) {
	l := newLab(t)
	taken, err := l.Host.Listen("tcp", at(netip.IPv6Unspecified(), outerPort))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r := startIn(t, l, "-t", fmt.Sprintf("~1-%d,~%d-65535", outerPort-1, outerPort+10))
	bothFamilies(t, func(t *testing.T, f family) {
		saySelf(t, r.Guest, netip.AddrPortFrom(f.host, outerPort+9), "inside")
		if got := heard(t, r.Inet, f.host, outerPort+9); got != "inside" {
			t.Errorf("the last port leads to %q", got)
		}
		if c, err := dial(r.Inet, f.host, outerPort+10); err == nil {
			c.Close()
			t.Error("a port that was left out is forwarded")
		}
	})
	vastaFails(t, l, 1, fmt.Sprintf("vasta: option -t: cannot listen on port [::]:%d: address already in use", outerPort),
		"-q", "-t", fmt.Sprintf("~1-%d,~%d-65535", outerPort-1, outerPort+1), "--", "true")
}

// TestThousandsOfPorts forwards thousands of ports, TCP and UDP, and checks what is said when they are more than there are descriptors.
func TestThousandsOfPorts(t *testing.T) {
	const first, last = 20000, 23999
	ports := fmt.Sprintf("%d-%d", first, last)
	r := start(t, "-t", ports, "-u", ports)
	for _, port := range []uint16{first, (first + last) / 2, last} {
		bothFamilies(t, func(t *testing.T, f family) {
			saySelf(t, r.Guest, netip.AddrPortFrom(f.host, port), fmt.Sprint(port))
			if got := heard(t, r.Inet, f.host, port); got != fmt.Sprint(port) {
				t.Errorf("port %d leads to %q", port, got)
			}
		})
	}
	if n, want := r.descriptors(), 2*(last-first+1); n < want || n > want+64 {
		t.Errorf("%d descriptors for %d ports", n, want)
	}
	r.stop()

	const limit = 4000
	c := r.Host.Command(lab.Ordinary, "sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" -q -t %s -- true`, limit, ports), vastaPath)
	var errs bytes.Buffer
	c.Stderr = &errs
	want := fmt.Sprintf("vasta: option -t: forwarding %d ports takes ", last-first+1)
	if err := c.Run(); err == nil || !strings.HasPrefix(errs.String(), want) || strings.Count(errs.String(), "\n") != 1 ||
		!strings.Contains(errs.String(), fmt.Sprintf("this process may have %d:", limit)) {
		t.Errorf("%v: %q, want one line that begins %q", err, errs.String(), want)
	}
}

// TestOwnPorts checks that what the namespace sends to ports which lead back into it comes back once, and ends: by the gateway's address, and from its own loopback.
func TestOwnPorts(t *testing.T) {
	leads := fmt.Sprintf("%d:%d", outerPort, innerPort)
	r := start(t, "-t", leads, "-u", leads, "-t", fmt.Sprint(samePort), "-T", fmt.Sprintf("%d,%d", outerPort, samePort))
	bothFamilies(t, func(t *testing.T, f family) {
		saySelf(t, r.Guest, netip.AddrPortFrom(f.host, innerPort), "inside")
		for _, a := range []netip.Addr{f.gateway, f.loopback} {
			if got := heard(t, r.Guest, a, outerPort); got != "inside" {
				t.Errorf("%v leads to %q", a, got)
			}
			c, err := dial(r.Guest, a, samePort) // where nobody listens in the end
			if err == nil {
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) { // the latter when the reset is there before vasta has looked how its connect went
				t.Errorf("%v: %v, want a reset", a, errorText(err))
			}
		}
		c := listenUDP(t, r.Guest, at(f.host, innerPort))
		send(t, c, "once", net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.gateway, outerPort)))
		hear(t, c, "once")
	})
	c := r.settle()
	if c.TCP.Opened != 8 || c.TCP.Accepted != 8 || c.UDP.Opened != 4 { // of each connection one goes out and one comes in; of UDP likewise
		t.Errorf("connections: %d out, %d in; flows of UDP: %d", c.TCP.Opened, c.TCP.Accepted, c.UDP.Opened)
	}
}
