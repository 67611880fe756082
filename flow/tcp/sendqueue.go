package tcp

import "github.com/vasta-net/vasta/pagepool"

// sendQueue holds what the host sent and the guest has not acknowledged: pool memory that is at the same time
// the retransmission memory (DESIGN.md, decision 3). Offsets are those of the stream toward the guest.
type sendQueue struct {
	chunks     []chunk // ring; length is a power of two, or 0
	head, n    int
	base, tail int64 // stream offsets of the first byte kept and behind the last
	mem        int   // bytes of pages and fragments
}

// keepChunks is how large a ring an idle connection keeps: enough for 4 MiB in whole pages.
const keepChunks = 64

// chunk is one run of bytes: in a page of its own, or in a fragment shared by successive small writes.
type chunk struct {
	mem   uint32 // pagepool.Page or pagepool.Frag
	small bool   // mem is a Frag
	off   uint16 // of the first byte kept
	len   uint32 // bytes kept
}

func (q *sendQueue) at(i int) *chunk { return &q.chunks[(q.head+i)&(len(q.chunks)-1)] }

func (q *sendQueue) push(c chunk) {
	if q.n == len(q.chunks) {
		grown := make([]chunk, max(4, 2*q.n))
		for i := range q.n {
			grown[i] = *q.at(i)
		}
		q.chunks, q.head = grown, 0
	}
	q.n++
	q.mem += c.size()
	*q.at(q.n - 1) = c
	q.tail += int64(c.len)
}

// addPage appends the n bytes from off on in page; the queue owns the page from now on.
func (q *sendQueue) addPage(page pagepool.Page, off, n int) {
	q.push(chunk{mem: uint32(page), off: uint16(off), len: uint32(n)})
}

// addSmall appends a copy of b, packed into fragments. It returns how many bytes found room: all of them, unless
// the pool is exhausted.
func (q *sendQueue) addSmall(pool *pagepool.Pool, b []byte) (n int) {
	for len(b) > 0 {
		if q.n > 0 {
			if c := q.at(q.n - 1); c.small {
				end := int(c.off) + int(c.len)
				k := copy(pool.FragBytes(pagepool.Frag(c.mem))[end:], b)
				c.len += uint32(k)
				q.tail += int64(k)
				n += k
				b = b[k:]
				if len(b) == 0 {
					return n
				}
			}
		}
		f, ok := pool.GetFrag()
		if !ok {
			return n
		}
		q.push(chunk{mem: uint32(f), small: true})
	}
	return n
}

// size is the memory that a chunk takes, whatever it keeps of it.
func (c *chunk) size() int {
	if c.small {
		return pagepool.FragSize
	}
	return pagepool.PageSize
}

func (c *chunk) bytes(pool *pagepool.Pool) []byte {
	if c.small {
		return pool.FragBytes(pagepool.Frag(c.mem))[c.off:][:c.len]
	}
	return pool.Bytes(pagepool.Page(c.mem))[c.off:][:c.len]
}

// pieces appends to bufs the memory of n bytes from stream offset off on. At most limit pieces are used, and with align what begins within a page ends with it, so that what
// follows begins with a page again: the returned count of bytes is smaller then. room is how many bytes in front of the first piece, in its page, nobody needs.
func (q *sendQueue) pieces(pool *pagepool.Pool, bufs [][]byte, off int64, n, limit int, align bool) (_ [][]byte, got, room int) {
	skip := off - q.base
	i := 0
	if skip > 0 && q.n > 1 && off >= q.tail-int64(q.at(q.n-1).len) {
		// New data lies in the last chunk: do not walk all of what is in flight.
		i = q.n - 1
		skip = off - (q.tail - int64(q.at(i).len))
	}
	for last := false; i < q.n && got < n && len(bufs) < limit && !last; i++ {
		c := q.at(i)
		if skip >= int64(c.len) {
			skip -= int64(c.len)
			continue
		}
		b := c.bytes(pool)[skip:]
		switch {
		case c.small:
		case skip > 0:
			last = align
		case got == 0:
			room = int(c.off)
		}
		skip = 0
		if len(b) > n-got {
			b = b[:n-got]
		}
		got += len(b)
		bufs = append(bufs, b)
	}
	return bufs, got, room
}

// release gives back everything below stream offset to.
func (q *sendQueue) release(pool *pagepool.Pool, to int64) {
	to = min(to, q.tail)
	for q.base < to {
		c := q.at(0)
		k := min(to-q.base, int64(c.len))
		q.base += k
		c.len -= uint32(k)
		if c.len > 0 {
			c.off += uint16(k)
			return
		}
		q.drop(pool, c)
	}
	if q.n == 0 && len(q.chunks) > keepChunks {
		q.chunks, q.head = nil, 0
	}
}

func (q *sendQueue) drop(pool *pagepool.Pool, c *chunk) {
	if c.small {
		pool.PutFrag(pagepool.Frag(c.mem))
	} else {
		pool.Put(pagepool.Page(c.mem))
	}
	q.mem -= c.size()
	q.head = (q.head + 1) & (len(q.chunks) - 1)
	q.n--
}

// clear gives everything back.
func (q *sendQueue) clear(pool *pagepool.Pool) {
	for q.n > 0 {
		q.drop(pool, q.at(0))
	}
	q.base = q.tail
	q.chunks, q.head = nil, 0
}
