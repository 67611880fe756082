package stream

import (
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// Datagram is a link.Queue over a socket that keeps messages apart.
type Datagram struct {
	socket
	ends   bool   // the socket has an end: an empty message is it. A datagram socket's peer may come back
	in     []byte // room for a batch
	pieces [link.MaxBatch][]byte
	iov    []unix.Iovec // cleared after each call: it must not keep the caller's memory alive
	msg    unix.Msghdr
	left   bool // the end has come behind frames
}

var _ link.Queue = (*Datagram)(nil)

func newDatagram(s socket, ends bool) *Datagram {
	return &Datagram{socket: s, ends: ends, in: make([]byte, link.MaxBatch*slot), iov: make([]unix.Iovec, maxPieces)}
}

// slot is the room for one frame, and a byte more to tell a longer one by.
const slot = (MaxFrame + 1 + 63) &^ 63

// Receive implements link.Queue.
func (q *Datagram) Receive(frames []packet.Frame) (int, error) {
	if q.gone || q.left {
		q.gone = true
		return 0, link.ErrGone
	}
	n, room := 0, min(len(frames), len(q.pieces))
	for n < room {
		b := q.in[n*slot : (n+1)*slot]
		q.counters.Reads++
		got, errno := receive(q.fd, b[:MaxFrame+1])
		switch {
		case errno == unix.EAGAIN:
			return n, nil
		case q.ends && (got == 0 || errno != 0):
			if n == 0 {
				q.gone = true
				return 0, link.ErrGone
			}
			q.left = true
			_ = unix.Shutdown(q.fd, unix.SHUT_RDWR) // an event, so that the end is asked for
			return n, nil
		case errno == unix.ECONNREFUSED || errno == unix.ECONNRESET: // the answer to what was sent to a peer that is not there; it is told once
			q.counters.Refused++
		case errno != 0:
			return n, q.failed(errno)
		case got < packet.EtherLen || got > MaxFrame:
			q.counters.Refused++
		default:
			q.pieces[n] = b[:got:got]
			frames[n] = packet.Frame{Bufs: q.pieces[n : n+1 : n+1], Len: got}
			n++
		}
	}
	return n, nil
}

// Send implements link.Queue.
func (q *Datagram) Send(out *link.Out) bool {
	if q.gone || 1+len(out.Payload) > maxPieces || out.Hdr.Flags&packet.FlagNeedsCsum != 0 || out.Hdr.GSOType != packet.GSONone {
		return q.refuse()
	}
	q.counters.Writes++
	switch q.sendMessage(out) {
	case 0:
		return true
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return false
	}
	return q.refuse() // also for a peer that is not there; Receive tells of one that will not come back
}

// Flush implements link.Queue; Send has already made everything visible.
func (q *Datagram) Flush() {}
