package pktgen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// portBatch is how many frames one system call moves at most.
const portBatch = 64

// packetBuffer is asked for as the socket's buffers, in bytes.
const packetBuffer = 64 << 20

// Interface is the Port of a network interface, by a packet socket: what is sent leaves by the interface, what is received has come in by it.
type Interface struct {
	fd     int
	name   string
	out    messages
	in     messages
	memory [portBatch][]byte
	frames [portBatch][]byte
	calls  uint64
}

var _ Port = (*Interface)(nil)

// OpenInterface opens a port at the interface of that name. With bypass frames go around its queueing discipline (PACKET_QDISC_BYPASS).
func OpenInterface(name string, bypass bool) (p *Interface, err error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	const every = 0x0300 // ETH_P_ALL, in network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("interface %s: cannot open a packet socket: %w (it takes CAP_NET_RAW: run it as root, or inside of the namespace)", name, err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	for _, o := range []struct {
		level, name, value int
		optional           bool
	}{
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1, true}, // before Linux 4.20: what is sent is seen too
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, packetBuffer, true},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetBuffer, true},
		{unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, map[bool]int{true: 1}[bypass], false},
	} {
		if e := unix.SetsockoptInt(fd, o.level, o.name, o.value); e != nil && !o.optional {
			return nil, fmt.Errorf("interface %s: cannot set up the packet socket: %w", name, e)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: link.Index}); err != nil {
		return nil, fmt.Errorf("interface %s: cannot bind a packet socket to it: %w", name, err)
	}
	return &Interface{fd: fd, name: name}, nil
}

// carrierWait is how long an interface may take to notice what was plugged into it.
const carrierWait = 2 * time.Second

// AwaitCarrier waits until an interface can send: before that the kernel drops what it is given without a word.
func AwaitCarrier(ctx context.Context, name string) error {
	for limit := time.Now().Add(carrierWait); ; time.Sleep(time.Millisecond) {
		l, err := netlink.LinkByName(name) // under the lock that the kernel holds until the queues are ready, too
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		a := l.Attrs()
		switch {
		case a.Flags&net.FlagUp == 0:
			return fmt.Errorf("interface %s: it is down; bring it up (ip link set %s up)", name, name)
		case a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown, ctx.Err() != nil:
			return nil
		case time.Now().After(limit):
			return fmt.Errorf("interface %s: it has no carrier (%s); what is its other end?", name, a.OperState)
		}
	}
}

// Send implements Port.
func (p *Interface) Send(frames [][]byte) (int, error) {
	sent := 0
	for sent < len(frames) {
		n := min(len(frames)-sent, portBatch)
		for i, f := range frames[sent : sent+n] {
			p.out.set(i, f)
		}
		p.calls++
		got, errno := p.out.send(p.fd, n)
		switch errno {
		case 0:
			sent += got
		case unix.EAGAIN, unix.ENOBUFS: // the queueing discipline, or the interface, has dropped the first
			return sent, nil
		case unix.EINTR:
		default:
			return sent, p.failed("send", errno)
		}
	}
	return sent, nil
}

// AwaitRoom implements Port. The kernel does not say when a queue has room: the socket's own is waited for, and then a moment.
func (p *Interface) AwaitRoom(limit time.Duration) error {
	p.calls += 2
	if ok, err := pollFd(p.fd, unix.POLLOUT, limit); err != nil || !ok {
		return err
	}
	time.Sleep(min(limit, 50*time.Microsecond))
	return nil
}

// Receive implements Port.
func (p *Interface) Receive(limit time.Duration) ([][]byte, error) {
	if p.memory[0] == nil {
		memory := make([]byte, portBatch*MaxSize)
		for i := range p.memory {
			p.memory[i] = memory[i*MaxSize : (i+1)*MaxSize]
		}
	}
	for i, b := range p.memory {
		p.in.set(i, b)
	}
	p.calls++
	n, errno := p.in.receive(p.fd, portBatch)
	if errno == unix.EAGAIN && limit > 0 {
		p.calls += 2
		if ok, err := pollFd(p.fd, unix.POLLIN, limit); err != nil || !ok {
			return nil, err
		}
		n, errno = p.in.receive(p.fd, portBatch)
	}
	switch errno {
	case 0, unix.EAGAIN, unix.EINTR:
	default:
		return nil, p.failed("receive", errno)
	}
	for i := range n {
		p.frames[i] = p.memory[i][:min(int(p.in.hdrs[i].len), MaxSize)]
	}
	return p.frames[:n], nil
}

// LostOut counts the frames that the kernel has lost so far on their way out of an interface of the calling thread's network namespace: those that the device
// had no room for, and those of its queueing discipline.
func LostOut(name string) (lost uint64, err error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	if s := link.Attrs().Statistics; s != nil {
		lost = s.TxDropped
	}
	qdiscs, err := netlink.QdiscList(link)
	for _, q := range qdiscs {
		if s := q.Attrs().Statistics; s != nil && s.Queue != nil {
			lost += uint64(s.Queue.Drops)
		}
	}
	return lost, err
}

// Dropped is how many frames the kernel has dropped because nobody received them, since the last call.
func (p *Interface) Dropped() uint64 {
	s, err := unix.GetsockoptTpacketStats(p.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0
	}
	return uint64(s.Drops)
}

// pollFd waits for events of a descriptor, for so long at most.
func pollFd(fd int, events int16, limit time.Duration) (ready bool, err error) {
	t := unix.NsecToTimespec(int64(limit))
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Ppoll(fds[:], &t, nil)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return n > 0, err
}

func (p *Interface) failed(what string, errno unix.Errno) error {
	switch errno {
	case unix.EBADF, unix.ENODEV, unix.ENXIO:
		return ErrGone
	}
	return fmt.Errorf("interface %s: cannot %s: %w", p.name, what, errno)
}

// Calls implements Port.
func (p *Interface) Calls() uint64 { return p.calls }

// Close implements Port.
func (p *Interface) Close() error { return unix.Close(p.fd) }
