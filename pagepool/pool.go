// Package pagepool holds packet memory outside the Go heap: pages of 64 KiB, fragments of 4 KiB and pieces of any length cut from them, in arenas
// that a back end maps once.
//
// A Pool belongs to one worker, or to one queue: there are no locks, and every call is made by that worker's goroutine, but for PutRemote and
// PutFragRemote, by which others give back what they were handed. The bookkeeping lies in ordinary memory beside the arena, where a peer that
// maps the arena cannot reach it.
//
// Pages come from three places, each slower than the one before: the cache of the owner, the ring of what others gave back, and the Provider. The
// counters have the names of the kernel's page_pool, which has the same three.
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

// Page names a page of its provider: the page's bytes begin at Page*PageSize in the arena.
type Page uint32

// noPage ends a list of pages.
const noPage = ^Page(0)

// meta is what the pool knows of a page.
type meta struct {
	refs       int32  // holders; -1 for a page that is cut into fragments
	cut        bool   // the page is cut into fragments
	holder     Holder // who took it, for the report of what is held
	free       uint16 // the free fragments of a cut page, one bit each
	prev, next Page   // neighbours in the list of cut pages that have a free fragment
}

// Config is what a pool is made from.
type Config struct {
	Provider Provider
	Pages    int // the most pages that the pool takes from the provider at a time; 0: as many as there are
	Ring     int // entries of the ring for what others give back, a power of two; 0: they take a lock
}

// Pool hands out the pages of a provider.
type Pool struct {
	provider Provider
	owned    bool // the provider goes with the pool
	mem      []byte
	base     uint64 // of mem, as the back end knows it, if mapped
	mapped   bool
	limit    int // pages from the provider
	taken    int // ... of which the pool has so many

	pages []meta
	warm  []Page // free pages that have memory, the latest used on top

	partial Page // the first cut page with a free fragment
	frags   int  // fragments in use

	carve   Page    // the page that pieces are cut from, or noPage
	carved  int     // how far
	fresh   [1]Page // for Provider.Alloc, which would move a local one to the heap
	returns returns
	as      Holder
	names   []string
	stats   Stats
}

// New makes a pool over an arena of its own, of the given size, rounded down to whole pages. It takes address space only: a page costs
// memory from the first touch until a Trim finds it free.
func New(bytes int) (*Pool, error) {
	a, err := NewArena(bytes)
	if err != nil {
		return nil, err
	}
	p, err := NewPool(Config{Provider: a})
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	p.owned = true
	return p, nil
}

// NewPool makes a pool over a provider, which has to be mapped before, if it is to be, and which must stay open longer than the pool.
func NewPool(c Config) (*Pool, error) {
	mem := c.Provider.Memory()
	n, err := pagesIn(len(mem))
	if err != nil {
		return nil, err
	}
	if c.Pages < 0 || c.Ring < 0 || c.Ring&(c.Ring-1) != 0 || c.Ring > maxReturns {
		return nil, fmt.Errorf("page pool of %d pages with a return ring of %d: the ring is a power of two up to %d", c.Pages, c.Ring, maxReturns)
	}
	limit := n
	if c.Pages > 0 {
		limit = min(n, c.Pages)
	}
	p := &Pool{
		provider: c.Provider, mem: mem, limit: limit, pages: make([]meta, n), warm: make([]Page, 0, limit), partial: noPage, carve: noPage,
		names: []string{"unnamed"},
	}
	p.base, p.mapped = c.Provider.Base()
	p.returns.init(c.Ring)
	return p, nil
}

// Get takes a page, the latest put back first, with one reference; ok is false when all are in use. Its
// contents are whatever the last holder left.
func (p *Pool) Get() (pg Page, ok bool) {
	if n := len(p.warm); n > 0 {
		pg, p.warm = p.warm[n-1], p.warm[:n-1]
		p.stats.AllocFast++
	} else if pg, ok = p.more(); !ok {
		p.stats.AllocEmpty++
		return 0, false
	}
	m := &p.pages[pg]
	m.refs, m.holder = 1, p.as
	p.stats.PeakPages = max(p.stats.PeakPages, uint64(p.taken-len(p.warm)))
	return pg, true
}

