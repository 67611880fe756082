package queue

import (
	"fmt"
	"math"
)

// Driver is the driver end of a queue: it offers buffers and gets them back.
type Driver interface {
	// Publish offers buffers, in order, and makes all of them visible to the device at once. It answers how many fitted into the ring, and
	// ErrBuffer with the count before it when a buffer cannot be offered at all. The memory of an offered buffer belongs to the device
	// until Reap returns its token; the Buffer and its segment lists are the caller's again at once.
	Publish(bufs []Buffer) (int, error)

	// Reap takes back buffers that the device has returned, at most len(used), and answers how many. An error is a *BrokenError;
	// those reaped before it was found are counted and valid.
	Reap(used []Used) (int, error)

	// ShouldNotify says whether the device wants to be told of what was published since the last call.
	ShouldNotify() bool

	// Suppress tells the device that no notifications are needed for now. They may still come.
	Suppress()

	// Listen asks for a notification when after more buffers have been returned (1: the next one; more is only a wish, kept with EventIdx,
	// and never more than are in flight). It answers true when there is something to reap already: then none may come, and the caller
	// has to reap instead of sleeping.
	Listen(after int) bool

	// Waiting says whether there is something to reap, and asks for nothing.
	Waiting() bool

	// Free is the number of descriptors that are not in use; InFlight the number of buffers that the device has.
	Free() int
	InFlight() int

	// Position says where the driver stands.
	Position() Position

	// Reclaim takes back buffers that the device has not returned, at most len(used), as if nothing was written to them; in the order
	// of publishing only with InOrder. The device must have been stopped or reset: until then the buffers are its own (2.7, 2.8).
	Reclaim(used []Used) int

	// Reset puts the queue to pos (Start, when the device was reset too) with an empty ring, whatever was in flight, and mends a broken one. The
	// device must not be running.
	Reset(pos Position) error

	// Err is the *BrokenError for which the queue has stopped, or nil.
	Err() error
}

// Segment is one contiguous piece of a buffer: an address as the device knows it, and its length in bytes.
type Segment struct {
	Addr uint64
	Len  uint32
}

// Buffer is what a driver offers: pieces for the device to read, and behind them pieces for it to write.
type Buffer struct {
	Out, In []Segment
	Token   uint64 // the driver's own; comes back with the buffer
}

// Used is a buffer that came back.
type Used struct {
	Token uint64
	Len   uint32 // bytes that the device has written, from the start of In; never more than In has
}

// DriverConfig is what a driver end is made from.
type DriverConfig struct {
	Ring
	Tables Tables // for Indirect; none: every buffer is a chain in the ring
}

// Tables is shared memory for indirect descriptor tables, one for each descriptor of the ring: buffers of 2 to Segments segments then take
// one descriptor each.
type Tables struct {
	Mem      []byte // at least Size * Segments * 16 bytes
	Addr     uint64 // of Mem, as the device knows it
	Segments int
}

// NewDriver makes the driver end of a queue and clears the ring, which the device must not be using yet.
func NewDriver(c DriverConfig) (Driver, error) {
	if err := c.check(4); err != nil { // flags and idx of the available ring are stored together
		return nil, err
	}
	if c.Tables.Segments > 0 {
		switch n := uint64(c.Size) * uint64(c.Tables.Segments) * descLen; {
		case !c.Indirect:
			return nil, fmt.Errorf("virtio queue: indirect tables, but VIRTIO_F_INDIRECT_DESC was not negotiated")
		case c.Tables.Segments > c.Size:
			return nil, fmt.Errorf("virtio queue: indirect tables of %d descriptors; a chain has at most %d, the size of the ring", c.Tables.Segments, c.Size)
		case uint64(len(c.Tables.Mem)) < n:
			return nil, fmt.Errorf("virtio queue: indirect tables have %d bytes; %d of %d descriptors need %d", len(c.Tables.Mem), c.Size, c.Tables.Segments, n)
		}
	}
	e := driverEnd{ring: c.Ring, tables: c.Tables, slots: make([]slot, c.Size), free: make([]uint16, c.Size), order: make([]uint16, c.Size)}
	var d Driver
	if c.Format == Packed {
		d = &packedDriver{driverEnd: e, shared: mapPacked(&c.Ring)}
	} else {
		d = &splitDriver{driverEnd: e, shared: mapSplit(&c.Ring), next: make([]uint16, c.Size), mask: uint16(c.Size - 1)}
	}
	return d, d.Reset(Start(c.Format))
}

// slot is what the driver knows of a buffer in flight, under its id: the head of the chain in a split ring, the buffer id in a packed one.
type slot struct {
	token uint64
	in    uint32 // bytes that the device may write
	count uint16 // descriptors in the ring; 0: not in flight
}

// driverEnd is what the driver ends of both formats have in common: all of it private, so that no bound depends on shared memory.
type driverEnd struct {
	ring   Ring
	tables Tables
	slots  []slot

	// free is a queue of free ids: of descriptors in a split ring, of buffer ids in a packed one. First in, first out: as long as buffers
	// come back in order, ids follow each other, which is what VIRTIO_F_IN_ORDER demands of a split ring (2.7.5.2).
	free     []uint16
	freeHead uint32 // index of the first
	nfree    int

	order []uint16 // with InOrder: ids by the place in the ring where they were offered

	inFlight int
	fence    fence
	err      error
}

