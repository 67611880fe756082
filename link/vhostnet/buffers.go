package vhostnet

import (
	"fmt"

	"github.com/vasta-net/vasta/link/virtio"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
)

// bufferLen is the length of a receive buffer that takes every frame whole, in bytes. Those of a page (64 KiB) are ten bytes too short for a frame of the usual MTU of 65520,
// and with buffers of 4 KiB the kernel takes and returns 17 descriptors for it.
const bufferLen = (packet.NetHdrLen + virtio.MaxFrame + 63) &^ 63

// buffers are receive buffers that lie one behind the other, each over the end of a page: no pool's pieces do that. It is a virtionet.Buffers.
type buffers struct {
	pages []pagepool.Page
	free  []pagepool.Piece
}

// newBuffers takes the first pages of an arena of which nobody has any.
func newBuffers(a *pagepool.Arena, n int) (*buffers, error) {
	b := &buffers{pages: make([]pagepool.Page, bufferPages(n))}
	if got := a.Alloc(b.pages); got < len(b.pages) || int(b.pages[got-1]-b.pages[0]) != got-1 {
		return nil, fmt.Errorf("link/vhostnet: receive buffers take %d pages in a row, and the arena has %d", len(b.pages), got)
	}
	first := int(b.pages[0]) * pagepool.PageSize
	for i := range n {
		at := first + (n-1-i)*bufferLen
		b.free = append(b.free, pagepool.Piece{Page: pagepool.Page(at / pagepool.PageSize), Off: uint32(at % pagepool.PageSize), Len: bufferLen})
	}
	return b, nil
}

// bufferPages is how many pages n buffers take.
func bufferPages(n int) int { return (n*bufferLen + pagepool.PageSize - 1) / pagepool.PageSize }

// CutPieces implements virtionet.Buffers: there is one length.
func (b *buffers) CutPieces(pieces []pagepool.Piece, _ int, _ bool) int {
	n := min(len(pieces), len(b.free))
	for i := range n {
		pieces[i] = b.free[len(b.free)-1-i]
	}
	b.free = b.free[:len(b.free)-n]
	return n
}

// PutPieces implements virtionet.Buffers.
func (b *buffers) PutPieces(pieces []pagepool.Piece) { b.free = append(b.free, pieces...) }
