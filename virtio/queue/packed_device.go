package queue

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/internal/prefetch"
)

// packedDevice is the device end of a packed queue (2.8).
type packedDevice struct {
	_ apart
	deviceEnd
	shared packedRing

	avail ringPos // of the next descriptor to take
	used  ringPos // of the next descriptor to mark used
	slots int     // descriptors between the two: taken and not returned

	moved int // descriptors returned since the last ShouldNotify
	_     apart
}

func (d *packedDevice) Position() Position { return Position{d.avail.word(), d.used.word()} }

func (d *packedDevice) Reset(pos Position) error {
	if err := d.reset(pos); err != nil {
		return err
	}
	d.avail, d.used, d.moved = posOf(pos.Avail), posOf(pos.Used), 0
	// What was in flight between the two stays out: the driver gets it back by a reset of its own.
	if d.slots = int(d.avail.off) - int(d.used.off); d.avail.wrap != d.used.wrap {
		d.slots += d.ring.Size
	}
	return nil
}

func (d *packedDevice) Take(chains []Chain) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	d.nspans = 0
	n := d.takeSingles(chains)
	for n < len(chains) {
		// With the whole ring in flight the next place is one that the driver has not got back: whatever it says, it offers nothing.
		if d.slots == d.ring.Size {
			break
		}
		// The acquire: what the first descriptor's flags publish is seen from here on, the rest of its list too (2.8.6).
		w := word{&d.shared.desc[d.avail.off].word}.load()
		if !d.avail.isAvail(uint16(w >> 16)) {
			break
		}
		c := chain{first: d.nspans}
		id, count, ok := d.walk(&c, w)
		if !ok {
			return n, d.err // nil when the spans were used up
		}
		d.accept(&chains[n], &c, id, count)
		d.slots += count
		d.avail.advance(uint16(count), uint16(d.ring.Size))
		n++
	}
	return n, nil
}

// takeSingles takes chains of one descriptor, up to the first that is another, lies in another region than the last one, or must not be; and answers how
// many: what Take does, with few stores (splitDriver.singles says why).
func (d *packedDevice) takeSingles(chains []Chain) (n int) {
	at, size := d.avail, uint16(d.ring.Size)
	chains = chains[:min(len(chains), d.ring.Size-d.slots, len(d.spans))]
	for ; n < len(chains); n++ {
		desc := &d.shared.desc[at.off]
		w := word{&desc.word}.load() // the acquire, as in Take
		id, flags := uint16(w), uint16(w>>16)
		if !at.isAvail(flags) || int(id) >= d.ring.Size || d.taken[id].live || !d.single(&chains[n], n, id, flags, desc.addr, desc.len) {
			break
		}
		at.advance(1, size)
	}
	d.avail = at
	d.slots += n
	d.took(n)
	return n
}

// walk reads the list that starts at d.avail; w is the first one's id and flags. It answers the id, which is the last one's (2.8.6), and the number of
// descriptors in the ring. A list ends where the ring is full at the latest.
func (d *packedDevice) walk(c *chain, w uint32) (id uint16, count int, ok bool) {
	at := d.avail
	room := d.ring.Size - d.slots
	for {
		desc := &d.shared.desc[at.off]
		addr, n, flags := desc.addr, desc.len, uint16(w>>16) // each read once
		count++
		if flags&descIndirect != 0 {
			// Lists are of one kind: a table stands alone (2.8.5, 2.8.19). WRITE is ignored here (2.8.7).
			if flags&descNext != 0 || count > 1 {
				return 0, 0, d.broken(FaultIndirectNext, int(at.off), addr, uint64(n))
			}
			if !d.walkTable(c, int(at.off), addr, n) {
				return 0, 0, false
			}
		} else if !d.add(c, int(at.off), addr, n, flags&descWrite != 0) {
			return 0, 0, false
		}
		if flags&descNext == 0 {
			break
		}
		if count == room {
			return 0, 0, d.broken(FaultChainLong, int(at.off), uint64(count+1), uint64(room))
		}
		at.advance(1, uint16(d.ring.Size))
		w = word{&d.shared.desc[at.off].word}.load()
	}
	id = uint16(w)
	if int(id) >= d.ring.Size {
		return 0, 0, d.broken(FaultID, int(at.off), uint64(id), uint64(d.ring.Size))
	}
	if d.taken[id].live {
		return 0, 0, d.broken(FaultHeadTwice, int(at.off), uint64(id), uint64(d.ring.Size))
	}
	return id, count, true
}

