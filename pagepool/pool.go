// Package pagepool holds packet memory outside the Go heap: pages of 64 KiB, and fragments of 4 KiB cut
// from them, in one arena that a back end can map once.
//
// A Pool belongs to one worker: there are no locks, and every call is made by that worker's goroutine. The
// bookkeeping lies in ordinary memory beside the arena, where a peer that maps the arena cannot reach it.
//
// Giving back what is not held, or touching it, is a bug of the caller that would hand one flow's bytes to
// another; the pool panics rather than let that happen.
package pagepool

import (
	"errors"
	"fmt"
	"slices"
)

// PageSize is the length of a page in bytes: room for the largest IP packet, but for its Ethernet header.
const PageSize = 64 << 10

// ErrInUse is in the error that Close returns while pages or fragments are held.
var ErrInUse = errors.New("memory is still in use")

// Page names a page of its pool: the page's bytes begin at Page*PageSize in the arena.
type Page uint32

// noPage ends a list of pages.
const noPage = ^Page(0)

// meta is what the pool knows of a page.
type meta struct {
	refs       int32  // holders; 1 for a page that is cut
	cut        bool   // the page is cut into fragments
	free       uint16 // the free fragments of a cut page, one bit each
	prev, next Page   // neighbours in the list of cut pages that have a free fragment
}

// Stats counts what a pool did since it was made. The names are those of the kernel's page_pool where
// it counts the same.
type Stats struct {
	AllocFast  uint64 // pages taken from those that were in use before and still have memory
	AllocSlow  uint64 // pages taken that the system has to back with memory first
	AllocEmpty uint64 // pages refused because all are in use
	Recycled   uint64 // pages given back by their last holder
	Released   uint64 // pages whose memory Trim gave back to the system
	Cut        uint64 // pages cut into fragments
	FragAlloc  uint64 // fragments taken
	FragEmpty  uint64 // fragments refused because all pages are in use
	PeakPages  uint64 // the most pages that were in use at a time
	PeakFrags  uint64 // the same of fragments
}

// Pool is an arena and the pages in it.
type Pool struct {
	arena arena
	pages []meta

	// Free pages: those that have memory, the latest used on top, and those that have none.
	warm, cold []Page

	partial Page // the first cut page with a free fragment
	frags   int  // fragments in use
	stats   Stats
}

// New maps an arena of the given size, rounded down to whole pages. It takes address space only: a page costs
// memory from the first touch until a Trim finds it free.
func New(bytes int) (*Pool, error) {
	n := bytes / PageSize
	if n < 1 || n > maxPages {
		return nil, fmt.Errorf("page pool of %d bytes: must be between %d and %d", bytes, PageSize, maxPages*PageSize)
	}
	a, err := newArena(n * PageSize)
	if err != nil {
		return nil, fmt.Errorf("page pool of %d bytes: %w", bytes, err)
	}
	p := &Pool{arena: a, pages: make([]meta, n), warm: make([]Page, 0, n), cold: make([]Page, n), partial: noPage}
	for i := range p.cold {
		p.cold[i] = Page(n - 1 - i) // the lowest on top
	}
	return p, nil
}

// maxPages keeps the numbers of fragments within 32 bits, and the size of the arena within an int.
const maxPages = 1 << 27

// Get takes a page, the latest put back first, with one reference; ok is false when all are in use. Its
// contents are whatever the last holder left.
func (p *Pool) Get() (pg Page, ok bool) {
	if n := len(p.warm); n > 0 {
		pg, p.warm = p.warm[n-1], p.warm[:n-1]
		p.stats.AllocFast++
	} else if n := len(p.cold); n > 0 {
		pg, p.cold = p.cold[n-1], p.cold[:n-1]
		p.stats.AllocSlow++
	} else {
		p.stats.AllocEmpty++
		return 0, false
	}
	p.pages[pg].refs = 1
	p.stats.PeakPages = max(p.stats.PeakPages, uint64(p.InUse()))
	return pg, true
}

// Ref adds a reference to a page that is in use.
func (p *Pool) Ref(pg Page) { p.held(pg, "Ref").refs++ }

// Put drops a reference. The last one makes the page free.
func (p *Pool) Put(pg Page) {
	m := p.held(pg, "Put")
	if m.refs--; m.refs == 0 {
		p.recycle(pg)
	}
}

// Bytes is the memory of a page, all PageSize bytes of it, until the last reference is dropped.
func (p *Pool) Bytes(pg Page) []byte {
	p.held(pg, "Bytes")
	off := int(pg) * PageSize
	return p.arena.mem[off : off+PageSize : off+PageSize]
}

// InUse is the number of pages that are held or cut into fragments.
func (p *Pool) InUse() int { return len(p.pages) - p.Free() }

// Free is the number of pages that can still be had.
func (p *Pool) Free() int { return len(p.warm) + len(p.cold) }

// Stats returns a copy of the counters.
func (p *Pool) Stats() Stats { return p.stats }

// Fd is the arena's memfd, for a back end to map. It stays the pool's: the back end duplicates or sends it.
// It is sealed against being resized, so that no one can take the memory away under a mapping.
func (p *Pool) Fd() int { return p.arena.fd }

// Size is the length of the arena in bytes.
func (p *Pool) Size() int { return len(p.arena.mem) }

// Trim gives the memory of all free pages back to the system and returns the number of pages that had some.
// It costs nothing when no page was freed since the last time, and a system call per run of adjacent pages else.
func (p *Pool) Trim() (released int) {
	slices.Sort(p.warm)
	for len(p.warm) > 0 {
		n := len(p.warm)
		first := n - 1
		for first > 0 && p.warm[first-1]+1 == p.warm[first] {
			first--
		}
		if p.arena.release(int(p.warm[first])*PageSize, (n-first)*PageSize) != nil {
			break // the system keeps the memory; the pages stay as good as they were
		}
		for i := n - 1; i >= first; i-- {
			p.cold = append(p.cold, p.warm[i])
		}
		p.warm = p.warm[:first]
		released += n - first
	}
	p.stats.Released += uint64(released)
	return released
}

// Close unmaps the arena and closes its memfd. While anything is held it changes nothing and returns an error
// that wraps ErrInUse and says what is held; it may then be called again.
func (p *Pool) Close() error {
	if n := p.InUse(); n > 0 {
		first := slices.IndexFunc(p.pages, func(m meta) bool { return m.refs > 0 })
		what := "held"
		if p.pages[first].cut {
			what = "cut"
		}
		return fmt.Errorf("close page pool: %w: %d pages, among them %d fragments; the first is page %d, %s, with %d references",
			ErrInUse, n, p.frags, first, what, p.pages[first].refs)
	}
	p.pages, p.warm, p.cold = nil, nil, nil
	if err := p.arena.close(); err != nil {
		return fmt.Errorf("close page pool: %w", err)
	}
	return nil
}

// held returns the metadata of a page that its caller must hold whole.
func (p *Pool) held(pg Page, call string) *meta {
	m := &p.pages[pg]
	if m.refs <= 0 || m.cut {
		misused(call, pg, m)
	}
	return m
}

// misused reports a bug of the caller.
func misused(call string, pg Page, m *meta) {
	if m.cut {
		panic(fmt.Sprintf("pagepool: %s of page %d, which is cut into fragments", call, pg))
	}
	panic(fmt.Sprintf("pagepool: %s of page %d, which is free", call, pg))
}

// recycle makes a page without holders free.
func (p *Pool) recycle(pg Page) {
	p.stats.Recycled++
	p.warm = append(p.warm, pg)
}
