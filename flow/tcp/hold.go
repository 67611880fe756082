package tcp

import (
	"math/bits"

	"github.com/vasta-net/vasta/pagepool"
)

// hold keeps the bytes of the guest's stream that vasta has accepted and the host socket has not taken yet, and those
// that arrived out of order. A byte lies at its place in the stream: fragment off/FragSize of the stream,
// so bytes are packed whatever the segments were, and a hole costs nothing.
type hold struct {
	ring []slot // length is a power of two, or 0
	n    int    // fragments present
}

// slot is one entry of the ring: a fragment plus one, 0 for none.
type slot uint32

const fragShift = 12 // log2(pagepool.FragSize)

// ringSize returns the ring size for the stream range [from, to).
func ringSize(from, to int64) int {
	n := int(to>>fragShift-from>>fragShift) + 1
	return 1 << bits.Len(uint(n-1))
}

// reserve makes the ring large enough for bytes in [from, to); from is the lowest byte still kept.
func (h *hold) reserve(env *Env, from, to int64) {
	want := ringSize(from, to)
	if want <= len(h.ring) {
		return
	}
	old := h.ring
	h.ring = env.rings.get(want)
	if h.n > 0 {
		first := from >> fragShift
		for i := range int64(len(old)) {
			k := first + i
			h.ring[k&int64(len(h.ring)-1)] = old[k&int64(len(old)-1)]
		}
	}
	env.rings.put(old)
}

// write stores b at stream offset off and returns how many bytes found room: all of them, unless the pool is
// exhausted. reserve was called for the range.
func (h *hold) write(pool *pagepool.Pool, off int64, b []byte) (n int) {
	for len(b) > 0 {
		s := &h.ring[off>>fragShift&int64(len(h.ring)-1)]
		if *s == 0 {
			f, ok := pool.GetFrag()
			if !ok {
				return n
			}
			*s = slot(f) + 1
			h.n++
		}
		c := copy(pool.FragBytes(pagepool.Frag(*s - 1))[off&(pagepool.FragSize-1):], b)
		off += int64(c)
		n += c
		b = b[c:]
	}
	return n
}

// pieces appends to bufs the memory of [from, to), at most limit pieces. The range was written before.
func (h *hold) pieces(pool *pagepool.Pool, bufs [][]byte, from, to int64, limit int) [][]byte {
	for from < to && len(bufs) < limit {
		at := from & (pagepool.FragSize - 1)
		n := min(to-from, pagepool.FragSize-at)
		s := h.ring[from>>fragShift&int64(len(h.ring)-1)]
		bufs = append(bufs, pool.FragBytes(pagepool.Frag(s - 1))[at:at+n])
		from += n
	}
	return bufs
}

// release gives back the fragments that lie wholly in [from, to), but for what of the first was given back before. With all
// set nothing is kept from to on, and a last fragment that is only partly in the range goes as well.
func (h *hold) release(env *Env, from, to int64, all bool) {
	if h.n == 0 {
		return
	}
	last := to >> fragShift
	if all {
		last++
	}
	for k := from >> fragShift; k < last && h.n > 0; k++ {
		s := &h.ring[k&int64(len(h.ring)-1)]
		if *s != 0 {
			env.Hold.PutFrag(pagepool.Frag(*s - 1))
			*s = 0
			h.n--
		}
	}
	if h.n == 0 {
		env.rings.put(h.ring)
		h.ring = nil
	}
}

// clear gives everything back.
func (h *hold) clear(env *Env) {
	for _, s := range h.ring {
		if s != 0 {
			env.Hold.PutFrag(pagepool.Frag(s - 1))
		}
	}
	env.rings.put(h.ring)
	*h = hold{}
}

// ringCache keeps rings for reuse, by size, so that a connection that starts or stops holding does not
// allocate in steady state. Rings in it are all zero.
type ringCache [24][][]slot

func (r *ringCache) get(size int) []slot {
	l := &r[bits.Len(uint(size))-1]
	if n := len(*l); n > 0 {
		s := (*l)[n-1]
		*l = (*l)[:n-1]
		return s
	}
	return make([]slot, size)
}

// put takes back a ring whose content is of no use any more.
func (r *ringCache) put(s []slot) {
	if len(s) == 0 {
		return
	}
	const keep = 64 // rings of one size
	if l := &r[bits.Len(uint(len(s)))-1]; len(*l) < keep {
		clear(s)
		*l = append(*l, s)
	}
}
