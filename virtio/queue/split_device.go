package queue

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/internal/prefetch"
)

// splitDevice is the device end of a split queue (2.7).
type splitDevice struct {
	_ apart
	deviceEnd
	shared splitRing
	mask   uint16

	availIdx uint16 // of the next head to take
	usedIdx  uint16 // as stored in the used ring
	flags    uint16 // of the used ring, as stored

	told   uint16 // usedIdx at the last ShouldNotify
	untold int    // returned since
	_      apart
}

func (d *splitDevice) Position() Position { return Position{d.availIdx, d.usedIdx} }

func (d *splitDevice) Reset(pos Position) error {
	if err := d.reset(pos); err != nil {
		return err
	}
	// What was in flight between the two stays out: the driver gets it back by a reset of its own.
	d.availIdx, d.usedIdx, d.told, d.untold, d.flags = pos.Avail, pos.Used, pos.Used, 0, 0
	return nil
}

// storeHead publishes: everything written before is seen by a driver that sees the index (2.7.8.1). The flags are this end's own.
func (d *splitDevice) storeHead() {
	d.shared.usedHead.store(uint32(d.usedIdx)<<16 | uint32(d.flags))
}

// offered is avail idx as the driver has stored it; what was written before is seen from here on (2.7.13).
func (d *splitDevice) offered() uint16 {
	return uint16(d.shared.availHead.load() >> d.shared.availShift)
}

func (d *splitDevice) Take(chains []Chain) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	d.nspans = 0
	idx := d.offered()
	ready := int(idx - d.availIdx)
	// A buffer has one descriptor at least, so there are never more of them out than the ring has descriptors.
	if limit := d.ring.Size - int(d.availIdx-d.usedIdx); ready > limit {
		d.broken(FaultAvailIndex, int(d.availIdx), uint64(idx), uint64(limit))
		return 0, d.err
	}
	n := min(ready, len(chains))
	if n > 0 {
		// Most drivers use descriptors in a row.
		prefetch.Read(ahead(d.ring.Areas.Descriptor, int(d.shared.avail[d.availIdx&d.mask]), n, descLen))
	}
	for i := 0; i < n; i++ {
		if i += d.takeSingles(chains[i:n]); i == n {
			break
		}
		head := d.shared.avail[d.availIdx&d.mask]
		if int(head) >= d.ring.Size {
			d.broken(FaultHead, int(d.availIdx), uint64(head), uint64(d.ring.Size))
			return i, d.err
		}
		if d.taken[head].live {
			d.broken(FaultHeadTwice, int(d.availIdx), uint64(head), uint64(d.ring.Size))
			return i, d.err
		}
		c := chain{first: d.nspans}
		if !d.walk(&c, head) {
			return i, d.err // nil when the spans were used up
		}
		d.accept(&chains[i], &c, head, 1)
		d.availIdx++
	}
	return n, nil
}

// takeSingles takes chains of one descriptor, up to the first that is another, lies in another region than the last one, or must not be; and answers how
// many: what Take does, with few stores (splitDriver.singles says why). All of chains are offered.
func (d *splitDevice) takeSingles(chains []Chain) (n int) {
	for chains = chains[:min(len(chains), len(d.spans)-d.nspans)]; n < len(chains); n++ {
		head := d.shared.avail[(d.availIdx+uint16(n))&d.mask]
		if int(head) >= len(d.taken) || d.taken[head].live {
			break
		}
		desc := d.shared.desc[head] // read once
		if !d.single(&chains[n], n, head, desc.flags(), desc.addr, desc.len()) {
			break
		}
	}
	d.took(n)
	d.availIdx += uint16(n)
	return n
}

// walk reads the chain that starts at head. It follows at most limit descriptors, whatever they say.
func (d *splitDevice) walk(c *chain, head uint16) bool {
	at := head
	for {
		desc := d.shared.desc[at] // read once
		n, flags, next := desc.len(), desc.flags(), desc.next()
		if flags&descIndirect != 0 {
			if flags&descNext != 0 {
				return d.broken(FaultIndirectNext, int(at), desc.addr, uint64(n))
			}
			// WRITE is ignored here (2.7.5.3.2). A table may end a chain of ordinary descriptors.
			return d.walkTable(c, int(at), desc.addr, n)
		}
		if !d.add(c, int(at), desc.addr, n, flags&descWrite != 0) {
			return false
		}
		if flags&descNext == 0 {
			return true
		}
		if int(next) >= d.ring.Size {
			return d.broken(FaultNext, int(at), uint64(next), uint64(d.ring.Size))
		}
		at = next
	}
}

