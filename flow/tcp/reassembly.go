package tcp

import "github.com/vasta-net/vasta/stats"

// maxOOO bounds the holes that a connection remembers.
const maxOOO = 32

// interval is a range of stream offsets [from, to).
type interval struct{ from, to int64 }

// payload sorts the data and the FIN of an acceptable segment: in order and nothing held, it is borrowed for
// the host; otherwise it is held.
func (c *Conn) payload(env *Env, s *Segment, off, end int64) {
	if s.Flags&FIN != 0 && c.finAt == 0 && end >= c.lastByte() && end <= c.edge {
		c.finAt = end
	}
	if c.finAt != 0 { // nothing lies behind a FIN
		end = min(end, c.finAt)
	}
	next := c.rcvNxt + int64(c.borrowLen)
	from, to := max(off, next), min(end, c.edge)
	if off < min(end, next) {
		c.cameTwice(env, off, min(end, next))
	}
	if to <= from {
		if s.Len > 0 {
			c.set(ackNow)
		}
		return
	}
	pieces := trim(s.Payload, int(from-off), int(to-from))
	if from > next {
		c.outOfOrder(env, pieces, from, to)
		return
	}
	c.borrow = append(c.borrow, pieces...)
	c.borrowLen += int(to - from)
	c.carried = env.Now
	if end > to {
		c.set(ackNow)
	}
}

// lastByte is the offset behind everything that has arrived.
func (c *Conn) lastByte() int64 {
	if n := len(c.ooo); n > 0 {
		return max(c.rcvNxt, c.ooo[n-1].to)
	}
	return c.rcvNxt
}

// trim cuts skip bytes off the front of the pieces and keeps n.
func trim(pieces [][]byte, skip, n int) [][]byte {
	for len(pieces) > 0 && skip >= len(pieces[0]) {
		skip -= len(pieces[0])
		pieces = pieces[1:]
	}
	if len(pieces) > 0 && skip > 0 {
		pieces[0] = pieces[0][skip:]
	}
	for i := range pieces {
		if len(pieces[i]) >= n {
			pieces[i] = pieces[i][:n]
			return pieces[:i+1]
		}
		n -= len(pieces[i])
	}
	return pieces
}

// outOfOrder holds [from, to), which lies beyond a hole, and asks for an ACK at once.
func (c *Conn) outOfOrder(env *Env, pieces [][]byte, from, to int64) {
	c.behindGap(env)
	lo, hi := c.touching(from, to)
	if lo < hi && from < c.ooo[lo].to && c.ooo[lo].from < to {
		c.cameTwice(env, max(from, c.ooo[lo].from), min(to, c.ooo[lo].to))
	}
	if lo == hi && len(c.ooo) == maxOOO {
		env.Stats.Drop(stats.TCPOutOfOrderFull)
		return
	}
	c.hold.reserve(env, c.hostNxt, c.edge)
	at := from
	for _, b := range pieces {
		n := c.hold.write(env.Hold, at, b)
		at += int64(n)
		if n < len(b) {
			env.Stats.Drop(stats.NoBuffers)
			break
		}
	}
	if at < to { // what is left may not reach its neighbours any more
		to = at
		lo, hi = c.touching(from, to)
		if to == from || lo == hi && len(c.ooo) == maxOOO {
			return
		}
	}
	merged := interval{from, to}
	if lo < hi {
		merged.from = min(from, c.ooo[lo].from)
		merged.to = max(to, c.ooo[hi-1].to)
	}
	c.lastOOO = merged.from
	if lo == hi {
		c.ooo = append(c.ooo, interval{})
		copy(c.ooo[lo+1:], c.ooo[lo:])
	} else {
		c.ooo = append(c.ooo[:lo+1], c.ooo[hi:]...)
	}
	c.ooo[lo] = merged
}

// touching returns which of c.ooo, [lo:hi], overlap [from, to) or adjoin it.
func (c *Conn) touching(from, to int64) (lo, hi int) {
	hi = len(c.ooo)
	for lo < hi && c.ooo[lo].to < from {
		lo++
	}
	for hi > lo && c.ooo[hi-1].from > to {
		hi--
	}
	return lo, hi
}

