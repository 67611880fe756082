package tcp

import "github.com/vasta-net/vasta/stats"

// maxOOO bounds the holes that a connection remembers.
const maxOOO = 32

// interval is a range of stream offsets [from, to).
type interval struct{ from, to int64 }

// Input takes one segment from the guest. Afterwards the worker offers Borrowed to the host socket and calls Settle, at the latest
// before the link's next Receive. In between further segments may come, as long as they carry nothing but
// data (Plain); their payload is added to what is borrowed.
func (c *Conn) Input(env *Env, s *Segment) {
	switch c.state {
	case Closed:
		return
	case Connecting:
		c.inputConnecting(env, s)
		return
	case SynSent:
		if !c.inputSynSent(env, s) {
			return
		}
	case SynReceived:
		if !c.inputSynReceived(env, s) {
			return
		}
	}
	c.heard, c.probes = env.Now, 0
	c.inputOpen(env, s)
}

// inputConnecting absorbs a repeated SYN while the host's connect is pending.
func (c *Conn) inputConnecting(env *Env, s *Segment) {
	if s.Flags&RST != 0 && s.Seq == c.irs+1 {
		c.end(env, GuestReset)
	}
}

// inputSynSent waits for the guest's SYN/ACK, and reports whether the segment opened the connection.
func (c *Conn) inputSynSent(env *Env, s *Segment) bool {
	if c.max == 0 { // our SYN is still to be sent
		env.Stats.Drop(stats.TCPBadAck)
		return false
	}
	if s.Flags&ACK != 0 && s.Ack != c.config.ISS+1 {
		// The guest has an older connection with these ends: our reset makes it give that up (RFC 9293, 3.5.1).
		env.Stats.Drop(stats.TCPBadAck)
		if s.Flags&RST == 0 {
			c.stray = s.Ack
			c.set(strayDue)
		}
		return false
	}
	switch {
	case s.Flags&(RST|ACK) == RST|ACK:
		c.end(env, GuestReset)
		return false
	case s.Flags&(SYN|ACK|RST) != SYN|ACK:
		env.Stats.Drop(stats.BadTransport)
		return false
	}
	c.takeSyn(env, s)
	c.opened(env, s)
	c.wl2 = 1
	c.set(ackNow)
	return false // data on a SYN/ACK is not taken; the guest sends it again
}

// inputSynReceived waits for the ACK of our SYN/ACK, and reports whether the segment opened the connection.
func (c *Conn) inputSynReceived(env *Env, s *Segment) bool {
	switch {
	case s.Flags&RST != 0:
		if s.Seq == c.guestSeq(c.rcvNxt) {
			c.end(env, GuestReset)
		} else {
			env.Stats.Drop(stats.TCPBadReset)
		}
		return false
	case s.Flags&SYN != 0:
		if s.Seq == c.irs && c.max > 0 { // our SYN/ACK was lost
			c.nxt = 0
		}
		return false
	case s.Flags&ACK == 0:
		env.Stats.Drop(stats.TCPBadAck)
		return false
	case c.max == 0 || s.Ack != c.config.ISS+1:
		env.Stats.Drop(stats.TCPBadAck)
		return false
	}
	if off := c.guestOff(s.Seq); !c.inWindow(off, off+int64(s.Len)) {
		env.Stats.Drop(stats.TCPOutOfWindow)
		return false
	}
	c.opened(env, s)
	c.guestEdge = 1 + int64(s.Window)<<c.sndScale
	return true
}

// opened makes the connection Open: our SYN is acknowledged.
func (c *Conn) opened(env *Env, s *Segment) {
	c.state = Open
	c.sampleRTT(env, 1)
	c.una, c.nxt, c.max = 1, 1, 1
	c.rto = c.baseRTO()
	if c.retries > 0 { // RFC 6298, 5.7
		c.rto = max(c.rto, lostSynRTO)
	}
	c.rtoAt, c.retries = 0, 0
	c.unset(strayDue)
	c.wl1, c.wl2 = c.guestOff(s.Seq), 1
}

