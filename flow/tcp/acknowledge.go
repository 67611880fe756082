package tcp

import "github.com/vasta-net/vasta/stats"

// acknowledge processes the acknowledgement and window of s, and reports whether s is to be processed further.
func (c *Conn) acknowledge(env *Env, s *Segment, off int64) bool {
	ack := c.ourOff(s.Ack)
	if ack > c.max || ack < c.una-c.flightCap(env) {
		env.Stats.Drop(stats.TCPBadAck)
		c.set(ackNow)
		return false
	}
	if ack < c.una {
		return true // an old one; its data may still be new
	}
	wnd := ack + int64(s.Window)<<c.sndScale
	switch {
	case ack > c.una:
		c.newAck(env, ack)
	case c.una < c.max && s.Len == 0 && wnd == c.guestEdge && s.Flags&FIN == 0:
		c.dupAck()
	}
	if c.wl1 < off || (c.wl1 == off && c.wl2 <= ack) {
		c.guestEdge, c.wl1, c.wl2 = wnd, off, ack
		if wnd > c.una {
			c.persists = 0
		}
	}
	return true
}

// flightCap is how far back an acknowledgement may lie and still be a late one (RFC 5961, 5.2).
func (c *Conn) flightCap(env *Env) int64 { return env.MaxFlight + 65536 }

func (c *Conn) newAck(env *Env, ack int64) {
	c.sampleRTT(env, ack)
	c.q.release(env.Send, ack)
	c.una = ack
	c.nxt = max(c.nxt, ack)
	c.retries, c.dupAcks = 0, 0
	c.rtoAt = 0
	c.rto = c.baseRTO()
	if ack < c.recover { // a partial acknowledgement: the next hole begins here (RFC 6582)
		c.set(retransmit)
	} else {
		c.unset(retransmit)
	}
}

func (c *Conn) dupAck() {
	c.dupAcks++
	if c.dupAcks == 3 && c.una >= c.recover {
		c.recover = c.max
		c.set(retransmit)
	}
}