// walkTable reads an indirect table, whose descriptors are linked by next, from the first one on (2.7.5.3).
func (d *splitDevice) walkTable(c *chain, at int, addr uint64, n uint32) bool {
	table := d.table(at, addr, n)
	if table == nil {
		return false
	}
	for i := 0; ; {
		e := table[i*descLen:][:descLen]
		addr, n := binary.LittleEndian.Uint64(e), binary.LittleEndian.Uint32(e[8:])
		link := binary.LittleEndian.Uint32(e[12:]) // flags and next, read once
		flags, next := uint16(link), int(link>>16)
		if flags&descIndirect != 0 {
			return d.broken(FaultIndirectNested, i, addr, uint64(n))
		}
		if !d.add(c, i, addr, n, flags&descWrite != 0) {
			return false
		}
		if flags&descNext == 0 {
			return true
		}
		if next >= len(table)/descLen {
			return d.broken(FaultNext, i, uint64(next), uint64(len(table)/descLen))
		}
		i = next
	}
}

func (d *splitDevice) Untake(n int) error {
	if !d.canUntake(n) {
		return ErrNotTaken
	}
	for range n {
		d.untake()
		d.availIdx--
	}
	return nil
}

func (d *splitDevice) Return(done []Done) error {
	if d.err != nil {
		return d.err
	}
	var err error
	first := d.usedIdx // where the element of a batch goes: the place of its first buffer
	idx := d.usedIdx
	returned := 0
	if !d.ring.InOrder {
		returned = d.returnSingles(done)
		idx += uint16(returned)
		first = idx
	}
	for i := returned; i < len(done); i++ {
		x := done[i]
		if err = d.checkDone(x); err != nil {
			// A batch that ends here is named by the one before.
			if first != idx {
				d.shared.used[first&d.mask] = usedElem{id: uint32(done[i-1].ID)}
			}
			break
		}
		d.release(x.ID)
		idx++
		if d.skips(x.ID, i+1 < len(done)) {
			continue
		}
		d.shared.used[first&d.mask] = usedElem{id: uint32(x.ID), len: x.Len}
		first = idx
	}
	if idx != d.usedIdx {
		d.untold += int(idx - d.usedIdx)
		n := int(idx - d.usedIdx)
		d.usedIdx = idx
		d.storeHead()
		prefetch.Write(ahead(d.ring.Areas.Device[4:], int(idx&d.mask), n, usedLen)) // the next batch's, which the driver has read a lap ago
	}
	return err
}

// returnSingles writes the elements of chains, up to the first that cannot be returned, and answers how many: what Return does, with few stores.
func (d *splitDevice) returnSingles(done []Done) (n int) {
	for ; n < len(done); n++ {
		x := done[n]
		if int(x.ID) >= len(d.taken) {
			break
		}
		t := &d.taken[x.ID]
		if !t.live || x.Len > t.in {
			break
		}
		t.live = false
		d.shared.used[(d.usedIdx+uint16(n))&d.mask] = usedElem{id: uint32(x.ID), len: x.Len}
	}
	d.inFlight -= n
	return n
}

func (d *splitDevice) ShouldNotify() bool {
	if d.untold == 0 {
		return false
	}
	old, moved := d.told, d.untold
	d.told, d.untold = d.usedIdx, 0
	// The index has to be visible before the driver's wish is read: the driver stores its wish, fences, and looks at the index (2.7.7).
	d.fence.full()
	if !d.ring.EventIdx {
		return d.availFlags()&noNotify == 0
	}
	return moved > 0xffff || crossed(d.shared.usedEvent.load(), d.usedIdx, old)
}

// availFlags are the flags of the available ring. When its head was put at an odd multiple of 2, they are a half of their own, in front of it.
func (d *splitDevice) availFlags() uint16 {
	if d.shared.availShift == 0 {
		return d.shared.availFlags.load()
	}
	return uint16(d.shared.availHead.load())
}

func (d *splitDevice) Suppress() {
	if d.ring.EventIdx {
		d.shared.availEvent.store(d.availIdx - 1) // the one farthest away
		return
	}
	if d.flags == 0 {
		d.flags = noNotify
		d.storeHead()
	}
}

func (d *splitDevice) Listen(after int) bool {
	n := uint16(d.awaited(after, d.ring.Size-int(d.availIdx-d.usedIdx)))
	if d.ring.EventIdx {
		d.shared.availEvent.store(d.availIdx + n - 1)
	} else {
		// Whatever the flags are taken for: after Reset they are what an earlier device has left there.
		d.flags = 0
		d.storeHead()
	}
	// The wish has to be visible before the index is read: the driver stores the index, fences, and looks at the wish (2.7.10).
	d.fence.full()
	return d.offered()-d.availIdx >= n
}

func (d *splitDevice) Waiting() bool { return d.offered() != d.availIdx }
