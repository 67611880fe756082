package tcp

import "math"

// Timer values in nanoseconds.
const (
	millisecond = int64(1e6)
	initialRTO  = 1000 * millisecond
	minRTO      = 200 * millisecond // beside the round-trip time: a guest may put off its acknowledgement for as long
	maxRTO      = 60000 * millisecond
	lostSynRTO  = 3000 * millisecond // to begin with when a SYN had to be sent again

	// pawsLife is how long a timestamp is compared with: half a round of a clock of microseconds, the fastest in use.
	pawsLife = 1 << 31 * 1000

	probeInterval = 75000 * millisecond // between keepalive probes
	// halfClosedIdle is the longest silence before the first probe once one side has ended. What ends the other is often a reset, which nobody
	// sends again when it is lost, and the two kernels keep such a connection of their own no longer than this (tcp_fin_timeout).
	halfClosedIdle = 60000 * millisecond
)

// Retries before the guest is given up.
const (
	maxRetries    = 15
	maxSynRetries = 5
	maxProbes     = 9
	maxPersists   = 9 // doublings of the time between probes of a closed window: from minRTO to maxRTO
)

// clock is the timestamp clock at a time in nanoseconds: milliseconds (RFC 7323, 5.4).
func (c *Conn) clock(at int64) uint32 { return c.config.TSBase + uint32(at/millisecond) }

// sampleRTT takes the round-trip time of the oldest data that was newly acknowledged, unless some of it was sent twice (Karn; RFC 6298).
func (c *Conn) sampleRTT(e *ackEvent) {
	r := e.oldest
	if r == 0 || e.ambiguous {
		return
	}
	if c.srtt == 0 {
		c.srtt, c.rttvar = r, r/2
	} else {
		d := c.srtt - r
		if d < 0 {
			d = -d
		}
		c.rttvar += (d - c.rttvar) / 4
		c.srtt += (r - c.srtt) / 8
	}
	c.rto = c.baseRTO()
}

func (c *Conn) baseRTO() int64 {
	if c.srtt == 0 {
		return initialRTO
	}
	return min(c.srtt+max(4*c.rttvar, minRTO), maxRTO)
}

// armTimers starts and stops the timers after a round of output.
func (c *Conn) armTimers(env *Env) {
	switch {
	case c.una >= c.nxt:
		c.rtoAt, c.tailAt, c.reorderAt = 0, 0, 0
	case c.rtoAt == 0:
		c.rtoAt = env.Now + c.rto
	}
	if c.tailAt == 0 && c.rtoAt != 0 && c.state == Open {
		c.armProbe(env)
	}
	if c.state == Open && c.una == c.nxt && c.una <= c.q.tail && c.guestEdge <= c.una {
		if c.probeAt == 0 { // the window is closed: probe it
			c.probeAt = env.Now + min(c.rto<<c.persists, maxRTO)
		}
	} else {
		c.probeAt = 0
	}
}

// Deadline is when Timeout is to be called, 0 for never.
func (c *Conn) Deadline(env *Env) int64 {
	if c.state == Closed || c.state == Connecting {
		return 0
	}
	const never = math.MaxInt64
	at := int64(never)
	if c.state == Open {
		at = c.keepaliveAt(env)
	}
	if env.IdleLimit > 0 {
		at = min(at, c.carried+env.IdleLimit)
	}
	for _, t := range [...]int64{c.rtoAt, c.tailAt, c.reorderAt, c.probeAt, c.pace.at} {
		if t != 0 {
			at = min(at, t)
		}
	}
	if at == never {
		return 0
	}
	return at
}

// keepaliveAt is when the guest is probed next, or given up. Each probe is waited for in full, even if the process was stopped
// for long.
func (c *Conn) keepaliveAt(env *Env) int64 {
	if c.probes > 0 {
		return c.probedAt + probeInterval
	}
	if c.has(finRcvd|hostEOF) && c.una == c.nxt { // else what is sent again asks
		return c.heard + min(env.KeepIdle, halfClosedIdle)
	}
	return c.heard + env.KeepIdle
}

// Timeout acts on every timer that has run out; Output has to follow.
func (c *Conn) Timeout(env *Env) {
	if c.state == Closed || c.state == Connecting {
		return
	}
	if env.Now >= c.pace.at {
		c.pace.at = 0
	}
	if c.reorderAt != 0 && env.Now >= c.reorderAt {
		c.reorderTimeout(env)
	}
	if c.tailAt != 0 && env.Now >= c.tailAt {
		c.tailAt = 0
		c.set(tailDue)
	}
	if c.rtoAt != 0 && env.Now >= c.rtoAt {
		c.retransmitTimeout(env)
		if c.state == Closed {
			return
		}
	}
	if c.probeAt != 0 && env.Now >= c.probeAt {
		c.probeAt = 0
		c.persists = min(c.persists+1, maxPersists)
		c.set(probeDue)
	}
	if env.IdleLimit > 0 && env.Now >= c.carried+env.IdleLimit {
		c.giveUp(env)
		return
	}
	if c.state == Open && env.Now >= c.keepaliveAt(env) {
		c.probes, c.probedAt = c.probes+1, env.Now
		if c.probes > maxProbes {
			c.giveUp(env)
			return
		}
		c.set(probeDue)
	}
}

func (c *Conn) retransmitTimeout(env *Env) {
	env.Stats.TCPTimeouts++
	c.rtoAt = 0
	if c.state == Open && c.guestEdge <= c.una {
		// A guest that closed its window takes nothing, however long; whether it is alive is for the keepalive to tell.
		c.set(probeDue)
	} else {
		c.retries++
	}
	limit := uint8(maxRetries)
	if c.state != Open {
		limit = maxSynRetries
	}
	if c.retries > limit {
		c.giveUp(env)
		return
	}
	c.rto = min(2*c.rto, maxRTO)
	c.tailAt, c.reorderAt = 0, 0
	c.unset(tailDue)
	if c.state != Open {
		c.set(synDue)
		return
	}
	first := c.recovery == recoveryNone // else the window was reduced for this loss
	if first {
		c.remember()
	}
	c.cc.timeout(first, c.pipe())
	c.recovery, c.recover = recoveryTimer, c.nxt
	c.dupAcks, c.rack.probeEnd = 0, 0
	c.sb.loseAll()
}

// reorderTimeout finds lost what nothing was heard of within the reordering window.
func (c *Conn) reorderTimeout(env *Env) {
	c.detectLosses(env)
	if c.recovery == recoveryNone && c.sb.lost > 0 {
		c.enterRecovery(env)
		c.cc.proportion(0, c.pipe(), false)
	}
}

// giveUp ends the connection because the guest does not answer. It gets a reset all the same.
func (c *Conn) giveUp(env *Env) {
	c.end(env, GuestSilent)
	c.set(rstDue)
}
