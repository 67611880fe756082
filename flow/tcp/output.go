package tcp

import "github.com/vasta-net/vasta/pagepool"

// FrameLen is how many bytes the largest frame toward the guest carries: what HostPage should be given in one piece.
func (c *Conn) FrameLen() int { return c.frameLen }

// WantRead is how many bytes may be read from the host socket now: what the guest's window, the congestion window, the send queue's
// cap and its share of the memory leave, at most the given number of frames. 0 means: do not read; a later segment may change that. What may not be sent yet
// stays in the host's socket: there it costs no pages of ours, and its window tells the peer to wait.
func (c *Conn) WantRead(env *Env, frames int) int {
	if c.state != Open || c.has(hostEOF) {
		return 0
	}
	if frames = min(frames, c.share(env)); frames <= 0 {
		return 0
	}
	room := min(c.guestEdge, c.una+env.MaxFlight) - c.q.tail
	if open := c.cc.cwnd - c.pipe() - c.sb.lost - (c.q.tail - c.nxt); open < room {
		room = max(open, 0) / int64(c.mss) * int64(c.mss)
		if c.q.tail <= c.una {
			room = max(room, int64(c.mss))
		}
	}
	if room >= int64(c.frameLen) {
		return int(min(room, int64(frames*c.frameLen)))
	}
	// Silly window avoidance: a small window is used only when nothing is in flight that will open it.
	if room <= 0 || (room < int64(c.mss) && c.q.tail > c.una) {
		return 0
	}
	return int(room)
}

// Stalled reports whether nothing is read from the host socket before the guest says something new: it has shut its window, or not yet
// answered our SYN, and nothing is in flight that would change that.
func (c *Conn) Stalled(env *Env) bool {
	switch c.state {
	case SynReceived, SynSent:
		return true
	case Open:
		return c.una == c.nxt && !c.has(hostEOF) && c.WantRead(env, 1) == 0
	}
	return false
}

// HostPage appends the n bytes from off on in page, which the connection owns from now on. Nothing before them is needed: a link may put headers there (Out.Room).
func (c *Conn) HostPage(page pagepool.Page, off, n int) { c.q.addPage(page, off, n) }

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
		if c.nxt > 0 && !c.has(synDue) {
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
	*o = Out{Seq: c.ourSeq(c.nxt), Flags: RST | ACK, Ack: c.guestSeq(c.rcvNxt)}
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
		o.addTimes(c.clock(env.Now), c.tsRecent)
	}
	if !snd.SendTCP(c, o) {
		return false
	}
	if c.nxt == 0 {
		c.nxt = 1
		c.sb.push(0, 1, env.Now)
	} else {
		env.Stats.TCPRetransmits++
		c.resent++
		c.sb.resend(0, 1, env.Now)
	}
	c.unset(synDue)
	c.acked = 1
	return true
}

func (c *Conn) sendOpen(env *Env, snd Sender) bool {
	if c.sb.lost > 0 && !c.sendLost(env, snd) {
		return false
	}
	if c.nxt < c.q.tail || c.has(hostEOF) && c.nxt == c.q.tail {
		if !c.sendQueued(env, snd) {
			return false
		}
	}
	if c.has(tailDue) && !c.sendProbe(env, snd) {
		return false
	}
	if c.has(probeDue) { // one below una: the guest answers with its window (RFC 9293, 3.8.6.1)
		if !c.sendEmpty(env, snd, c.una-1) {
			return false
		}
		c.unset(probeDue)
	}
	if c.ackDue(env) {
		return c.sendACK(env, snd)
	}
	return true
}

// sendLost sends again what is lost, lowest first, as far as the windows let it. A guest that has moved its right edge back gets
// nothing beyond that.
func (c *Conn) sendLost(env *Env, snd Sender) bool {
	for c.sb.lost > 0 {
		i := c.sb.firstLost()
		c.sb.merge(i, int64(c.frameLen)+1) // a FIN takes no room in the frame
		r := c.sb.at(i)
		end := min(r.to, r.from+int64(c.frameLen))
		if r.from < c.q.tail {
			end = min(end, c.guestEdge)
			if end == c.q.tail && r.to > end {
				end++ // the FIN goes with the last byte
			}
		}
		n := c.mayFly(end - r.from)
		if n <= 0 {
			break
		}
		if !c.sendAgain(env, snd, i, r.from+n) {
			return false
		}
	}
	return true
}

