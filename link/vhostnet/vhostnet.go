// Package vhostnet is the link over a TAP device whose frames the kernel moves: vhost-net serves rings that this process shares with it (vhost/kernel), and
// virtio/net is their driver. A frame costs no system call; the two sides wake each other only when one of them sleeps.
//
// # A ring that breaks
//
// The kernel may give a ring up, and what it writes there may be wrong. Then the rings are made anew, with the device as it is: what was in them is lost, as
// frames may be, and the flows above go on. When that does not help, or new rings break as soon as they are used, the queue goes on without
// rings, by reading and writing the TAP (link/tap). Both are counted and logged; neither ends the link. Only a TAP that does not exist any more does.
package vhostnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/tap"
	"github.com/vasta-net/vasta/link/virtio"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/vhost/kernel"
	virtionet "github.com/vasta-net/vasta/virtio/net"
	"golang.org/x/sys/unix"
)

// Config is what a queue is made from.
type Config struct {
	// TAP is one queue of a TAP device, as tap.New takes it. It is the queue's from New on.
	TAP int
	// Offloads are those that the TAP has accepted (TUNSETOFFLOAD).
	Offloads link.Features
	// Device is an open vhost-net of the queue's own; it is the queue's from New on.
	Device kernel.Calls

	Tuning Tuning
	Log    *slog.Logger // nil for none
}

// Tuning are the measures of the rings. What is zero has the default that is named.
type Tuning struct {
	Receive  int // descriptors of the receive ring; 0: 128
	Transmit int // descriptors of the transmit ring; 0: 1024
	Buffer   int // bytes of a receive buffer, of which a frame may take several; 0: as many as the longest frame needs, so that each takes one

	Workers  bool          // a thread of the kernel's for each ring, where it can (Debian's 6.1 and 6.12 cannot), instead of one for both
	BusyPoll time.Duration // how long the kernel's thread looks for more before it sleeps
}

const (
	defaultReceive  = 128
	defaultTransmit = 1024

	// transmitPages is the room for what is copied on its way to the kernel: headers, short frames, and what lies in nobody's pages.
	transmitPages = 64

	// lastLife is how many rings in succession may be made in vain.
	lastLife = 3

	// closeLimit is how long Close waits for pages that others hold.
	closeLimit = time.Second
)

// shortLife is how long a ring lasts at least that was not made in vain. Tests shorten it.
var shortLife = time.Second

// Queue is a link.Queue over vhost-net.
type Queue struct {
	config Config
	log    *slog.Logger
	bell   int // an eventfd: Fd
	device *kernel.Device
	watch  *watch
	tap    *tap.Queue // the TAP itself; nil when TAP is none, as in tests

	// inner is what frames go through: the rings, or the TAP itself.
	inner  link.Queue
	direct bool // it is the TAP

	lender     *pagepool.Pool // of payload that is not copied
	lenderBase uint64

	gone    atomic.Bool // the TAP does not exist any more
	trouble atomic.Bool // the kernel has given a ring up

	before   link.Counters // of rings that were
	rebuilds uint64
	began    time.Time // of the rings that are
	short    int       // how many rings in succession did not last
	closed   bool
}

var (
	_ link.Borrower = (*Queue)(nil)
	_ link.Sleeper  = (*Queue)(nil)
)

// New makes a queue. If that fails, the TAP stays the caller's, and the device is closed.
func New(c Config) (q *Queue, err error) {
	made := &Queue{config: c, log: c.Log, bell: -1}
	q = made
	if q.log == nil {
		q.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			q, err = nil, errors.Join(err, made.release())
		}
	}()
	if ifr, e := unix.NewIfreq(""); e == nil && unix.IoctlIfreq(c.TAP, unix.TUNGETIFF, ifr) == nil {
		if q.tap, err = tap.New(c.TAP, c.Offloads); err != nil {
			return nil, errors.Join(fmt.Errorf("link/vhostnet: %w", err), c.Device.Close())
		}
	}
	if q.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, errors.Join(fmt.Errorf("link/vhostnet: cannot make an eventfd: %w", err), c.Device.Close())
	}
	d, err := kernel.New(kernel.Config{Calls: c.Device, TAP: c.TAP, Call: q.bell, Workers: c.Tuning.Workers, BusyPoll: c.Tuning.BusyPoll})
	if err != nil {
		return nil, fmt.Errorf("link/vhostnet: %w", err)
	}
	q.device = d
	if q.watch, err = newWatch(c.TAP, q.heard); err != nil {
		return nil, err
	}
	for _, fd := range q.device.Troubles() {
		if err := q.watch.add(fd, aboutRing, unix.EPOLLIN); err != nil {
			return nil, err
		}
	}
	return q, q.makeRings()
}