func (e *driverEnd) Free() int     { return e.nfree }
func (e *driverEnd) InFlight() int { return e.inFlight }
func (e *driverEnd) Err() error    { return e.err }

func (e *driverEnd) broken(f Fault, at int, saw, limit uint64) error {
	e.err = &BrokenError{Fault: f, At: at, Saw: saw, Limit: limit}
	return e.err
}

// reset forgets everything in flight and frees all ids, to be used from first on.
func (e *driverEnd) reset(pos Position, first int) error {
	if err := pos.check(&e.ring); err != nil {
		return err
	}
	if pos.Avail != pos.Used {
		return ErrInFlight
	}
	clear(e.slots)
	for i := range e.free {
		e.free[i] = uint16((first + i) % e.ring.Size)
	}
	e.freeHead, e.nfree, e.inFlight, e.err = 0, e.ring.Size, 0, nil
	descriptor, driver, device := areaLens(e.ring.Format, e.ring.Size, e.ring.EventIdx)
	clear(e.ring.Areas.Descriptor[:descriptor])
	clear(e.ring.Areas.Driver[:driver])
	clear(e.ring.Areas.Device[:device]) // used flags start at 0 (2.7.10.1), a packed ring at zeros (2.8.13)
	return nil
}

// pop takes the next free id; there is one. push gives one back.
func (e *driverEnd) pop() uint16 {
	id := e.free[e.freeHead]
	if e.freeHead++; e.freeHead == uint32(len(e.free)) {
		e.freeHead = 0
	}
	e.nfree--
	return id
}

func (e *driverEnd) push(id uint16) {
	at := e.freeHead + uint32(e.nfree)
	if at >= uint32(len(e.free)) {
		at -= uint32(len(e.free))
	}
	e.free[at] = id
	e.nfree++
}

// single is the one segment of a buffer that has no more, its flag, and the bytes that the device may write; nil when it has another number of segments,
// or an empty one.
func (b *Buffer) single() (s *Segment, write uint16, in uint32) {
	if len(b.Out) == 1 && len(b.In) == 0 {
		s = &b.Out[0]
	} else if len(b.In) == 1 && len(b.Out) == 0 {
		s = &b.In[0]
		write, in = descWrite, s.Len
	}
	if s == nil || s.Len == 0 {
		return nil, 0, 0
	}
	return s, write, in
}

// measure checks a buffer of the caller and answers its number of segments and the bytes of its writable part; 0 segments when it cannot be
// offered. Its total stays below 2^32, so that a length in a used element can say all of it.
func (b *Buffer) measure(size int) (segments int, in uint32) {
	segments = len(b.Out) + len(b.In)
	if segments > size {
		return 0, 0
	}
	var out, written uint64
	for i := range b.Out {
		if b.Out[i].Len == 0 {
			return 0, 0
		}
		out += uint64(b.Out[i].Len)
	}
	for i := range b.In {
		if b.In[i].Len == 0 {
			return 0, 0
		}
		written += uint64(b.In[i].Len)
	}
	if out+written > math.MaxUint32 {
		return 0, 0
	}
	return segments, uint32(written)
}

// segment is the i-th segment of a buffer, readable ones first, and its flag.
func (b *Buffer) segment(i int) (s Segment, write uint16) {
	if i < len(b.Out) {
		return b.Out[i], 0
	}
	return b.In[i-len(b.Out)], descWrite
}

// indirect says whether a buffer of n segments goes into a table.
func (e *driverEnd) indirect(n int) bool { return n > 1 && n <= e.tables.Segments }

// table is the indirect table of an id, and its address for the device.
func (e *driverEnd) table(id uint16, segments int) ([]byte, Segment) {
	off := int(id) * e.tables.Segments * descLen
	n := segments * descLen
	return e.tables.Mem[off : off+n], Segment{e.tables.Addr + uint64(off), uint32(n)}
}

// batchOf looks for id among the buffers of an in-order queue, from the oldest at place at on, at most limit of them: a device may return a batch by
// its last id alone (2.7.9, 2.8.8). It answers how many buffers the batch has, 0 when the id is not among them.
func (e *driverEnd) batchOf(id uint16, at uint16, limit int) int {
	for k := 1; k <= limit; k++ {
		got := e.order[at]
		if got == id {
			return k
		}
		at = e.after(at, got)
	}
	return 0
}

// after is the place of the buffer behind the one with the given id.
func (e *driverEnd) after(at, id uint16) uint16 {
	n := uint32(at) + 1
	if e.ring.Format == Packed {
		n = uint32(at) + uint32(e.slots[id].count)
	}
	if n >= uint32(e.ring.Size) {
		n -= uint32(e.ring.Size)
	}
	return uint16(n)
}

// reclaim is Reclaim; at is the place of the oldest buffer of an in-order queue.
func (e *driverEnd) reclaim(used []Used, at uint16, release func(id uint16)) int {
	n := 0
	if e.ring.InOrder {
		for ; n < len(used) && e.inFlight > 0; n++ {
			id := e.order[at]
			at = e.after(at, id)
			used[n] = Used{Token: e.slots[id].token}
			release(id)
		}
		return n
	}
	for id := range e.slots {
		if n == len(used) || e.inFlight == 0 {
			break
		}
		if e.slots[id].count > 0 {
			used[n] = Used{Token: e.slots[id].token}
			release(uint16(id))
			n++
		}
	}
	return n
}