// walkTable reads an indirect table: all of its descriptors, one after the other. WRITE is the only flag in them, the rest is ignored (2.8.7).
func (d *packedDevice) walkTable(c *chain, at int, addr uint64, n uint32) bool {
	table := d.table(at, addr, n)
	if table == nil {
		return false
	}
	for i := 0; len(table) > 0; i++ {
		flags := binary.LittleEndian.Uint16(table[14:])
		if !d.add(c, i, binary.LittleEndian.Uint64(table), binary.LittleEndian.Uint32(table[8:]), flags&descWrite != 0) {
			return false
		}
		table = table[descLen:]
	}
	return true
}

func (d *packedDevice) Untake(n int) error {
	if !d.canUntake(n) {
		return ErrNotTaken
	}
	size := uint16(d.ring.Size)
	for range n {
		count := d.untake()
		d.slots -= int(count)
		d.avail.advance(size-count, size) // back by count: forward to that place of the next lap,
		d.avail.wrap ^= wrapBit           // and a whole lap back
	}
	return nil
}

func (d *packedDevice) Return(done []Done) error {
	if d.err != nil {
		return d.err
	}
	var err error
	size := uint16(d.ring.Size)
	first, firstWord := d.used, uint32(0)
	at := first             // where the element of the present batch goes: the place of its first buffer
	next, moved := first, 0 // behind what was returned
	put := func(x Done) {
		flags := at.usedFlags()
		if x.Len > 0 {
			flags |= descWrite // the length means something (2.8.3, 2.8.4)
		}
		desc := &d.shared.desc[at.off]
		desc.len = x.Len
		w := uint32(x.ID) | uint32(flags)<<16
		// The first descriptor of all is marked used last, by the store below. Until then the driver does not come to those behind it: it
		// polls one place only (2.8.2), and a packet of several buffers appears at once (2.8.9).
		if at == first {
			firstWord = w
		} else {
			desc.word = w
		}
		at = next
	}
	for i := range done {
		x := done[i]
		if err = d.checkDone(x); err != nil {
			if at != next { // a batch that ends here is named by the one before
				put(Done{ID: done[i-1].ID})
			}
			break
		}
		d.release(x.ID)
		count := d.taken[x.ID].count
		next.advance(count, size)
		moved += int(count)
		if !d.skips(x.ID, i+1 < len(done)) {
			put(x)
		}
	}
	if moved > 0 {
		d.used = next
		d.slots -= moved
		d.moved += moved
		// The release that publishes: lengths, and descriptors behind, before the first one's flags (2.8.22).
		word{&d.shared.desc[first.off].word}.store(firstWord)
		prefetch.Write(ahead(d.ring.Areas.Descriptor, int(next.off), min(moved, d.slots), descLen)) // the next batch's
	}
	return err
}

func (d *packedDevice) ShouldNotify() bool {
	moved := d.moved
	if moved == 0 {
		return false
	}
	d.moved = 0
	// The flags have to be visible before the driver's wish is read: the driver stores its wish, fences, and looks at the flags (2.8.10).
	d.fence.full()
	return packedWants(d.shared.driverEvent.load(), d.ring.EventIdx, d.used, moved, d.ring.Size)
}

func (d *packedDevice) Suppress() { d.shared.deviceEvent.store(eventDisable << 16) }

func (d *packedDevice) Listen(after int) bool {
	event := uint32(eventEnable << 16)
	last := d.avail // of those that are waited for
	last.advance(uint16(d.awaited(after, d.ring.Size-d.slots)-1), uint16(d.ring.Size))
	if d.ring.EventIdx {
		event = eventDesc<<16 | uint32(last.word())
	}
	d.shared.deviceEvent.store(event)
	// The wish has to be visible before the flags are read: the driver stores the flags, fences, and looks at the wish (2.8.10).
	d.fence.full()
	// The first one too: those behind it in a batch are written before it, and not offered until it is.
	return d.Waiting() && (last == d.avail || d.isOffered(last))
}

func (d *packedDevice) Waiting() bool { return d.slots < d.ring.Size && d.isOffered(d.avail) }

// isOffered says whether the descriptor at a place is the device's.
func (d *packedDevice) isOffered(at ringPos) bool {
	return at.isAvail(uint16(word{&d.shared.desc[at.off].word}.load() >> 16))
}
