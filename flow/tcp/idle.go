package tcp

import "github.com/vasta-net/vasta/pagepool"

// What the worker needs to know of a connection when it is short of something: whether it may be given up for another one, and what that
// would free.

// Transitory reports whether the connection is still being opened, or has begun to end. Such a one may be given up sooner (RFC 5382,
// section 5).
func (c *Conn) Transitory() bool { return c.state != Open || c.has(finRcvd|hostEOF) }

// Probed reports whether a keepalive probe of ours is unanswered: what the guest says next may be no more than the answer.
func (c *Conn) Probed() bool { return c.probes > 0 }

// Promised is what the budget holds for the connection, in bytes.
func (c *Conn) Promised() int64 { return c.promise }

// SendMemory is what the connection keeps of the send pool, in bytes.
func (c *Conn) SendMemory() int64 { return int64(c.q.mem) }

// Evict ends the connection because what it uses is needed. The guest gets a reset with the next Output, and the host's peer has to see
// one.
func (c *Conn) Evict(env *Env) {
	if c.state == Closed {
		return
	}
	opening := c.state == Connecting
	c.end(env, Evicted)
	c.set(rstDue)
	if opening {
		c.set(synRefused)
	}
}

// sendShare is the part of what is left of the send pool that one connection may keep, as 1/sendShare: however many guests do not
// acknowledge, some is left for those that do.
const sendShare = 8

// share is how many more pages of the send pool the connection may take. One that keeps nothing may always take one: no acknowledgement
// would come that lets it go on.
func (c *Conn) share(env *Env) int {
	n := env.Send.Free()/sendShare - c.q.mem/pagepool.PageSize
	if c.q.n == 0 {
		n = max(n, 1)
	}
	return n
}