// more gets a page from the ring or the provider.
func (p *Pool) more() (pg Page, ok bool) {
	if p.Reclaim() > 0 && len(p.warm) > 0 {
		n := len(p.warm)
		pg, p.warm = p.warm[n-1], p.warm[:n-1]
		p.stats.AllocRefill++
		p.stats.AllocFast++
		return pg, true
	}
	if p.taken == p.limit || p.provider.Alloc(p.fresh[:]) == 0 {
		return 0, false
	}
	p.taken++
	p.stats.AllocSlow++
	return p.fresh[0], true
}

// Ref adds a reference to a page that is in use.
func (p *Pool) Ref(pg Page) { p.held(pg, "Ref").refs++ }

// Shared says whether a page that is in use has more than one reference.
func (p *Pool) Shared(pg Page) bool { return p.held(pg, "Shared").refs > 1 }

// Put drops a reference, to a whole page or to one that pieces were cut from. The last one makes the page free.
func (p *Pool) Put(pg Page) { p.PutRefs(pg, 1) }

// PutRefs drops n references to one page, as n calls of Put do.
func (p *Pool) PutRefs(pg Page, n int) {
	m := p.held(pg, "Put")
	if int(m.refs) < n {
		misused("Put", pg, &meta{})
	}
	p.stats.ReleasedRefcnt += uint64(n)
	if m.refs -= int32(n); m.refs == 0 {
		p.stats.ReleasedRefcnt--
		p.stats.RecycleCached++
		p.warm = append(p.warm, pg)
	}
}

// Bytes is the memory of a page, all PageSize bytes of it, until the last reference is dropped.
func (p *Pool) Bytes(pg Page) []byte {
	p.held(pg, "Bytes")
	off := int(pg) * PageSize
	return p.mem[off : off+PageSize : off+PageSize]
}

// Addr is where a back end that has mapped the provider finds the page. In a pool that is not mapped a page has no address: to ask for one is a
// bug of the caller.
func (p *Pool) Addr(pg Page) uint64 {
	if !p.mapped {
		panic("pagepool: address of a page in a pool that no back end has mapped")
	}
	return p.base + uint64(pg)*PageSize
}

// Mapped says whether pages have addresses.
func (p *Pool) Mapped() bool { return p.mapped }

// InUse is the number of pages that are held or cut. What others have given back counts until the pool has looked (Reclaim).
func (p *Pool) InUse() int { return p.taken - len(p.warm) }

// Free is the number of pages that can still be had.
func (p *Pool) Free() int { return len(p.warm) + min(p.limit-p.taken, p.provider.Available()) }

// Memory is all of the provider's memory.
func (p *Pool) Memory() []byte { return p.mem }

// Fd is the arena's memfd, for a back end to map. It stays the provider's: the back end duplicates or sends it.
func (p *Pool) Fd() int { return p.provider.Fd() }

// Size is the length of the provider's memory in bytes.
func (p *Pool) Size() int { return len(p.mem) }

// Trim gives the memory of all free pages back to the provider, which gives it to the system, and returns the number of pages that had some.
// It costs nothing when no page was freed since the last time, and a system call per run of adjacent pages else.
func (p *Pool) Trim() (released int) {
	p.Reclaim()
	if len(p.warm) == 0 {
		return 0
	}
	released = p.provider.Free(p.sortedWarm())
	p.taken -= len(p.warm)
	p.warm = p.warm[:0]
	p.stats.Released += uint64(released)
	return released
}

// sortedWarm is the cache in ascending order.
func (p *Pool) sortedWarm() []Page {
	slices.Sort(p.warm)
	return p.warm
}

// held returns the metadata of a page that its caller must hold whole, or a piece of.
func (p *Pool) held(pg Page, call string) *meta {
	m := &p.pages[pg]
	if m.refs <= 0 { // a cut page has -1
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
