package queuetest

import "github.com/vasta-net/vasta/virtio/queue"

// lap is a place in a ring: of a split ring only n counts, as the index; of a packed ring n is the offset and wrap the counter.
type lap struct {
	n    int
	wrap bool
}

func (l *lap) advance(n, size int) {
	l.n += n
	for l.n >= size {
		l.n -= size
		l.wrap = !l.wrap
	}
}

// MockDriver plays a driver.
type MockDriver struct {
	Fields
	idx uint16
	at  lap
}

// MockDriver is a driver at the start of the bed's ring. It does not clear the ring.
func (b *Bed) MockDriver() *MockDriver {
	return &MockDriver{Fields: Fields{b.Ring}, at: lap{wrap: true}}
}

// Offer puts heads into the available ring of a split queue and moves idx past them.
func (d *MockDriver) Offer(heads ...uint16) {
	for _, h := range heads {
		d.SetAvailEntry(int(d.idx), h)
		d.idx++
	}
	d.SetAvailIdx(d.idx)
}

// OfferList writes descriptors to the next places of a packed queue and makes them available. Only AVAIL and USED are set here, to what they have to
// be; NEXT is the test's, and so is the ID of each.
func (d *MockDriver) OfferList(list ...Descriptor) {
	first := d.at
	var firstDesc Descriptor
	for i, desc := range list {
		desc.Flags = desc.Flags&^(Avail|Used) | Used
		if d.at.wrap {
			desc.Flags ^= Avail | Used
		}
		if i == 0 {
			firstDesc = desc
		} else {
			d.Put(d.at.n, desc)
		}
		d.at.advance(1, d.Ring.Size)
	}
	d.Put(first.n, firstDesc)
}

// Table writes descriptors into mem as an indirect table of the ring's format.
func (d *MockDriver) Table(mem []byte, list ...Descriptor) {
	for i, desc := range list {
		desc.encode(mem[16*i:], d.Ring.Format)
	}
}

// MockDevice plays a device.
type MockDevice struct {
	Fields
	idx uint16
	at  lap
}

// MockDevice is a device at the start of the bed's ring.
func (b *Bed) MockDevice() *MockDevice {
	return &MockDevice{Fields: Fields{b.Ring}, at: lap{wrap: true}}
}

// Return writes a used element: for a split queue to the next entry, with idx moved by skip; for a packed queue to the next place, with WRITE when
// something was written, and then skips as many descriptors.
func (d *MockDevice) Return(id, written uint32, skip int) {
	if d.Ring.Format == queue.Split {
		d.SetUsedElem(int(d.idx), id, written)
		d.idx += uint16(skip)
		d.SetUsedIdx(d.idx)
		return
	}
	desc := Descriptor{ID: uint16(id), Len: written}
	if written > 0 {
		desc.Flags = Write
	}
	if d.at.wrap {
		desc.Flags |= Avail | Used
	}
	d.Put(d.at.n, desc)
	d.at.advance(skip, d.Ring.Size)
}
