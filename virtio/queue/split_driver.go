package queue

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/internal/prefetch"
)

// splitDriver is the driver end of a split queue (2.7).
type splitDriver struct {
	_ apart
	driverEnd
	shared splitRing
	mask   uint16
	next   []uint16 // private: the descriptor behind each one of a chain; the table's own next is never read back

	availIdx uint16 // as stored in the available ring
	usedIdx  uint16 // of the next element to reap
	flags    uint16 // of the available ring, as stored

	told    uint16 // availIdx at the last ShouldNotify
	untold  int    // published since
	batch   int    // in-order: buffers left of the batch whose last length is lastLen
	lastLen uint32
	_       apart
}

func (d *splitDriver) Position() Position { return Position{d.availIdx, d.usedIdx} }

func (d *splitDriver) Reset(pos Position) error {
	// In-order chains use descriptors in ring order from 0 on (2.7.5), wherever idx starts.
	if err := d.reset(pos, 0); err != nil {
		return err
	}
	d.availIdx, d.usedIdx, d.told, d.untold, d.flags, d.batch = pos.Avail, pos.Used, pos.Avail, 0, 0, 0
	d.shared.usedHead.store(uint32(pos.Used) << 16)
	d.storeHead()
	return nil
}

// storeHead publishes: everything written before is seen by a device that sees the index (2.7.13.3.1). The flags are this end's own, so that
// storing both in one word changes nothing that another has written.
func (d *splitDriver) storeHead() {
	d.shared.availHead.store(uint32(d.availIdx)<<16 | uint32(d.flags))
}

func (d *splitDriver) Publish(bufs []Buffer) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	var err error
	done := 0
	for ; done < len(bufs); done++ {
		if done += d.singles(bufs[done:], d.availIdx+uint16(done)); done == len(bufs) {
			break
		}
		b := &bufs[done]
		n, in := b.measure(d.ring.Size)
		if n == 0 {
			err = ErrBuffer
			break
		}
		var head uint16
		if n == 1 {
			if d.nfree == 0 {
				break
			}
			head = d.pop()
			s, write := b.segment(0)
			d.shared.desc[head] = makeDesc(s.Addr, s.Len, write, 0)
		} else if d.indirect(n) {
			if d.nfree == 0 {
				break
			}
			head = d.pop()
			d.shared.desc[head] = d.fillTable(head, b, n)
			n = 1
		} else if n <= d.nfree {
			head = d.fillChain(b, n)
		} else {
			break
		}
		d.slots[head] = slot{token: b.Token, in: in, count: uint16(n)}
		d.offer(d.availIdx+uint16(done), head)
	}
	if done > 0 {
		d.availIdx += uint16(done)
		d.inFlight += done
		d.untold += done
		d.storeHead()
		// The device has read the descriptors behind these a lap ago, and those of the next batch will be written.
		prefetch.Write(ahead(d.ring.Areas.Descriptor, int(d.free[d.freeHead]), done, descLen))
	}
	return done, err
}

// offer writes a head into the available ring, at the place of idx. Buffers that come back in order keep their places: what is there already is
// left alone, so that the line stays in the device's cache.
func (d *splitDriver) offer(idx, head uint16) {
	at := idx & d.mask
	if d.ring.InOrder {
		d.order[at] = head
	}
	if d.shared.avail[at] != head {
		d.shared.avail[at] = head
	}
}

// singles offers buffers of one segment, from idx on, up to the first that is another or does not fit, and answers how many: what Publish does, with few
// stores. A processor holds some 60 stores back until the lines that they go to have come from the other one, and stands when there are more.
func (d *splitDriver) singles(bufs []Buffer, idx uint16) (n int) {
	free, from := d.free, d.freeHead
	for bufs = bufs[:min(len(bufs), d.nfree)]; n < len(bufs); n++ {
		b := &bufs[n]
		s, write, in := b.single()
		if s == nil {
			break
		}
		head := free[from]
		if from++; from == uint32(len(free)) {
			from = 0
		}
		if desc := makeDesc(s.Addr, s.Len, write, 0); d.shared.desc[head] != desc {
			d.shared.desc[head] = desc
		}
		d.slots[head] = slot{token: b.Token, in: in, count: 1}
		d.offer(idx+uint16(n), head)
	}
	d.freeHead = from
	d.nfree -= n
	return n
}

// fillChain writes a buffer of n segments as a chain of n free descriptors and answers its head.
func (d *splitDriver) fillChain(b *Buffer, n int) uint16 {
	head := d.pop()
	at := head
	for i := range n {
		s, flags := b.segment(i)
		next := uint16(0)
		if i+1 < n {
			next, flags = d.pop(), flags|descNext
		}
		d.shared.desc[at] = makeDesc(s.Addr, s.Len, flags, next)
		d.next[at] = next
		at = next
	}
	return head
}

// fillTable writes a buffer of n segments into the indirect table of head and answers the descriptor that refers to it. Inside, next counts
// 1, 2, … which in-order asks for and everybody understands (2.7.5.3.1).
func (d *splitDriver) fillTable(head uint16, b *Buffer, n int) splitDesc {
	table, where := d.table(head, n)
	for i := range n {
		s, flags := b.segment(i)
		next := uint16(0)
		if i+1 < n {
			next, flags = uint16(i+1), flags|descNext
		}
		e := table[i*descLen:][:descLen]
		binary.LittleEndian.PutUint64(e, s.Addr)
		binary.LittleEndian.PutUint32(e[8:], s.Len)
		binary.LittleEndian.PutUint16(e[12:], flags)
		binary.LittleEndian.PutUint16(e[14:], next)
	}
	return makeDesc(where.Addr, where.Len, descIndirect, 0)
}

