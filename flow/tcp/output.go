package tcp

import "github.com/vasta-net/vasta/pagepool"

// FrameLen is how many bytes the largest frame toward the guest carries: what HostPage should be given in one piece.
func (c *Conn) FrameLen() int { return c.frameLen }

// WantRead is how many bytes may be read from the host socket now: what the guest's window and the send queue's
// cap leave, at most the given number of frames. 0 means: do not read; a later segment may change that.
func (c *Conn) WantRead(env *Env, frames int) int {
	if c.state != Open || c.has(hostEOF) {
		return 0
	}
	room := min(c.guestEdge, c.una+env.MaxFlight) - c.q.tail
	if room >= int64(c.frameLen) {
		return int(min(room, int64(frames*c.frameLen)))
	}
	// Silly window avoidance: a small window is used only when nothing is in flight that will open it.
	if room <= 0 || (room < int64(c.mss) && c.q.tail > c.una) {
		return 0
	}
	return int(room)
}

// HostPage appends the first n bytes of page, which the connection owns from now on.
func (c *Conn) HostPage(page pagepool.Page, n int) { c.q.addPage(page, n) }

// HostBytes appends a copy of b, and returns how many bytes found room: all, unless memory is exhausted.
func (c *Conn) HostBytes(env *Env, b []byte) int { return c.q.addSmall(env.Send, b) }

// HostEOF tells that the host's stream has ended: a FIN follows the last byte.
func (c *Conn) HostEOF() { c.set(hostEOF) }

// Output sends everything that is due: reset, SYN, data, FIN, retransmissions, probes and ACKs. It reports false when the link
// is full; it is to be called again when the link has room.
func (c *Conn) Output(env *Env, snd Sender) bool {
	ok := c.output(env, snd)
	c.armTimers(env)
	c.finish(env)
	return ok
}

func (c *Conn) output(env *Env, snd Sender) bool {
	switch c.state {
	case Closed:
		return c.sendReset(env, snd)
	case SynReceived, SynSent:
		if c.has(strayDue) {
			o := &env.out
			*o = Out{Seq: c.stray, Flags: RST}
			if !snd.SendTCP(c, o) {
				return false
			}
			c.unset(strayDue)
		}
		if c.nxt > 0 {
			return true
		}
		return c.sendSyn(env, snd)
	case Open:
		return c.sendOpen(env, snd)
	}
	return true
}

func (c *Conn) sendReset(env *Env, snd Sender) bool {
	if !c.has(rstDue) {
		return true
	}
	o := &env.out
	*o = Out{Seq: c.ourSeq(c.max), Flags: RST | ACK, Ack: c.guestSeq(c.rcvNxt)}
	if c.has(synRefused) {
		o.Seq = 0
	}
	if !snd.SendTCP(c, o) {
		return false
	}
	c.unset(rstDue)
	return true
}

func (c *Conn) sendSyn(env *Env, snd Sender) bool {
	o := &env.out
	*o = Out{Seq: c.config.ISS, Flags: SYN, Window: uint16(min(c.edge-1, startWindow))}
	o.addOption(optMSS, optMSSLen, byte(c.config.MSS>>8), byte(c.config.MSS))
	offer := c.state == SynSent
	if c.state == SynReceived {
		o.Flags |= ACK
		o.Ack = c.guestSeq(1)
	}
	if offer || c.has(useScale) {
		o.addOption(optNop, optScale, optScaleLen, c.rcvScale)
	}
	if offer || c.has(useSACK) {
		o.addOption(optNop, optNop, optSACKOK, optSACKOKLen)
	}
	if offer || c.has(useTimes) {
		o.addTimes(c.clock(env), c.tsRecent)
	}
	if !snd.SendTCP(c, o) {
		return false
	}
	c.sent(env, 0, 1)
	c.acked = 1
	return true
}

func (c *Conn) sendOpen(env *Env, snd Sender) bool {
	if c.has(retransmit) {
		n := int(min(c.q.tail-c.una, int64(c.frameLen)))
		if !c.sendData(env, snd, c.una, n) {
			return false
		}
		c.unset(retransmit)
	}
	for {
		n := int(min(c.q.tail-c.nxt, c.guestEdge-c.nxt, int64(c.frameLen)))
		if n <= 0 {
			break
		}
		if !c.sendData(env, snd, c.nxt, n) {
			return false
		}
	}
	if c.has(hostEOF) && c.nxt == c.q.tail {
		if !c.sendData(env, snd, c.nxt, 0) {
			return false
		}
	}
	if c.has(probeDue) { // one below una: the guest answers with its window (RFC 9293, 3.8.6.1)
		if !c.sendEmpty(env, snd, c.una-1) {
			return false
		}
		c.unset(probeDue)
	}
	if c.ackDue(env) {
		return c.sendEmpty(env, snd, c.nxt)
	}
	return true
}

// sendData sends up to n bytes from stream offset off on, and the FIN when it follows them. With n == 0 it sends
// a FIN alone.
func (c *Conn) sendData(env *Env, snd Sender, off int64, n int) bool {
	o := &env.out
	c.begin(env, o, off)
	o.Payload, o.Len = c.q.pieces(env.Send, env.iov[:0], off, n, maxPieces)
	o.MSS = c.mss
	end := off + int64(o.Len)
	if end == c.q.tail {
		if o.Len > 0 {
			o.Flags |= PSH
		}
		if c.has(hostEOF) {
			o.Flags |= FIN
			end++
		}
	}
	if !snd.SendTCP(c, o) {
		return false
	}
	c.told(o)
	c.sent(env, off, end)
	return true
}

// sendEmpty sends a segment without data: an ACK, with SACK blocks when there are holes.
func (c *Conn) sendEmpty(env *Env, snd Sender, off int64) bool {
	o := &env.out
	c.begin(env, o, off)
	if c.has(useSACK) && len(c.ooo) > 0 {
		c.addSACK(o)
	}
	if !snd.SendTCP(c, o) {
		return false
	}
	c.told(o)
	return true
}

// begin fills the header of an ordinary segment.
func (c *Conn) begin(env *Env, o *Out, off int64) {
	*o = Out{Seq: c.ourSeq(off), Flags: ACK}
	ack, wnd := c.window(env)
	o.Ack, o.Window = c.guestSeq(ack), wnd
	if c.has(useTimes) {
		o.addTimes(c.clock(env), c.tsRecent)
	}
}

// told notes what a sent segment acknowledged.
func (c *Conn) told(o *Out) {
	c.acked = c.guestOff(o.Ack)
	if o.Len > 0 && c.has(useSACK) && len(c.ooo) > 0 {
		return // data leaves no room for SACK blocks, and is no duplicate ACK: one follows
	}
	c.unset(ackNow | ackSoon)
}

// sent notes that [off, end) was sent.
func (c *Conn) sent(env *Env, off, end int64) {
	if off >= c.max {
		c.carried = env.Now
	}
	if off < c.max {
		env.Stats.TCPRetransmits++
		c.rttAt = 0 // Karn: what was sent twice is not timed
	} else if c.rttAt == 0 {
		c.rttAt, c.rttOff = env.Now, end
	}
	c.nxt = max(c.nxt, end)
	c.max = max(c.max, end)
	if c.rtoAt == 0 {
		c.rtoAt = env.Now + c.rto
	}
}

// finish closes the connection when both directions have ended and everything is acknowledged.
func (c *Conn) finish(env *Env) {
	if c.state == Open && c.has(shutDone) && c.has(hostEOF) && c.una > c.q.tail && !c.has(ackNow) {
		c.end(env, Finished)
	}
}