// sendQueued sends what was not sent before, and the FIN behind it, as far as the windows let it; nothing while something lost waits for room.
func (c *Conn) sendQueued(env *Env, snd Sender) bool {
	if c.una == c.nxt && env.Now-c.sentAt > c.rto {
		c.cc.rest()
	}
	for c.sb.lost == 0 && c.sb.n < maxFrames {
		n := max(c.mayFly(min(c.q.tail-c.nxt, c.guestEdge-c.nxt, c.paceFrame())), 0)
		if n == 0 && !(c.has(hostEOF) && c.nxt == c.q.tail) || !c.mayLeave(env) {
			break
		}
		from := c.nxt
		if !c.sendNew(env, snd, n) {
			return false
		}
		c.left(env, c.nxt-from)
	}
	return true
}

// sendNew sends n bytes from nxt on, or as many as one frame carries, and the FIN when it follows them.
func (c *Conn) sendNew(env *Env, snd Sender, n int64) bool {
	end := c.nxt + n
	if c.has(hostEOF) && end == c.q.tail {
		end++
	}
	end, ok := c.sendData(env, snd, c.nxt, end)
	if !ok {
		return false
	}
	if end > c.q.tail && !c.has(finRcvd) {
		c.set(finFirst)
	}
	c.sb.push(c.nxt, end, env.Now)
	c.cc.out += end - c.nxt
	c.nxt = end
	c.cc.sent(c.pipe(), c.una, c.nxt)
	c.carried, c.sentAt = env.Now, env.Now
	c.tailAt = 0
	return true
}

// sendAgain sends record i again up to offset end.
func (c *Conn) sendAgain(env *Env, snd Sender, i int, end int64) bool {
	from := c.sb.at(i).from
	end, ok := c.sendData(env, snd, from, end)
	if !ok {
		return false
	}
	segments := uint64(end-from+int64(c.mss)-1) / uint64(c.mss)
	env.Stats.TCPRetransmits += segments
	c.resent += segments
	c.sb.resend(i, end, env.Now)
	c.resentNow(env.Now, end-from)
	c.cc.out += end - from
	c.cc.used = max(c.cc.used, c.pipe())
	c.sentAt = env.Now
	if from == c.una { // the timer is that of the first byte that is missing
		c.rtoAt = env.Now + c.rto
	}
	return true
}

// sendData sends [off, end), or less of it when that is not to go in one frame (sendQueue.pieces); an end behind that of the queue stands for the FIN. It returns
// the end of what was sent.
func (c *Conn) sendData(env *Env, snd Sender, off, end int64) (int64, bool) {
	o := &env.out
	c.begin(env, o, off)
	// A frame in one page is one run of memory. On a long path frames are short, and how they are cut is for the pace to say.
	align := off == c.nxt && !c.far()
	o.Payload, o.Len, o.Room = c.q.pieces(env.Send, env.iov[:0], off, int(min(end, c.q.tail)-off), maxPieces, align)
	o.MSS = c.mss
	sent := off + int64(o.Len)
	if sent == c.q.tail {
		if o.Len > 0 {
			o.Flags |= PSH
		}
		if end > sent {
			o.Flags |= FIN
			sent++
		}
	}
	if !snd.SendTCP(c, o) {
		return 0, false
	}
	c.told(o)
	return sent, true
}

// sendEmpty sends a segment without data: an ACK, with SACK blocks when there are holes.
func (c *Conn) sendEmpty(env *Env, snd Sender, off int64) bool {
	o := &env.out
	c.begin(env, o, off)
	if c.blocksDue() {
		c.addSACK(o, c.guestOff(o.Ack))
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
		o.addTimes(c.clock(env.Now), c.tsRecent)
	}
}

// told notes what a sent segment acknowledged.
func (c *Conn) told(o *Out) {
	c.acked = c.guestOff(o.Ack)
	c.unset(askedAgain)
	if o.Len > 0 && c.blocksDue() {
		return // data leaves no room for SACK blocks, and is no duplicate ACK: one follows
	}
	c.unset(ackNow | ackSoon)
	c.twice = interval{}
}

// finish closes the connection when both directions have ended and everything is acknowledged.
func (c *Conn) finish(env *Env) {
	if c.state == Open && c.has(shutDone) && c.finAcked() && !c.has(ackNow) {
		c.end(env, Finished)
	}
}

// finAcked reports whether the guest has acknowledged our FIN.
func (c *Conn) finAcked() bool { return c.has(hostEOF) && c.una > c.q.tail }
