package tcp

// pacing spreads what the window lets fly over the round trip. The TAP needs none, and its frames are as long as they can be; but a guest
// may be the near end of a long path with a short queue, where a frame of 64 KiB is a burst of 45 packets. The kernel's own TCP is held back
// by the queues of its own host instead (TCP small queues), of which the TAP tells us nothing.
//
// Slow start is left to the acknowledgements while it doubles the window, since what they release is what has arrived; from the end of
// that on, new data leaves at the rates of Linux (net.ipv4.tcp_pacing_ca_ratio), in frames of what a millisecond carries.
type pacing struct {
	next int64 // when the next frame may leave
	at   int64 // timer: something waits for that; 0: nothing
}

const (
	// farRTT is the round-trip time from which on a guest is not only behind the TAP, but the near end of a path.
	farRTT = 4 * millisecond
	// paceTick is the time that a frame stands for, and by how much a timer may be late at no loss of rate.
	paceTick = millisecond

	paceSlowStart, paceAvoidance = 200, 120 // percent of the window in a round trip
)

// far reports whether the path to the guest is long.
func (c *Conn) far() bool { return c.srtt >= farRTT }

// paceRate is how many bytes of new data may leave in paceTick on a long path. In recovery cwnd is what may leave at this acknowledgement, now and
// then nothing (RFC 6937): the window that is left is ssthresh.
func (c *Conn) paceRate() int64 {
	percent := int64(paceAvoidance)
	if c.cc.doubles() {
		percent = paceSlowStart
	}
	window := c.cc.cwnd
	if c.recovery == recoveryFast {
		window = max(window, c.cc.ssthresh)
	}
	return max(window*percent/100*paceTick/c.srtt, 1)
}

// paceFrame is the largest payload of one frame of new data.
func (c *Conn) paceFrame() int64 {
	if !c.far() {
		return int64(c.frameLen)
	}
	mss := int64(c.mss)
	return min(max(c.paceRate()/mss*mss, 2*mss), int64(c.frameLen))
}

// mayLeave reports whether new data may leave now. If not, a timer runs until it may.
func (c *Conn) mayLeave(env *Env) bool {
	if !c.far() || c.cc.doubles() || env.Now >= c.pace.next {
		return true
	}
	c.pace.at = c.pace.next
	return false
}

// left notes that n bytes of new data have left.
func (c *Conn) left(env *Env, n int64) {
	if c.far() {
		c.pace.next = max(c.pace.next, env.Now-paceTick) + n*paceTick/c.paceRate()
	}
}
