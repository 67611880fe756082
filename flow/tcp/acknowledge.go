package tcp

import "github.com/vasta-net/vasta/stats"

// acknowledge processes the acknowledgement, the SACK blocks and the window of s, and reports whether s is to be processed further.
func (c *Conn) acknowledge(env *Env, s *Segment, off int64) bool {
	ack := c.ourOff(s.Ack)
	if ack > c.nxt || ack < c.una-c.maxWindow { // RFC 5961, 5.2
		env.Stats.Drop(stats.TCPBadAck)
		c.challenge(env)
		return false
	}
	if ack < c.una {
		return true // an old one; its data may still be new
	}
	wnd := ack + int64(s.Window)<<c.sndScale
	duplicate := ack == c.una && c.una < c.nxt && s.Len == 0 && wnd == c.guestEdge && s.Flags&FIN == 0
	var e ackEvent
	if ack > c.una {
		c.newAck(env, s, ack, &e)
	}
	if s.SACKCount > 0 && c.has(useSACK) {
		c.takeBlocks(env, s, &e)
	}
	c.sampleRTT(&e)
	if duplicate || e.delivered > 0 || e.dsack {
		c.respond(env, &e, duplicate)
	}
	if c.wl1 < off || (c.wl1 == off && c.wl2 <= ack) {
		c.guestEdge, c.wl1, c.wl2 = wnd, off, ack
		c.maxWindow = max(c.maxWindow, wnd-ack)
		if wnd > c.una {
			c.persists = 0
		}
	}
	return true
}

// acknowledgeSyn takes the acknowledgement of our SYN.
func (c *Conn) acknowledgeSyn(env *Env, s *Segment) {
	var e ackEvent
	again := c.retries > 0
	c.newAck(env, s, 1, &e)
	c.sampleRTT(&e)
	c.cc.begin(int64(c.mss), env.MaxFlight, c.far())
	if again { // RFC 6298, 5.7, and RFC 5681, 3.1
		c.rto = max(c.rto, lostSynRTO)
		c.cc.cwnd = c.cc.mss
	}
}

func (c *Conn) newAck(env *Env, s *Segment, ack int64, e *ackEvent) {
	e.acked = ack - c.una
	// The timestamp echoed is that of the segment that moved the acknowledgement, so it tells of the first record only. (One with
	// SACK blocks alone echoes an older one.)
	echo := c.sb.at(0).resent && c.has(useTimes) && s.HasTimes
	// What an earlier recovery sent again, and was taken back, echoes a time before this one: it tells nothing of this one.
	e.spurious = echo && c.undo.firstAt != 0 && c.sb.at(0).sentAt >= c.undo.firstAt && int32(s.TSEcr-c.clock(c.undo.firstAt)) < 0
	for c.una < ack {
		r := c.sb.at(0)
		to := min(r.to, ack)
		c.arrived(env, r, to, echo && int32(s.TSEcr-c.clock(r.sentAt)) < 0, e)
		echo = false
		c.una = to
		c.sb.cut(to)
	}
	c.q.release(env.Send, ack)
	c.retries = 0
	c.rtoAt, c.tailAt = 0, 0
	c.rto = c.baseRTO()
	if c.rack.dsackRound <= ack {
		c.rack.dsackRound = 0
	}
}

// arrived takes note that record r has arrived at the guest up to offset to, if that is new. earlier says that it was not its last
// transmission that did.
func (c *Conn) arrived(env *Env, r *record, to int64, earlier bool, e *ackEvent) {
	if r.fate == sacked {
		return
	}
	e.delivered += to - r.from
	if r.resent {
		e.ambiguous = true
	} else {
		rtt := max(env.Now-r.sentAt, 1)
		e.oldest = max(e.oldest, rtt)
		if e.rtt == 0 || rtt < e.rtt {
			e.rtt = rtt
		}
	}
	c.rack.arrived(r, to, env.Now, earlier)
}

// takeBlocks takes the SACK blocks of s (RFC 2018), of which the first may be a D-SACK (RFC 2883). What is not between una and nxt, or
// runs backward, is ignored.
func (c *Conn) takeBlocks(env *Env, s *Segment, e *ackEvent) {
	var blocks [len(s.SACK)]interval
	n := 0
	for i, b := range s.SACK[:s.SACKCount] {
		v := interval{c.ourOff(b[0]), c.ourOff(b[1])}
		if v.from >= v.to || v.to > c.nxt {
			continue
		}
		if i == 0 && c.isDuplicate(v, s) {
			if v.from >= c.una-c.maxWindow {
				c.takeDuplicate(env, v.from, v.to, e)
			}
			continue
		}
		v.from = max(v.from, c.una)
		if v.from >= v.to {
			continue
		}
		// In ascending order: a lower block that comes later would be taken for reordering.
		k := n
		for ; k > 0 && blocks[k-1].from > v.from; k-- {
			blocks[k] = blocks[k-1]
		}
		blocks[k] = v
		n++
	}
	for _, v := range blocks[:n] {
		lo, hi := c.sb.within(v.from, v.to)
		for i := lo; i < hi; i++ {
			if r := c.sb.at(i); r.fate != sacked {
				c.arrived(env, r, r.to, false, e)
				c.sb.move(r, sacked)
			}
		}
		if lo < hi {
			c.sb.join(lo, hi)
		}
	}
}

// isDuplicate is the test of RFC 2883, 4: the first block lies below the acknowledgement, or within the second block.
func (c *Conn) isDuplicate(v interval, s *Segment) bool {
	if v.to <= c.una {
		return true
	}
	if s.SACKCount < 2 {
		return false
	}
	from, to := c.ourOff(s.SACK[1][0]), c.ourOff(s.SACK[1][1])
	return from <= v.from && v.to <= to && to <= c.nxt
}
