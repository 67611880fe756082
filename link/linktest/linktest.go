// Package linktest is a link.Queue in memory, for tests of what works with links: the test plays the guest, without a
// network and without privileges.
//
// The test injects frames (Inject, Lend), whole or cut into random pieces (Split), and reads what was sent to the guest (Take,
// Sent). A queue can be full for a number of frames (Refuse), for as long as the test likes (SetFull), or gone (Vanish).
//
// With Features.Again the queue is a link.Sleeper that tells of a frame only when it was asked to; without, it tells of each.
//
// What a link promises only for a while, the queue takes back: the memory of a received frame is overwritten at the next
// Receive, so that a program that keeps borrowed memory reads garbage. Check reports calls that no correct program makes.
//
//	q := linktest.New(link.Features{Csum: true, TSO4: true, TSO6: true})
//	… run the code under test with q as its Queue …
//	q.Inject(packet.NetHdr{}, arpRequest)
//	…
//	for _, f := range q.Take() {
//		fmt.Println(f.Packet())
//	}
//	q.Check(t)
package linktest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// poison is what borrowed memory is overwritten with.
const poison = 0xdb

// Fd is what a Queue without a descriptor of its own answers to Fd.
const Fd = -1

// injected is one frame on its way to the program under test.
type injected struct {
	hdr  packet.NetHdr
	bufs [][]byte
	lent bool // the memory is the test's
}

// Queue is the link of a guest that the test plays. Its methods may be called from any goroutine, but those of link.Queue from
// one at a time.
type Queue struct {
	// Notify, if set, is called when frames begin to wait: what an event set would report of Fd. It is called from
	// Inject and Lend, without any lock held.
	Notify func()
	// OnSend, if set, sees every frame that is taken, before Send returns; nothing in it may be kept. Frames are then not
	// collected for Take.
	OnSend func(out *link.Out)
	// MaxReceive limits the frames of one Receive, 0 for no limit but the caller's. A limited Receive looks to its caller
	// like the end of what waits, so the queue notifies again when frames are left.
	MaxReceive int

	features link.Features
	fd       int

	mu       sync.Mutex
	rng      *rand.Rand // cuts frames into pieces; nil does not
	pieces   int        // at most as many
	pending  []injected
	next     int      // the first of pending that was not received
	borrowed [][]byte // the memory that the last Receive lent out and the next takes back
	sent     []Frame
	refuse   int
	room     int // frames until one is refused, and one more; 0 for no limit
	full     bool
	gone     bool
	closed   bool
	asked    bool // with Features.Again: to tell of the next frame
	counters link.Counters
	received uint64
	taken    uint64
	flushed  uint64 // of those taken
	refused  uint64
	faults   []string
}

var _ link.Sleeper = (*Queue)(nil)

// New returns a queue without a descriptor: Fd is -1, and Notify tells of frames.
func New(f link.Features) *Queue { return &Queue{features: f, fd: Fd} }

// NewPollable returns a queue with a real descriptor that becomes readable when frames wait, for programs that poll.
func NewPollable(f link.Features) (*Queue, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("linktest: cannot make an eventfd: %w", err)
	}
	return &Queue{features: f, fd: fd}, nil
}

// Split has frames injected from now on delivered in up to pieces random pieces, among them empty ones.
func (q *Queue) Split(rng *rand.Rand, pieces int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rng, q.pieces = rng, pieces
}

// Inject sends a copy of frame, from the Ethernet header on, to the program under test.
func (q *Queue) Inject(hdr packet.NetHdr, frame []byte) {
	q.mu.Lock()
	bufs := q.cut(append([]byte(nil), frame...))
	q.mu.Unlock()
	q.enqueue(injected{hdr: hdr, bufs: bufs})
}

// Lend is Inject without the copy, and without allocations: for benchmarks. bufs stay the test's, must not change until the
// frame was received and the next one too, and are not overwritten.
func (q *Queue) Lend(hdr packet.NetHdr, bufs [][]byte) {
	q.enqueue(injected{hdr: hdr, bufs: bufs, lent: true})
}

func (q *Queue) enqueue(f injected) {
	q.mu.Lock()
	if q.next == len(q.pending) {
		q.pending, q.next = q.pending[:0], 0
	}
	q.pending = append(q.pending, f)
	q.mu.Unlock()
	q.announce()
}

// announce says that frames wait, unless that has to be asked for and was not.
func (q *Queue) announce() {
	q.mu.Lock()
	silent := q.features.Again && !q.asked
	q.asked = false
	q.mu.Unlock()
	if silent {
		return
	}
	if q.fd >= 0 {
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		_, _ = unix.Write(q.fd, one[:]) // fails only when the counter is full, and then it is readable
	}
	if q.Notify != nil {
		q.Notify()
	}
}

// cut divides b as Split says. Each piece has memory of its own, so that a reader that runs over an end is found.
func (q *Queue) cut(b []byte) [][]byte {
	if q.rng == nil {
		return [][]byte{b}
	}
	var bufs [][]byte
	for n := 1 + q.rng.IntN(q.pieces); n > 1; n-- {
		k := q.rng.IntN(len(b) + 1)
		if q.rng.IntN(2) == 0 {
			k = min(k, 1+q.rng.IntN(64)) // cuts within the headers are the interesting ones
		}
		bufs = append(bufs, append([]byte(nil), b[:k]...))
		b = b[k:]
	}
	return append(bufs, b)
}

