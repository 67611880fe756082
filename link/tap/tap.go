// Package tap is the link over a TAP device: frames go through read(2) and writev(2), each with a virtio-net header,
// so that GSO frames pass whole and checksums stay partial.
package tap

import (
	"errors"
	"fmt"
	"os"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

const (
	// maxFrame is the longest frame that a TAP device delivers, in bytes, with its virtio-net header: an IP packet of 65535
	// bytes behind an Ethernet header with a VLAN tag.
	maxFrame = packet.NetHdrLen + packet.EtherLen + 4 + 65535

	// maxBatch is how many frames one Receive takes at most, and so bounds the memory they are put into.
	maxBatch = 64

	// headroom is left in front of each frame, for a hook that puts headers there (packet.Frame.Push).
	headroom = 64

	// align is where a frame begins: at a cache line.
	align = 64

	// maxPieces is how many pieces one writev takes at most (UIO_MAXIOV, include/uapi/linux/uio.h).
	maxPieces = 1024
)

// Queue is a link.Queue over one queue of a TAP device.
type Queue struct {
	fd       int
	features link.Features
	counters link.Counters
	gone     bool // the device does not exist any more, or the queue is closed
	closed   bool
	shared   bool // the descriptor is another Queue's

	// memory is mapped outside the Go heap and has room for len(pieces) frames of any length. They are put one behind
	// the other and always from the start, so that a batch of small frames stays in a small part of the cache.
	memory []byte
	pieces [][]byte // the one piece of each received frame; frames[i].Bufs is pieces[i:i+1]

	hdr [packet.NetHdrLen]byte
	iov []unix.Iovec // room for maxPieces; cleared after each call: it must not keep the caller's memory alive
}

var _ interface {
	link.Queue
	link.Shared
} = (*Queue)(nil)

// New makes a queue of the TAP descriptor fd, which has been opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR and a header size
// (TUNSETVNETHDRSZ) of packet.NetHdrLen. f says which offloads the kernel has accepted for it (TUNSETOFFLOAD).
//
// The queue owns fd from now on, makes it non-blocking, and closes it in Close; if New fails, fd stays the caller's.
func New(fd int, f link.Features) (*Queue, error) {
	ifr, err := check(fd)
	if err != nil {
		return nil, err
	}
	f.Learns = ifr.Uint16()&unix.IFF_MULTI_QUEUE != 0
	// The header's fields are little-endian on every machine, as they are in virtio.
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return nil, fmt.Errorf("link/tap: cannot make the virtio-net header little-endian: %w", err)
	}
	return open(fd, f)
}

// Offload prepares a TAP descriptor that was opened with IFF_VNET_HDR for New: it sets the header's size, and all the offloads that the kernel has, which
// it returns. Both belong to the interface: one descriptor is enough.
func Offload(fd int) (link.Features, error) {
	const base, uso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN, unix.TUN_F_USO4 | unix.TUN_F_USO6
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, packet.NetHdrLen); err != nil {
		return link.Features{}, fmt.Errorf("link/tap: cannot set the virtio-net header of descriptor %d to %d bytes: %w (is it a TAP's?)", fd, packet.NetHdrLen, err)
	}
	f := link.Features{Csum: true, TSO4: true, TSO6: true, USO: true}
	err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, base|uso)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.2
		f.USO = false
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, base)
	}
	if err != nil {
		return link.Features{}, fmt.Errorf("link/tap: cannot set the offloads of descriptor %d: %w", fd, err)
	}
	return f, nil
}

// check refuses a descriptor whose frames would be misread, and returns the interface's name and flags.
func check(fd int) (*unix.Ifreq, error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return nil, fmt.Errorf("link/tap: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return nil, fmt.Errorf("link/tap: descriptor %d is not an attached TAP device: %w", fd, err)
	}
	// IFF_NO_PI cannot be asked for: TUNGETIFF answers IFF_NOFILTER in the same bit.
	const want = unix.IFF_TAP | unix.IFF_VNET_HDR
	if flags := ifr.Uint16(); flags&want != want {
		return nil, fmt.Errorf("link/tap: device %s has flags %#x; open it with IFF_TAP|IFF_NO_PI|IFF_VNET_HDR", ifr.Name(), flags)
	}
	size, err := unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
	if err != nil {
		return nil, fmt.Errorf("link/tap: cannot read the virtio-net header size of %s: %w", ifr.Name(), err)
	}
	if size != packet.NetHdrLen {
		return nil, fmt.Errorf("link/tap: device %s has virtio-net headers of %d bytes; set %d with TUNSETVNETHDRSZ",
			ifr.Name(), size, packet.NetHdrLen)
	}
	return ifr, nil
}

