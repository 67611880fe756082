package ring

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vasta-net/vasta/internal/interleave"
)

// MaxSize bounds the values in a Bounded.
const MaxSize = 1 << 20

// WatchdogAfter is how long a producer waits to be woken before it asks whether that was forgotten (Overdue).
const WatchdogAfter = time.Second

// releaseSlots is how many slots the consumer gives back together at most, so that it does not write the line that producers read for each of
// them: two cache lines of pointers, as in ptr_ring of Linux.
const releaseSlots = 16

// Mode says what a full Bounded does with what it is given.
type Mode uint32

// The modes.
const (
	Backpressure Mode = iota // the producer keeps it, stops, and is woken
	Drop                     // it is lost, and counted
)

// Outcome is what became of a value that was given to a Bounded.
type Outcome uint8

// The outcomes.
const (
	Taken   Outcome = iota // it is the ring's
	Stopped                // there is no room: it stays the caller's, who is woken when it may try again
	Dropped                // there is no room: it was counted as lost, and stays the caller's
	Closed                 // nothing is taken any more: it stays the caller's
)

// Bounded is a bounded ring of values, mostly pointers, of one producer or many and one consumer, that stops its producers when it is full and has them woken when
// so much of it is free again. Where Ring copies what it is given and refuses what has no room, this one hands over what has a place of its own, and nothing is lost.
//
// # Stop and wake
//
// A producer that finds no room says that it stops, and then tries once more (Put). The consumer gives slots back, and then looks whether somebody has
// stopped (Wake). Each stores before it loads, so at least one of them sees the other, and no producer stops for a ring that has room. Whoever is told to wake
// wakes all producers, in its own way: a channel, an eventfd. The work of a producer is never done in the consumer's place.
//
// To wake at the first free slot would have the two take turns slot by slot; to wake when all are free would leave the consumer without
// work. The threshold of a wake-up is half of the ring, unless it is set.
//
// # How it works
//
// A producer reserves a slot by a compare-and-swap of tail, writes the value, and then the number of the slot's use, with which the value is the consumer's. The
// consumer reads it and gives slots back by head, several at a time. The values themselves are written and read plainly.
//
// The slots are a segment. Resize makes a new one and seals the old: what is in it is consumed first, so nothing is lost and the order of each producer stays. One
// compare-and-swap costs a single producer as much as the store that it would need otherwise, so there is one kind of ring for one producer and for many.
type Bounded[T any] struct {
	tail    interleave.Pointer[segment[T]] // where producers put
	stopped interleave.Bool                // a producer waits to be woken; set by producers, cleared by whoever wakes them
	asleep  interleave.Bool                // as in Ring
	closed  interleave.Bool
	mode    interleave.Uint32 // a Mode
	wakeAt  interleave.Uint32 // slots that are free when producers are woken; 0 for half of them
	_       line

	// The consumer's own.
	head     *segment[T] // where it takes
	next     uint64      // number of the first value that was not taken, in head
	released uint64      // of those, up to where slots were given back

	change sync.Mutex // of the segment: one Resize, or Close, at a time

	dropped, stops, wakes, forced, overdue atomic.Uint64
}

// segment is the slots of a ring of one size.
type segment[T any] struct {
	size  uint64
	slots []place[T]                     // a power of two, size at least
	next  interleave.Pointer[segment[T]] // behind it; set before this one is sealed, nil when it was closed
	_     line
	tail  interleave.Uint64 // numbers given away, and sealed
	_     line
	head  interleave.Uint64 // numbers given back
	_     line
}

// sealed in segment.tail says that no more numbers are given away.
const sealed = 1 << 63

// place is a slot. value is its producer's until number is stored, then the consumer's until segment.head is.
type place[T any] struct {
	number interleave.Uint64 // of the value, plus 1, once it is complete
	value  T
}

// BoundedCounters are what has happened to a Bounded.
type BoundedCounters struct {
	Dropped uint64 // values for which there was no room, in mode Drop
	Stops   uint64 // times that a producer was told to wait
	Wakes   uint64 // times that the consumer had the producers woken
	Forced  uint64 // times that a change of the ring had
	Overdue uint64 // times that a producer had to be woken by the watchdog: 0, unless the consumer does not call Wake
}

// NewBounded makes a ring for so many values. One of size 0 is always full.
func NewBounded[T any](size int) (*Bounded[T], error) {
	s, err := newSegment[T](size)
	if err != nil {
		return nil, err
	}
	b := &Bounded[T]{head: s}
	b.tail.Store(s)
	return b, nil
}

