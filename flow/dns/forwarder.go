// Package dns forwards a guest's questions to the host's resolvers. It is a mapping with retry: a query gets an identifier of our own
// and leaves through one of a few sockets; the answer gets the guest's identifier back. Messages are looked at no
// further than that needs, and nothing is cached.
//
// A resolver that does not answer in time is passed over until it is heard again, and the query goes to the next one; so the loss of a
// resolver costs each query that was under way a fraction of a second, and later ones nothing.
//
// It is sans-IO: it is told the time and what arrived, and has a Net carry out what it wants. A Forwarder belongs to one worker and is
// not safe for concurrent use. Once its memory has grown to the load it does not allocate.
package dns

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/vasta-net/vasta/stats"
)

// Times of a Forwarder, in nanoseconds.
const (
	failover = int64(400e6)  // until the next resolver is asked
	patience = int64(1500e6) // between further attempts, when all have been asked
	giveUp   = int64(3500e6) // after which there are no further attempts: the stub resolver of glibc asks again after 5 s
	probing  = int64(2e9)    // between queries that a silent resolver gets beside the one that answers

	sweeping   = int64(1e9)  // between looks at the sockets
	socketAge  = int64(20e9) // after which a socket, and its port, gets no further query
	socketIdle = int64(10e9) // without a query after which a socket is closed
)

// Bounds.
const (
	MaxQuery   = 4096     // bytes of a query
	MaxPending = 16 << 10 // queries under way: 10,000 a second whose resolver is silent fit well
	maxServers = 8
	// socketUses is how many queries leave through one port: a forger has to guess it, and the identifier (RFC 5452).
	socketUses = 4096
	// maxSockets bounds the open sockets toward one resolver.
	maxSockets = 8
	// maxSent is how many attempts of a query an answer may be to.
	maxSent = 12
)

// Client is where a question came from, and where its answer goes to.
type Client struct {
	Guest netip.AddrPort
	At    netip.Addr // the address that was asked
}

// Net carries out what a Forwarder wants.
type Net interface {
	// OpenResolver opens a socket toward a resolver, from a port that cannot be guessed, and names it by a number that no open one has.
	OpenResolver(server netip.AddrPort) (socket int32, ok bool)
	// CloseResolver closes it.
	CloseResolver(socket int32)
	// SendQuery sends a message through a socket. It reports false when the resolver cannot be reached; a message that is lost for
	// want of room counts as sent. It does not call back.
	SendQuery(socket int32, msg []byte) bool
	// SendAnswer sends a message to the guest. The memory is good until it returns.
	SendAnswer(c *Client, msg []byte)
}

// Forwarder forwards the queries of one guest.
type Forwarder struct {
	net     Net
	stats   *stats.Worker
	rand    *rand.ChaCha8
	servers []server
	queries []query
	free    int32   // the first free query, or none
	ids     []int32 // by identifier: the number of the query that uses it, plus 1
	lists   [2]list // of queries by when they are looked at again, sooner ones first: after failover, after patience
	pending int
	sweepAt int64 // 0: there is neither a socket nor memory of a load
	out     []byte
	client  Client // that gets it; here, for it would be allocated elsewhere
}

const none = -1

// query is one that is under way.
type query struct {
	prev, next int32 // in its list; next also of free ones
	list       uint8
	server     int8  // asked last
	sent       uint8 // attempts
	asked      uint8 // resolvers that were asked, a bit each
	failed     uint8 // those of which it is known that they will not answer it
	clientID   uint16
	id         uint16
	client     Client
	first, due int64
	sentAt     int64
	sockets    [maxSent]int32 // of the attempts
	msg        []byte         // with the identifier id
}

type list struct{ head, tail int32 }

// New returns a forwarder without resolvers. seed is a secret.
func New(net Net, block *stats.Worker, seed [32]byte) *Forwarder {
	f := &Forwarder{net: net, stats: block, rand: rand.NewChaCha8(seed)}
	f.reset()
	return f
}

// reset gives the memory of a load back. Nothing is under way.
func (f *Forwarder) reset() {
	f.queries, f.ids, f.out, f.free = nil, nil, nil, none
	f.lists = [2]list{{none, none}, {none, none}}
}

// Pending is the number of queries under way.
func (f *Forwarder) Pending() int { return f.pending }

// SetServers says which resolvers to ask, the most wanted first. Queries under way are asked again of the new ones.
func (f *Forwarder) SetServers(now int64, addrs []netip.AddrPort) {
	addrs = addrs[:min(len(addrs), maxServers)]
	if slices.EqualFunc(f.servers, addrs, func(s server, a netip.AddrPort) bool { return s.addr == a }) {
		return
	}
	for i := range f.servers {
		f.closeSockets(&f.servers[i])
	}
	f.servers = make([]server, len(addrs))
	for i, a := range addrs {
		f.servers[i].addr = a
	}
	f.each(func(n int32) {
		q := &f.queries[n]
		q.asked, q.failed, q.sent = 0, 0, 0
		f.advance(now, n)
	})
}

// Ask takes a query from the guest. It answers None, or why there is no answer or one that says nothing but that.
func (f *Forwarder) Ask(now int64, c Client, msg []byte) stats.Reason {
	if len(msg) < headerLen || len(msg) > MaxQuery || isResponse(msg) {
		return stats.BadDNS
	}
	f.stats.DNSQueries++
	if _, ok := question(msg); !ok {
		f.refuse(c, msg, formatError)
		return stats.BadDNS
	}
	if len(f.servers) == 0 {
		f.refuse(c, msg, serverFailure)
		return stats.DNSNoServer
	}
	if f.pending == MaxPending {
		f.refuse(c, msg, serverFailure)
		return stats.DNSFull
	}
	n := f.take(now)
	q := &f.queries[n]
	q.client, q.clientID, q.first = c, identifier(msg), now
	q.msg = append(q.msg[:0], msg...)
	setIdentifier(q.msg, q.id)
	f.append(n, now+failover)
	f.advance(now, n)
	return stats.None
}

