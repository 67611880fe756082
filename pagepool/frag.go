package pagepool

import (
	"fmt"
	"math/bits"
)

const (
	// FragSize is the length of a fragment in bytes.
	FragSize = 4 << 10

	fragsPerPage = PageSize / FragSize
	allFree      = 1<<fragsPerPage - 1
)

// Frag names a fragment: its bytes begin at Frag*FragSize in the arena.
type Frag uint32

// Page is the page that the fragment is cut from.
func (f Frag) Page() Page { return Page(f / fragsPerPage) }

// GetFrag takes a fragment, from a page that is already cut if one has room; ok is false when there is none and all
// pages are in use. Its contents are whatever the last holder left.
func (p *Pool) GetFrag() (f Frag, ok bool) {
	if p.partial == noPage && !p.cutPage() {
		p.stats.FragEmpty++
		return 0, false
	}
	pg := p.partial
	m := &p.pages[pg]
	i := bits.TrailingZeros16(m.free)
	m.free &^= 1 << i
	if m.free == 0 {
		p.unlistPartial(m)
	}
	p.frags++
	p.stats.FragAlloc++
	p.stats.PeakFrags = max(p.stats.PeakFrags, uint64(p.frags))
	return Frag(pg)*fragsPerPage + Frag(i), true
}

// PutFrag gives a fragment back. A page of which all fragments are free is whole and free again.
func (p *Pool) PutFrag(f Frag) {
	m, pg := p.heldFrag(f, "PutFrag"), f.Page()
	if m.free == 0 {
		p.listPartial(pg, m)
	}
	m.free |= 1 << (f % fragsPerPage)
	p.frags--
	if m.free == allFree {
		p.unlistPartial(m)
		*m = meta{}
		p.stats.RecycleCached++
		p.warm = append(p.warm, pg)
	}
}

// FragBytes is the memory of a fragment, all FragSize bytes of it, until it is put back.
func (p *Pool) FragBytes(f Frag) []byte {
	p.heldFrag(f, "FragBytes")
	off := int(f) * FragSize
	return p.mem[off : off+FragSize : off+FragSize]
}

// FragsInUse is the number of fragments that are held.
func (p *Pool) FragsInUse() int { return p.frags }

// cutPage makes fragments of a free page.
func (p *Pool) cutPage() bool {
	pg, ok := p.Get()
	if !ok {
		return false
	}
	m := &p.pages[pg]
	m.refs, m.cut, m.free = -1, true, allFree
	p.listPartial(pg, m)
	p.stats.Cut++
	return true
}

// listPartial puts a cut page at the head of the list of those with a free fragment.
func (p *Pool) listPartial(pg Page, m *meta) {
	m.prev, m.next = noPage, p.partial
	if p.partial != noPage {
		p.pages[p.partial].prev = pg
	}
	p.partial = pg
}

// unlistPartial takes a cut page out of that list.
func (p *Pool) unlistPartial(m *meta) {
	if m.next != noPage {
		p.pages[m.next].prev = m.prev
	}
	if m.prev != noPage {
		p.pages[m.prev].next = m.next
	} else {
		p.partial = m.next
	}
}

// heldFrag returns the metadata of the page of a fragment that its caller must hold.
func (p *Pool) heldFrag(f Frag, call string) *meta {
	m := &p.pages[f.Page()]
	if !m.cut || m.free&(1<<(f%fragsPerPage)) != 0 {
		panic(fmt.Sprintf("pagepool: %s of fragment %d of page %d, which is free", call, f%fragsPerPage, f.Page()))
	}
	return m
}