// heard is called in the watch's goroutine.
func (q *Queue) heard(about int32, ended bool) {
	switch {
	case about == aboutRing:
		q.trouble.Store(true)
	case ended:
		q.gone.Store(true)
	}
	ring(q.bell)
}

// ring makes an eventfd readable.
func ring(fd int) {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(fd, one[:]) // it fails only when the counter is full, and then it is readable
}

// makeRings makes a driver and its rings, and has the kernel serve them.
func (q *Queue) makeRings() error {
	t := &q.config.Tuning
	c := virtionet.DriverConfig{
		Transport: newTransport(q.device, q.config.Offloads), Features: rings | virtio.Wanted(q.config.Offloads), Pairs: 1,
		QueueSize: orElse(t.Receive, defaultReceive), TransmitSize: orElse(t.Transmit, defaultTransmit), Buffer: orElse(t.Buffer, bufferLen),
	}
	free := func() error { return nil }
	if t.Buffer == 0 {
		a, err := pagepool.NewArena((bufferPages(c.QueueSize) + transmitPages) * pagepool.PageSize)
		if err != nil {
			return fmt.Errorf("link/vhostnet: %w", err)
		}
		b, err := newBuffers(a, c.QueueSize)
		if err != nil {
			return errors.Join(err, a.Close())
		}
		c.Arena, c.Pages, c.Buffers = a, transmitPages, func(int) virtionet.Buffers { return b }
		free = func() error {
			a.Free(b.pages)
			return a.Close()
		}
	}
	d, err := virtionet.NewDriver(c)
	if err != nil {
		return errors.Join(fmt.Errorf("link/vhostnet: %w", err), free())
	}
	over := virtio.Config{Pair: d.Pairs()[0], Fd: q.bell, Gone: &q.gone, Again: true, Close: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		defer cancel()
		if err := d.Close(ctx); err != nil {
			return err // a device that may still use it keeps its memory
		}
		return free()
	}}
	if q.tap != nil {
		over.Direct = q.tap
	}
	v := virtio.New(over)
	if q.lender != nil {
		v.Borrow(q.lender, q.lenderBase)
	}
	q.inner, q.began = v, time.Now()
	return nil
}

func orElse(n, other int) int {
	if n == 0 {
		return other
	}
	return n
}

// Fd implements link.Queue.
func (q *Queue) Fd() int { return q.bell }

// Features implements link.Queue.
func (q *Queue) Features() link.Features {
	f := q.config.Offloads
	f.Again = true
	f.Learns = q.tap != nil && q.tap.Features().Learns // what vhost-net sends teaches the tun driver as a write does
	return f
}

// Receive implements link.Queue. Rings that are broken are made anew here, between two batches.
func (q *Queue) Receive(frames []packet.Frame) (int, error) {
	if q.closed {
		return 0, link.ErrGone
	}
	if !q.trouble.Load() {
		n, err := q.inner.Receive(frames)
		if err == nil || errors.Is(err, link.ErrGone) || q.direct {
			return n, err
		}
		q.mend(err)
	} else {
		q.mend(errGivenUp)
	}
	return q.inner.Receive(frames)
}

// Ready implements link.Sleeper. A TAP without rings is not looked at: its frames are told of.
func (q *Queue) Ready() bool {
	v, ok := q.inner.(*virtio.Queue)
	return ok && v.Ready()
}

// Sleep implements link.Sleeper. A ring that was given up has to be mended first.
func (q *Queue) Sleep() bool {
	v, ok := q.inner.(*virtio.Queue)
	return !ok || v.Sleep() && !q.trouble.Load()
}

var errNoTAP = errors.New("there is no TAP behind the rings")

var errGivenUp = errors.New("the kernel has given it up")

