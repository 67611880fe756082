package queuetest

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/virtio/queue"
)

// Flags of a descriptor (2.7.5, 2.8.1).
const (
	Next     = 1 << 0
	Write    = 1 << 1
	Indirect = 1 << 2
	Avail    = 1 << 7
	Used     = 1 << 15
)

// Descriptor is a descriptor of either format, as its fields are: Next is a split ring's, ID a packed one's, and they are the same
// two bytes' worth at different places.
type Descriptor struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16 // split
	ID    uint16 // packed
}

// encode writes the descriptor as it lies in the ring or in an indirect table.
func (d Descriptor) encode(b []byte, f queue.Format) {
	binary.LittleEndian.PutUint64(b, d.Addr)
	binary.LittleEndian.PutUint32(b[8:], d.Len)
	if f == queue.Packed {
		binary.LittleEndian.PutUint16(b[12:], d.ID)
		binary.LittleEndian.PutUint16(b[14:], d.Flags)
		return
	}
	binary.LittleEndian.PutUint16(b[12:], d.Flags)
	binary.LittleEndian.PutUint16(b[14:], d.Next)
}

func decode(b []byte, f queue.Format) Descriptor {
	d := Descriptor{Addr: binary.LittleEndian.Uint64(b), Len: binary.LittleEndian.Uint32(b[8:])}
	if f == queue.Packed {
		d.ID, d.Flags = binary.LittleEndian.Uint16(b[12:]), binary.LittleEndian.Uint16(b[14:])
	} else {
		d.Flags, d.Next = binary.LittleEndian.Uint16(b[12:]), binary.LittleEndian.Uint16(b[14:])
	}
	return d
}

// Fields are the fields of a ring, to be read and written one by one. Indexes are taken modulo the ring's size.
type Fields struct{ Ring queue.Ring }

// Put writes a descriptor.
func (f Fields) Put(i int, d Descriptor) {
	d.encode(f.Ring.Areas.Descriptor[i%f.Ring.Size*16:], f.Ring.Format)
}

// Get reads a descriptor.
func (f Fields) Get(i int) Descriptor {
	return decode(f.Ring.Areas.Descriptor[i%f.Ring.Size*16:], f.Ring.Format)
}

func get16(b []byte, off int) uint16    { return binary.LittleEndian.Uint16(b[off:]) }
func put16(b []byte, off int, v uint16) { binary.LittleEndian.PutUint16(b[off:], v) }

// AvailFlags is flags of the available ring (2.7.6), as all up to UsedEvent of a split ring's driver area.
func (f Fields) AvailFlags() uint16 { return get16(f.Ring.Areas.Driver, 0) }

// SetAvailFlags sets it.
func (f Fields) SetAvailFlags(v uint16) { put16(f.Ring.Areas.Driver, 0, v) }

// AvailIdx is idx of the available ring.
func (f Fields) AvailIdx() uint16 { return get16(f.Ring.Areas.Driver, 2) }

// SetAvailIdx sets it.
func (f Fields) SetAvailIdx(v uint16) { put16(f.Ring.Areas.Driver, 2, v) }

// AvailEntry is an entry of the available ring: a head.
func (f Fields) AvailEntry(i int) uint16 { return get16(f.Ring.Areas.Driver, 4+2*(i%f.Ring.Size)) }

// SetAvailEntry sets it.
func (f Fields) SetAvailEntry(i int, v uint16) { put16(f.Ring.Areas.Driver, 4+2*(i%f.Ring.Size), v) }

// UsedEvent is used_event, behind the available ring; only with EventIdx.
func (f Fields) UsedEvent() uint16 { return get16(f.Ring.Areas.Driver, 4+2*f.Ring.Size) }

// SetUsedEvent sets it.
func (f Fields) SetUsedEvent(v uint16) { put16(f.Ring.Areas.Driver, 4+2*f.Ring.Size, v) }

// UsedFlags is flags of the used ring (2.7.8), as all up to AvailEvent of a split ring's device area.
func (f Fields) UsedFlags() uint16 { return get16(f.Ring.Areas.Device, 0) }

// SetUsedFlags sets it.
func (f Fields) SetUsedFlags(v uint16) { put16(f.Ring.Areas.Device, 0, v) }

// UsedIdx is idx of the used ring.
func (f Fields) UsedIdx() uint16 { return get16(f.Ring.Areas.Device, 2) }

// SetUsedIdx sets it.
func (f Fields) SetUsedIdx(v uint16) { put16(f.Ring.Areas.Device, 2, v) }

// UsedElem is an element of the used ring.
func (f Fields) UsedElem(i int) (id, written uint32) {
	b := f.Ring.Areas.Device[4+8*(i%f.Ring.Size):]
	return binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
}

// SetUsedElem sets it.
func (f Fields) SetUsedElem(i int, id, written uint32) {
	b := f.Ring.Areas.Device[4+8*(i%f.Ring.Size):]
	binary.LittleEndian.PutUint32(b, id)
	binary.LittleEndian.PutUint32(b[4:], written)
}

// AvailEvent is avail_event, behind the used ring; only with EventIdx.
func (f Fields) AvailEvent() uint16 { return get16(f.Ring.Areas.Device, 4+8*f.Ring.Size) }

// SetAvailEvent sets it.
func (f Fields) SetAvailEvent(v uint16) { put16(f.Ring.Areas.Device, 4+8*f.Ring.Size, v) }

// DriverEvent is a packed ring's driver event suppression structure (2.8.14): offset and wrap counter, and flags.
func (f Fields) DriverEvent() (offWrap, flags uint16) {
	return get16(f.Ring.Areas.Driver, 0), get16(f.Ring.Areas.Driver, 2)
}

// SetDriverEvent sets it.
func (f Fields) SetDriverEvent(offWrap, flags uint16) {
	put16(f.Ring.Areas.Driver, 0, offWrap)
	put16(f.Ring.Areas.Driver, 2, flags)
}

// DeviceEvent is a packed ring's device event suppression structure.
func (f Fields) DeviceEvent() (offWrap, flags uint16) {
	return get16(f.Ring.Areas.Device, 0), get16(f.Ring.Areas.Device, 2)
}

// SetDeviceEvent sets it.
func (f Fields) SetDeviceEvent(offWrap, flags uint16) {
	put16(f.Ring.Areas.Device, 0, offWrap)
	put16(f.Ring.Areas.Device, 2, flags)
}
