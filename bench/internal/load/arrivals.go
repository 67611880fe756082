package load

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// sinkBuffer is what a receiver asks for as socket buffer, in bytes: so many that a tool and not the receiver's turn on the processors
	// sets the limit.
	sinkBuffer = 4 << 20
	// sinkBatch is how many messages a receiver takes with one system call.
	sinkBatch = 64
	// quietTime without a datagram, after the last was sent, says that no other comes; sinkLimit bounds the wait for that.
	quietTime = 200 * time.Millisecond
	sinkLimit = 3 * time.Second
	sinkPoll  = 50 * time.Millisecond

	// seqLen is how long a datagram's number is, with which it begins.
	seqLen = 8
)

// Arrivals are what came of a numbered sequence of datagrams.
type Arrivals struct {
	Received   int           // different ones
	Duplicates int           // that came again
	OutOfOrder int           // that came after one that was sent after them
	Wrong      int           // of a length or with a number that nobody sent
	Span       time.Duration // from the first to the last
	Last       time.Duration // when the last came, on the machine's monotonic clock, which is that of all namespaces
}

// tally counts numbered datagrams.
type tally struct {
	Arrivals
	seen []uint64 // a bit for each number
	next uint64   // behind the highest that came
}

// maxSequence bounds the memory of a tally.
const maxSequence = 1 << 28

// take counts a message: one datagram, or several of size bytes each.
func (t *tally) take(msg []byte, size int) {
	for ; len(msg) >= size; msg = msg[size:] {
		t.number(binary.BigEndian.Uint64(msg))
	}
	if len(msg) > 0 {
		t.Wrong++
	}
}

func (t *tally) number(seq uint64) {
	if seq >= maxSequence {
		t.Wrong++
		return
	}
	word, bit := int(seq/64), uint64(1)<<(seq%64)
	for word >= len(t.seen) {
		t.seen = append(t.seen, make([]uint64, len(t.seen)+1024)...)
	}
	if t.seen[word]&bit != 0 {
		t.Duplicates++
		return
	}
	t.seen[word] |= bit
	t.Received++
	if seq < t.next {
		t.OutOfOrder++
		return
	}
	t.next = seq + 1
}

// sink receives a sequence of datagrams on a thread of its own.
type sink struct {
	fd   int
	size int
	sent atomic.Int64 // how many were sent, once that is known; -1 before
	done chan struct{}
	tally
	err error
}

// newSink starts to receive datagrams of size bytes from fd, which stays the caller's and is open until wait has returned.
func newSink(fd, size int, segments bool) (*sink, error) {
	options := []struct{ level, name, value int }{{unix.SOL_SOCKET, unix.SO_RCVBUF, sinkBuffer}}
	if segments {
		options = append(options, struct{ level, name, value int }{unix.SOL_UDP, unix.UDP_GRO, 1})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return nil, err
		}
	}
	tv := unix.NsecToTimeval(sinkPoll.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, err
	}
	s := &sink{fd: fd, size: size, done: make(chan struct{})}
	s.sent.Store(-1)
	room := size
	if segments {
		room = 1 << 16
	}
	go s.run(newBatch(sinkBatch, room))
	return s, nil
}

func (s *sink) run(b *batch) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(s.done)
	var first, told time.Duration
	for {
		n, err := b.receive(s.fd)
		now := monotonic()
		switch {
		case err == nil:
			before := s.Received
			for i := range n {
				s.take(b.message(i), s.size)
			}
			if first == 0 {
				first = now
			}
			if s.Received > before {
				s.Last = now
				s.Span = now - first
			}
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			s.err = err
			return
		}
		sent := s.sent.Load()
		if sent < 0 {
			continue
		}
		if told == 0 {
			told = now
		}
		if s.Received >= int(sent) || now-told > sinkLimit || now-max(s.Last, told) > quietTime {
			return
		}
	}
}

// wait is told how many datagrams were sent, and returns what came of them. It is called once.
func (s *sink) wait(sent int) (Arrivals, error) {
	s.sent.Store(int64(sent))
	<-s.done
	return s.Arrivals, s.err
}

// monotonic reads the machine's clock.
func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it always works
	return time.Duration(ts.Nano())
}
