package queue

import (
	"fmt"
	"math"
	"math/bits"
)

// Device is the device end of a queue: it takes buffers that the driver has offered, and returns them.
type Device interface {
	// Take takes offered buffers in order, at most len(chains), and answers how many. Fewer may be taken than are offered, when they have very
	// many pieces; at least one is. The slices in them are borrowed until the next Take; the chains are the device's until it returns them. An error is a *BrokenError; those taken before it was found are counted and
	// valid, though they can no longer be returned.
	Take(chains []Chain) (int, error)

	// Untake puts the last n chains that were taken back, as if Take had not seen them. They must all be in flight still: ErrNotTaken otherwise.
	Untake(n int) error

	// Return gives chains back and makes all of them visible to the driver at once (for a packet in several buffers, that is a rule: 2.8.9). With
	// InOrder they have to be the oldest in flight. At ErrNotTaken and ErrLength those before the wrong one have been returned.
	Return(done []Done) error

	// ShouldNotify says whether the driver wants to be told of what was returned since the last call.
	ShouldNotify() bool

	// Suppress tells the driver that no notifications are needed for now. They may still come.
	Suppress()

	// Listen asks for a notification when after more buffers have been offered (1: the next one; more is only a wish, kept with EventIdx and
	// never more than fit into the ring; a packed ring counts descriptors). It answers true when so many can be taken already: then none may come, and the caller
	// has to take instead of sleeping. A driver that has offered fewer and means to offer no more does not notify by itself: whoever asks for more
	// than one has to know that it does.
	Listen(after int) bool

	// Waiting says whether there is something to take, and asks for nothing.
	Waiting() bool

	// InFlight is the number of chains taken and not returned.
	InFlight() int

	// Position says where the device stands. Chains in flight count as taken: whoever saves the position returns them or puts them back before.
	Position() Position

	// Reset puts the device to pos: Start for a fresh queue, or what was saved. It forgets what was in flight and mends a broken queue. At a
	// saved position, notifications may or may not come until the next Listen or Suppress.
	Reset(pos Position) error

	// SetMemory is the table for chains that are taken from now on; those taken before keep their slices.
	SetMemory(m *Memory)

	// Err is the *BrokenError for which the queue has stopped, or nil.
	Err() error
}

// Chain is a buffer as the device sees it: pieces to read, then pieces to write, wherever the driver has cut them. A descriptor over two
// memory regions is two pieces.
type Chain struct {
	Out, In [][]byte
	InLen   uint32 // the sum of In's lengths; the last byte of a full 4 GiB cannot be returned and is not counted
	ID      uint16 // names the chain in Return; nothing else
}

// Done is a chain that the device returns.
type Done struct {
	ID  uint16
	Len uint32 // bytes written, from the start of In; at most InLen
}

// DeviceConfig is what a device end is made from.
type DeviceConfig struct {
	Ring
	Memory *Memory

	// MaxChain is the largest number of descriptors in a chain, those of an indirect table included. 0 is the size of the ring, as the
	// specification has it (2.7.5.3.1); drivers exist that put more into an indirect table.
	MaxChain int
}

// NewDevice makes the device end of a queue, at its start. The ring's memory is neither read nor written here.
func NewDevice(c DeviceConfig) (Device, error) {
	if err := c.check(2); err != nil {
		return nil, err
	}
	if c.Memory == nil {
		return nil, fmt.Errorf("virtio queue: a device end needs the memory that descriptors refer to")
	}
	limit := c.MaxChain
	if limit == 0 {
		limit = c.Size
	}
	if limit < 1 || limit > 2*MaxSize {
		return nil, fmt.Errorf("virtio queue: chains of %d descriptors; at most %d make sense", limit, 2*MaxSize)
	}
	e := deviceEnd{
		ring: c.Ring, memory: c.Memory, limit: limit, taken: make([]taken, c.Size),
		// Room for the longest chain with each piece in two regions, and for a batch of usual ones.
		spans: make([][]byte, 2*limit+usualSpans),
		order: make([]uint16, 1<<bits.Len(uint(c.Size-1))),
	}
	var d Device
	if c.Format == Packed {
		d = &packedDevice{deviceEnd: e, shared: mapPacked(&c.Ring)}
	} else {
		d = &splitDevice{deviceEnd: e, shared: mapSplit(&c.Ring), mask: uint16(c.Size - 1)}
	}
	return d, d.Reset(Start(c.Format))
}

