// Package splice is a connection that is carried from socket to socket: one that was accepted at the loopback of the guest's namespace, and one toward the host's. Both
// ends are connections of the kernel's, so there is no TCP here, only what has to be done in which order: bytes, the ends of the two streams, and backpressure.
//
// A Conn makes no system call. It is told what has happened to the sockets, says what to do next, and is told how that went.
package splice

import "github.com/vasta-net/vasta/pagepool"

// End is one of the two sockets.
type End uint8

// The ends.
const (
	Inside End = iota
	Outside
)

// Other is the other end.
func (e End) Other() End { return 1 - e }

// Op is what to do next.
type Op uint8

// The operations.
const (
	// Wait: nothing can be done before an event.
	Wait Op = iota
	// Read from the end, and offer the other one what was read; the answer is one of Empty, Ended, and Moved, perhaps with Hold.
	Read
	// Write what is held for the end to it; the answer is Wrote.
	Write
	// Shutdown tells the end that nothing more comes from the other one; the answer is Told.
	Shutdown
	// Finish: both streams have ended, and both ends know.
	Finish
)

// MaxHeld is how many pages are read at once at most, and so how many wait for an end at most.
const MaxHeld = 4

// Conn is one connection. The zero Conn is one whose outer end is not connected yet.
type Conn struct {
	connected bool
	turn      End // whose bytes go first
	ends      [2]end
}

// end is what is known of a socket, and what waits for it.
type end struct {
	readable, writable bool
	last               bool // its stream may end, or was interrupted: a short read does not say that nothing is left
	ended              bool // its stream was read to the end
	told               bool // it knows that the other's has ended
	pages              [MaxHeld]pagepool.Page
	first, n           int // of pages
	off, left          int // bytes: where they begin in the first page, and how many there are in all
}

// Connect notes that the outer end is connected.
func (c *Conn) Connect() { c.connected = true }

// Connected reports whether it is.
func (c *Conn) Connected() bool { return c.connected }

// Open reports whether both streams go on.
func (c *Conn) Open() bool { return c.connected && !c.ends[Inside].ended && !c.ends[Outside].ended }

// Event notes what an event has said of an end: that it may be read, or written, and that its stream ends, or is interrupted by urgent data.
func (c *Conn) Event(e End, in, out, last bool) {
	x := &c.ends[e]
	x.readable = x.readable || in
	x.writable = x.writable || out
	x.last = x.last || last
}

// Next says what to do. The two directions take turns.
func (c *Conn) Next() (Op, End) {
	if !c.connected {
		return Wait, Inside
	}
	for _, from := range [...]End{c.turn, c.turn.Other()} {
		to := from.Other()
		s, d := &c.ends[from], &c.ends[to]
		switch {
		case d.n > 0 && d.writable:
			return Write, to
		case d.n > 0:
		case s.ended && !d.told:
			return Shutdown, to
		case !s.ended && s.readable && d.writable:
			return Read, from
		}
	}
	if c.ends[Inside].told && c.ends[Outside].told {
		return Finish, Inside
	}
	return Wait, Inside
}

// Empty answers Read: there was nothing.
func (c *Conn) Empty(from End) { c.ends[from].readable = false }

// Ended answers Read: the stream has ended.
func (c *Conn) Ended(from End) { c.ends[from].readable, c.ends[from].ended = false, true }

// Moved answers Read: bytes have come, and, with short, fewer than there was room for. What the other end did not take of them is then given to Hold.
func (c *Conn) Moved(from End, short bool) {
	if s := &c.ends[from]; short && !s.last {
		s.readable = false
	}
	c.turn = from.Other()
}

// Hold keeps what an end did not take: the bytes from off to n of pages, which lie one behind the other, and of which the Conn keeps the first kept. It takes no more before an event.
func (c *Conn) Hold(pool *pagepool.Pool, to End, pages []pagepool.Page, off, n int) (kept int) {
	d := &c.ends[to]
	d.writable = false
	const size = pagepool.PageSize
	for off >= size { // sent whole
		pool.Put(pages[0])
		pages, off, n, kept = pages[1:], off-size, n-size, kept+1
	}
	d.first, d.n = 0, (n+size-1)/size
	copy(d.pages[:], pages[:d.n])
	d.off, d.left = off, n-off
	return kept + d.n
}

// Held appends the pieces of what is held for an end.
func (c *Conn) Held(pool *pagepool.Pool, to End, pieces [][]byte) [][]byte {
	d := &c.ends[to]
	off, left := d.off, d.left
	for _, p := range d.pages[d.first : d.first+d.n] {
		b := pool.Bytes(p)[off:]
		b = b[:min(len(b), left)]
		pieces = append(pieces, b)
		off, left = 0, left-len(b)
	}
	return pieces
}

// HeldBytes is how many bytes are held for both ends.
func (c *Conn) HeldBytes() int { return c.ends[Inside].left + c.ends[Outside].left }

// Wrote answers Write: the end has taken n bytes, and if that was not all, takes no more before an event. Pages that were sent go back to the pool.
func (c *Conn) Wrote(pool *pagepool.Pool, to End, n int) {
	d := &c.ends[to]
	d.left -= n
	d.off += n
	for d.n > 0 {
		if d.left > 0 && d.off < pagepool.PageSize {
			break
		}
		pool.Put(d.pages[d.first])
		d.off -= pagepool.PageSize
		d.first++
		d.n--
	}
	if d.left > 0 {
		d.writable = false
	}
	c.turn = to
}

// Told answers Shutdown.
func (c *Conn) Told(e End) { c.ends[e].told = true }

// Release gives back what is held, when the connection is over.
func (c *Conn) Release(pool *pagepool.Pool) {
	for i := range c.ends {
		d := &c.ends[i]
		for _, p := range d.pages[d.first : d.first+d.n] {
			pool.Put(p)
		}
		*d = end{}
	}
}