func open(fd int, f link.Features) (*Queue, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("link/tap: cannot make descriptor %d non-blocking: %w", fd, err)
	}
	return &Queue{fd: fd, features: f, iov: make([]unix.Iovec, maxPieces)}, nil
}

// reserve makes room for batches of n frames.
func (q *Queue) reserve(n int) error {
	size := n * ((headroom + maxFrame + align - 1) &^ (align - 1))
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("link/tap: cannot map %d bytes for frames: %w", size, err)
	}
	old := q.memory
	q.memory, q.pieces = memory, make([][]byte, n)
	if old == nil {
		return nil
	}
	if err := unix.Munmap(old); err != nil {
		return fmt.Errorf("link/tap: cannot unmap frame memory: %w", err)
	}
	return nil
}

// Receiver implements link.Shared.
func (q *Queue) Receiver() link.Queue { return &Queue{fd: q.fd, features: q.features, shared: true} }

// Fd implements link.Queue.
func (q *Queue) Fd() int { return q.fd }

// Features implements link.Queue.
func (q *Queue) Features() link.Features { return q.features }

// Counters implements link.Queue.
func (q *Queue) Counters() link.Counters { return q.counters }

// Receive implements link.Queue. It takes at most 64 frames; when it returns fewer, and fewer than there is room for,
// no other was waiting. It allocates only when frames is longer than it ever was.
func (q *Queue) Receive(frames []packet.Frame) (int, error) {
	if q.gone {
		return 0, link.ErrGone
	}
	room := min(len(frames), maxBatch)
	if room > len(q.pieces) {
		if err := q.reserve(room); err != nil {
			return 0, err
		}
	}
	n, free := 0, q.memory
	for n < room {
		q.counters.Reads++
		got, errno := read(q.fd, free[headroom:headroom+maxFrame])
		if errno != 0 {
			return n, q.readError(errno)
		}
		if got < packet.NetHdrLen {
			q.counters.Refused++
			continue
		}
		f := &frames[n]
		f.Hdr.Decode(free[headroom:])
		f.Len = got - packet.NetHdrLen
		end := headroom + got
		q.pieces[n] = free[headroom+packet.NetHdrLen : end : end]
		f.Bufs = q.pieces[n : n+1 : n+1]
		f.SetRoom(free[:end:end], headroom+packet.NetHdrLen)
		free = free[(end+align-1)&^(align-1):]
		n++
	}
	return n, nil
}

// readError is what Receive answers to a failed read.
func (q *Queue) readError(errno unix.Errno) error {
	switch errno {
	case unix.EAGAIN:
		return nil
	case unix.EBADFD, unix.EIO, unix.ENODEV:
		q.gone = true
		return link.ErrGone
	}
	return fmt.Errorf("link/tap: cannot read a frame: %w", errno)
}

// Send implements link.Queue. The kernel copies the frame before Send returns, so nothing is referenced after it.
// Frames for a device that does not exist any more are refused; the next Receive reports link.ErrGone.
func (q *Queue) Send(out *link.Out) bool {
	if q.gone || 2+len(out.Payload) > maxPieces {
		q.counters.Refused++
		return true
	}
	out.Hdr.Encode(q.hdr[:])
	q.counters.Writes++
	switch q.write(out) {
	case 0:
		return true
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return false
	case unix.EBADFD, unix.ENODEV:
		q.gone = true
	}
	q.counters.Refused++
	return true
}

// Flush implements link.Queue; Send has already made everything visible.
func (q *Queue) Flush() {}

// Close implements link.Queue. Frames of the last Receive must not be touched any more. A second Close does
// nothing and returns os.ErrClosed.
func (q *Queue) Close() error {
	if q.closed {
		return os.ErrClosed
	}
	q.closed, q.gone = true, true
	var err error
	if !q.shared {
		err = unix.Close(q.fd)
	}
	if q.memory != nil {
		err = errors.Join(err, unix.Munmap(q.memory))
		q.memory = nil
	}
	if err != nil {
		return fmt.Errorf("link/tap: cannot close the device: %w", err)
	}
	return nil
}