func (c *Conn) inputOpen(env *Env, s *Segment) {
	off := c.guestOff(s.Seq)
	end := off + int64(s.Len)
	if s.Flags&RST != 0 {
		c.inputReset(env, off)
		return
	}
	if c.isStale(env, s) {
		env.Stats.Drop(stats.TCPPAWS)
		c.set(ackNow)
		return
	}
	if !c.inWindow(off, end) {
		c.inputUnacceptable(env, s, off)
		return
	}
	if s.Flags&SYN != 0 { // RFC 5961, 4.2
		env.Stats.Drop(stats.TCPOutOfWindow)
		c.set(ackNow)
		return
	}
	if s.Flags&ACK == 0 {
		env.Stats.Drop(stats.TCPBadAck)
		return
	}
	if c.has(useTimes) && s.HasTimes && off <= c.acked {
		c.tsRecent, c.tsAt = s.TSVal, env.Now
	}
	if !c.acknowledge(env, s, off) {
		return
	}
	c.payload(env, s, off, end)
}

// inputReset takes a reset at offset off (RFC 5961, 3.2). The offset must be exactly what the guest may know to be the next:
// what was received, or what it was last told of that. Any other in the window is challenged.
func (c *Conn) inputReset(env *Env, off int64) {
	if off == c.rcvNxt || off == c.acked {
		c.end(env, GuestReset)
		return
	}
	env.Stats.Drop(stats.TCPBadReset)
	if c.inWindow(off, off) {
		c.set(ackNow)
	}
}

// inputUnacceptable answers a segment outside the window with an ACK (RFC 9293, 3.10.7.4): a duplicate, a keepalive, a probe of
// a closed window. What an old one or a probe acknowledges counts all the same.
func (c *Conn) inputUnacceptable(env *Env, s *Segment, off int64) {
	c.set(ackNow)
	switch {
	case off > c.edge:
		env.Stats.Drop(stats.TCPOutOfWindow)
	case off < c.rcvNxt && s.Len > 0:
		env.Stats.TCPDuplicate++
	}
	if off <= c.rcvNxt && s.Flags&(ACK|SYN) == ACK {
		c.acknowledge(env, s, off)
	}
}

// isStale is the test of RFC 7323, 5: the timestamp is older than one that was seen before. A guest that was silent for
// long may have a clock that went half round.
func (c *Conn) isStale(env *Env, s *Segment) bool {
	return c.has(useTimes) && s.HasTimes && int32(s.TSVal-c.tsRecent) < 0 && env.Now-c.tsAt < pawsLife
}

// inWindow is the acceptability test of RFC 9293, 3.10.7.4, on offsets.
func (c *Conn) inWindow(off, end int64) bool {
	if end == off {
		return off >= c.rcvNxt && off <= max(c.edge, c.rcvNxt)
	}
	return end > c.rcvNxt && off < c.edge
}

// acknowledge processes the acknowledgement and window of s, and reports whether s is to be processed further.
func (c *Conn) acknowledge(env *Env, s *Segment, off int64) bool {
	ack := c.ourOff(s.Ack)
	if ack > c.max || ack < c.una-c.flightCap(env) {
		env.Stats.Drop(stats.TCPBadAck)
		c.set(ackNow)
		return false
	}
	if ack < c.una {
		return true // an old one; its data may still be new
	}
	wnd := ack + int64(s.Window)<<c.sndScale
	switch {
	case ack > c.una:
		c.newAck(env, ack)
	case c.una < c.max && s.Len == 0 && wnd == c.guestEdge && s.Flags&FIN == 0:
		c.dupAck()
	}
	if c.wl1 < off || (c.wl1 == off && c.wl2 <= ack) {
		c.guestEdge, c.wl1, c.wl2 = wnd, off, ack
		if wnd > c.una {
			c.persists = 0
		}
	}
	return true
}

// flightCap is how far back an acknowledgement may lie and still be a late one (RFC 5961, 5.2).
func (c *Conn) flightCap(env *Env) int64 { return env.MaxFlight + 65536 }

func (c *Conn) newAck(env *Env, ack int64) {
	c.sampleRTT(env, ack)
	c.q.release(env.Send, ack)
	c.una = ack
	c.nxt = max(c.nxt, ack)
	c.retries, c.dupAcks = 0, 0
	c.rtoAt = 0
	c.rto = c.baseRTO()
	if ack < c.recover { // a partial acknowledgement: the next hole begins here (RFC 6582)
		c.set(retransmit)
	} else {
		c.unset(retransmit)
	}
}

func (c *Conn) dupAck() {
	c.dupAcks++
	if c.dupAcks == 3 && c.una >= c.recover {
		c.recover = c.max
		c.set(retransmit)
	}
}

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
	if to <= from {
		if s.Len > 0 {
			c.set(ackNow)
		}
		return
	}
	if off < from {
		env.Stats.TCPDuplicate++
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
	env.Stats.TCPOutOfOrder++
	c.set(ackNow)
	lo, hi := c.touching(from, to)
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
