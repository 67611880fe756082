package queuetest

import "unsafe"

// The two functions here look at where a slice lies; nothing is read or written through what they compute.

// aligned is zeroed memory on the heap whose first byte is aligned to a cache line. The slack in front stays reachable through the slice.
func aligned(n int) []byte {
	const line = 64
	b := make([]byte, n+line)
	off := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (line - 1)
	return b[off : off+n : off+n]
}

// Holds says whether a slice lies in the memory that descriptors may refer to.
func (b *Bed) Holds(p []byte) bool {
	first := uintptr(unsafe.Pointer(unsafe.SliceData(p)))
	for _, mem := range [][]byte{b.Arena, b.tables} {
		start := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
		if first >= start && first-start <= uintptr(len(mem)) && uintptr(len(p)) <= uintptr(len(mem))-(first-start) {
			return true
		}
	}
	return false
}
