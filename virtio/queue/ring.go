package queue

import (
	"errors"
	"fmt"
	"math/bits"
)

// Format is the layout of a ring.
type Format uint8

// The two formats.
const (
	Split  Format = iota // 2.7
	Packed               // 2.8, VIRTIO_F_RING_PACKED
)

func (f Format) String() string {
	if f == Packed {
		return "packed"
	}
	return "split"
}

// MaxSize is the largest number of descriptors in a ring of either format (2.7, 2.8).
const MaxSize = 32768

// Ring says what both ends of a queue have to agree on: where it lies, and the features that were negotiated for it.
type Ring struct {
	Format Format
	Size   int // descriptors: 1 to MaxSize; a split ring's is a power of two
	Areas  Areas

	EventIdx bool // VIRTIO_F_EVENT_IDX
	Indirect bool // VIRTIO_F_INDIRECT_DESC
	InOrder  bool // VIRTIO_F_IN_ORDER
}

// Areas are the three parts of a ring (2.7, 2.8), as this process sees them. They may be longer than the ring needs. They must stay
// mapped for as long as the queue is used.
type Areas struct {
	Descriptor []byte // the descriptor table, or the descriptor ring of a packed queue
	Driver     []byte // the available ring, or the driver event suppression structure
	Device     []byte // the used ring, or the device event suppression structure
}

// Layout is a way to put the three areas of a ring into one block of memory: offsets in bytes from its start, which has to be aligned to
// CacheLine. The areas share no cache line, since each is written by another end.
type Layout struct {
	Descriptor, Driver, Device int
	Len                        int // of the block

	lens [3]int
}

// CacheLine is the alignment of the areas in a Layout, in bytes.
const CacheLine = 64

// LayoutOf lays out a ring of size descriptors.
func LayoutOf(format Format, size int) Layout {
	descriptor, driver, device := areaLens(format, size, true)
	l := Layout{lens: [3]int{descriptor, driver, device}}
	l.Driver = roundUp(descriptor)
	l.Device = l.Driver + roundUp(driver)
	l.Len = l.Device + roundUp(device)
	return l
}

func roundUp(n int) int { return (n + CacheLine - 1) &^ (CacheLine - 1) }

// Areas cuts the areas from a block of at least Len bytes.
func (l Layout) Areas(block []byte) Areas {
	cut := func(off, n int) []byte { return block[off : off+n : off+n] }
	return Areas{cut(l.Descriptor, l.lens[0]), cut(l.Driver, l.lens[1]), cut(l.Device, l.lens[2])}
}

// areaLens are the lengths that a ring needs, in bytes. The event words exist only with EventIdx (2.7.6, 2.7.8).
func areaLens(format Format, size int, eventIdx bool) (descriptor, driver, device int) {
	if format == Packed {
		return 16 * size, 4, 4
	}
	driver, device = 4+2*size, 4+8*size
	if eventIdx {
		driver, device = driver+2, device+2
	}
	return 16 * size, driver, device
}

// check says whether the ring can be used at all: its size, and the lengths, alignments and places of its areas (2.7, 2.8.10.1).
// driverAlign is what the end that checks needs of the driver area.
func (r *Ring) check(driverAlign int) error {
	switch {
	case r.Format > Packed:
		return fmt.Errorf("virtio queue: unknown ring format %d", r.Format)
	case r.Size < 1 || r.Size > MaxSize:
		return fmt.Errorf("virtio queue: a ring of %d descriptors; it has 1 to %d", r.Size, MaxSize)
	case r.Format == Split && bits.OnesCount(uint(r.Size)) != 1:
		return fmt.Errorf("virtio queue: a split ring of %d descriptors; it has a power of two", r.Size)
	}
	deviceAlign := 4
	if r.Format == Packed {
		driverAlign = 4
	}
	descriptor, driver, device := areaLens(r.Format, r.Size, r.EventIdx)
	areas := [3]struct {
		name       string
		mem        []byte
		len, align int
	}{
		{"descriptor", r.Areas.Descriptor, descriptor, 16}, {"driver", r.Areas.Driver, driver, driverAlign},
		{"device", r.Areas.Device, device, deviceAlign},
	}
	for i, a := range areas {
		if len(a.mem) < a.len {
			return fmt.Errorf("virtio queue: the %s area has %d bytes; a %s ring of %d needs %d", a.name, len(a.mem), r.Format, r.Size, a.len)
		}
		if address(a.mem)%uintptr(a.align) != 0 {
			return fmt.Errorf("virtio queue: the %s area at %#x is not aligned to %d bytes", a.name, address(a.mem), a.align)
		}
		for _, b := range areas[:i] {
			if overlap(a.mem[:a.len], b.mem[:b.len]) {
				return fmt.Errorf("virtio queue: the %s area lies over the %s area", a.name, b.name)
			}
		}
	}
	return nil
}

