// Package stream is the link over a connected socket: a stream that carries each frame behind its length, in 4 bytes with the most significant first, as QEMU's
// -netdev stream and passt do, or messages of one frame each, as QEMU's -netdev dgram. There is no virtio-net header: checksums are made, and frames are no longer
// than the MTU.
package stream

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

const (
	// MaxFrame is the longest frame in bytes: an IP packet of 65,535 bytes behind an Ethernet header with a VLAN tag.
	MaxFrame = packet.EtherLen + 4 + 65535

	lengthLen = 4 // bytes of a frame's length in a stream
	batchSize = link.MaxBatch * (lengthLen + MaxFrame)
	inSize    = 2 * batchSize
	outSize   = 256 << 10 // bytes that wait for the socket; more than a frame
	maxPieces = 1024      // of one writev (UIO_MAXIOV, include/uapi/linux/uio.h)
)

// ErrFraming says that a stream does not carry frames, or not any more; it is link.ErrGone as well.
var ErrFraming = fmt.Errorf("the stream's next frame would be longer than %d bytes: %w", MaxFrame, link.ErrGone)

// New makes the queue of a connected socket; its type (SO_TYPE) says how frames are carried. The queue owns fd from then on, makes it non-blocking, and
// closes it in Close; if New fails, fd stays the caller's.
func New(fd int) (link.Queue, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, fmt.Errorf("link/stream: descriptor %d is not a socket: %w", fd, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("link/stream: cannot make descriptor %d non-blocking: %w", fd, err)
	}
	s := socket{fd: fd}
	switch kind {
	case unix.SOCK_STREAM:
		return &Stream{socket: s, in: make([]byte, inSize), out: make([]byte, 0, outSize)}, nil
	case unix.SOCK_DGRAM, unix.SOCK_SEQPACKET:
		return newDatagram(s, kind == unix.SOCK_SEQPACKET), nil
	}
	return nil, fmt.Errorf("link/stream: descriptor %d is a socket of type %d; a stream, datagram or seqpacket socket is needed", fd, kind)
}

// socket is what both kinds have.
type socket struct {
	fd       int
	counters link.Counters
	gone     bool // the peer has closed, or the queue is closed
	closed   bool
}

// Fd implements link.Queue.
func (s *socket) Fd() int { return s.fd }

// Features implements link.Queue.
func (s *socket) Features() link.Features { return link.Features{} }

// Counters implements link.Queue.
func (s *socket) Counters() link.Counters { return s.counters }

// Close implements link.Queue. A second Close does nothing and returns os.ErrClosed.
func (s *socket) Close() error {
	if s.closed {
		return os.ErrClosed
	}
	s.closed, s.gone = true, true
	if err := unix.Close(s.fd); err != nil {
		return fmt.Errorf("link/stream: cannot close the socket: %w", err)
	}
	return nil
}

// refuse counts a frame that cannot be sent.
func (s *socket) refuse() bool {
	s.counters.Refused++
	return true
}

// failed is what Receive answers to an error of the socket.
func (s *socket) failed(errno unix.Errno) error {
	switch errno {
	case unix.EAGAIN:
		return nil
	case unix.ECONNRESET, unix.EPIPE, unix.ECONNREFUSED, unix.ENOTCONN, unix.ETIMEDOUT:
		s.gone = true
		return link.ErrGone
	}
	return fmt.Errorf("link/stream: cannot read a frame: %w", errno)
}

// Stream is a link.Queue over a stream socket.
type Stream struct {
	socket
	in        []byte // what was read: frames from next on, up to end
	next, end int
	pieces    [link.MaxBatch][]byte
	out       []byte // what the socket has not taken yet
	err       error  // what the next Receive answers
}

var _ link.Queue = (*Stream)(nil)

// Receive implements link.Queue. What is longer than any frame ends the link with ErrFraming: where the next frame would begin cannot be known.
func (q *Stream) Receive(frames []packet.Frame) (int, error) {
	if q.gone {
		return 0, cmp.Or(q.err, link.ErrGone)
	}
	if len(q.in)-q.next < batchSize { // nothing is lent now, and within a batch nothing may move
		q.end = copy(q.in, q.in[q.next:q.end])
		q.next = 0
	}
	n, room := 0, min(len(frames), len(q.pieces))
	for n < room {
		b, err := q.frame()
		switch {
		case err != nil:
			return q.ends(n, err)
		case b != nil:
			q.pieces[n] = b
			frames[n] = packet.Frame{Bufs: q.pieces[n : n+1 : n+1], Len: len(b)}
			n++
			continue
		}
		q.counters.Reads++
		got, errno := receive(q.fd, q.in[q.end:])
		switch {
		case errno == unix.EAGAIN:
			return n, nil
		case errno != 0:
			return q.ends(n, q.failed(errno))
		case got == 0:
			return q.ends(n, link.ErrGone)
		}
		q.end += got
	}
	return n, nil
}

// ends is the end of the link behind n frames. The frames come first; that the socket is shut down has the event set ask for more.
func (q *Stream) ends(n int, err error) (int, error) {
	q.gone, q.err = true, err
	if n == 0 {
		return 0, err
	}
	_ = unix.Shutdown(q.fd, unix.SHUT_RDWR) // it fails when the peer has shut it down, which is an event as well
	return n, nil
}

// frame is the next whole frame that was read; nil when there is none.
func (q *Stream) frame() ([]byte, error) {
	for {
		b := q.in[q.next:q.end]
		if len(b) < lengthLen {
			return nil, nil
		}
		size := int(binary.BigEndian.Uint32(b))
		if size > MaxFrame {
			return nil, ErrFraming
		}
		if len(b) < lengthLen+size {
			return nil, nil
		}
		q.next += lengthLen + size
		if size >= packet.EtherLen {
			return b[lengthLen : lengthLen+size : lengthLen+size], nil
		}
		q.counters.Refused++
	}
}

// Send implements link.Queue. The frame is copied; what the socket does not take at once is sent by a later Send or Flush.
func (q *Stream) Send(out *link.Out) bool {
	size := len(out.Head)
	for _, p := range out.Payload {
		size += len(p)
	}
	if q.gone || size > MaxFrame || out.Hdr.Flags&packet.FlagNeedsCsum != 0 || out.Hdr.GSOType != packet.GSONone {
		return q.refuse()
	}
	if len(q.out)+lengthLen+size > cap(q.out) {
		if q.Flush(); len(q.out)+lengthLen+size > cap(q.out) {
			return false
		}
	}
	q.out = binary.BigEndian.AppendUint32(q.out, uint32(size))
	q.out = append(q.out, out.Head...)
	for _, p := range out.Payload {
		q.out = append(q.out, p...)
	}
	return true
}

// Flush implements link.Queue.
func (q *Stream) Flush() {
	if len(q.out) == 0 {
		return
	}
	if q.gone {
		q.out = q.out[:0]
		return
	}
	q.counters.Writes++
	n, errno := send(q.fd, q.out)
	switch errno {
	case 0:
		q.out = q.out[:copy(q.out, q.out[n:])]
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
	default:
		q.counters.Refused++
		q.out = q.out[:0]
		if q.failed(errno) != nil {
			q.gone = true
		}
	}
}
