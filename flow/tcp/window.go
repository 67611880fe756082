package tcp

// ackDue reports whether an ACK without data is worth a segment now.
func (c *Conn) ackDue(env *Env) bool {
	if c.has(ackNow) || c.has(ackSoon) && (!env.Lazy || c.rcvNxt-c.acked >= c.target/4) {
		return true
	}
	if c.has(finRcvd) {
		return false
	}
	ack, n := c.nextWindow(env)
	if ack > c.acked && !c.has(ackSoon) {
		return true // the slack had held it back
	}
	// A window update: when the guest may send two more segments, or half of all it could (RFC 9293, 3.8.6.2.2); when hardly
	// any window is left, half of what the budget always grants.
	gain := ack + n<<c.rcvScale - c.edge
	return gain > 0 && (gain >= 2*int64(c.mss) || gain >= c.target/2 || gain >= c.floor/2 && c.edge-c.rcvNxt < c.floor/2)
}

// AckWithData has the ACK of the guest's SYN/ACK wait for company, as that of data does: the caller knows that the host has sent something, and is about to read it. One
// segment then opens the connection and carries it. At any other time it does nothing.
func (c *Conn) AckWithData() {
	if c.state == Open && c.rcvNxt == 1 && c.nxt == 1 && c.has(ackNow) {
		c.unset(ackNow)
		c.set(ackSoon)
	}
}

// AckPending reports whether an ACK is due that Output left out because Env.Lazy was set.
func (c *Conn) AckPending() bool { return c.state == Open && c.has(ackSoon) }

// wantedEdge is the right edge that the connection would like to advertise: target bytes beyond what the host socket has
// taken, as far as the budget goes; but none beyond what was promised while more than half of that is held.
func (c *Conn) wantedEdge(env *Env) int64 {
	if c.HeldBytes() > c.target/2 {
		return c.edge
	}
	granted := max(c.edge+env.Budget.room(), c.hostNxt+c.floor)
	return max(c.edge, min(c.hostNxt+c.target, granted))
}

// window decides what the next segment acknowledges and the window field beside it, and moves the right edge.
func (c *Conn) window(env *Env) (ack int64, field uint16) {
	unit := int64(1) << c.rcvScale
	if c.has(finRcvd) {
		return c.rcvNxt, uint16(max(c.edge-c.rcvNxt+unit-1, 0) / unit)
	}
	c.growTarget(env)
	ack, n := c.nextWindow(env)
	c.edge = max(c.edge, ack+n*unit)
	c.settlePromise(env)
	return ack, uint16(n)
}

// nextWindow is what the next segment acknowledges, and the units of window beside it.
//
// The field counts in units of 1<<rcvScale, and the right edge must never move left (RFC 9293, 3.8.6). A window that cannot
// reach the edge in whole units is rounded up: that gives the guest up to one unit more than was promised, which
// is reserved like any promise. What is held grows by that, so there is an end to it: once the connection's slack or the budget is used up, the
// acknowledgement stays up to one unit behind rcvNxt instead, such that acknowledgement and window meet the edge exactly. With nothing
// held the slack is no matter, though the target may have become less than the window: rounding up does not widen that.
//
// An acknowledgement that stays behind is all that a guest hears which has sent its last for now, or has lost everything behind the first few
// bytes and sends those again, for as long as it lives. One that sends again what is here is told so, with a window that is rounded
// down (RFC 7323, 2.4): up to the edge it may send all the same. From there on the acknowledgement does not move back.
func (c *Conn) nextWindow(env *Env) (ack, n int64) {
	unit := int64(1) << c.rcvScale
	ack = c.rcvNxt
	n = min((c.wantedEdge(env)-ack)/unit, 65535)
	if ack+n*unit >= c.edge {
		return ack, n
	}
	n = (c.edge - ack + unit - 1) / unit
	reached := ack + n*unit
	slack := c.HeldBytes() == 0 || reached <= c.hostNxt+c.target+scaleSlack
	if slack && c.promiseOf(reached)-c.promise <= env.Budget.Limit-env.Budget.Promised {
		return ack, n
	}
	if behind := c.edge - n*unit; behind >= c.acked && !c.has(askedAgain) {
		return behind, n
	}
	return ack, n - 1
}

// growTarget doubles the window after a whole window arrived while the host took everything, up to what a short round trip needs. When that
// becomes less, because more connections share it, the window does as well, by staying where it is while the guest fills it.
func (c *Conn) growTarget(env *Env) {
	c.rightSize(env)
	if c.target > env.NearWindow && c.guestRTT() == 0 {
		c.target = max(env.NearWindow, c.floor)
		return
	}
	if c.HeldBytes() > 0 || c.rcvNxt-c.grown < c.target/2 {
		return
	}
	c.grown = c.rcvNxt
	if c.target < env.Budget.room() {
		c.target = max(c.target, min(2*c.target, env.NearWindow, env.MaxWindow))
	}
}
