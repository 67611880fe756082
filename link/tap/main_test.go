package tap_test

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/tap"
	"github.com/vasta-net/vasta/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const device = "tap0"

var (
	guestMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	gatewayMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

// newNetns moves the test's goroutine to a thread in a network namespace of its own. The thread ends with the test,
// and the namespace with it.
func newNetns(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("cannot make a network namespace: %v (the tests run as root)", err)
	}
	// Without these the kernel sends neighbour discovery of its own into the device.
	for _, which := range []string{"default", "all"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// openTAP makes the device in the test's namespace; offload are the TUN_F_ flags.
func openTAP(t testing.TB, flags uint16, headerSize, offload int) int {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("cannot open /dev/net/tun: %v", err)
	}
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatalf("TUNSETIFF: %v", err)
	}
	if flags&unix.IFF_VNET_HDR != 0 {
		if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerSize); err != nil {
			t.Fatalf("TUNSETVNETHDRSZ: %v", err)
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offload); err != nil {
			t.Fatalf("TUNSETOFFLOAD: %v", err)
		}
	}
	return fd
}

// guest is the kernel's end of the device: a packet socket that sends and receives frames with virtio-net headers.
type guest struct {
	fd int
	t  testing.TB
}

// newLink is a queue over a TAP device that is up, and the other end of it.
func newLink(t testing.TB) (*tap.Queue, *guest) {
	t.Helper()
	queues, g := newLinks(t, 1)
	return queues[0], g
}

// newLinks is newLink with so many queues.
func newLinks(t testing.TB, n int) (queues []*tap.Queue, g *guest) {
	t.Helper()
	newNetns(t)
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if n > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for range n {
		fd := openTAP(t, flags, packet.NetHdrLen, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6|unix.TUN_F_TSO_ECN)
		q, err := tap.New(fd, link.Features{Csum: true, TSO4: true, TSO6: true})
		if err != nil {
			t.Fatal(err)
		}
		queues = append(queues, q)
	}
	l, err := netlink.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetHardwareAddr(l, guestMAC); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMTU(l, 65520); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	g = &guest{t: t}
	if g.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(g.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(g.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(g.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(g.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(g.fd)
		for _, q := range queues {
			if err := q.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return queues, g
}

// packetHdrLen is the length of the virtio-net header of a packet socket: without the buffer count at its end.
const packetHdrLen = packet.NetHdrLen - 2

// send gives a frame to the device as the guest's kernel would.
func (g *guest) send(h packet.NetHdr, frame []byte) {
	g.t.Helper()
	var b [packet.NetHdrLen]byte
	h.Encode(b[:])
	msg := append(b[:packetHdrLen:packetHdrLen], frame...)
	if n, err := unix.Write(g.fd, msg); err != nil || n != len(msg) {
		g.t.Fatalf("the guest sent %d of %d bytes: %v", n, len(msg), err)
	}
}

// receive returns the next frame that came out of the device.
func (g *guest) receive() (h packet.NetHdr, frame []byte) {
	g.t.Helper()
	b := make([]byte, 1<<17)
	n, err := unix.Read(g.fd, b)
	if err != nil {
		g.t.Fatalf("the guest received nothing: %v", err)
	}
	var hdr [packet.NetHdrLen]byte
	copy(hdr[:], b[:packetHdrLen])
	h.Decode(hdr[:])
	return h, b[packetHdrLen:n]
}

// receiveOne polls the queue until exactly one frame comes.
func receiveOne(t testing.TB, q link.Queue) packet.Frame {
	t.Helper()
	var frames [4]packet.Frame
	waitFor(t, q.Fd(), unix.POLLIN)
	n, err := q.Receive(frames[:])
	if n != 1 || err != nil {
		t.Fatalf("Receive = %d, %v; want one frame", n, err)
	}
	return frames[0]
}

func waitFor(t testing.TB, fd int, events int16) {
	t.Helper()
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		n, err := unix.Poll(p, 1000)
		if err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		if n == 1 {
			return
		}
	}
	t.Fatal("the device was not ready within 5 s")
}

// tcpFrame is an IPv4 TCP segment of n payload bytes with a partial checksum, and its virtio-net header; mss 0 for none.
func tcpFrame(src, dst net.HardwareAddr, n, mss int) (packet.NetHdr, []byte) {
	b := make([]byte, 54+n)
	copy(b[0:], dst)
	copy(b[6:], src)
	b[12], b[13] = 8, 0
	ip := b[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, packet.ProtoTCP
	binary.BigEndian.PutUint16(ip[2:], uint16(40+n))
	copy(ip[12:], []byte{192, 0, 2, 1})
	copy(ip[16:], []byte{192, 0, 2, 2})
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	tcp := b[34:54]
	binary.BigEndian.PutUint16(tcp[0:], 1000)
	binary.BigEndian.PutUint16(tcp[2:], 2000)
	tcp[12], tcp[13] = 5<<4, 0x10
	for i := range b[54:] {
		b[54+i] = byte(i * 7)
	}
	h := packet.NetHdr{Flags: packet.FlagNeedsCsum, HdrLen: 54, CsumStart: 34, CsumOffset: 16}
	if mss != 0 {
		h.GSOType, h.GSOSize = packet.GSOTCPv4, uint16(mss)
	}
	return h, b
}
