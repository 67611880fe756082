package e2e_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vasta-net/vasta/internal/lab"
	"golang.org/x/sys/unix"
)

// listenGroup opens a socket that hears a group at a port, and sends to groups, by the interface of a name.
func listenGroup(t *testing.T, ns *lab.Namespace, link string, group netip.AddrPort) *net.UDPConn {
	t.Helper()
	any := netip.IPv4Unspecified()
	if group.Addr().Is6() {
		any = netip.IPv6Unspecified()
	}
	c := listenUDP(t, ns, at(any, group.Port()))
	err := ns.Do(func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		return join(c, i.Index, group.Addr())
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func join(c syscall.Conn, index int, group netip.Addr) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		if group.Is6() {
			if set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index); set == nil {
				set = unix.SetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
					&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
			}
			return
		}
		m := &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)}
		if set = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, m); set == nil {
			set = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, m)
		}
	})
	if err == nil {
		err = set
	}
	return err
}

// guestLink is the name of the interface inside.
const guestLink = lab.LinkName

// TestMulticast has a service of the host's network be found from the namespace, and one of the namespace from there, as mDNS does it.
func TestMulticast(t *testing.T) {
	const port = 5353
	r := start(t, "--multicast", fmt.Sprintf("%d,1900", port))
	bothFamilies(t, func(t *testing.T, f family) {
		group := netip.AddrPortFrom(netip.MustParseAddr("224.0.0.251"), port)
		if f.host.Is6() {
			group = netip.AddrPortFrom(netip.MustParseAddr("ff02::fb"), port)
		}
		inside := listenGroup(t, r.Guest, guestLink, group)
		outside := listenGroup(t, r.Inet, lab.LinkName, group)
		// Asked inside, answered outside.
		send(t, inside, "who is there", net.UDPAddrFromAddrPort(group))
		send(t, outside, "I am", hear(t, outside, "who is there"))
		hear(t, inside, "I am")
		// Asked outside, answered inside, once the namespace's report that it listens has come.
		eventually(t, "the group on the host", func() bool { return joined(t, r.Host, group.Addr()) })
		send(t, outside, "who else", net.UDPAddrFromAddrPort(group))
		send(t, inside, "me", hear(t, inside, "who else"))
		hear(t, outside, "me")
	})
	// A broadcast on the host's network, and the answer to it.
	outside := listenUDP(t, r.Inet, at(netip.IPv4Unspecified(), port))
	inside := listenUDP(t, r.Guest, at(netip.IPv4Unspecified(), 0))
	host := lab.HostAddr4
	all := host.Masked().Addr().As4()
	for i := host.Bits(); i < 32; i++ {
		all[i/8] |= 0x80 >> (i % 8)
	}
	send(t, inside, "everybody", &net.UDPAddr{IP: all[:], Port: port})
	send(t, outside, "here", hear(t, outside, "everybody"))
	hear(t, inside, "here")
	if d := r.now().Drops; d["bad_transport"]+d["bad_checksum"] != 0 {
		t.Errorf("reports that were not understood: %v", d)
	}
}

func send(t *testing.T, c *net.UDPConn, what string, to net.Addr) {
	t.Helper()
	if _, err := c.WriteTo([]byte(what), to); err != nil {
		t.Fatal(err)
	}
}

// hear waits for a datagram, past those that a socket hears of itself, and returns who has sent it.
func hear(t *testing.T, c *net.UDPConn, want string) net.Addr {
	t.Helper()
	buf := make([]byte, 100)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatalf("%q was not heard: %v", want, err)
		}
		if string(buf[:n]) == want {
			return from
		}
	}
}

// joined reports whether somebody in a namespace has joined a group on its network.
func joined(t *testing.T, ns *lab.Namespace, group netip.Addr) bool {
	t.Helper()
	out, err := ns.Command(lab.Root, "ip", "maddr", "show", "dev", lab.LinkName).Output()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(strings.Fields(string(out)), group.String())
}
