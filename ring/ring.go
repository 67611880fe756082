// Package ring holds the rings of many producers and one consumer, without locks: Ring, by which workers hand records to one another, and
// Bounded, which hands over what has a place of its own and stops its producers when it is full.
//
// # Ring
//
// A record is copied into memory that the ring is given, one behind the other, so that a small one takes little. A full ring refuses: the
// producer drops the record, or keeps it.
//
// # How it works
//
// Two words say how far everybody is: tail, up to where room is reserved, and head, up to where it is free again. Each
// counts records in its upper half and blocks of memory in its lower one, so that one compare-and-swap reserves both a descriptor and the
// memory of a record. Both halves wrap.
//
// A producer reserves, copies, and then writes its record's number into the descriptor: with that the record is the consumer's. The
// consumer takes records in the order of their reservation, so one that is still being copied holds up those behind it; whoever copies
// it announces it when it is done, so nothing is forgotten.
//
// Memory that is reused is handed from the consumer to a producer by head (stored after the last read, loaded before the
// first write), and from a producer to the consumer by the descriptor's number. Go's atomic operations are sequentially consistent
// (The Go Memory Model), which is all that either needs, and what the wake-up below relies on.
//
// # Sleep and wake
//
// The consumer says that it will sleep, then looks once more (Sleep). A producer publishes, then looks whether the consumer
// sleeps (Put). Each stores before it loads, with a full fence between, so at least one of them sees the other: a record
// is never left behind by a consumer that sleeps.
package ring

import (
	"fmt"
	"math/bits"

	"github.com/vasta-net/vasta/internal/interleave"
)

// Block is the unit of a ring's memory in bytes: a cache line. Every record begins at a block.
const Block = 64

// MaxRecords bounds the records in a ring.
const MaxRecords = 1 << 20

// line keeps what different processors write apart.
type line [Block]byte

// Ring is the ring of one consumer.
type Ring struct {
	tail   interleave.Uint64 // written by producers
	_      line
	head   interleave.Uint64 // written by the consumer
	asleep interleave.Bool   // set by the consumer, cleared by whoever wakes it, or by itself
	_      line

	mem    []byte
	blocks uint32 // in mem, a power of two
	slots  []slot // a power of two

	// The consumer's own.
	next  uint32 // number of the first record that was not taken
	end   uint32 // block behind the last record that was taken
	dirty bool   // memory was used since the last Trim
}

// slot describes one record. Its fields are its producer's until number is stored, then the consumer's until head is.
type slot struct {
	number interleave.Uint32 // of the record, plus 1, once it is complete
	first  uint32            // block where it begins, in mem
	size   uint32            // bytes; 0 for room that was only reserved
	end    uint32            // block behind it, counted on
}

// New makes a ring for so many records, in the given memory, which is the ring's as long as it is used. Both sizes are powers of two.
func New(mem []byte, records int) (*Ring, error) {
	if len(mem) < Block || bits.OnesCount(uint(len(mem))) != 1 || len(mem)/Block > 1<<31 {
		return nil, fmt.Errorf("ring: %d bytes of memory; it must be a power of two of at least %d", len(mem), Block)
	}
	if records < 1 || records > MaxRecords || bits.OnesCount(uint(records)) != 1 {
		return nil, fmt.Errorf("ring: %d records; it must be a power of two up to %d", records, MaxRecords)
	}
	return &Ring{mem: mem, blocks: uint32(len(mem) / Block), slots: make([]slot, records)}, nil
}

// Put copies head and the pieces, in this order, as one record. ok is false, and nothing was copied, when there is no room.
// wake says that the consumer sleeps and that it is on the caller to wake it. It may be called from any goroutine.
func (r *Ring) Put(head []byte, pieces [][]byte) (ok, wake bool) {
	size := len(head)
	for _, p := range pieces {
		size += len(p)
	}
	number, s := r.reserve(uint32(size+Block-1) / Block)
	if s == nil {
		return false, false
	}
	s.size = uint32(size)
	to := r.mem[int(s.first)*Block:]
	to = to[copy(to, head):]
	for _, p := range pieces {
		to = to[copy(to, p):]
	}
	s.number.Store(number + 1)
	// The fence of the wake-up: the record is published before asleep is read.
	return true, r.asleep.Load() && r.asleep.CompareAndSwap(true, false)
}

// reserve takes a descriptor and n adjacent blocks; nil says that there is no room.
func (r *Ring) reserve(n uint32) (number uint32, s *slot) {
	for {
		// head is read first: an old one only makes the ring look fuller, where an old tail could lie behind it.
		head := r.head.Load()
		tail := r.tail.Load()
		number = uint32(tail >> 32)
		at := uint32(tail)
		first := at & (r.blocks - 1)
		need := n
		if first+n > r.blocks { // it does not wrap: the rest of the memory is left out
			need += r.blocks - first
			first = 0
		}
		if number-uint32(head>>32) >= uint32(len(r.slots)) || n > r.blocks || at+need-uint32(head) > r.blocks {
			return 0, nil
		}
		if r.tail.CompareAndSwap(tail, uint64(number+1)<<32|uint64(at+need)) {
			s = &r.slots[number&uint32(len(r.slots)-1)]
			s.first, s.end = first, at+need
			return number, s
		}
	}
}

// Take returns the next record, borrowed until Release; false when none is complete. Consumer only.
func (r *Ring) Take() (record []byte, ok bool) {
	for r.Waiting() {
		s := &r.slots[r.next&uint32(len(r.slots)-1)]
		r.next, r.end = r.next+1, s.end
		if s.size == 0 {
			continue
		}
		r.dirty = true
		from := int(s.first) * Block
		return r.mem[from : from+int(s.size) : from+int(s.size)], true
	}
	return nil, false
}

// Release gives the memory of all records taken back to the producers. Consumer only.
func (r *Ring) Release() { r.head.Store(uint64(r.next)<<32 | uint64(r.end)) }

// Waiting reports whether Take will find something. Consumer only.
func (r *Ring) Waiting() bool {
	return r.slots[r.next&uint32(len(r.slots)-1)].number.Load() == r.next+1
}

// Sleep announces that the consumer will wait for a wake-up. False says that it must not, because a record is there. Consumer only.
func (r *Ring) Sleep() bool {
	r.asleep.Store(true)
	if !r.Waiting() {
		return true
	}
	r.asleep.Store(false)
	return false
}

// Awake ends what Sleep announced: nobody needs to wake the consumer any more. Consumer only.
func (r *Ring) Awake() { r.asleep.Store(false) }

// trimParts is how many pieces Trim goes through the memory in; producers have the others meanwhile.
const trimParts = 4

// Trim has release give the memory of an empty ring back to the system, if it was used since the last time. It reserves a
// part of the memory after the other for that, like a producer. Consumer only.
func (r *Ring) Trim(release func(mem []byte)) {
	if !r.dirty || r.blocks < trimParts {
		return
	}
	r.dirty = false
	part := r.blocks / trimParts
	for range trimParts + 1 { // where it begins need not be the beginning of a part
		number, s := r.reserve(part)
		if s == nil {
			r.dirty = true
			return
		}
		release(r.mem[int(s.first)*Block : int(s.first+part)*Block])
		s.size = 0
		s.number.Store(number + 1)
		if r.next != number { // a record has come meanwhile: it, and this part behind it, are for Take
			r.dirty = true
			return
		}
		r.next, r.end = number+1, s.end
		r.Release()
	}
}