func (d *splitDriver) Reap(used []Used) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	// The elements up to this index were written before it (2.7.8.1); the load is the acquire that makes them ours.
	idx := uint16(d.shared.usedHead.load() >> 16)
	ready := int(idx - d.usedIdx)
	if ready > d.inFlight {
		return 0, d.broken(FaultUsedIndex, int(d.usedIdx), uint64(idx), uint64(d.inFlight))
	}
	n := min(ready, len(used))
	prefetch.Read(ahead(d.ring.Areas.Device[4:], int(d.usedIdx&d.mask), n, usedLen))
	if d.ring.InOrder {
		return d.reapInOrder(used[:n], ready)
	}
	for i := 0; i < n; i++ {
		if i += d.reapSingles(used[i:n]); i == n {
			break
		}
		e := d.shared.used[d.usedIdx&d.mask]
		if uint64(e.id) >= uint64(len(d.slots)) || d.slots[e.id].count == 0 {
			return i, d.broken(FaultUsedID, int(d.usedIdx), uint64(e.id), uint64(d.ring.Size))
		}
		s := &d.slots[e.id]
		if e.len > s.in {
			return i, d.broken(FaultUsedLength, int(d.usedIdx), uint64(e.len), uint64(s.in))
		}
		used[i] = Used{Token: s.token, Len: e.len}
		d.release(uint16(e.id))
		d.usedIdx++
	}
	return n, nil
}

// reapSingles takes buffers of one descriptor, up to the first that is another or that the device must not have returned so, and answers how many: what Reap
// does, with few stores. All of used are there.
func (d *splitDriver) reapSingles(used []Used) (n int) {
	free, slots := d.free, d.slots
	to := d.freeHead + uint32(d.nfree)
	for ; n < len(used); n++ {
		e := d.shared.used[(d.usedIdx+uint16(n))&d.mask]
		if uint64(e.id) >= uint64(len(slots)) {
			break
		}
		s := &slots[e.id]
		if s.count != 1 || e.len > s.in {
			break
		}
		used[n] = Used{Token: s.token, Len: e.len}
		s.count = 0
		if to >= uint32(len(free)) {
			to -= uint32(len(free))
		}
		free[to] = uint16(e.id)
		to++
	}
	d.nfree += n
	d.inFlight -= n
	d.usedIdx += uint16(n)
	return n
}

// reapInOrder takes what Reap takes when the device returns buffers in order: an element stands for all buffers up to the one it
// names, and only that one's length is written down; the others were used wholly (2.7.9).
func (d *splitDriver) reapInOrder(used []Used, ready int) (int, error) {
	for i := range used {
		if d.batch == 0 {
			e := d.shared.used[d.usedIdx&d.mask]
			if uint64(e.id) >= uint64(len(d.slots)) || d.slots[e.id].count == 0 {
				return i, d.broken(FaultUsedID, int(d.usedIdx), uint64(e.id), uint64(d.ring.Size))
			}
			if d.batch = d.batchOf(uint16(e.id), d.usedIdx&d.mask, ready-i); d.batch == 0 {
				return i, d.broken(FaultUsedOrder, int(d.usedIdx), uint64(e.id), uint64(ready-i))
			}
			if in := d.slots[e.id].in; e.len > in {
				d.batch = 0
				return i, d.broken(FaultUsedLength, int(d.usedIdx), uint64(e.len), uint64(in))
			}
			d.lastLen = e.len
		}
		id := d.order[d.usedIdx&d.mask]
		used[i] = Used{Token: d.slots[id].token, Len: d.slots[id].in}
		if d.batch--; d.batch == 0 {
			used[i].Len = d.lastLen
		}
		d.release(id)
		d.usedIdx++
	}
	return len(used), nil
}

// release frees the descriptors of a buffer, by the private links.
func (d *splitDriver) release(head uint16) {
	s := &d.slots[head]
	n := s.count
	s.count = 0
	for at := head; ; {
		d.push(at)
		if n--; n == 0 {
			break
		}
		at = d.next[at]
	}
	d.inFlight--
}

func (d *splitDriver) Reclaim(used []Used) int {
	n := d.reclaim(used, d.usedIdx&d.mask, d.release)
	d.usedIdx += uint16(n)
	return n
}

func (d *splitDriver) ShouldNotify() bool {
	if d.untold == 0 {
		return false
	}
	old, moved := d.told, d.untold
	d.told, d.untold = d.availIdx, 0
	// The index has to be visible before the device's wish is read (2.7.13.4.1): the device stores its wish, fences, and looks at the index.
	d.fence.full()
	if !d.ring.EventIdx {
		return d.shared.usedHead.load()&noNotify == 0
	}
	// Of 2^16 and more, every event was passed; the 16 bits cannot say so.
	return moved > 0xffff || crossed(d.shared.availEvent.load(), d.availIdx, old)
}

func (d *splitDriver) Suppress() {
	if d.ring.EventIdx {
		d.shared.usedEvent.store(d.usedIdx - 1) // the one farthest away
		return
	}
	if d.flags == 0 {
		d.flags = noNotify
		d.storeHead()
	}
}

func (d *splitDriver) Listen(after int) bool {
	if d.ring.EventIdx {
		d.shared.usedEvent.store(d.usedIdx + uint16(max(1, min(after, d.inFlight))-1))
	} else if d.flags != 0 {
		d.flags = 0
		d.storeHead()
	}
	// The wish has to be visible before the index is read (2.7.14): the device stores the index, fences, and looks at the wish.
	d.fence.full()
	return d.Waiting()
}

func (d *splitDriver) Waiting() bool { return uint16(d.shared.usedHead.load()>>16) != d.usedIdx }
