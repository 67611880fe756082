package queue

import "unsafe"

// This file turns the areas of a ring into typed slices and words, once, when a queue is made. The rule that keeps it safe: Ring.check has
// compared length and alignment of every area with what is cast here, and Go's bounds checks hold for the slices from then on. The structures
// are those of the virtio specification and have no padding; all fields are little-endian, as is every machine that this builds for
// (access_unsafe.go).

// splitDesc is struct virtq_desc (2.7.5). It is the driver's, and published by avail idx. Two words are read and written faster than four fields:
// rest is len | flags<<32 | next<<48.
type splitDesc struct {
	addr uint64
	rest uint64
}

func makeDesc(addr uint64, n uint32, flags, next uint16) splitDesc {
	return splitDesc{addr, uint64(n) | uint64(flags)<<32 | uint64(next)<<48}
}

func (d splitDesc) len() uint32   { return uint32(d.rest) }
func (d splitDesc) flags() uint16 { return uint16(d.rest >> 32) }
func (d splitDesc) next() uint16  { return uint16(d.rest >> 48) }

// usedElem is struct virtq_used_elem (2.7.8).
type usedElem struct {
	id  uint32
	len uint32
}

// packedDesc is struct pvirtq_desc (2.8.13). The id and the flags make one word, since the flags publish the rest: word is id | flags<<16.
type packedDesc struct {
	addr uint64
	len  uint32
	word uint32
}

const (
	descNext     = 1 << 0 // VIRTQ_DESC_F_NEXT
	descWrite    = 1 << 1 // VIRTQ_DESC_F_WRITE
	descIndirect = 1 << 2 // VIRTQ_DESC_F_INDIRECT
	descAvail    = 1 << 7 // VIRTQ_DESC_F_AVAIL
	descUsed     = 1 << 15

	descLen = 16 // bytes of a descriptor of either format
	usedLen = 8  // bytes of an element of the used ring

	noNotify = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_USED_F_NO_NOTIFY

	eventEnable  = 0 // RING_EVENT_FLAGS_ENABLE (2.8.10)
	eventDisable = 1
	eventDesc    = 2
)

// word and half are fields of shared memory that one end writes while the other may read them: access_unsafe.go says how.
type word struct{ p *uint32 }
type half struct{ p *uint16 }

// splitRing is a split ring in typed form. Every slice has exactly the ring's size.
type splitRing struct {
	desc []splitDesc

	avail []uint16
	// availHead holds {flags, idx} of the available ring, idx in bits 16 to 31; or, when the driver put the ring at an address that is only
	// a multiple of 2, {idx, ring[0]}, idx in bits 0 to 15: availShift says which. A 32-bit access needs an address that is a multiple of 4.
	availHead  word
	availShift uint8
	availFlags half
	usedEvent  half // only with EventIdx

	used       []usedElem
	usedHead   word // {flags, idx} of the used ring, idx in bits 16 to 31
	availEvent half // only with EventIdx
}

func mapSplit(r *Ring) splitRing {
	n := r.Size
	driver, device := unsafe.Pointer(unsafe.SliceData(r.Areas.Driver)), unsafe.Pointer(unsafe.SliceData(r.Areas.Device))
	s := splitRing{
		desc:       unsafe.Slice((*splitDesc)(unsafe.Pointer(unsafe.SliceData(r.Areas.Descriptor))), n),
		avail:      unsafe.Slice((*uint16)(unsafe.Add(driver, 4)), n),
		availHead:  word{(*uint32)(driver)},
		availShift: 16,
		availFlags: half{(*uint16)(driver)},
		used:       unsafe.Slice((*usedElem)(unsafe.Add(device, 4)), n),
		usedHead:   word{(*uint32)(device)},
	}
	if uintptr(driver)%4 != 0 {
		s.availHead, s.availShift = word{(*uint32)(unsafe.Add(driver, 2))}, 0
	}
	if r.EventIdx {
		s.usedEvent = half{(*uint16)(unsafe.Add(driver, 4+2*n))}
		s.availEvent = half{(*uint16)(unsafe.Add(device, 4+8*n))}
	}
	return s
}

// packedRing is a packed ring in typed form.
type packedRing struct {
	desc        []packedDesc
	driverEvent word // {off_wrap, flags}: off_wrap in bits 0 to 15
	deviceEvent word
}

func mapPacked(r *Ring) packedRing {
	return packedRing{
		desc:        unsafe.Slice((*packedDesc)(unsafe.Pointer(unsafe.SliceData(r.Areas.Descriptor))), r.Size),
		driverEvent: word{(*uint32)(unsafe.Pointer(unsafe.SliceData(r.Areas.Driver)))},
		deviceEvent: word{(*uint32)(unsafe.Pointer(unsafe.SliceData(r.Areas.Device)))},
	}
}

// address is where a slice lies, for checks of alignment.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// overlap says whether two slices share a byte.
func overlap(a, b []byte) bool {
	return address(a) < address(b)+uintptr(len(b)) && address(b) < address(a)+uintptr(len(a))
}
