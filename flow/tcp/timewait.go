package tcp

// TimeWait is what is left of a connection that we have ended first: enough to answer the guest's FIN once more, should our
// acknowledgement of it be lost. Without it the guest would get a reset, and its application an error instead of the end of the stream.
//
// It stays for as long as the guest takes to repeat its FIN three times, a few seconds at most, and not for two lifetimes of a
// segment (RFC 9293, 3.4.3: minutes). Those are for networks in which an old segment may turn up that late. The link to a guest is a
// queue in memory, and 10,000 connections a second would leave more than half a million behind.
type TimeWait struct {
	snd, rcv uint32 // what follows our FIN and the guest's
	tsBase   uint32
	tsRecent uint32
	times    bool
}

// Verdict is what a segment means to a connection in TIME-WAIT.
type Verdict uint8

// The verdicts.
const (
	Ignore Verdict = iota
	Answer         // with an ACK
	Forget         // the guest knows nothing of the connection any more
	Reopen         // the segment is the SYN of the next connection between the same ends
)

// maxTimeWait is how long a connection stays in TIME-WAIT at most, nanoseconds.
const maxTimeWait = 5000 * millisecond

// TimeWait returns what has to stay of a connection that has ended, and for how many nanoseconds. Nothing has to where the guest ended its
// stream first, or either side reset the connection: the guest has heard all then.
func (c *Conn) TimeWait() (t TimeWait, life int64, ok bool) {
	if c.state != Closed || c.why != Finished || !c.has(finFirst) {
		return TimeWait{}, 0, false
	}
	t = TimeWait{
		snd: c.ourSeq(c.nxt), rcv: c.guestSeq(c.rcvNxt),
		tsBase: c.config.TSBase, tsRecent: c.tsRecent, times: c.has(useTimes),
	}
	return t, min((1+2+4)*c.baseRTO(), maxTimeWait), true
}

// Input takes a segment from the guest. For Answer it fills in what is to be sent.
func (t *TimeWait) Input(env *Env, s *Segment, o *Out) Verdict {
	switch {
	case s.Flags&RST != 0: // one that may be forged, or comes late, ends nothing early (RFC 1337)
		if s.Seq == t.rcv {
			return Forget
		}
		return Ignore
	case s.Flags&(SYN|ACK) == SYN && t.isNew(s):
		return Reopen
	case s.Flags&(SYN|FIN) == 0 && s.Len == 0:
		return Ignore // an ACK asks for nothing
	}
	*o = Out{Seq: t.snd, Ack: t.rcv, Flags: ACK}
	if t.times {
		o.addTimes(t.tsBase+uint32(env.Now/millisecond), t.tsRecent)
	}
	return Answer
}

// isNew tells the SYN of a new connection from an old one's (RFC 6191).
func (t *TimeWait) isNew(s *Segment) bool {
	if t.times && s.HasTimes && s.TSVal != t.tsRecent {
		return int32(s.TSVal-t.tsRecent) > 0
	}
	return int32(s.Seq-t.rcv) >= 0
}
