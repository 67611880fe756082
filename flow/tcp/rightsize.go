package tcp

import "math"

// rightSize is how the receive window follows a long round trip (what Linux calls dynamic right-sizing, with the care that a link in
// memory needs). Up to Env.NearWindow a window grows with whatever the host takes. Beyond that it grows only to twice what arrives in
// the shortest round trip of late, so that over netem, or whatever else delays the guest, the window does not limit the rate. It has
// to be the shortest: a round trip that is mostly a queue gets longer with the window, and would call for ever more.
type rightSize struct {
	from, at int64 // hostNxt when the present measurement began, and when that was

	// The shortest round trip of the present rttLife and of the one before, by timestamps, nanoseconds; math.MaxInt64 for
	// none. The clock of timestamps counts milliseconds, so these are what it took at least, 0 for a fast link.
	min, before int64
	since       int64 // when the present one began, 0: there was no timestamp yet
}

// rttLife is how long a round trip counts before the shortest is looked for anew: paths change.
const rttLife = 6000 * millisecond

// echoed takes the timestamp that a data segment of the guest echoes. A guest that had nothing to send echoes an old one, so that only
// the shortest means anything.
func (r *rightSize) echoed(now int64, elapsed int32) {
	if elapsed < 0 {
		return // not ours
	}
	switch {
	case r.since == 0:
		r.min, r.before, r.since = math.MaxInt64, math.MaxInt64, now
	case now-r.since >= rttLife:
		r.before, r.min, r.since = r.min, math.MaxInt64, now
	}
	r.min = min(r.min, max(int64(elapsed)-1, 0)*millisecond)
}

// guestRTT is the shortest round trip to the guest of late, 0 when it is short, or not known.
func (c *Conn) guestRTT() int64 {
	rtt := c.rack.min
	if c.sizing.since != 0 {
		rtt = min(c.sizing.min, c.sizing.before)
	}
	if rtt < millisecond {
		return 0
	}
	return rtt
}

// rightSize raises the target once a round trip, if what the host took in it calls for that and the budget has room.
func (c *Conn) rightSize(env *Env) {
	r, rtt, took := &c.sizing, c.guestRTT(), env.Now-c.sizing.at
	if took < rtt || rtt == 0 {
		return
	}
	came := c.hostNxt - r.from
	r.from, r.at = c.hostNxt, env.Now
	need := int64(2 * float64(came) * (float64(rtt) / float64(took)))
	if need > c.target && c.HeldBytes() == 0 {
		c.target = max(c.target, min(need, env.MaxWindow, env.Budget.room()))
	}
}