// refuse answers a query with nothing but a response code.
func (f *Forwarder) refuse(c Client, msg []byte, code byte) {
	f.stats.DNSFailed++
	f.client = c
	f.out = failure(f.out[:0], msg, code)
	f.net.SendAnswer(&f.client, f.out)
}

// Answer takes what arrived through a socket. It answers None, or why that is not the answer to a query.
func (f *Forwarder) Answer(now int64, socket int32, msg []byte) stats.Reason {
	if len(msg) < headerLen || !isResponse(msg) {
		return stats.BadDNS
	}
	from := f.heard(now, socket) // whatever it is, nobody else can send through this socket
	n := int32(none)
	if f.ids != nil {
		n = f.ids[identifier(msg)] - 1
	}
	if n == none {
		return stats.DNSNoQuery
	}
	q := &f.queries[n]
	if !slices.Contains(q.sockets[:min(q.sent, maxSent)], socket) || !answers(q.msg, msg) {
		return stats.DNSNoQuery
	}
	switch rcode(msg) {
	case serverFailure, notImplemented, refused:
		// As the stub resolver of glibc does: another one may know better.
		if from >= 0 {
			q.failed |= 1 << from
		}
		if q.failed != f.all() {
			if from == int(q.server) {
				f.advance(now, n)
			}
			return stats.None
		}
	}
	setIdentifier(msg, q.clientID)
	f.stats.DNSAnswers++
	f.net.SendAnswer(&q.client, msg)
	f.release(n)
	return stats.None
}

// Unreachable takes the word of the network that what was sent through a socket did not reach the resolver.
func (f *Forwarder) Unreachable(now int64, socket int32) {
	i := f.owner(socket)
	if i < 0 {
		return
	}
	f.silent(now, i)
	if f.servers[i].waits == 0 { // of many such words, the first has moved all
		return
	}
	f.each(func(n int32) {
		if q := &f.queries[n]; q.sent > 0 && int(q.server) == i {
			q.failed |= 1 << i
			f.advance(now, n)
		}
	})
}

// Next is when Timeout has to be called; false when nothing is waited for.
func (f *Forwarder) Next() (at int64, ok bool) {
	at, ok = f.sweepAt, f.sweepAt != 0
	for i := range f.lists {
		if head := f.lists[i].head; head != none && (!ok || f.queries[head].due < at) {
			at, ok = f.queries[head].due, true
		}
	}
	return at, ok
}

// Timeout asks again what was not answered in time, and closes what is not used any more.
func (f *Forwarder) Timeout(now int64) {
	for i := range f.lists {
		for f.lists[i].head != none && f.queries[f.lists[i].head].due <= now {
			f.late(now, f.lists[i].head)
		}
	}
	if f.sweepAt != 0 && now >= f.sweepAt {
		f.sweep(now)
	}
}

// late goes on with a query that was not answered in time.
func (f *Forwarder) late(now int64, n int32) {
	q := &f.queries[n]
	if q.sent > 0 && f.servers[q.server].heard < q.sentAt {
		f.silent(now, int(q.server))
	}
	f.advance(now, n)
}

// fail ends a query that nobody answers.
func (f *Forwarder) fail(n int32) {
	q := &f.queries[n]
	setIdentifier(q.msg, q.clientID)
	f.refuse(q.client, q.msg, serverFailure)
	f.release(n)
}

// advance sends a query to the next resolver, and puts it where it is looked at again. One that all resolvers have failed, that there are none for,
// or that has been under way for too long, ends.
func (f *Forwarder) advance(now int64, n int32) {
	q := &f.queries[n]
	if now-q.first >= giveUp {
		f.fail(n)
		return
	}
	for {
		i := f.choose(q)
		if i < 0 {
			f.fail(n)
			return
		}
		if q.sent > 0 {
			f.stats.DNSRetries++
		}
		q.asked |= 1 << i
		if f.send(now, q, i) {
			break
		}
		f.silent(now, i)
		q.failed |= 1 << i
	}
	f.remove(n)
	wait := failover
	if q.asked == f.all() {
		wait = patience
	}
	f.append(n, now+wait)
	f.probe(now, q)
}

// choose picks the resolver that a query goes to next: one that is not silent before one that is, one that was not asked before one that
// was, and then in the order of resolv.conf, from the one that was asked last on. -1 when all have failed it.
func (f *Forwarder) choose(q *query) int {
	best, score := -1, -1
	for k := range f.servers {
		i := k
		if q.asked == f.all() {
			i = (int(q.server) + 1 + k) % len(f.servers)
		}
		if q.failed>>i&1 != 0 {
			continue
		}
		s := 0
		if !f.servers[i].silent {
			s++
		}
		if q.asked>>i&1 == 0 {
			s += 2
		}
		if s > score {
			best, score = i, s
		}
	}
	return best
}

// all is the set of all resolvers.
func (f *Forwarder) all() uint8 { return uint8(1<<len(f.servers) - 1) }

// Server is the resolver that a connection is tried with: the nth choice, from 0; false when there are no more.
func (f *Forwarder) Server(n int) (addr netip.AddrPort, ok bool) {
	for _, silent := range [...]bool{false, true} {
		for i := range f.servers {
			if f.servers[i].silent != silent {
				continue
			}
			if n == 0 {
				return f.servers[i].addr, true
			}
			n--
		}
	}
	return netip.AddrPort{}, false
}
