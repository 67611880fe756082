package tcp

import "encoding/binary"

// What the guest is told of gaps in its stream, and of what it sent twice.
//
// The link to a guest keeps the order of frames, so a gap is a loss, and the guest should hear of it as early as it can act on it:
// the first segment behind a gap is answered with Env.GapACKs duplicate ACKs at once. Three are what a guest waits for that goes by
// their number (RFC 5681, 3.2); one that has SACK learns what it needs from the first. Every further segment behind the same gap is
// answered with one, as RFC 5681, 4.2, has it. Where frames of a connection may overtake each other, because its guest's queue
// has just changed and some came by way of another worker, Env.GapACKs is 1: then three segments have to be behind a gap to call
// it a loss, as everywhere else.

// behindGap notes that a segment arrived behind a gap.
func (c *Conn) behindGap(env *Env) {
	env.Stats.TCPOutOfOrder++
	c.set(ackNow)
	if next := c.rcvNxt + int64(c.borrowLen); c.gapAt != next {
		c.gapAt, c.gapACKs = next, env.GapACKs
	}
}

// sendACK sends the ACK that is due, as often as a new gap is worth.
func (c *Conn) sendACK(env *Env, snd Sender) bool {
	if len(c.ooo) == 0 {
		c.gapACKs = 0
	}
	for {
		acked, edge := c.acked, c.edge
		if !c.sendEmpty(env, snd, c.nxt) {
			return false
		}
		if c.gapACKs > 0 && c.acked == acked && c.edge == edge { // only such a one is a duplicate
			c.gapACKs--
		}
		if c.gapACKs == 0 {
			return true
		}
		c.set(ackNow)
	}
}

// cameTwice notes that [from, to) was here before.
func (c *Conn) cameTwice(env *Env, from, to int64) {
	env.Stats.TCPDuplicate++
	c.set(ackNow | askedAgain)
	if c.has(useSACK) {
		c.twice = interval{max(from, 1), to}
	}
}

// blocksDue reports whether an ACK has SACK blocks to carry.
func (c *Conn) blocksDue() bool { return c.has(useSACK) && (len(c.ooo) > 0 || c.twice.to > 0) }

// addSACK adds the SACK blocks to an ACK of everything below ack: first what came twice (RFC 2883, 4), once, then what lies behind
// gaps, the range that holds the newest segment first (RFC 2018, 4).
func (c *Conn) addSACK(o *Out, ack int64) {
	most := maxSACK
	if c.has(useTimes) {
		most--
	}
	var blocks [maxSACK]interval
	n := 0
	first := c.holding(c.lastOOO)
	if d := c.twice; d.to > 0 {
		if i := c.holding(d.from); i >= 0 { // the second block has to hold the first
			first = i
			d.to = min(d.to, c.ooo[i].to)
		} else {
			d.to = min(d.to, ack)
		}
		if d.from < d.to {
			blocks[0] = d
			n = 1
		}
	}
	if first >= 0 {
		blocks[n] = c.ooo[first]
		n++
	}
	for i := 0; i < len(c.ooo) && n < most; i++ {
		if i != first {
			blocks[n] = c.ooo[i]
			n++
		}
	}
	if n == 0 {
		return
	}
	o.addOption(optNop, optNop, optSACK, byte(2+8*n))
	for _, b := range blocks[:n] {
		binary.BigEndian.PutUint32(o.Options[o.OptLen:], c.guestSeq(b.from))
		binary.BigEndian.PutUint32(o.Options[o.OptLen+4:], c.guestSeq(b.to))
		o.OptLen += 8
	}
}

// holding is the index of the range behind a gap that holds offset off, -1 for none.
func (c *Conn) holding(off int64) int {
	for i := range c.ooo {
		if c.ooo[i].from <= off && off < c.ooo[i].to {
			return i
		}
	}
	return -1
}
