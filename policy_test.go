package vasta_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vasta-net/vasta"
)

// TestPolicy: the hook is asked once about each new flow of either direction and every protocol, with its ends; what it denies is refused at
// once, and what this program dials is its own affair.
func TestPolicy(t *testing.T) {
	inside := newSpace(t)
	var mu sync.Mutex
	var asked []vasta.Flow
	deny := false
	c := plain()
	c.Mapping.Gateway = true
	c.Ports = []vasta.PortRule{{Network: "tcp", Addr: netip.MustParseAddr("127.0.0.1"), First: 39_906, Target: 7000}}
	c.Policy = func(f vasta.Flow) vasta.Verdict {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, f)
		if deny {
			return vasta.Deny
		}
		return vasta.Allow
	}
	n := running(t, c, inside.link())
	flows := func() []vasta.Flow {
		mu.Lock()
		defer mu.Unlock()
		all := asked
		asked = nil
		return all
	}
	port := hostServer(t, "127.0.0.1:0", "the host").Port()
	greet(inside.listen("tcp", ":7000"), "the guest")
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	udpPort := udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()

	ours := func(f vasta.Flow) bool { // the guest's kernel has things of its own to say
		return f.Peer.Port() == port || f.Peer.Port() == udpPort || f.Guest.Port() == 7000
	}
	check := func(what string, want vasta.Flow) {
		t.Helper()
		var got []vasta.Flow
		for _, f := range flows() {
			if ours(f) {
				got = append(got, f)
			}
		}
		if len(got) != 1 || got[0].Network != want.Network || got[0].Inbound != want.Inbound ||
			want.Peer.Port() != 0 && got[0].Peer != want.Peer || want.Guest.Port() != 0 && got[0].Guest != want.Guest {
			t.Errorf("%s: the hook was asked about %+v, want once about %+v", what, got, want)
		}
	}
	lo := netip.MustParseAddr("127.0.0.1")
	out := vasta.Flow{Network: "tcp", Peer: netip.AddrPortFrom(lo, port)}
	host := netip.AddrPortFrom(gateway4, port).String()
	in := vasta.Flow{Network: "tcp", Inbound: true, Guest: netip.AddrPortFrom(guest4.Addr(), 7000)}
	datagram := vasta.Flow{Network: "udp", Peer: netip.AddrPortFrom(lo, udpPort)}

	conn, err := inside.dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "the host" || err != nil {
		t.Errorf("the host answers %q, %v", got, err)
	}
	conn.Close()
	check("out", out)
	outside, err := net.Dial("tcp", "127.0.0.1:39906")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(outside); string(got) != "the guest" || err != nil {
		t.Errorf("the guest answers %q, %v", got, err)
	}
	outside.Close()
	check("in", in)

	mu.Lock()
	deny = true
	mu.Unlock()
	if conn, err := inside.dial("tcp", host); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("out, denied: %v", err)
		if err == nil {
			conn.Close()
		}
	}
	check("out, denied", out)
	if outside, err = net.Dial("tcp", "127.0.0.1:39906"); err == nil { // the kernel has accepted
		_, err = outside.Read(make([]byte, 1))
		outside.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("in, denied: %v", err)
	}
	check("in, denied", in)
	conn, err = inside.dial("udp", netip.AddrPortFrom(gateway4, udpPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a datagram, denied: %v", err)
	} else if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		t.Errorf("a datagram that is denied is not refused at once: %v", err)
	}
	check("a datagram, denied", datagram)
	mine, err := n.Dial(t.Context(), "tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(mine); string(got) != "the guest" || err != nil {
		t.Errorf("the guest answers this program %q, %v", got, err)
	}
	mine.Close()
	for _, f := range flows() {
		if ours(f) {
			t.Errorf("the hook was asked about Dial: %+v", f)
		}
	}
}
