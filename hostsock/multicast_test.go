package hostsock_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vasta-net/vasta/hostsock"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A datagram to a group reaches its sockets on the interface, and nothing else does.
func TestGroups(t *testing.T) {
	newNetns(t)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "lan1"}); err != nil {
		t.Fatal(err)
	}
	far, err := netlink.LinkByName("lan1")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(far); err != nil {
		t.Fatal(err)
	}
	lan, err := netlink.LinkByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(lan, addr); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(lan); err != nil {
		t.Fatal(err)
	}
	// A link that is up has its routes once the kernel has seen the carrier, a moment later.
	for deadline := time.Now().Add(20 * time.Second); lan.Attrs().OperState != netlink.OperUp; {
		if time.Now().After(deadline) {
			t.Fatalf("lan0 is %v", lan.Attrs().OperState)
		}
		if lan, err = netlink.LinkByName("lan0"); err != nil {
			t.Fatal(err)
		}
	}
	index := lan.Attrs().Index
	const routesLimit = 10 * time.Second
	began := time.Now()
	s := newSystem(t)
	for _, tc := range []struct{ from, group netip.AddrPort }{
		{netip.MustParseAddrPort("192.0.2.1:5353"), netip.MustParseAddrPort("224.0.0.251:5353")},
		{netip.MustParseAddrPort("[2001:db8::1]:5353"), netip.MustParseAddrPort("[ff02::fb]:5353")},
	} {
		var members [2]int
		for i := range members {
			fd, err := s.OpenGroup(tc.group, index)
			must(t, err, "OpenGroup")
			defer s.Close(fd)
			members[i] = fd
		}
		sender, err := s.OpenUDP(hostsock.Origin{Addr: netip.AddrPortFrom(tc.from.Addr(), 0), Multicast: true, MulticastDevice: index}, netip.AddrPort{}, false)
		must(t, err, "OpenUDP")
		defer s.Close(sender)
		for { // the routes of an interface that is up come when it has its carrier
			if err = sendTo(s, sender, [][]byte{[]byte("unheard")}, tc.group); err != unix.ENETUNREACH || time.Since(began) > routesLimit {
				break
			}
			time.Sleep(time.Millisecond)
		}
		must(t, err, "sendTo the group")
		for _, fd := range members {
			if n, _, err := recvFrom(s, fd, make([]byte, 20)); err != unix.EAGAIN {
				t.Errorf("%v: heard %d bytes of this machine, %v", tc.group, n, err)
			}
		}
		level, loop := unix.SOL_IP, unix.IP_MULTICAST_LOOP
		if tc.from.Addr().Is6() {
			level, loop = unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP
		}
		if err := unix.SetsockoptInt(sender, level, loop, 1); err != nil { // the sender is another machine, as it were
			t.Fatal(err)
		}
		must(t, sendTo(s, sender, [][]byte{[]byte("heard")}, tc.group), "sendTo the group")
		for _, fd := range members {
			ready(t, s, fd, isIn)
			buf := make([]byte, 20)
			if n, from, err := recvFrom(s, fd, buf); err != 0 || string(buf[:n]) != "heard" || from.Addr().WithZone("") != tc.from.Addr() {
				t.Errorf("%v: %q from %v, %v", tc.group, buf[:n], from, err)
			}
		}
	}
	for group, want := range map[string]hostsock.Errno{"192.0.2.1:5353": unix.EINVAL, "224.0.0.251:1": unix.ENODEV} {
		if fd, err := s.OpenGroup(netip.MustParseAddrPort(group), 999); err != want {
			t.Errorf("OpenGroup %s = %d, %v, want %v", group, fd, err, want)
		}
	}
}
