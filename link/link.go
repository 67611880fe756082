// Package link is the one interface between frames and everything above them.
//
// A Queue moves whole Ethernet frames, each with a virtio-net header, between a guest and one worker. GSO frames of up
// to 64 KiB pass whole and checksums stay partial, whatever the MTU.
package link

import (
	"errors"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
)

// ErrGone says that the guest's end of the link does not exist any more.
var ErrGone = errors.New("link: the guest's end is gone")

// MaxHead is the longest Out.Head in bytes: Ethernet, IP and TCP headers with all options.
const MaxHead = 14 + 60 + 60

// MaxBatch bounds the frames of one Receive.
const MaxBatch = 32

// Out is one frame on its way to the guest. Everything in it stays the caller's; Send keeps no reference to
// Head, and none to the memory of Payload beyond what its link kind states.
type Out struct {
	Hdr     packet.NetHdr
	Head    []byte   // from the Ethernet header on; at most MaxHead bytes
	Payload [][]byte // the rest of the frame
	// Room is how many bytes in front of Payload[0], in the same page of the pool that a Borrower knows, are nobody's: the queue may write headers there, as long as no other frame that
	// it has not sent lies in that page.
	Room int
}

// Features says what a link carries.
type Features struct {
	Csum       bool // partial checksums, both ways
	TSO4, TSO6 bool // TCP segments larger than the MTU, both ways
	USO        bool // UDP_L4 segments larger than the MTU, both ways

	// Again: Receive costs no system call and is asked again until it answers none; fewer frames than there was room for do not say that no more wait.
	Again  bool
	Learns bool // of several queues, the guest's frames of a flow come on that which has last sent one of it
}

// Queue is one queue pair of a link. It belongs to one worker and is not safe for concurrent use. No method
// blocks, allocates or keeps the slices it is given.
type Queue interface {
	// Fd is the descriptor that becomes readable when frames wait; the worker watches it. A Sleeper's does so when it was asked to.
	Fd() int
	// Receive fills frames in arrival order and returns how many there are. Fewer than there is room for, or with Features.Again none, says that no
	// more wait: Fd becomes readable when the next one comes. At most MaxBatch frames are asked for. Their memory is borrowed
	// from the queue until the next Receive.
	Receive(frames []packet.Frame) (int, error)
	// Send gives one frame to the guest. False says that the queue is full: nothing was taken, and the
	// caller tries again later. A frame that the link refuses for good is counted by the queue and reported as taken.
	Send(out *Out) bool
	// Flush makes what was sent visible to the guest, where Send alone does not.
	Flush()
	// Features never change over the lifetime of the queue.
	Features() Features
	// Counters are the system calls and refused frames so far.
	Counters() Counters
	// Close gives the queue's memory and descriptors back.
	Close() error
}

// Borrower is a Queue that can send a frame's payload from where it lies, without a copy.
type Borrower interface {
	Queue
	// Borrow names a pool of the worker's. Payload that lies in whole pages of it may be sent from there, after Send has returned too: the queue holds a
	// reference to each such page until the frame is with the guest. The pool stays the worker's, and must not be closed before the queue.
	Borrow(pool *pagepool.Pool) error
}

// Sleeper is a Queue whose frames are seen without a system call (Features.Again). To make Fd readable costs its other end one, so that it has to be asked to, by
// those who are about to sleep.
type Sleeper interface {
	Queue
	// Ready reports whether frames wait.
	Ready() bool
	// Sleep has Fd become readable when the next frame comes, and when there is room after Send has answered false. False says that there is something to do
	// already: then Fd may stay as it is.
	Sleep() bool
}

// Shared is a queue from which another worker can receive in its owner's place.
type Shared interface {
	// Receiver is a queue that receives the same frames, for one worker at a time: a frame comes to one of the two. It has the same Fd, sends nothing, and is
	// closed like any other, before the queue itself or after it.
	Receiver() Queue
}

// Counters of a queue.
type Counters struct {
	Reads, Writes uint64 // system calls
	Refused       uint64 // frames that the link refused for good
	Descriptors   uint64 // of rings, that the frames sent have taken
	Kicks         uint64 // of rings; they are among Writes
	Past          uint64 // frames sent past the rings; they are among Writes
	Rebuilds      uint64 // times that rings were broken, and made anew or done without
}