// Waiting is how many frames were injected and not yet received.
func (q *Queue) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.pending) - q.next
}

// RefuseAfter lets the queue take n frames, and then refuse one.
func (q *Queue) RefuseAfter(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.room = n + 1
}

// Refuse makes the queue full for the next n frames that are sent.
func (q *Queue) Refuse(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refuse = n
}

// SetFull makes the queue full, or ends that.
func (q *Queue) SetFull(full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.full = full
}

// Vanish is the end of the guest: Receive reports link.ErrGone from now on, and what is sent is lost.
func (q *Queue) Vanish() {
	q.mu.Lock()
	q.gone = true
	q.mu.Unlock()
	q.announce()
}

// Take returns and forgets the frames that were sent.
func (q *Queue) Take() []Frame {
	q.mu.Lock()
	defer q.mu.Unlock()
	sent := q.sent
	q.sent = nil
	return sent
}

// Received is how many frames the program under test has received.
func (q *Queue) Received() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.received
}

// Sent is how many frames the queue has taken, and Refused how often it was full.
func (q *Queue) Sent() (sent, refused uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.taken, q.refused
}

// Unflushed is how many frames the queue has taken since the last Flush: a guest would not see them yet.
func (q *Queue) Unflushed() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int(q.taken - q.flushed)
}

// Asked says that the queue was asked to tell of the next frame, with Features.Again, and that none has come since.
func (q *Queue) Asked() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.asked
}

// TB is the part of testing.TB that Check needs; rapid.T has it too.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
}

// Check fails the test if the queue was not closed, and for each call that no correct program makes.
func (q *Queue) Check(t TB) {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		t.Errorf("linktest: the queue was never closed")
	}
	for _, f := range q.faults {
		t.Errorf("linktest: %s", f)
	}
}

func (q *Queue) fault(format string, args ...any) {
	q.faults = append(q.faults, fmt.Sprintf(format, args...))
}

// Fd implements link.Queue.
func (q *Queue) Fd() int { return q.fd }

// Ready implements link.Sleeper.
func (q *Queue) Ready() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.next < len(q.pending)
}

// Sleep implements link.Sleeper.
func (q *Queue) Sleep() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked = true
	return q.next == len(q.pending) && !q.gone
}

// Features implements link.Queue.
func (q *Queue) Features() link.Features { return q.features }

// Flush implements link.Queue.
func (q *Queue) Flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		q.fault("Flush after Close")
	}
	q.flushed = q.taken
}

// Counters implements link.Queue: calls of Receive and Send in place of system calls, and frames lost after Vanish.
func (q *Queue) Counters() link.Counters {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.counters
}

// Receive implements link.Queue.
func (q *Queue) Receive(frames []packet.Frame) (int, error) {
	n, left, err := q.receive(frames)
	if left {
		q.announce()
	}
	return n, err
}

// receive reports besides whether frames are left that the caller does not know of.
func (q *Queue) receive(frames []packet.Frame) (n int, left bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counters.Reads++
	q.asked = false
	for _, b := range q.borrowed {
		for i := range b {
			b[i] = poison
		}
	}
	clear(q.borrowed)
	q.borrowed = q.borrowed[:0]
	switch {
	case q.closed:
		q.fault("Receive after Close")
		return 0, false, link.ErrGone
	case q.gone:
		return 0, false, link.ErrGone
	case len(frames) > link.MaxBatch:
		q.fault("Receive of %d frames, more than link.MaxBatch", len(frames))
	}
	room := len(frames)
	if q.MaxReceive > 0 {
		room = min(room, q.MaxReceive)
	}
	for n < room && q.next < len(q.pending) {
		in := &q.pending[q.next]
		f := &frames[n]
		f.Hdr, f.Bufs, f.Len = in.hdr, in.bufs, 0
		for _, b := range in.bufs {
			f.Len += len(b)
		}
		if !in.lent {
			q.borrowed = append(q.borrowed, in.bufs...)
		}
		*in = injected{}
		q.next++
		n++
	}
	q.received += uint64(n)
	if n < len(frames) && q.fd >= 0 {
		var count [8]byte
		_, _ = unix.Read(q.fd, count[:]) // not readable any more, or it never was
	}
	return n, n < len(frames) && q.next < len(q.pending), nil
}

// Send implements link.Queue.
func (q *Queue) Send(out *link.Out) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counters.Writes++
	switch {
	case q.closed:
		q.fault("Send after Close")
		return true
	case len(out.Head) > link.MaxHead:
		q.fault("Send of a head of %d bytes, more than link.MaxHead", len(out.Head))
	}
	switch {
	case q.gone:
		q.counters.Refused++
		return true
	case q.full || q.refuse > 0 || q.room == 1:
		q.refuse, q.room = max(q.refuse-1, 0), 0
		q.refused++
		return false
	}
	q.taken++
	q.room = max(q.room-1, 0)
	if q.OnSend != nil {
		q.OnSend(out)
	} else {
		q.sent = append(q.sent, copyOf(out))
	}
	return true
}

// Close implements link.Queue.
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		q.fault("Close after Close")
		return os.ErrClosed
	}
	q.closed = true
	if q.fd >= 0 {
		return unix.Close(q.fd)
	}
	return nil
}