func newSegment[T any](size int) (*segment[T], error) {
	if size < 0 || size > MaxSize {
		return nil, fmt.Errorf("ring: size %d; it must be from 0 to %d", size, MaxSize)
	}
	return &segment[T]{size: uint64(size), slots: make([]place[T], 1<<bits.Len(uint(max(size, 1)-1)))}, nil
}

// Put gives v to the ring. Stopped says that the producer is to wait until it is woken and then to put v again; it may be woken for nothing. wake says that the
// consumer sleeps and that it is on the caller to wake it. It may be called from any goroutine, and values of one are consumed in the order in which it has put them.
func (b *Bounded[T]) Put(v T) (o Outcome, wake bool) {
	if b.put(v) {
		return Taken, b.wakeConsumer()
	}
	if b.closed.Load() {
		return Closed, false
	}
	if Mode(b.mode.Load()) == Drop {
		b.dropped.Add(1)
		return Dropped, false
	}
	b.stopped.Store(true)
	// The fence: stopped is written before anything that ends a stop is read. The flag stays when there is room now, since it may be another
	// producer's too, and costs a wake-up for nothing at most.
	switch {
	case b.put(v):
		return Taken, b.wakeConsumer()
	case b.closed.Load():
		return Closed, false
	case Mode(b.mode.Load()) == Drop:
		b.dropped.Add(1)
		return Dropped, false
	}
	b.stops.Add(1)
	return Stopped, false
}

// put puts v where there is room for it.
func (b *Bounded[T]) put(v T) bool {
	s := b.tail.Load()
	for {
		// head is read first, as in Ring.reserve.
		head, tail := s.head.Load(), s.tail.Load()
		if tail&sealed != 0 {
			next := s.next.Load()
			if next == nil {
				return false
			}
			s = next
			continue
		}
		if tail-head >= s.size {
			return false
		}
		if s.tail.CompareAndSwap(tail, tail+1) {
			p := &s.slots[tail&uint64(len(s.slots)-1)]
			p.value = v
			p.number.Store(tail + 1)
			return true
		}
	}
}

// wakeConsumer reports whether it is on the caller to wake the consumer. The value is published before asleep is read.
func (b *Bounded[T]) wakeConsumer() bool {
	return b.asleep.Load() && b.asleep.CompareAndSwap(true, false)
}

// Consume takes values in the order in which they were put, and returns how many there are: fewer than there is room for when no more are
// complete. created says that slots were given back: the next Put succeeds unless others have taken them first. Without it Put may still find
// the ring full, because slots are given back several at a time; all are when Consume finds nothing more. Consumer only.
func (b *Bounded[T]) Consume(into []T) (n int, created bool) {
	var none T
	for n < len(into) {
		s := b.head
		p := &s.slots[b.next&uint64(len(s.slots)-1)]
		if p.number.Load() == b.next+1 {
			into[n], p.value = p.value, none
			n++
			if b.next++; b.next-b.released >= s.batch() {
				created = b.release() || created
			}
			continue
		}
		created = b.release() || created
		if s.tail.Load() != b.next|sealed {
			return n, created
		}
		following := s.next.Load()
		if following == nil {
			return n, created // closed
		}
		b.head, b.next, b.released = following, 0, 0
	}
	return n, created
}

// batch is how many slots are given back together.
func (s *segment[T]) batch() uint64 {
	if releaseSlots > s.size/2 {
		return 1
	}
	return releaseSlots
}

// release gives the slots of what was taken back, and reports whether there are any that producers may use.
func (b *Bounded[T]) release() bool {
	if b.released == b.next {
		return false
	}
	b.released = b.next
	b.head.head.Store(b.next)
	return b.head.tail.Load()&sealed == 0
}

// Wake reports whether producers have stopped and so much of the ring is free that they are to be woken, by the caller. It is
// called after each Consume that has created room. Consumer only.
func (b *Bounded[T]) Wake() bool {
	// The fence: head was written before stopped is read.
	if !b.stopped.Load() {
		return false
	}
	if s := b.tail.Load(); s.free() < b.threshold(s) || !b.stopped.CompareAndSwap(true, false) {
		return false
	}
	b.wakes.Add(1)
	return true
}

// threshold is how many slots of s are free when producers are woken: at least one.
func (b *Bounded[T]) threshold(s *segment[T]) uint64 {
	if n := uint64(b.wakeAt.Load()); n != 0 {
		return max(1, min(n, s.size))
	}
	return max(1, (s.size+1)/2)
}

