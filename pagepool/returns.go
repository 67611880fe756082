package pagepool

import (
	"sync"

	"github.com/vasta-net/vasta/internal/interleave"
)

// maxReturns bounds the ring of what others give back; the kernel's page_pool has the same bound.
const maxReturns = 16384

// returns is where others than the owner put references back: a ring without locks, and behind it a list with one. What is put there is not a page but
// the order to drop one reference, so that the counts of references stay the owner's and need no atomic operations.
//
// A producer reserves a place by moving tail, and then writes the order with its number into it; the owner takes orders by their number, and
// moves head behind them. A place is free again when head has passed it.
type returns struct {
	tail interleave.Uint64
	_    [56]byte
	head interleave.Uint64 // stored by the owner
	next uint64            // the owner's own: the first order that was not taken
	_    [48]byte

	orders []interleave.Uint64 // number of the order plus 1 in the upper half, what is given back in the lower

	spilled interleave.Bool // there is something in the list
	mu      sync.Mutex
	list    []uint32

	closing interleave.Bool // the owner waits for what is still out
	wake    chan struct{}   // has one element when something came while closing
}

// fragOrder marks the order to put back a fragment.
const fragOrder = 1 << 31

func (r *returns) init(n int) {
	r.orders = make([]interleave.Uint64, n)
	r.wake = make(chan struct{}, 1)
}

// put gives an order. It may be called from any goroutine.
func (r *returns) put(what uint32) {
	if !r.putRing(what) {
		r.mu.Lock()
		r.list = append(r.list, what)
		r.mu.Unlock()
		r.spilled.Store(true)
	}
	// The order is stored before closing is read, and closing is stored before the owner looks for orders: one sees the other.
	if r.closing.Load() {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

func (r *returns) putRing(what uint32) bool {
	for {
		// head is read first: an old one only makes the ring look fuller.
		head := r.head.Load()
		tail := r.tail.Load()
		if tail-head >= uint64(len(r.orders)) {
			return false
		}
		if r.tail.CompareAndSwap(tail, tail+1) {
			r.orders[tail&uint64(len(r.orders)-1)].Store((tail+1)<<32 | uint64(what))
			return true
		}
	}
}

// take hands all orders to drop, and answers how many there were. Owner only.
func (r *returns) take(drop func(what uint32, full bool)) (n int) {
	from := r.next
	for len(r.orders) > 0 {
		order := r.orders[r.next&uint64(len(r.orders)-1)].Load()
		if uint32(order>>32) != uint32(r.next+1) {
			break
		}
		drop(uint32(order), false)
		r.next++
	}
	n = int(r.next - from)
	if n > 0 {
		r.head.Store(r.next)
	}
	if r.spilled.Load() {
		r.spilled.Store(false) // before the look: what comes after it is announced again
		r.mu.Lock()
		for _, what := range r.list {
			drop(what, true)
		}
		n += len(r.list)
		r.list = r.list[:0]
		r.mu.Unlock()
	}
	return n
}

// PutRemote drops a reference as Put does, from any goroutine: the owner carries it out when it next runs out of free pages, or in Reclaim.
func (p *Pool) PutRemote(pg Page) { p.returns.put(uint32(pg)) }

// PutFragRemote gives a fragment back from any goroutine.
func (p *Pool) PutFragRemote(f Frag) { p.returns.put(fragOrder | uint32(f)) }

// Reclaim takes what others have given back and answers how many references and fragments that were.
func (p *Pool) Reclaim() int { return p.returns.take(p.drop) }

// drop carries out one order. full says that it came past the ring.
func (p *Pool) drop(what uint32, full bool) {
	recycled := &p.stats.RecycleRing
	if full {
		recycled = &p.stats.RecycleRingFull
	}
	before := p.stats.RecycleCached
	if what&fragOrder != 0 {
		p.PutFrag(Frag(what &^ fragOrder))
	} else {
		p.Put(Page(what))
	}
	*recycled += p.stats.RecycleCached - before
	p.stats.RecycleCached = before
}
