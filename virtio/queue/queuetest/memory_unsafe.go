package queuetest

import "unsafe"

// aligned is zeroed memory on the heap whose first byte is aligned to a cache line. The slack in front stays reachable through the slice.
func aligned(n int) []byte {
	const line = 64
	b := make([]byte, n+line)
	off := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (line - 1)
	return b[off : off+n : off+n]
}
