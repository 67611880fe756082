// Package baseline holds what the benchmarks of the virtio datapath compare it with: how each thing was done before it was done well. Nothing else uses it.
package baseline

import (
	"sync"

	"github.com/vasta-net/vasta/pagepool"
)

// General is what there was before there were page pools: one arena for everybody under a lock, which knows no queues, and a mapping that is made for each buffer
// and taken away after it, under the lock of the table of mappings. It hands out buffers of powers of two, as a buddy or slab allocator does.
type General struct {
	provider pagepool.Provider

	mu   sync.Mutex
	free [17][]pagepool.Piece // by the logarithm of their length

	tableMu sync.Mutex
	table   map[uint64]uint32 // mapped ranges by their start: lengths

	Maps, Unmaps uint64
}

// NewGeneral makes an allocator over the pages of a provider.
func NewGeneral(p pagepool.Provider) *General {
	return &General{provider: p, table: make(map[uint64]uint32)}
}

// smallest is the logarithm of the shortest buffer.
const smallest = 6

func class(n int) int {
	c := smallest
	for 1<<c < n {
		c++
	}
	return c
}

// CutPieces takes buffers of at least n bytes, each by itself. They have exactly n bytes for whoever takes them.
func (g *General) CutPieces(pieces []pagepool.Piece, n int, _ bool) int {
	for i := range pieces {
		b, ok := g.get(n)
		if !ok {
			return i
		}
		g.tableMu.Lock()
		g.table[start(b)] = uint32(n)
		g.Maps++
		g.tableMu.Unlock()
		b.Len = uint32(n)
		pieces[i] = b
	}
	return len(pieces)
}

// PutPieces gives buffers back, each by itself.
func (g *General) PutPieces(pieces []pagepool.Piece) {
	for _, b := range pieces {
		g.tableMu.Lock()
		delete(g.table, start(b))
		g.Unmaps++
		g.tableMu.Unlock()
		g.mu.Lock()
		c := class(int(b.Len))
		b.Len = 1 << c
		g.free[c] = append(g.free[c], b)
		g.mu.Unlock()
	}
}

func start(b pagepool.Piece) uint64 { return uint64(b.Page)*pagepool.PageSize + uint64(b.Off) }

// get takes a free buffer of the class, or halves a larger one until it fits.
func (g *General) get(n int) (pagepool.Piece, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	want := class(n)
	for c := want; c < len(g.free); c++ {
		if k := len(g.free[c]); k > 0 {
			b := g.free[c][k-1]
			g.free[c] = g.free[c][:k-1]
			return g.halve(b, c, want), true
		}
	}
	var page [1]pagepool.Page
	if g.provider.Alloc(page[:]) == 0 {
		return pagepool.Piece{}, false
	}
	return g.halve(pagepool.Piece{Page: page[0], Len: pagepool.PageSize}, 16, want), true
}

func (g *General) halve(b pagepool.Piece, c, want int) pagepool.Piece {
	for ; c > want; c-- {
		half := uint32(1) << (c - 1)
		g.free[c-1] = append(g.free[c-1], pagepool.Piece{Page: b.Page, Off: b.Off + half, Len: half})
		b.Len = half
	}
	return b
}