// apart stands at both ends of what an end of a queue writes: the other end's thread must not have the same cache line.
type apart [CacheLine]byte

// ahead cuts n entries of size bytes from an area, from the one at place at on, for a hint to the processor: fewer where the area ends.
func ahead(area []byte, at, n, size int) []byte {
	from := min(at*size, len(area))
	return area[from:min(from+n*size, len(area))]
}

// Position says where in the ring an end stands: what vhost saves with GET_VRING_BASE and restores with SET_VRING_BASE. For a split
// ring the two are the free-running indexes avail idx and used idx; for a packed ring bits 0 to 14 are an offset into the ring and bit 15
// is the wrap counter.
type Position struct {
	Avail uint16 // the next buffer to be offered, or to be taken
	Used  uint16 // the next buffer to be returned, or to be reaped
}

// Start is where a queue stands when it is made or after a reset.
func Start(format Format) Position {
	if format == Packed {
		return Position{wrapBit, wrapBit} // both wrap counters start at 1 (2.8.1)
	}
	return Position{}
}

// Base is the position as the vhost messages carry it: avail idx for a split ring, both halves for a packed one.
func (p Position) Base(format Format) uint32 {
	if format == Packed {
		return uint32(p.Avail) | uint32(p.Used)<<16
	}
	return uint32(p.Avail)
}

// PositionOf is the position that a vhost base stands for. A split base carries no used idx: nothing was in flight when it was saved, so
// it is the same.
func PositionOf(format Format, base uint32) Position {
	if format == Packed {
		return Position{uint16(base), uint16(base >> 16)}
	}
	return Position{uint16(base), uint16(base)}
}

const wrapBit = 1 << 15

// check refuses a position that no queue of this ring can have.
func (p Position) check(r *Ring) error {
	if r.Format == Split {
		if d := int(p.Avail - p.Used); d > r.Size {
			return fmt.Errorf("virtio queue: position avail %d, used %d: %d buffers apart in a ring of %d", p.Avail, p.Used, d, r.Size)
		}
		return nil
	}
	a, u := int(p.Avail&^wrapBit), int(p.Used&^wrapBit)
	if a >= r.Size || u >= r.Size {
		return fmt.Errorf("virtio queue: position avail %#x, used %#x: an offset is outside of the ring of %d", p.Avail, p.Used, r.Size)
	}
	// The same lap: avail is at used or ahead. The next lap: it is at used or behind, with a full ring between them.
	if sameLap := (p.Avail^p.Used)&wrapBit == 0; sameLap != (a >= u) && a != u {
		return fmt.Errorf("virtio queue: position avail %#x, used %#x: the wrap counters do not fit the offsets", p.Avail, p.Used)
	}
	return nil
}

// What a caller does wrong, in contrast to a peer.
var (
	ErrBuffer   = errors.New("virtio queue: a buffer without segments, with an empty one, with more than the ring has descriptors, or of 4 GiB or more")
	ErrNotTaken = errors.New("virtio queue: a chain that is not in flight, or out of its turn")
	ErrLength   = errors.New("virtio queue: more written than the chain has room for")
	ErrInFlight = errors.New("virtio queue: a driver starts with nothing in flight: avail and used have to be the same")
)
