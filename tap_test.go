package vasta_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/vasta-net/vasta"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openTAP opens a TAP as a virtual machine monitor would, in the calling thread's namespace.
func openTAP(name string) (int, error) { return openDevice(name, unix.IFF_VNET_HDR) }

func openDevice(name string, flags uint16) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// configureTAP gives it the guest's addresses and routes.
func configureTAP(name string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(l); err != nil {
		return err
	}
	for _, p := range []string{guest4.String(), guest6.String()} {
		a, err := netlink.ParseAddr(p)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if a.IP.To4() != nil {
			a.Flags = 0
		}
		if err := h.AddrAdd(l, a); err != nil {
			return err
		}
	}
	for _, gw := range []net.IP{gateway4.AsSlice(), gateway6.AsSlice()} {
		dst := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
		if gw.To4() == nil {
			dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
		if err := h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Gw: gw, Flags: unix.RTNH_F_ONLINK}); err != nil {
			return err
		}
	}
	return nil
}

// setMTU sets the MTU of an interface in the calling thread's namespace.
func setMTU(name string, mtu int) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return h.LinkSetMTU(l, mtu)
}

// TestSocket: a guest's kernel behind a connected socket of either kind, as a virtual machine monitor connects one. It makes checksums and segments
// itself, and gets them.
func TestSocket(t *testing.T) {
	for name, kind := range map[string]int{"stream": unix.SOCK_STREAM, "seqpacket": unix.SOCK_SEQPACKET, "datagram": unix.SOCK_DGRAM} {
		t.Run(name, func(t *testing.T) {
			inside := newSpace(t)
			fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			monitor := monitor{socket: os.NewFile(uintptr(fds[1]), "socket"), stream: kind == unix.SOCK_STREAM}
			var device int
			inside.do(func() { device, err = openDevice("eth0", 0) })
			if err == nil {
				err = unix.SetNonblock(device, true)
			}
			if err != nil {
				t.Fatal(err)
			}
			monitor.device = os.NewFile(uintptr(device), "eth0")
			c := plain()
			c.Guest.MTU = 1500
			n := running(t, c, vasta.Socket(fds[0]))
			var copying sync.WaitGroup
			copying.Go(monitor.toNetwork)
			copying.Go(monitor.toGuest)
			defer copying.Wait()
			defer monitor.close()
			inside.do(func() { err = configureTAP("eth0") })
			if err != nil {
				t.Fatal(err)
			}
			l, err := n.Listen("tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go echo(l)
			want := bytes.Repeat([]byte("vasta"), 200_000)
			for _, address := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
				inside.comesBack(address, want)
			}
		})
	}
}

// monitor is the part of a virtual machine monitor that a network sees.
type monitor struct {
	device, socket *os.File
	stream         bool
}

func (m *monitor) close() {
	m.device.Close()
	m.socket.Close()
}

func (m *monitor) toNetwork() {
	b := make([]byte, 4+2000)
	for {
		n, err := m.device.Read(b[4:])
		if err != nil {
			return
		}
		out := b[4 : 4+n]
		if m.stream {
			binary.BigEndian.PutUint32(b, uint32(n))
			out = b[:4+n]
		}
		if _, err := m.socket.Write(out); err != nil {
			return
		}
	}
}

func (m *monitor) toGuest() {
	b := make([]byte, 2000)
	for {
		n := 0
		var err error
		if m.stream {
			var length [4]byte
			if _, err = io.ReadFull(m.socket, length[:]); err == nil {
				n = int(binary.BigEndian.Uint32(length[:]))
				_, err = io.ReadFull(m.socket, b[:n])
			}
		} else {
			n, err = m.socket.Read(b)
		}
		if err != nil {
			return
		}
		_, _ = m.device.Write(b[:n]) // the interface may not be up yet
	}
}
