package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// paceStep is how far apart the turns of a paced sender are, where its rate allows as much: messages that are due by then go with one
	// system call.
	paceStep = 100 * time.Microsecond
	// paceDebt is how much a sender that was kept from its turn makes up for. What it was late beyond that is never sent, so that what is
	// offered stays a rate and does not become a burst.
	paceDebt = 2 * time.Millisecond
	// paceBatch is how many messages one system call sends at most.
	paceBatch = 64
	// gsoBytes and gsoSegments bound a message of several datagrams: a UDP datagram's 64 KiB, and what QUIC stacks put into one.
	gsoBytes    = 1<<16 - 1 - 28
	gsoSegments = 40
)

// Stream is a sequence of numbered datagrams from one socket.
type Stream struct {
	Size     int           // bytes of payload of each
	Segments bool          // several are given to the kernel as one message (UDP_SEGMENT), and taken so (UDP_GRO)
	Rate     float64       // datagrams a second; 0 for as many as can be
	Duration time.Duration // of sending
}

// Sent is what was sent of a stream.
type Sent struct {
	Datagrams int
	Took      time.Duration
	End       time.Duration // when the last was sent, on the machine's monotonic clock
}

// each is how many datagrams a message stands for.
func (s Stream) each() int {
	if !s.Segments {
		return 1
	}
	return max(1, min(gsoSegments, gsoBytes/s.Size))
}

// send sends the stream from a connected socket.
func (s Stream) send(fd int) (Sent, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Sleeps last to the microsecond. Threads that sleep otherwise are not disturbed: this one is the sender's.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return Sent{}, fmt.Errorf("PR_SET_TIMERSLACK: %w", err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }() // back to the default
	each := s.each()
	if s.Segments {
		if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, s.Size); err != nil {
			return Sent{}, fmt.Errorf("UDP_SEGMENT: %w", err)
		}
	}
	b := newBatch(paceBatch, each*s.Size)
	p := pace{perSecond: s.Rate / float64(each)}
	messages := 0
	start := monotonic()
	now := time.Duration(0)
	for ; now < s.Duration; now = monotonic() - start {
		n, wait := p.due(now, messages)
		if wait > 0 {
			ts := unix.NsecToTimespec(int64(min(wait, s.Duration-now)))
			_ = unix.Nanosleep(&ts, nil) // a signal ends it early, which does no harm
			continue
		}
		for i := range n {
			s.write(b.bufs[i], (messages+i)*each)
		}
		sent, err := b.send(fd, n)
		switch {
		case err == nil:
			messages += sent
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN):
		default:
			return Sent{}, fmt.Errorf("send: %w", err)
		}
	}
	return Sent{Datagrams: messages * each, Took: now, End: start + now}, nil
}

// write numbers the datagrams of a message.
func (s Stream) write(b []byte, seq int) {
	for ; len(b) >= s.Size; b = b[s.Size:] {
		binary.BigEndian.PutUint64(b, uint64(seq))
		seq++
	}
}

// pace is a schedule of messages.
type pace struct {
	perSecond float64 // 0 for no schedule
	whole     bool    // all are sent, however late
	skipped   float64 // messages whose time went by
}

// due says how many messages are to be sent at a time, when so many were sent since the start, or else how long there is to wait.
func (p *pace) due(now time.Duration, sent int) (n int, wait time.Duration) {
	if p.perSecond == 0 {
		return paceBatch, 0
	}
	debt := p.perSecond*now.Seconds() - p.skipped - float64(sent)
	if most := max(p.perSecond*paceDebt.Seconds(), paceBatch); debt > most && !p.whole {
		p.skipped += debt - most
		debt = most
	}
	if debt < 1 {
		next := max(1, p.perSecond*paceStep.Seconds())
		return 0, max(time.Duration((next-debt)/p.perSecond*float64(time.Second)), 1)
	}
	return min(int(debt), paceBatch), 0
}