// Plain reports whether the segment carries data and nothing that would end or disturb the stream.
func (s *Segment) Plain() bool { return s.Len > 0 && s.Flags&^PSH == ACK }

// Borrowed is the payload of the Inputs since the last Settle that the host socket may take directly from the link's
// memory: in order, with nothing held before it. It is empty when there is none.
func (c *Conn) Borrowed() [][]byte {
	if c.HeldBytes() > 0 {
		return nil
	}
	return c.borrow
}

// Settle ends the borrowing: the host socket took the first taken bytes of Borrowed. What it did not take is copied to the
// connection's own fragments. Only now are the bytes accepted, that is, will they be acknowledged.
func (c *Conn) Settle(env *Env, taken int) {
	if c.state != Open {
		c.giveBack()
		return
	}
	if c.borrowLen > 0 {
		from := c.hostNxt
		c.hostNxt += int64(taken)
		c.rcvNxt += int64(taken)
		// Some of it may have arrived out of order before, and be held: its slots are needed for what comes.
		c.hold.release(env, from, c.hostNxt, false)
		if rest := c.borrowLen - taken; rest > 0 {
			c.hold.reserve(env, c.hostNxt, c.edge)
			for _, b := range trim(c.borrow, taken, rest) {
				n := c.hold.write(env.Hold, c.rcvNxt, b)
				c.rcvNxt += int64(n)
				env.Stats.TCPHeldBytes += uint64(n)
				if n < len(b) {
					env.Stats.Drop(stats.NoBuffers)
					break
				}
			}
		}
		c.giveBack()
		c.set(ackSoon)
	}
	if len(c.ooo) > 0 && c.ooo[0].from <= c.rcvNxt {
		for len(c.ooo) > 0 && c.ooo[0].from <= c.rcvNxt {
			c.rcvNxt = max(c.rcvNxt, c.ooo[0].to)
			c.ooo = append(c.ooo[:0], c.ooo[1:]...)
		}
		c.set(ackNow)
	}
	if c.finAt != 0 && c.rcvNxt == c.finAt && !c.has(finRcvd) {
		c.rcvNxt++
		c.set(finRcvd | ackNow)
	}
	c.release(env, c.hostNxt)
	c.settlePromise(env)
}

// giveBack forgets what is borrowed.
func (c *Conn) giveBack() {
	clear(c.borrow)
	c.borrow, c.borrowLen = c.borrow[:0], 0
}

// release gives back the hold memory of what the host has taken since it had taken everything below from.
func (c *Conn) release(env *Env, from int64) {
	c.hold.release(env, from, c.hostNxt, c.HeldBytes() == 0 && len(c.ooo) == 0)
}

func (c *Conn) settlePromise(env *Env) {
	c.setPromise(env, c.promiseOf(c.edge))
}

// promiseOf is what the budget has to hold for the connection when edge is its right edge.
func (c *Conn) promiseOf(edge int64) int64 {
	if c.has(finRcvd) {
		return c.finAt - c.hostNxt
	}
	return max(edge-c.hostNxt, c.floor)
}

// Held appends to bufs the next held pieces for the host socket, at most limit pieces in all.
func (c *Conn) Held(env *Env, bufs [][]byte, limit int) [][]byte {
	return c.hold.pieces(env.Hold, bufs, c.hostNxt, c.hostNxt+c.HeldBytes(), limit)
}

// Drained tells that the host socket took n held bytes. The guest learns of the new room with the next
// Output, when it is worth a segment.
func (c *Conn) Drained(env *Env, n int) {
	if c.state == Closed || n == 0 {
		return
	}
	c.carried = env.Now
	from := c.hostNxt
	c.hostNxt += int64(n)
	c.release(env, from)
	c.settlePromise(env)
}

// ShutdownDue reports, once, that everything the guest sent has reached the host socket and the guest has ended its
// stream: the socket's write side is to be shut down.
func (c *Conn) ShutdownDue() bool {
	if c.state != Open || !c.has(finRcvd) || c.has(shutDone) || c.HeldBytes() > 0 {
		return false
	}
	c.set(shutDone)
	return true
}
