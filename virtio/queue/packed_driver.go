package queue

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/internal/prefetch"
)

// packedDriver is the driver end of a packed queue (2.8).
type packedDriver struct {
	_ apart
	driverEnd
	shared packedRing

	avail ringPos // of the next descriptor to make available
	used  ringPos // of the next descriptor that the device marks used
	nslot int     // descriptors not in use: nfree counts ids, of which there are as many, and a chain needs only one

	moved   int // descriptors published since the last ShouldNotify
	batch   int // in-order: buffers left of the batch whose last length is lastLen
	lastLen uint32
	_       apart
}

func (d *packedDriver) Free() int          { return d.nslot }
func (d *packedDriver) Position() Position { return Position{d.avail.word(), d.used.word()} }

func (d *packedDriver) Reset(pos Position) error {
	if err := d.reset(pos, 0); err != nil {
		return err
	}
	d.avail, d.used, d.nslot, d.moved, d.batch = posOf(pos.Avail), posOf(pos.Used), d.ring.Size, 0, 0
	return nil
}

func (d *packedDriver) Publish(bufs []Buffer) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	var err error
	first, size := d.avail, uint16(d.ring.Size)
	done, firstWord := d.singles(bufs)
	for ; done < len(bufs); done++ {
		b := &bufs[done]
		n, in := b.measure(d.ring.Size)
		if n == 0 {
			err = ErrBuffer
			break
		}
		table := d.indirect(n)
		segments := n
		if table {
			n = 1
		}
		if n > d.nslot {
			break
		}
		id := d.pop()
		d.order[d.avail.off] = id
		for i := range n {
			s, flags := b.segment(i)
			if table {
				s, flags = d.fillTable(id, b, segments), descIndirect
			} else if i+1 < n {
				flags |= descNext
			}
			desc := &d.shared.desc[d.avail.off]
			desc.addr, desc.len = s.Addr, s.Len
			w := uint32(id) | uint32(flags|d.avail.availFlags())<<16
			// The first descriptor of the batch is made available last, by the store below. Until then the device cannot come to those
			// behind it: it polls one place only, the next one (2.8.2).
			if done == 0 && i == 0 {
				firstWord = w
			} else {
				desc.word = w
			}
			d.avail.advance(1, size)
		}
		d.slots[id] = slot{token: b.Token, in: in, count: uint16(n)}
		d.nslot -= n
		d.moved += n
	}
	if done > 0 {
		d.inFlight += done
		// The release that publishes: descriptors before the first one's flags (2.8.21.1).
		word{&d.shared.desc[first.off].word}.store(firstWord)
		prefetch.Write(ahead(d.ring.Areas.Descriptor, int(d.avail.off), min(done, d.nslot), descLen)) // the next batch's
	}
	return done, err
}

// singles makes the buffers at the start of a batch available that have one segment, all but the first, whose id and flags it answers with their
// number: what Publish does, with few stores (splitDriver.singles says why).
func (d *packedDriver) singles(bufs []Buffer) (n int, firstWord uint32) {
	free, from := d.free, d.freeHead
	at, size := d.avail, uint16(d.ring.Size)
	for bufs = bufs[:min(len(bufs), d.nslot)]; n < len(bufs); n++ {
		b := &bufs[n]
		s, write, in := b.single()
		if s == nil {
			break
		}
		id := free[from]
		if from++; from == uint32(len(free)) {
			from = 0
		}
		desc := &d.shared.desc[at.off]
		desc.addr, desc.len = s.Addr, s.Len
		if w := uint32(id) | uint32(write|at.availFlags())<<16; n == 0 {
			firstWord = w
		} else {
			desc.word = w
		}
		if d.ring.InOrder {
			d.order[at.off] = id
		}
		d.slots[id] = slot{token: b.Token, in: in, count: 1}
		at.advance(1, size)
	}
	d.avail, d.freeHead = at, from
	d.nfree -= n
	d.nslot -= n
	d.moved += n
	return n, firstWord
}

// fillTable writes a buffer of n segments into the indirect table of id. There is no next: the table's length says where it ends (2.8.7).
func (d *packedDriver) fillTable(id uint16, b *Buffer, n int) Segment {
	table, where := d.table(id, n)
	for i := range n {
		s, flags := b.segment(i)
		e := table[i*descLen:][:descLen]
		binary.LittleEndian.PutUint64(e, s.Addr)
		binary.LittleEndian.PutUint32(e[8:], s.Len)
		binary.LittleEndian.PutUint32(e[12:], uint32(flags)<<16)
	}
	return where
}

