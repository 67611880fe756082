package vhostnet_test

import (
	"os"
	"runtime"
	"testing"

	"github.com/vasta-net/vasta/link/tap"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// descriptors is how many this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// guest is the other end of a TAP: a packet socket in its namespace.
type guest struct{ fd int }

// newTAP makes a TAP that is up, in a network namespace of its own, which ends with the test.
func newTAP(t *testing.T) (fd int, g guest) {
	t.Helper()
	runtime.LockOSThread() // the thread ends with the test, and the namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("cannot make a network namespace: %v (the tests run as root)", err)
	}
	for _, which := range []string{"default", "all"} { // no neighbour discovery of the kernel's own
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ifr, err := unix.NewIfreq("tap0")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	if _, err := tap.Offload(fd); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("tap0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	if g.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(g.fd) })
	if err := unix.Bind(g.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(g.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(g.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		t.Fatal(err)
	}
	return fd, g
}

func (g guest) send(t *testing.T, frame []byte) {
	t.Helper()
	if n, err := unix.Write(g.fd, frame); n != len(frame) || err != nil {
		t.Fatalf("the guest sent %d of %d bytes: %v", n, len(frame), err)
	}
}

func (g guest) receive(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 1<<17)
	n, err := unix.Read(g.fd, b)
	if err != nil {
		t.Fatalf("the guest received nothing: %v", err)
	}
	return b[:n]
}
