package tcp

import "github.com/vasta-net/vasta/stats"

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
	if c.nxt == 0 { // our SYN is still to be sent
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
		if s.Seq == c.irs && c.nxt > 0 { // our SYN/ACK was lost
			c.set(synDue)
		}
		return false
	case s.Flags&ACK == 0:
		env.Stats.Drop(stats.TCPBadAck)
		return false
	case c.nxt == 0 || s.Ack != c.config.ISS+1:
		env.Stats.Drop(stats.TCPBadAck)
		return false
	}
	if off := c.guestOff(s.Seq); !c.inWindow(off, off+int64(s.Len)) {
		env.Stats.Drop(stats.TCPOutOfWindow)
		return false
	}
	c.opened(env, s)
	c.guestEdge = 1 + int64(s.Window)<<c.sndScale
	c.maxWindow = max(c.maxWindow, c.guestEdge-1)
	return true
}

// opened makes the connection Open: our SYN is acknowledged.
func (c *Conn) opened(env *Env, s *Segment) {
	c.state = Open
	c.acknowledgeSyn(env, s)
	c.unset(synDue | strayDue)
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
		c.answerOld(env, s)
		return
	}
	if !c.inWindow(off, end) {
		c.inputUnacceptable(env, s, off)
		return
	}
	if s.Flags&SYN != 0 { // RFC 5961, 4.2
		env.Stats.Drop(stats.TCPOutOfWindow)
		c.challenge(env)
		return
	}
	if s.Flags&ACK == 0 {
		env.Stats.Drop(stats.TCPBadAck)
		return
	}
	if c.has(useTimes) && s.HasTimes && off <= c.acked {
		c.tsRecent, c.tsAt = s.TSVal, env.Now
	}
	if c.has(useTimes) && s.HasTimes && s.Len > 0 {
		c.sizing.echoed(env.Now, int32(c.clock(env.Now)-s.TSEcr))
	}
	if !c.acknowledge(env, s, off) {
		return
	}
	c.payload(env, s, off, end)
}

// inputReset takes a reset at offset off (RFC 5961, 3.2). The offset must be exactly what the guest may know to be the next:
// what was received, or what it was last told of that. Any other in the window is challenged.
// Once both streams have ended and both ends are acknowledged, a reset only says that the guest has forgotten the connection, which
// is in order; what is held still belongs to the host (compare RFC 1337).
func (c *Conn) inputReset(env *Env, off int64) {
	if c.has(finRcvd) && c.finAcked() {
		return
	}
	if off == c.rcvNxt || off == c.acked {
		c.end(env, GuestReset)
		return
	}
	env.Stats.Drop(stats.TCPBadReset)
	if c.inWindow(off, off) {
		c.challenge(env)
	}
}

// challenge asks for an ACK in answer to what may be forged: who is there really answers that in turn (RFC 5961, 3.2, 4.2, 5.2). A
// connection has challengeLimit of them in challengePeriod (RFC 5961, 7), so that neither forged segments nor two ends that have lost
// each other's state keep the link busy.
func (c *Conn) challenge(env *Env) {
	if env.Now-c.challengedAt >= challengePeriod {
		c.challengedAt, c.challenges = env.Now, 0
	}
	if c.challenges < challengeLimit {
		c.challenges++
		c.set(ackNow)
	}
}

const (
	challengeLimit  = 10
	challengePeriod = 5000 * millisecond
)

// answerOld answers a segment that is not acceptable: always when the guest may send it until it is acknowledged.
func (c *Conn) answerOld(env *Env, s *Segment) {
	if s.Len > 0 || s.Flags&FIN != 0 {
		c.set(ackNow)
	} else {
		c.challenge(env)
	}
}

// inputUnacceptable answers a segment outside the window with an ACK (RFC 9293, 3.10.7.4): a duplicate, a keepalive, a probe of
// a closed window. What an old one or a probe acknowledges counts all the same.
func (c *Conn) inputUnacceptable(env *Env, s *Segment, off int64) {
	c.answerOld(env, s)
	switch {
	case off > c.edge:
		env.Stats.Drop(stats.TCPOutOfWindow)
	case off < c.rcvNxt && s.Len > 0:
		c.cameTwice(env, off, off+int64(s.Len))
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
