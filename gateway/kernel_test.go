package gateway

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kernelGuest is the Linux kernel as the gateway's guest: a network namespace with a TAP, behind which the gateway sits.
type kernelGuest struct {
	link  netlink.Link
	stats stats.Worker
	tap   *os.File
	done  chan *Gateway
}

// newKernelGuest moves the calling goroutine, and with it the test, to a namespace of its own for good.
func newKernelGuest(t *testing.T, change ...func(*Config)) *kernelGuest {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and the namespace with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v; the tests need root", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("open /dev/net/tun: %v", err)
	}
	ifr, err := unix.NewIfreq("guest0")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatalf("make a TAP: %v", err)
	}
	k := &kernelGuest{tap: os.NewFile(uintptr(fd), "tap"), done: make(chan *Gateway, 1)}
	if k.link, err = netlink.LinkByName("guest0"); err != nil {
		t.Fatal(err)
	}
	k.do(t, "set the MAC", netlink.LinkSetHardwareAddr(k.link, hw(guestMAC)))
	c := testConfig(&k.stats)
	c.Router.MTU = 1400 // less than the TAP's, or the kernel would not heed it
	for _, f := range change {
		f(&c)
	}
	go k.serve(mustNew(t, c))
	t.Cleanup(func() { k.tap.Close() })
	return k
}

func (k *kernelGuest) do(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// serve is the loop of a worker without flows; it ends when the TAP is closed.
func (k *kernelGuest) serve(g *Gateway) {
	defer func() { k.done <- g }()
	buf := make([]byte, 65536)
	var p packet.Packet
	for {
		n, err := k.tap.Read(buf)
		if err != nil {
			return
		}
		if r := p.Parse(&packet.Frame{Bufs: [][]byte{buf[:n]}, Len: n}); r != stats.None {
			continue
		}
		g.Input(&p, func(f []byte) { _, err = k.tap.Write(f) })
		if err != nil {
			return
		}
	}
}

func (k *kernelGuest) addAddr(t *testing.T, cidr string) {
	t.Helper()
	a, err := netlink.ParseAddr(cidr)
	k.do(t, "parse "+cidr, err)
	k.do(t, "add "+cidr, netlink.AddrAdd(k.link, a))
}

// eventually waits until the kernel has come to where it should.
func eventually(t *testing.T, what string, ok func() (bool, error)) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		yes, err := ok()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if yes {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to this: %s", what)
		}
	}
}

// addrFlags looks for an address of the guest.
func (k *kernelGuest) addrFlags(match func(netlink.Addr) bool) (flags int, found bool, err error) {
	addrs, err := netlink.AddrList(k.link, netlink.FAMILY_V6)
	for _, a := range addrs {
		if match(a) {
			return a.Flags, true, err
		}
	}
	return 0, false, err
}

// linkLocalFlags looks for the guest's link-local address.
func (k *kernelGuest) linkLocalFlags() (flags int, found bool, err error) {
	return k.addrFlags(func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() })
}

// tentative is set as long as an address is not known to be nobody else's.
const tentative = unix.IFA_F_TENTATIVE

func (k *kernelGuest) up() error { return netlink.LinkSetUp(k.link) }

// detected waits for the end of duplicate address detection of an address and reports whether it found a conflict.
func (k *kernelGuest) detected(t *testing.T, addr netip.Addr) (conflict bool) {
	t.Helper()
	eventually(t, "detection of "+addr.String()+" ends", func() (bool, error) {
		flags, found, err := k.addrFlags(func(a netlink.Addr) bool { return a.IP.Equal(addr.AsSlice()) })
		conflict = flags&unix.IFA_F_DADFAILED != 0
		return found && (conflict || flags&unix.IFA_F_TENTATIVE == 0), err
	})
	return conflict
}

func TestKernelAsGuest(t *testing.T) {
	k := newKernelGuest(t)
	k.do(t, "set the link up", netlink.LinkSetUp(k.link))
	k.addAddr(t, guest4.String()+"/24")
	k.addAddr(t, guest6.String()+"/64")

	if k.detected(t, guest6) {
		t.Error("the guest's own address seems taken")
	}
	k.addAddr(t, other6.String()+"/64")
	if k.detected(t, other6) {
		t.Error("a second address of the guest seems taken")
	}
	k.addAddr(t, mapped6.String()+"/64")
	if !k.detected(t, mapped6) {
		t.Error("the guest could take an address of the gateway")
	}

	eventually(t, "an address from the advertised prefix", func() (bool, error) {
		_, found, err := k.addrFlags(func(a netlink.Addr) bool {
			got, _ := netip.AddrFromSlice(a.IP)
			return got.Is6() && a.IP[11] == 0xff && a.IP[12] == 0xfe && // made from the MAC
				netip.PrefixFrom(guest6, 64).Contains(got)
		})
		return found, err
	})
	eventually(t, "a default route by advertisement", func() (bool, error) {
		routes, err := netlink.RouteList(k.link, netlink.FAMILY_V6)
		for _, r := range routes {
			if r.Gw.Equal(gatewayLL.AsSlice()) && (r.Dst == nil || r.Dst.String() == "::/0") && r.Protocol == unix.RTPROT_RA {
				return true, err
			}
		}
		return false, err
	})
	eventually(t, "the advertised MTU", func() (bool, error) {
		mtu, err := os.ReadFile("/proc/sys/net/ipv6/conf/guest0/mtu")
		return string(mtu) == "1400\n", err
	})

	for _, addr := range []netip.Addr{gateway4, netip.MustParseAddr("10.0.2.77"), gatewayLL, netip.MustParseAddr("2001:db8:1::77")} {
		udp := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9))
		if addr.IsLinkLocalUnicast() {
			udp.Zone = "guest0"
		}
		c, err := net.DialUDP("udp", nil, udp)
		k.do(t, "socket to "+addr.String(), err)
		_, err = c.Write([]byte("x"))
		k.do(t, "send to "+addr.String(), err)
		k.do(t, "close", c.Close())
		eventually(t, addr.String()+" is at the gateway", func() (bool, error) {
			neighs, err := netlink.NeighList(k.link.Attrs().Index, netlink.FAMILY_ALL)
			for _, n := range neighs {
				if n.IP.Equal(addr.AsSlice()) && n.HardwareAddr.String() == hw(ourMAC).String() {
					return n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY) != 0, err
				}
			}
			return false, err
		})
	}

	if err := k.tap.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	if g := <-k.done; g.GuestMAC() != guestMAC {
		t.Errorf("the guest was learned to be at %x", g.GuestMAC())
	}
	if n := k.stats.Dropped(); n != 0 {
		t.Errorf("%d messages of the kernel were refused: %v", n, k.stats.Drops)
	}
}
