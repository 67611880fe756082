// Package packet holds frames, the views of the packets in them, and checksums.
//
// A Frame is borrowed memory: it belongs to the link that delivered it, until that link's next Receive.
// A Packet is the parsed view of a frame; its headers are a private copy, so that a guest that rewrites a
// shared buffer cannot change what was checked (DESIGN.md, decision 1).
package packet

// Frame is one Ethernet frame as a link delivered it: its virtio-net header, already in private memory,
// and the frame's bytes in one or more pieces.
//
// The pieces are borrowed until the next Receive of the queue that filled the frame.
type Frame struct {
	Hdr  NetHdr
	Bufs [][]byte
	Len  int // sum of the lengths of Bufs

	room []byte // the memory that Bufs[0] lies in; see SetRoom
	at   int    // where it begins in it
}

// CopyAt copies the bytes from off on into dst and returns how many there were.
func (f *Frame) CopyAt(dst []byte, off int) (n int) {
	for _, b := range f.Bufs {
		if off >= len(b) {
			off -= len(b)
			continue
		}
		c := copy(dst[n:], b[off:])
		n += c
		off = 0
		if n == len(dst) {
			break
		}
	}
	return n
}

// Append appends to bufs the pieces of the frame that cover n bytes from off on.
func (f *Frame) Append(bufs [][]byte, off, n int) [][]byte {
	for _, b := range f.Bufs {
		if n == 0 {
			break
		}
		if off >= len(b) {
			off -= len(b)
			continue
		}
		b = b[off:]
		off = 0
		if len(b) > n {
			b = b[:n]
		}
		n -= len(b)
		bufs = append(bufs, b)
	}
	return bufs
}