// free is how many slots of s are free.
func (s *segment[T]) free() uint64 {
	head := s.head.Load() // first, as in put
	return s.size - (s.tail.Load()&^sealed - head)
}

// Waiting reports whether Consume will find something. Consumer only.
func (b *Bounded[T]) Waiting() bool {
	s, next := b.head, b.next
	for {
		if s.slots[next&uint64(len(s.slots)-1)].number.Load() == next+1 {
			return true
		}
		if s.tail.Load() != next|sealed {
			return false
		}
		if s = s.next.Load(); s == nil {
			return false
		}
		next = 0
	}
}

// Sleep announces that the consumer will wait for a wake-up, after a Consume that has found nothing. False says that it must not, because something
// is there. Consumer only.
func (b *Bounded[T]) Sleep() bool {
	b.asleep.Store(true)
	if !b.Waiting() {
		return true
	}
	b.asleep.Store(false)
	return false
}

// Awake ends what Sleep announced. Consumer only.
func (b *Bounded[T]) Awake() { b.asleep.Store(false) }

// Attach is called when another consumer takes over, after the one before has ended. wake is as in Force.
func (b *Bounded[T]) Attach() (wake bool) {
	b.asleep.Store(false)
	return b.Force()
}

// Force ends the stop of all producers. wake says that it is on the caller to wake them: they look again. It may be called from any goroutine.
func (b *Bounded[T]) Force() (wake bool) {
	if !b.stopped.CompareAndSwap(true, false) {
		return false
	}
	b.forced.Add(1)
	return true
}

// SetMode changes what a full ring does. wake is as in Force. It may be called from any goroutine.
func (b *Bounded[T]) SetMode(m Mode) (wake bool) {
	b.mode.Store(uint32(m))
	return b.Force()
}

// SetThreshold changes how many slots have to be free before producers are woken; 0 is half of them, and more than there are is all. wake is as in Force. It
// may be called from any goroutine.
func (b *Bounded[T]) SetThreshold(slots int) (wake bool) {
	b.wakeAt.Store(uint32(min(max(slots, 0), MaxSize)))
	return b.Force()
}

// Resize changes the size. What the ring holds stays in it, beyond the new size if need be, and is consumed first. wake is as in Force. It may be called
// from any goroutine.
func (b *Bounded[T]) Resize(size int) (wake bool, err error) {
	s, err := newSegment[T](size)
	if err != nil {
		return false, err
	}
	b.change.Lock()
	defer b.change.Unlock()
	if b.closed.Load() {
		return false, nil
	}
	old := b.tail.Load()
	old.next.Store(s)
	old.seal() // before anything is put behind it: a consumer that sleeps looks behind what is sealed only
	b.tail.Store(s)
	return b.Force(), nil
}

// Close ends the ring: nothing is taken any more, and producers that have stopped are to be woken, which wake says. What it holds is the consumer's, or, when
// that has ended, whoever's who calls Consume until it finds nothing. It may be called from any goroutine, and again.
func (b *Bounded[T]) Close() (wake bool) {
	b.change.Lock()
	defer b.change.Unlock()
	b.closed.Store(true)
	b.tail.Load().seal()
	return b.Force()
}

// seal ends the giving away of numbers.
func (s *segment[T]) seal() {
	for {
		tail := s.tail.Load()
		if tail&sealed != 0 || s.tail.CompareAndSwap(tail, tail|sealed) {
			return
		}
	}
}

// Len is how many values the ring holds, those among them that are still being put. Consumer only.
func (b *Bounded[T]) Len() int {
	n := 0
	for s := b.head; s != nil; s = s.next.Load() {
		n += int(s.tail.Load() &^ sealed)
	}
	return n - int(b.next)
}

// Overdue is asked by a producer that has been stopped for WatchdogAfter. True says that there is room as it should have been told: the stop is ended
// and counted, and all producers are to be woken, by the caller. False says that the consumer has made no room, and the wait goes on. It may be called from any goroutine.
func (b *Bounded[T]) Overdue() bool {
	if s := b.tail.Load(); s.free() < b.threshold(s) || !b.stopped.CompareAndSwap(true, false) {
		return false
	}
	b.overdue.Add(1)
	return true
}

// Counters may be called from any goroutine.
func (b *Bounded[T]) Counters() BoundedCounters {
	return BoundedCounters{
		Dropped: b.dropped.Load(), Stops: b.stops.Load(), Wakes: b.wakes.Load(), Forced: b.forced.Load(), Overdue: b.overdue.Load(),
	}
}
