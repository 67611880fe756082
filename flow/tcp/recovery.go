package tcp

// recovery says why the sender repairs, if it does.
type recovery uint8

const (
	recoveryNone  recovery = iota
	recoveryFast           // acknowledgements told of a loss (RFC 6675, RFC 8985, RFC 6582)
	recoveryTimer          // the retransmission timer ran out (RFC 6298)
)

// undo is what is needed to take back a recovery that turns out to have been for nothing: the guest had everything.
type undo struct {
	from, to int64 // offsets of what may have been sent needlessly; from is 0 when there is nothing to undo
	bytes    int64 // sent again in this range and not reported as duplicates
	firstAt  int64 // when the first of that was sent, 0: nothing yet

	cwnd, ssthresh int64 // before the recovery
	cubic          cubic
}

// ackEvent is what one segment from the guest tells the sender.
type ackEvent struct {
	delivered int64 // bytes newly acknowledged or SACKed
	acked     int64 // of these, acknowledged
	rtt       int64 // of the newest of them that was sent once, nanoseconds; 0: none was
	oldest    int64 // of the oldest
	ambiguous bool  // something acknowledged was sent more than once
	dsack     bool  // it reports a duplicate
	spurious  bool  // its timestamp tells that what was sent again had arrived the first time (RFC 3522)
}

// enterRecovery begins to repair what was found lost.
func (c *Conn) enterRecovery(env *Env) {
	env.Stats.TCPFastRecoveries++
	c.recovery, c.recover = recoveryFast, c.nxt
	c.remember()
	c.cc.recover(c.pipe(), c.nxt-c.una)
}

// remember keeps what an undo restores.
func (c *Conn) remember() {
	c.undo = undo{from: c.una, to: c.nxt, cwnd: c.cc.cwnd, ssthresh: c.cc.ssthresh, cubic: c.cc.cubic}
}

// leaveRecovery ends a recovery: everything that was outstanding at its beginning is acknowledged. D-SACKs may still tell that it was
// needless.
func (c *Conn) leaveRecovery() {
	if c.recovery == recoveryFast {
		c.cc.cwnd = c.cc.ssthresh
	}
	c.recovery, c.dupAcks = recoveryNone, 0
	c.rack.recovered()
}

// resentNow notes that n bytes are sent again.
func (c *Conn) resentNow(now, n int64) {
	c.rack.resentTo = c.nxt
	if c.undo.from == 0 {
		return
	}
	c.undo.bytes += n
	if c.undo.firstAt == 0 {
		c.undo.firstAt = now
	}
}

// takeDuplicate takes a D-SACK of [from, to), which arrived at the guest twice (RFC 2883). One that we did not send twice was doubled by
// the network, and tells nothing.
func (c *Conn) takeDuplicate(env *Env, from, to int64, e *ackEvent) {
	env.Stats.TCPDSACKs++
	e.dsack = true
	u := &c.undo
	from, to = max(from, u.from), min(to, u.to)
	if u.from == 0 || u.bytes == 0 || from >= to {
		return
	}
	u.bytes = max(u.bytes-(to-from), 0)
	c.rack.widen(c.nxt)
}

// maybeUndo takes back the recovery when all that was sent again was needless: each of it was reported as a duplicate, or the
// timestamp echoed is older than the first of it (RFC 3522, RFC 4015).
func (c *Conn) maybeUndo(env *Env, e *ackEvent) {
	u := &c.undo
	if u.firstAt == 0 || u.bytes > 0 && !e.spurious {
		return
	}
	env.Stats.TCPUndone++
	if e.spurious {
		c.rack.reordered = true
		c.rack.widen(c.nxt)
	}
	c.sb.findAll()
	c.cc.cwnd, c.cc.ssthresh, c.cc.cubic = max(c.cc.cwnd, u.cwnd), max(c.cc.ssthresh, u.ssthresh), u.cubic
	if c.recovery != recoveryNone {
		c.recovery, c.dupAcks = recoveryNone, 0
		c.rack.recovered()
	}
	*u = undo{}
}

// respond brings recovery and window up to date with what an acknowledgement told.
func (c *Conn) respond(env *Env, e *ackEvent, duplicate bool) {
	c.tailAt = 0
	c.maybeUndo(env, e)
	lostBefore := c.sb.lost
	if c.has(useSACK) {
		c.detectLosses(env)
	} else {
		c.countDuplicates(e, duplicate)
	}
	if c.recovery != recoveryNone && c.una >= c.recover {
		c.leaveRecovery()
	}
	if c.recovery == recoveryNone && c.sb.lost > 0 {
		c.enterRecovery(env)
	}
	if c.probeAnswered(c.una, duplicate, e) && c.recovery == recoveryNone {
		c.cc.recover(c.pipe(), c.nxt-c.una)
		c.cc.cwnd = c.cc.ssthresh
	}
	if c.recovery == recoveryFast {
		c.cc.proportion(e.delivered, c.pipe(), e.acked > 0 && c.sb.lost <= lostBefore)
	} else if e.acked > 0 {
		c.cc.grow(env.Now, e.acked, c.una, c.nxt, e.rtt, c.srtt)
	}
}

// countDuplicates finds losses without SACK (RFC 6582): the third duplicate acknowledgement tells that the first frame is lost, and in
// recovery each partial acknowledgement that the one it ends at is, too.
func (c *Conn) countDuplicates(e *ackEvent, duplicate bool) {
	switch {
	case c.recovery == recoveryTimer:
		return // everything is sent again, and what was not needed of it makes duplicates of its own
	case duplicate:
		c.dupAcks++
		e.delivered = int64(c.mss)
		if c.dupAcks < dupThresh || c.recovery != recoveryNone || c.una < c.recover {
			return
		}
	case e.acked == 0:
		return
	default:
		c.dupAcks = max(c.dupAcks-int(e.acked/int64(c.mss)), 0)
		if c.recovery != recoveryFast || c.una >= c.recover {
			if c.recovery == recoveryNone {
				c.dupAcks = 0
			}
			return
		}
	}
	if r := c.sb.at(0); r.fate == flying && !r.resent {
		c.sb.move(r, lost)
	}
}

// pipe is how many bytes are on their way. Without SACK each duplicate acknowledgement tells that one segment is not any more.
func (c *Conn) pipe() int64 {
	return max(c.sb.flying-int64(c.dupAcks*c.mss), 0)
}

// mayFly is how many of n bytes the window lets fly now: all, or as many whole segments as fit; one when nothing flies.
func (c *Conn) mayFly(n int64) int64 {
	pipe := c.pipe()
	room := c.cc.cwnd - pipe
	if n <= room {
		return n
	}
	mss := int64(c.mss)
	room = max(room, 0) / mss * mss
	if pipe == 0 {
		room = max(room, mss)
	}
	return min(n, room)
}