// usualSpans is room for the pieces of 32 chains of 16.
const usualSpans = 512

// taken is what the device knows of a chain in flight, under its id.
type taken struct {
	in    uint32 // bytes that it may write
	nth   uint32 // deviceEnd.nth when it was taken: an id may have named another chain before
	count uint16 // descriptors in the ring
	live  bool
}

// deviceEnd is what the device ends of both formats have in common; all of it is private.
type deviceEnd struct {
	ring   Ring
	memory *Memory
	hot    Region // of the last translation: most buffers lie in one region
	limit  int    // descriptors in a chain

	taken    []taken
	inFlight int
	order    []uint16 // ids as they were taken: the last ones, a power of two of them
	nth      uint32   // number of chains taken, less those put back: the next place in order

	spans  [][]byte // what the chains of the last Take refer to
	nspans int

	fence fence
	err   error
}

// awaited is how many descriptors Listen waits for, when the driver can offer room more.
func (e *deviceEnd) awaited(after, room int) int {
	if !e.ring.EventIdx {
		return 1
	}
	return max(1, min(after, room))
}

func (e *deviceEnd) InFlight() int { return e.inFlight }
func (e *deviceEnd) Err() error    { return e.err }

func (e *deviceEnd) SetMemory(m *Memory) {
	e.memory, e.hot = m, Region{}
	clear(e.spans)
}

// broken breaks the queue. It answers false, for those who say whether they could go on.
func (e *deviceEnd) broken(f Fault, at int, saw, limit uint64) bool {
	e.err = &BrokenError{Fault: f, At: at, Saw: saw, Limit: limit}
	return false
}

func (e *deviceEnd) reset(pos Position) error {
	if err := pos.check(&e.ring); err != nil {
		return err
	}
	clear(e.taken)
	e.inFlight, e.nth, e.err = 0, 0, nil
	return nil
}

// chain is a chain that is being read.
type chain struct {
	first  int // its first span
	outs   int // spans that are to be read
	spans  int
	descs  int
	bytes  uint64
	in     uint64
	closed bool // a writable descriptor was seen
}

// add appends one descriptor to the chain: n bytes at addr. It answers false when the queue is broken, or when the spans are used up
// but earlier chains hold some: then this chain is left for the next Take.
func (e *deviceEnd) add(c *chain, at int, addr uint64, n uint32, write bool) bool {
	c.descs++
	c.bytes += uint64(n)
	switch {
	case c.descs > e.limit:
		return e.broken(FaultChainLong, at, uint64(c.descs), uint64(e.limit))
	case n == 0:
		return e.broken(FaultEmpty, at, addr, 0)
	case c.bytes > 1<<32:
		return e.broken(FaultChainBytes, at, c.bytes, 1<<32)
	case c.closed && !write:
		return e.broken(FaultOrder, at, addr, uint64(n))
	}
	got := e.place(addr, n)
	switch {
	case got == 0:
		return e.broken(FaultAddress, at, addr, uint64(n))
	case got < 0 && c.first > 0:
		return false
	case got < 0:
		return e.broken(FaultChainLong, at, uint64(c.descs), uint64(e.limit))
	}
	e.nspans += got
	c.spans += got
	if write {
		c.closed = true
		c.in += uint64(n)
	} else {
		c.outs += got
	}
	return true
}

// place translates n bytes at addr into spans behind those in use, as Memory.spans does; first with the region that was right the last time.
func (e *deviceEnd) place(addr uint64, n uint32) int {
	off, size := addr-e.hot.Addr, uint64(len(e.hot.Mem))
	if e.nspans < len(e.spans) && off < size && uint64(n) <= size-off {
		e.spans[e.nspans] = e.hot.Mem[off : off+uint64(n) : off+uint64(n)]
		return 1
	}
	got := e.memory.spans(e.spans[e.nspans:], addr, n)
	if got > 0 {
		e.hot = e.memory.regions[e.memory.find(addr)]
	}
	return got
}