// mend makes new rings, or does without.
func (q *Queue) mend(cause error) {
	q.trouble.Store(false)
	if time.Since(q.began) > shortLife {
		q.short = 0
	}
	q.short++
	q.keepCounters()
	err := q.inner.Close()
	if err == nil && q.short <= lastLife {
		if err = q.makeRings(); err == nil {
			q.rebuilds++
			q.log.Warn("a ring of vhost-net was broken, and all of the queue's were made anew", "cause", cause, "rebuilds", q.rebuilds)
			return
		}
	}
	q.fallBack(cause, err)
}

// fallBack goes on with the TAP alone. Whatever is left of the rings ends with the device.
func (q *Queue) fallBack(cause, err error) {
	q.rebuilds++
	q.log.Error("the rings of vhost-net stay broken; the queue goes on without, more slowly", "cause", cause, "rebuilds", q.rebuilds, "error", err)
	for _, fd := range q.device.Troubles() {
		q.watch.remove(fd)
	}
	if e := q.device.Close(); e != nil && !errors.Is(e, fs.ErrClosed) {
		q.log.Error("vhost-net", "error", e)
	}
	q.device = nil
	err = errNoTAP
	if q.tap != nil {
		q.inner, q.direct = q.tap, true
		err = q.watch.askFrames()
	}
	if err != nil {
		q.log.Error("the link ends", "error", err)
		q.inner = &ended{inner: q.inner}
	}
	ring(q.bell)
}

// keepCounters adds what the inner queue has counted, before it goes.
func (q *Queue) keepCounters() {
	c := q.inner.Counters()
	q.before.Reads += c.Reads
	q.before.Writes += c.Writes
	q.before.Refused += c.Refused
	q.before.Descriptors += c.Descriptors
	q.before.Kicks += c.Kicks
	q.before.Past += c.Past
}

// Borrow implements link.Borrower. It is called before the first Send.
func (q *Queue) Borrow(pool *pagepool.Pool) error {
	base, err := q.device.Map(pool.Memory(), pool.Fd())
	if err != nil {
		return fmt.Errorf("link/vhostnet: %w", err)
	}
	q.lender, q.lenderBase = pool, base
	q.inner.(*virtio.Queue).Borrow(pool, base)
	return nil
}

// Pair is the driver's queue pair, for measuring; nil when the queue goes on without rings.
func (q *Queue) Pair() *virtionet.Pair {
	if v, ok := q.inner.(*virtio.Queue); ok {
		return v.Pair
	}
	return nil
}

// Direct says that the queue goes on without rings.
func (q *Queue) Direct() bool { return q.direct }

// Send implements link.Queue.
func (q *Queue) Send(out *link.Out) bool { return q.inner.Send(out) }

// Flush implements link.Queue.
func (q *Queue) Flush() { q.inner.Flush() }

// Counters implements link.Queue.
func (q *Queue) Counters() link.Counters {
	c := q.before
	now := q.inner.Counters()
	c.Reads += now.Reads
	c.Writes += now.Writes
	c.Refused += now.Refused
	c.Descriptors += now.Descriptors
	c.Kicks += now.Kicks
	c.Past += now.Past
	if q.tap != nil && !q.direct { // short frames have gone past the rings
		past := q.tap.Counters()
		c.Writes += past.Writes
		c.Refused += past.Refused
	}
	c.Rebuilds = q.rebuilds
	return c
}

// Close implements link.Queue. Frames of the last Receive must not be touched any more. A second Close does nothing and returns os.ErrClosed.
func (q *Queue) Close() error {
	if q.closed {
		return os.ErrClosed
	}
	q.closed = true
	err := q.inner.Close()
	return errors.Join(err, q.release(), q.closeTAP())
}

// closeTAP closes the TAP, unless the inner queue has.
func (q *Queue) closeTAP() error {
	if q.direct {
		return nil
	}
	if q.tap != nil {
		return q.tap.Close()
	}
	return unix.Close(q.config.TAP)
}

// release gives back what New has made, but for the inner queue.
func (q *Queue) release() (err error) {
	if q.watch != nil {
		q.watch.close()
	}
	if q.device != nil {
		err = q.device.Close()
	}
	if q.bell >= 0 {
		unix.Close(q.bell)
	}
	return err
}
