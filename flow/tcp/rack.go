package tcp

// rack is the state of RACK-TLP (RFC 8985): what was sent before something that has arrived, by more than the reordering window, is
// lost; and when the end of what was sent may be lost, with nothing behind it that could tell, a probe is sent.
type rack struct {
	// The frame that was sent last of all that have arrived, and the time it took.
	sentAt, end int64
	rtt         int64

	fack  int64 // highest offset that has arrived
	minAt int64 // when minRTT was taken
	min   int64 // shortest round-trip time of late, nanoseconds; 0: none

	reordered  bool  // the path reorders
	mult       int64 // the reordering window in quarters of a round trip, less one
	persist    uint8 // recoveries until mult is forgotten
	dsackRound int64 // offset at which the round ends in which a D-SACK raised mult, 0: none

	resentTo int64 // below it may lie what was sent more than once

	// The tail loss probe.
	probeEnd    int64 // what has to be acknowledged for the probe to have been answered, 0: none is out
	probeResent bool  // it carried nothing new
	doubled     uint8 // how often the margin was doubled
}

const (
	// dupThresh segments that arrived behind a hole tell a loss where there is no better sign (RFC 5681, 3.2).
	dupThresh = 3
	// multLife is for how many recoveries the reordering window stays wide after a D-SACK (RFC 8985, 6.2, step 4).
	multLife = 16
	// maxMult keeps the arithmetic small; the smoothed round-trip time bounds the window long before.
	maxMult = 1 << 16
	// minLife is for how long the shortest round-trip time counts: paths change.
	minLife = 10000 * millisecond

	// probeMargin is added to two round-trip times before a tail loss probe. A guest whose process does not come to read does not
	// acknowledge at once, however much arrived: Linux then waits for 40 ms, and on a busy machine that is often. A probe that was
	// needless doubles the margin of its connection, twice: then the retransmission timer comes first.
	probeMargin = 50 * millisecond
	// delayedAck is how long a guest may put off its acknowledgement (RFC 8985, 7.2: WCDelAckT).
	delayedAck = 200 * millisecond
)

// arrived takes note that record r, up to offset to, has just been acknowledged or SACKed. earlier says that the guest's timestamp
// tells of an earlier transmission.
func (k *rack) arrived(r *record, to, now int64, earlier bool) {
	rtt := max(now-r.sentAt, 1)
	if r.resent {
		if earlier || rtt < k.min {
			return // RFC 8985, 6.2, step 2
		}
	} else if to < k.fack {
		k.reordered = true
	}
	k.fack = max(k.fack, to)
	if rtt <= k.min || k.min == 0 || now-k.minAt > minLife {
		k.min, k.minAt = rtt, now
	}
	if sentAfter(r.sentAt, to, k.sentAt, k.end) {
		k.sentAt, k.end, k.rtt = r.sentAt, to, rtt
	}
}

// sentAfter orders what was sent: by time, and by offset within one batch, which has one time.
func sentAfter(at1, end1, at2, end2 int64) bool {
	return at1 > at2 || at1 == at2 && end1 > end2
}

// widen notes that a D-SACK told of a needless retransmission: at most once in a round trip, which ends when nxt is acknowledged, the
// reordering window gets wider.
func (k *rack) widen(nxt int64) {
	if k.dsackRound == 0 {
		k.dsackRound = nxt
		k.mult = min(k.mult+1, maxMult)
	}
	k.persist = multLife
}

// recovered notes that a recovery has ended.
func (k *rack) recovered() {
	if k.persist > 0 {
		if k.persist--; k.persist == 0 {
			k.mult = 0
		}
	}
}

// reorderWindow is by how much later something must have been sent that has arrived, for a record to be lost.
func (c *Conn) reorderWindow() int64 {
	k := &c.rack
	if !k.reordered && (c.recovery != recoveryNone || c.sb.sacked >= int64(dupThresh*c.mss)) {
		return 0
	}
	if k.mult > 0 {
		// Not of min, as RFC 8985 has it: what overtakes others on a path that is known to reorder has the shortest round trips itself.
		return min((k.mult+1)*c.srtt/4, c.srtt)
	}
	return k.min / 4
}

// detectLosses marks what is lost by now, and sets the timer for what will be if nothing is heard of it (RFC 8985, 6.2, step 5).
func (c *Conn) detectLosses(env *Env) {
	c.reorderAt = 0
	k := &c.rack
	if c.sb.n == 0 || c.sb.sacked == 0 && c.una >= k.resentTo {
		return // all that flies was sent in order, behind what has arrived
	}
	window := k.rtt + c.reorderWindow()
	for i := range c.sb.n {
		r := c.sb.at(i)
		if r.fate != flying || !sentAfter(k.sentAt, k.end, r.sentAt, r.to) {
			continue
		}
		if at := r.sentAt + window; at <= env.Now {
			c.sb.move(r, lost)
		} else {
			c.reorderAt = max(c.reorderAt, at)
		}
	}
}

// armProbe sets the timer of the tail loss probe, where one may help: something flies, and nothing has told of a loss
// (RFC 8985, 7.2).
func (c *Conn) armProbe(env *Env) {
	c.tailAt = 0
	if !c.has(useSACK) || c.recovery != recoveryNone || c.sb.flying == 0 || c.sb.sacked+c.sb.lost > 0 || c.rack.probeEnd != 0 || c.srtt == 0 || c.has(tailDue) {
		return
	}
	wait := 2*c.srtt + probeMargin<<c.rack.doubled
	if c.sb.flying < int64(2*c.mss) { // RFC 9293, 3.8.6.3: only the second full segment is acknowledged at once
		wait = 2*c.srtt + delayedAck
	}
	if at := env.Now + wait; at < c.rtoAt {
		c.tailAt = at
	}
}

// sendProbe sends a tail loss probe: one segment of new data, though cwnd be used up, or else the last one again.
func (c *Conn) sendProbe(env *Env, snd Sender) bool {
	if c.recovery != recoveryNone || c.sb.n == 0 || c.sb.sacked+c.sb.lost > 0 {
		c.unset(tailDue) // overtaken
		return true
	}
	k := &c.rack
	if n := min(c.q.tail-c.nxt, c.guestEdge-c.nxt, int64(c.mss)); n > 0 {
		if !c.sendNew(env, snd, n) {
			return false
		}
		k.probeResent = false
	} else {
		i := c.sb.n - 1
		if r := c.sb.last(); r.to-r.from > int64(c.mss) {
			c.sb.split(i, r.to-int64(c.mss))
			i++
		}
		if !c.sendAgain(env, snd, i, c.sb.at(i).to) {
			return false
		}
		k.probeResent = true
	}
	c.unset(tailDue)
	k.probeEnd = c.nxt
	c.rtoAt = env.Now + c.rto
	env.Stats.TCPTailProbes++
	return true
}

// probeAnswered ends a tail loss probe when ack covers it (RFC 8985, 7.4.2). It reports whether the probe has repaired a loss, which
// nothing else will tell of.
func (c *Conn) probeAnswered(ack int64, duplicate bool, e *ackEvent) (repaired bool) {
	k := &c.rack
	if k.probeEnd == 0 || ack < k.probeEnd {
		return false
	}
	switch {
	case !k.probeResent:
	case e.dsack, duplicate && e.delivered == 0: // nothing was lost: both have arrived
		k.doubled = min(k.doubled+1, 2)
	case ack > k.probeEnd:
		repaired = true
	default:
		return false // the original, or the probe: what comes next tells
	}
	k.probeEnd = 0
	return repaired
}