// table checks an indirect descriptor and answers the table it refers to, or nil when the queue is broken by it.
func (e *deviceEnd) table(at int, addr uint64, n uint32) []byte {
	switch {
	case !e.ring.Indirect:
		e.broken(FaultIndirect, at, addr, uint64(n))
		return nil
	case n == 0 || n%descLen != 0 || n > descLen<<16:
		e.broken(FaultIndirectLength, at, addr, uint64(n))
		return nil
	}
	t, ok := e.memory.Translate(addr, int(n))
	if !ok {
		e.broken(FaultIndirectAddress, at, addr, uint64(n))
		return nil
	}
	return t
}

// accept enters a chain that was read to its end, under its id, with the number of descriptors that it takes in the ring, and fills in what the
// caller sees of it.
func (e *deviceEnd) accept(to *Chain, c *chain, id uint16, count int) {
	in := uint32(min(c.in, math.MaxUint32))
	e.taken[id] = taken{in: in, nth: e.nth, count: uint16(count), live: true}
	e.order[int(e.nth)&(len(e.order)-1)] = id
	e.nth++
	e.inFlight++
	mid, end := c.first+c.outs, c.first+c.spans
	to.Out, to.In, to.InLen, to.ID = e.spans[c.first:mid:mid], e.spans[mid:end:end], in, id
}

// single is accept for the k-th of a row of chains of one descriptor. False says that it needs a closer look; it is not entered then.
func (e *deviceEnd) single(to *Chain, k int, id, flags uint16, addr uint64, n uint32) bool {
	off, size := addr-e.hot.Addr, uint64(n)
	if flags&(descIndirect|descNext) != 0 || size == 0 || off >= uint64(len(e.hot.Mem)) || size > uint64(len(e.hot.Mem))-off {
		return false
	}
	at := e.nspans + k
	e.spans[at] = e.hot.Mem[off : off+size : off+size]
	to.ID, to.InLen = id, 0
	if flags&descWrite != 0 {
		to.InLen = n
		to.In = e.spans[at : at+1 : at+1]
		if len(to.Out) > 0 {
			to.Out = nil
		}
	} else {
		to.Out = e.spans[at : at+1 : at+1]
		if len(to.In) > 0 {
			to.In = nil
		}
	}
	nth := e.nth + uint32(k)
	e.taken[id] = taken{in: to.InLen, nth: nth, count: 1, live: true}
	e.order[int(nth)&(len(e.order)-1)] = id
	return true
}

// took counts a row of n chains that single has entered.
func (e *deviceEnd) took(n int) {
	e.nspans += n
	e.nth += uint32(n)
	e.inFlight += n
}

// last is the id of the k-th last chain taken, and whether it is in flight still.
func (e *deviceEnd) last(k int) (id uint16, inFlight bool) {
	nth := e.nth - uint32(k)
	id = e.order[int(nth)&(len(e.order)-1)]
	return id, e.taken[id].live && e.taken[id].nth == nth
}

// canUntake says whether the last n chains are all in flight.
func (e *deviceEnd) canUntake(n int) bool {
	if n < 0 || n > e.inFlight {
		return false
	}
	for k := 1; k <= n; k++ {
		if _, live := e.last(k); !live {
			return false
		}
	}
	return true
}

// untake forgets the last chain and answers how many descriptors it has in the ring.
func (e *deviceEnd) untake() uint16 {
	id, _ := e.last(1)
	e.taken[id].live = false
	e.nth--
	e.inFlight--
	return e.taken[id].count
}

// checkDone says what is wrong with a chain that the caller returns.
func (e *deviceEnd) checkDone(d Done) error {
	if int(d.ID) >= len(e.taken) || !e.taken[d.ID].live {
		return ErrNotTaken
	}
	if e.ring.InOrder {
		if oldest, _ := e.last(e.inFlight); oldest != d.ID {
			return ErrNotTaken
		}
	}
	if d.Len > e.taken[d.ID].in {
		return ErrLength
	}
	return nil
}

// skips says whether the element of a chain may be left out, since that of a later one in the batch stands for it too (2.7.9, 2.8.8). It would stand
// for "used wholly", which is right where nothing can be written. A chain that was written to gets an element of its own even when it is full:
// drivers exist that look for each length in its own place.
func (e *deviceEnd) skips(id uint16, more bool) bool {
	return e.ring.InOrder && more && e.taken[id].in == 0
}

// release forgets a chain that is returned.
func (e *deviceEnd) release(id uint16) {
	e.taken[id].live = false
	e.inFlight--
}
