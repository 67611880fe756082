// Package timer holds the hierarchical timing wheel by which one worker keeps the deadlines of its flows.
//
// The wheel knows no clock: its caller tells it the time. All times are nanoseconds of one monotonic clock
// and not negative; the wheel rounds deadlines up to ticks of 2^20 ns (about 1 ms), so that a timer never
// fires early and is late by a tick at most, plus the time until the caller next advances the wheel.
//
// Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987), scheme 7, with the level chosen by
// the highest bit in which the deadline and the wheel's time differ: every timer of a level is then due
// before any of the next level, and occupancy bitmaps find the next slot without walking empty ones.
package timer

import (
	"math"
	"math/bits"
)

const (
	tickShift = 20 // log2 of a tick in nanoseconds
	slotBits  = 6  // log2 of the slots of a level, one bit each in a word
	slots     = 1 << slotBits
	levels    = 8 // 48 bits of ticks: more than the 43 that an int64 of nanoseconds has

	expired  = levels * slots // the list of timers that are due and not yet popped
	numLists = expired + 1

	unarmed = -1 // node.next of a timer that is in no list
)

// Tick is the resolution of the wheel in nanoseconds.
const Tick = 1 << tickShift

// node is an element of a circular doubly linked list. The first numLists nodes are the lists' heads,
// so that the head of a list is told from a timer by its index alone.
type node struct {
	prev, next int32
	due        int64 // ticks
}

// Wheel is a set of timers, each named by a small index that the caller chooses. It allocates only when a
// new highest index is set. It belongs to one goroutine: there are no locks.
type Wheel struct {
	now      int64 // ticks; every timer that is not in the expired list is due later
	occupied [levels]uint64
	levels   uint32 // bit l is set when occupied[l] is not 0
	nodes    []node
	armed    int
}

// New returns an empty wheel whose time is now, in nanoseconds.
func New(now int64) *Wheel {
	w := &Wheel{now: max(now, 0) >> tickShift, nodes: make([]node, numLists)}
	for i := range w.nodes {
		w.nodes[i] = node{prev: int32(i), next: int32(i)}
	}
	return w
}

// Set arms timer id for the time at, in nanoseconds, instead of whatever it was armed for. The id must not
// be negative; memory is in proportion to the highest id ever set. A time that has already passed is
// due at the next tick, never at once: a caller that re-arms while it pops cannot loop.
func (w *Wheel) Set(id int32, at int64) {
	i := int(id) + numLists
	for i >= len(w.nodes) {
		w.nodes = append(w.nodes, node{next: unarmed})
	}
	at = max(at, 0)
	due := at >> tickShift
	if at&(Tick-1) != 0 {
		due++
	}
	due = max(due, w.now+1)
	n := &w.nodes[i]
	if n.next == unarmed {
		w.armed++
	} else {
		w.unlink(n)
	}
	n.due = due
	w.place(int32(i), n)
}

// Stop disarms timer id, also when it is due and waits to be popped. A timer that is not armed stays so.
func (w *Wheel) Stop(id int32) {
	i := int(id) + numLists
	if i >= len(w.nodes) || w.nodes[i].next == unarmed {
		return
	}
	w.unlink(&w.nodes[i])
	w.nodes[i].next = unarmed
	w.armed--
}

// Armed reports whether timer id is set and has not been popped or stopped since.
func (w *Wheel) Armed(id int32) bool {
	i := int(id) + numLists
	return i < len(w.nodes) && w.nodes[i].next != unarmed
}

// Len is the number of armed timers.
func (w *Wheel) Len() int { return w.armed }

// Next returns the time in nanoseconds by which Advance should next be called; ok is false when no timer
// is armed, and the time is the wheel's own when a timer waits to be popped. It is never later than the first
// timer's expiry. It may be earlier for a timer that is more than 64 ticks away: Advance then brings that
// timer nearer and nothing expires.
func (w *Wheel) Next() (at int64, ok bool) {
	if w.nodes[expired].next != expired {
		return w.now << tickShift, true
	}
	_, due, ok := w.nextSlot()
	if due > math.MaxInt64>>tickShift {
		return math.MaxInt64, ok // within the last tick there is
	}
	return due << tickShift, ok
}

// Advance moves the wheel's time to now, in nanoseconds, and readies for Pop the timers that are due by
// then. A time before the wheel's own changes nothing.
func (w *Wheel) Advance(now int64) {
	target := max(now, 0) >> tickShift
	for {
		list, due, ok := w.nextSlot()
		if !ok || due > target {
			break
		}
		// Moving the time into a slot leaves every other timer at its level: none is due before this slot.
		w.now = due
		w.empty(list)
	}
	w.now = max(w.now, target)
}

// Pop disarms one timer that is due and returns its id, in the order of their ticks; ok is false when none is
// left. Timers may be set and stopped between two calls.
func (w *Wheel) Pop() (id int32, ok bool) {
	i := w.nodes[expired].next
	if i == expired {
		return 0, false
	}
	id = i - numLists
	w.Stop(id)
	return id, true
}

// nextSlot finds the occupied slot that begins first: its list, and its first tick.
func (w *Wheel) nextSlot() (list int32, due int64, ok bool) {
	if w.levels == 0 {
		return 0, 0, false
	}
	level := bits.TrailingZeros32(w.levels)
	slot := bits.TrailingZeros64(w.occupied[level])
	shift := uint(level * slotBits)
	due = w.now>>(shift+slotBits)<<(shift+slotBits) | int64(slot)<<shift
	return int32(level*slots + slot), due, true
}

// empty takes all timers out of a slot whose first tick is the wheel's time: those due now go to the expired
// list, the others to lower levels.
func (w *Wheel) empty(list int32) {
	for i := w.nodes[list].next; i != list; i = w.nodes[list].next {
		n := &w.nodes[i]
		w.unlink(n)
		w.place(i, n)
	}
}

// place appends node i to the list where its due tick belongs.
func (w *Wheel) place(i int32, n *node) {
	var list int32 = expired
	if n.due > w.now {
		level := (bits.Len64(uint64(n.due^w.now)) - 1) / slotBits
		slot := int(n.due>>(level*slotBits)) & (slots - 1)
		w.occupied[level] |= 1 << slot
		w.levels |= 1 << level
		list = int32(level*slots + slot)
	}
	head := &w.nodes[list]
	n.prev, n.next = head.prev, list
	w.nodes[head.prev].next = i
	head.prev = i
}

// unlink takes a node out of its list and clears the list's bit when that leaves it empty.
func (w *Wheel) unlink(n *node) {
	w.nodes[n.prev].next = n.next
	w.nodes[n.next].prev = n.prev
	if n.prev != n.next || n.next >= expired {
		return // something is left, or the list is the expired one, which has no bit
	}
	level := n.next >> slotBits
	w.occupied[level] &^= 1 << (n.next & (slots - 1))
	if w.occupied[level] == 0 {
		w.levels &^= 1 << level
	}
}