func (d *packedDriver) Reap(used []Used) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	n := 0
	if !d.ring.InOrder {
		n = d.reapSingles(used)
	}
	for n < len(used) && d.inFlight > 0 {
		if d.batch == 0 {
			desc := &d.shared.desc[d.used.off]
			// The acquire: the length was written before the flags (2.8.22).
			w := word{&desc.word}.load()
			if !d.used.isUsed(uint16(w >> 16)) {
				break
			}
			if err := d.usedDescriptor(uint16(w), uint16(w>>16), desc.len); err != nil {
				return n, err
			}
		}
		id := d.order[d.used.off]
		s := &d.slots[id]
		used[n] = Used{Token: s.token, Len: s.in}
		if d.batch--; d.batch == 0 {
			used[n].Len = d.lastLen
		}
		d.used.advance(s.count, uint16(d.ring.Size))
		d.release(id)
		n++
	}
	return n, nil
}

// reapSingles takes buffers of one descriptor, up to the first that is another or that the device must not have returned so, and answers how many: what Reap
// does, with few stores.
func (d *packedDriver) reapSingles(used []Used) (n int) {
	free, to := d.free, d.freeHead+uint32(d.nfree)
	at, size := d.used, uint16(d.ring.Size)
	for used = used[:min(len(used), d.inFlight)]; n < len(used); n++ {
		desc := &d.shared.desc[at.off]
		w := word{&desc.word}.load() // the acquire, as in Reap
		id, flags := uint16(w), uint16(w>>16)
		if !at.isUsed(flags) || int(id) >= len(d.slots) {
			break
		}
		s, written := &d.slots[id], desc.len
		if s.in == 0 && flags&descWrite == 0 {
			written = 0 // as in usedDescriptor
		}
		if s.count != 1 || written > s.in {
			break
		}
		used[n] = Used{Token: s.token, Len: written}
		s.count = 0
		if to >= uint32(len(free)) {
			to -= uint32(len(free))
		}
		free[to] = id
		to++
		at.advance(1, size)
	}
	d.used = at
	d.nfree += n
	d.nslot += n
	d.inFlight -= n
	return n
}

// usedDescriptor checks what the device wrote at the place d.used, and makes a batch of it: of one buffer, or with in-order of all up to the one that is
// named (2.8.8).
func (d *packedDriver) usedDescriptor(id, flags uint16, written uint32) error {
	if int(id) >= d.ring.Size || d.slots[id].count == 0 {
		return d.broken(FaultUsedID, int(d.used.off), uint64(id), uint64(d.ring.Size))
	}
	in := d.slots[id].in
	if in == 0 && flags&descWrite == 0 {
		written = 0 // reserved, to be ignored (2.8.4); where something can be written, devices leave the flag out, and the length is meant
	}
	if written > in {
		return d.broken(FaultUsedLength, int(d.used.off), uint64(written), uint64(in))
	}
	d.batch, d.lastLen = 1, written
	if !d.ring.InOrder {
		d.order[d.used.off] = id // out of order, the one that is returned here is another than was offered here
	} else if d.batch = d.batchOf(id, d.used.off, d.inFlight); d.batch == 0 {
		return d.broken(FaultUsedOrder, int(d.used.off), uint64(id), uint64(d.inFlight))
	}
	return nil
}

// release frees the id and the descriptors of a buffer.
func (d *packedDriver) release(id uint16) {
	s := &d.slots[id]
	d.push(id)
	d.nslot += int(s.count)
	d.inFlight--
	s.count = 0
}

func (d *packedDriver) Reclaim(used []Used) int {
	before := d.nslot
	n := d.reclaim(used, d.used.off, d.release)
	d.used.advance(uint16(d.nslot-before), uint16(d.ring.Size))
	return n
}

func (d *packedDriver) ShouldNotify() bool {
	moved := d.moved
	if moved == 0 {
		return false
	}
	d.moved = 0
	// The flags have to be visible before the device's wish is read (2.8.21.3.1): the device stores its wish, fences, and looks at the flags.
	d.fence.full()
	return packedWants(d.shared.deviceEvent.load(), d.ring.EventIdx, d.avail, moved, d.ring.Size)
}

func (d *packedDriver) Suppress() { d.shared.driverEvent.store(eventDisable << 16) }

func (d *packedDriver) Listen(after int) bool {
	event := uint32(eventEnable << 16)
	if d.ring.EventIdx {
		// A buffer has one descriptor at least: the place after-1 descriptors ahead is passed when so many buffers have come, or earlier.
		at := d.used
		at.advance(uint16(max(1, min(after, d.inFlight))-1), uint16(d.ring.Size))
		event = eventDesc<<16 | uint32(at.word())
	}
	d.shared.driverEvent.store(event)
	// The wish has to be visible before the flags are read (2.8.22): the device stores the flags, fences, and looks at the wish.
	d.fence.full()
	return d.Waiting()
}

func (d *packedDriver) Waiting() bool {
	if d.inFlight == 0 {
		return false
	}
	return d.batch > 0 || d.used.isUsed(uint16(word{&d.shared.desc[d.used.off].word}.load()>>16))
}
