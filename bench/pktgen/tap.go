package pktgen

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// TAP is the Port behind a TAP device, in a device's place: what is sent comes in by the interface, what leaves by the interface is received. It moves a frame with each
// system call, as programs behind a TAP do.
type TAP struct {
	fd     int
	name   string
	memory [portBatch][]byte
	frames [portBatch][]byte
	calls  uint64
}

var _ Port = (*TAP)(nil)

// OpenTAP makes the TAP device of that name, or attaches to one that is there, with flags of IFF_… beside IFF_TAP and IFF_NO_PI. The device ends with the port unless it is persistent.
func OpenTAP(name string, flags uint16) (*TAP, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("TAP %s: cannot open /dev/net/tun: %w", name, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("TAP %s: cannot make or attach to it: %w", name, err)
	}
	return &TAP{fd: fd, name: ifr.Name()}, nil
}

// Name is the interface's.
func (p *TAP) Name() string { return p.name }

// Send implements Port.
func (p *TAP) Send(frames [][]byte) (int, error) {
	for i, f := range frames {
		p.calls++
		_, err := unix.Write(p.fd, f)
		switch {
		case err == nil:
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EINTR):
			return i, nil
		default:
			return i, p.failed("write", err)
		}
	}
	return len(frames), nil
}

// AwaitRoom implements Port.
func (p *TAP) AwaitRoom(limit time.Duration) error {
	p.calls++
	_, err := pollFd(p.fd, unix.POLLOUT, limit)
	return err
}

// Receive implements Port.
func (p *TAP) Receive(limit time.Duration) ([][]byte, error) {
	if p.memory[0] == nil {
		memory := make([]byte, portBatch*MaxSize)
		for i := range p.memory {
			p.memory[i] = memory[i*MaxSize : (i+1)*MaxSize]
		}
	}
	n := 0
	for n < portBatch {
		p.calls++
		got, err := unix.Read(p.fd, p.memory[n])
		switch {
		case err == nil:
			p.frames[n] = p.memory[n][:got]
			n++
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EAGAIN):
			return p.frames[:n], p.failed("read", err)
		case n > 0 || limit <= 0:
			return p.frames[:n], nil
		}
		p.calls++
		ready, err := pollFd(p.fd, unix.POLLIN, limit)
		if err != nil || !ready {
			return nil, err
		}
		limit = 0
	}
	return p.frames[:n], nil
}

func (p *TAP) failed(what string, err error) error {
	if errors.Is(err, unix.EBADF) || errors.Is(err, unix.EBADFD) || errors.Is(err, unix.ENODEV) {
		return ErrGone
	}
	if errors.Is(err, unix.EIO) {
		return fmt.Errorf("TAP %s: cannot %s a frame: the interface is down; bring it up (ip link set %s up)", p.name, what, p.name)
	}
	return fmt.Errorf("TAP %s: cannot %s a frame: %w", p.name, what, err)
}

// Calls implements Port.
func (p *TAP) Calls() uint64 { return p.calls }

// Close implements Port.
func (p *TAP) Close() error { return unix.Close(p.fd) }
