package queue

import (
	"testing"
	"unsafe"
)

// TestLayout: the structures have the sizes of the specification (2.7.5, 2.7.8, 2.8.13), and every word lies where a 32-bit access may go, also
// when the driver put the available ring at an odd multiple of 2, which amd64 would forgive.
func TestLayout(t *testing.T) {
	for _, s := range []uintptr{unsafe.Sizeof(splitDesc{}), unsafe.Sizeof(packedDesc{}), 2 * unsafe.Sizeof(usedElem{})} {
		if s != descLen {
			t.Errorf("a structure has %d bytes, want %d", s, descLen)
		}
	}
	block := make([]uint64, 64) // aligned to 8 at least
	b := unsafe.Slice((*byte)(unsafe.Pointer(&block[0])), 512)
	for off := 0; off < 8; off += 2 {
		r := Ring{Size: 4, Areas: Areas{Descriptor: b[:64], Driver: b[64+off:][:14], Device: b[128:166]}, EventIdx: true}
		s := mapSplit(&r)
		if at := uintptr(unsafe.Pointer(s.availHead.p)); at%4 != 0 {
			t.Errorf("driver area at +%d: the word of the index is at %#x", off, at)
		}
		if s.avail[1] = 0x1234; b[64+off+6] != 0x34 {
			t.Errorf("driver area at +%d: entry 1 is not at 6", off)
		}
	}
}
