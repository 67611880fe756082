package dns

import (
	"net/netip"
)

// server is one resolver.
type server struct {
	addr    netip.AddrPort
	silent  bool  // it did not answer in time
	probeAt int64 // when it gets a query the next time while it is silent
	heard   int64 // when it answered last
	waits   int   // queries that went to it last
	sockets []socket
}

// socket is one that is open toward a resolver. The last one of a resolver's is used.
type socket struct {
	name   int32
	uses   int
	opened int64
	last   int64 // when it was used last
}

// silent notes that a resolver does not answer.
func (f *Forwarder) silent(now int64, i int) {
	s := &f.servers[i]
	if !s.silent {
		s.silent, s.probeAt = true, now+probing
	}
}

// heard notes that a resolver has answered through a socket, and returns its number.
func (f *Forwarder) heard(now int64, name int32) int {
	i := f.owner(name)
	if i >= 0 {
		f.servers[i].heard, f.servers[i].silent = now, false
	}
	return i
}

// owner is the number of the resolver that a socket leads to; -1 when it is closed.
func (f *Forwarder) owner(name int32) int {
	for i := range f.servers {
		for j := range f.servers[i].sockets {
			if f.servers[i].sockets[j].name == name {
				return i
			}
		}
	}
	return -1
}

// send sends a query to resolver i. It reports false when that cannot be reached.
func (f *Forwarder) send(now int64, q *query, i int) bool {
	k := f.socket(now, i)
	if k == nil || !f.net.SendQuery(k.name, q.msg) {
		return false
	}
	k.uses++
	k.last = now
	f.asks(q, i)
	q.sentAt = now
	f.sentBy(q, k.name)
	return true
}

// sentBy notes an attempt; of very many the latest count.
func (f *Forwarder) sentBy(q *query, name int32) {
	q.sockets[int(q.sent)%maxSent] = name
	if q.sent++; q.sent == 2*maxSent {
		q.sent = maxSent // as often modulo maxSent
	}
}

// socket is the one that the next query to resolver i leaves through; nil when there is none to be had.
func (f *Forwarder) socket(now int64, i int) *socket {
	s := &f.servers[i]
	if n := len(s.sockets); n > 0 {
		k := &s.sockets[n-1]
		if n == maxSockets || k.uses < socketUses && now-k.opened < socketAge {
			return k
		}
	}
	name, ok := f.net.OpenResolver(s.addr)
	if !ok {
		if n := len(s.sockets); n > 0 {
			return &s.sockets[n-1]
		}
		return nil
	}
	s.sockets = append(s.sockets, socket{name: name, opened: now, last: now})
	return &s.sockets[len(s.sockets)-1]
}

// probe sends a query, which has just been sent to a resolver that answers, to silent ones too from time to time. Whoever answers first is believed.
func (f *Forwarder) probe(now int64, q *query) {
	for i := range f.servers {
		s := &f.servers[i]
		if !s.silent || now < s.probeAt || q.asked>>i&1 != 0 {
			continue
		}
		s.probeAt = now + probing
		if k := f.socket(now, i); k != nil && f.net.SendQuery(k.name, q.msg) {
			k.uses++
			k.last = now
			f.sentBy(q, k.name)
		}
	}
}

// sweep closes sockets that are not used any more: what was sent through them is answered by now or never. With the last of them, the memory
// goes back.
func (f *Forwarder) sweep(now int64) {
	open := 0
	for i := range f.servers {
		s := &f.servers[i]
		last := len(s.sockets) - 1
		kept := s.sockets[:0]
		for j, k := range s.sockets {
			limit := giveUp + patience
			if j == last {
				limit = socketIdle
			}
			if now-k.last >= limit {
				f.net.CloseResolver(k.name)
				continue
			}
			kept = append(kept, k)
		}
		s.sockets = kept
		open += len(kept)
	}
	f.sweepAt = now + sweeping
	if open == 0 && f.pending == 0 {
		f.sweepAt = 0
		f.reset()
	}
}

// Close closes all sockets. Queries under way are forgotten.
func (f *Forwarder) Close() {
	for i := range f.servers {
		f.closeSockets(&f.servers[i])
	}
	f.pending, f.sweepAt = 0, 0
	f.reset()
}

func (f *Forwarder) closeSockets(s *server) {
	for _, k := range s.sockets {
		f.net.CloseResolver(k.name)
	}
	s.sockets = nil
}
