package hosttest

import (
	"fmt"
	"hash"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/vasta-net/vasta/hostsock"
	"golang.org/x/sys/unix"
)

// Kind is what a Socket is.
type Kind int

// The kinds of sockets.
const (
	TCP Kind = iota
	Listener
	UDP
	Ping
)

// String is the kind's name.
func (k Kind) String() string { return [...]string{"TCP", "listener", "UDP", "ping"}[k] }

// ending says how a descriptor went.
type ending int

const (
	stillOpen ending = iota
	closed
	aborted
	neverOpened // opening failed
	unaccepted  // a connection that waits in a listener: it has no descriptor yet
)

// Unlimited is the space of a socket that takes everything.
const Unlimited = -1

// Datagram is one that a UDP or ping socket has sent. To is invalid when it went to the connected peer, and From when the
// kernel was left to choose it.
type Datagram struct {
	Data     []byte
	To       netip.AddrPort
	From     netip.Addr
	TOS, TTL uint8
}

// message is one that waits to be received.
type message struct {
	data     []byte
	from     netip.AddrPort
	to       netip.Addr
	segment  int
	tos, ttl uint8
}

// Socket is one host socket, seen from the other side: its exported methods are what the peer and the network do.
type Socket struct {
	Kind      Kind
	Local     netip.AddrPort // as asked for, with a port; invalid for none
	Peer      netip.AddrPort // who it is connected to, or came from; invalid for none
	Device    string
	Dual      bool // as asked for
	Exclusive bool // as asked for
	Multicast bool // as asked for

	TOS, TTL uint8 // of a TCP connection, as asked for last

	Listening bool   // a listener: it takes connections
	ID        uint16 // of a ping socket, as asked for

	// MaxSend and MaxRecv limit what one Send takes and one Recv returns, in bytes; 0 is no limit. A Send that this
	// cuts short leaves the socket writable.
	MaxSend, MaxRecv int
	// PathMTU is how many bytes of payload go to the peer in one piece: what is longer is refused where it may not be cut. 0 is no limit.
	PathMTU int
	// NoSegments has the socket refuse messages that stand for several datagrams.
	NoSegments bool
	// Echo sends everything back: a stream its bytes, UDP the datagram from where it was sent to, a ping socket the reply.
	Echo bool
	// OnSend, if set, sees the bytes of every Send and the data of every datagram. It must not keep them.
	OnSend func(data []byte)

	host *Host
	fd   int
	end  ending
	fail [numOps]failure

	connecting  bool
	err         hostsock.Errno // SO_ERROR
	dead        bool           // refused or reset: no direction works any more
	peerEnded   bool           // the peer has sent its end
	writeClosed bool           // ShutdownWrite was called
	space       int            // bytes that may be sent, Unlimited
	wantSpace   bool           // something waits for space: more of it is an event

	whole  [2]bool              // DontFragment, by family
	queues bool                 // QueueErrors was called
	errors []hostsock.SendError // to be taken by RecvError

	in       []byte    // received, to be read
	urgent   int       // where in it urgent data is, counted from 1; 0: there is none
	messages []message // the same of a UDP or ping socket
	waiting  []*Socket // of a listener, to be accepted

	sent      []byte
	sentBytes int64
	sum       hash.Hash64
	datagrams []Datagram
}

func newSocket(kind Kind) *Socket {
	return &Socket{Kind: kind, space: Unlimited, sum: fnv.New64a()}
}

// String names the socket in messages.
func (s *Socket) String() string {
	return fmt.Sprintf("%v socket %d (local %v, peer %v)", s.Kind, s.fd, s.Local, s.Peer)
}

// Fd is the socket's descriptor, 0 while it waits to be accepted.
func (s *Socket) Fd() int { return s.fd }

// Connecting reports whether the outcome of ConnectTCP is open.
func (s *Socket) Connecting() bool { return s.connecting }

// Closed reports whether the descriptor has been closed, by Close or by Abort.
func (s *Socket) Closed() bool { return s.end == closed || s.end == aborted }

// Aborted reports whether the descriptor was closed by Abort, so that the peer would have seen a reset.
func (s *Socket) Aborted() bool { return s.end == aborted }

// WriteClosed reports whether ShutdownWrite was called.
func (s *Socket) WriteClosed() bool { return s.writeClosed }

// Sent are the bytes that Send has taken so far and TakeSent has not yet removed.
func (s *Socket) Sent() []byte { return s.sent }

// TakeSent returns and forgets what Sent returns. SentBytes and SentSum go on.
func (s *Socket) TakeSent() []byte {
	b := s.sent
	s.sent = nil
	return b
}

// SentBytes is how many bytes the socket has ever taken.
func (s *Socket) SentBytes() int64 { return s.sentBytes }

// SentSum is the FNV-1a hash of all bytes the socket has ever taken.
func (s *Socket) SentSum() uint64 { return s.sum.Sum64() }

// Datagrams are what a UDP or ping socket has sent.
func (s *Socket) Datagrams() []Datagram { return s.datagrams }

// Unread is how many bytes of a stream, or messages, were delivered and not yet received.
func (s *Socket) Unread() int { return len(s.in) + len(s.messages) }

// Fail is Host.Fail for this socket alone.
func (s *Socket) Fail(op Op, err hostsock.Errno, times int) { s.fail[op] = failure{err, times} }

// Establish lets a pending connect succeed.
func (s *Socket) Establish() {
	if s.connecting {
		s.connecting = false
		s.wake()
	}
}

// Refuse ends a pending connect with err, ECONNREFUSED for instance.
func (s *Socket) Refuse(err hostsock.Errno) {
	if s.connecting {
		s.connecting, s.dead, s.err = false, true, err
		s.wake()
	}
}

// SetSpace says how many bytes the socket takes before it is full; Unlimited for all. If it is more than before, and
// something waits for it, that is an event.
func (s *Socket) SetSpace(n int) {
	s.space = n
	if s.wantSpace && n != 0 {
		s.wantSpace = false
		s.wake()
	}
}

// Space is what SetSpace has set, less what was sent since.
func (s *Socket) Space() int { return s.space }

// Deliver hands data of the peer to the socket: bytes of a stream, or one datagram or ICMP message. The data is copied.
func (s *Socket) Deliver(data []byte) { s.DeliverFrom(data, s.Peer) }

// DeliverFrom is Deliver for a datagram from an address of its own.
func (s *Socket) DeliverFrom(data []byte, from netip.AddrPort) {
	if s.Closed() || s.dead || s.peerEnded {
		return // the kernel would answer with a reset, or an ICMP error
	}
	if s.Kind == TCP {
		s.in = append(s.in, data...)
	} else {
		s.messages = append(s.messages, message{data: append([]byte(nil), data...), from: from})
	}
	s.wake()
}

// DeliverDatagram is DeliverFrom with all that a UDP socket may learn of a message: d.Bufs is what arrives.
func (s *Socket) DeliverDatagram(d hostsock.Datagram) {
	s.DeliverFrom(slices.Concat(d.Bufs...), d.Peer)
	if n := len(s.messages); n > 0 {
		m := &s.messages[n-1]
		m.to, m.segment, m.tos, m.ttl = d.Local, d.Segment, d.TOS, d.TTL
	}
}

// DeliverUrgent hands one byte of urgent data to a stream. It is read in line, but no Recv that begins before it goes beyond.
func (s *Socket) DeliverUrgent(data byte) {
	if s.Closed() || s.dead || s.peerEnded {
		return
	}
	s.in = append(s.in, data)
	s.urgent = len(s.in)
	s.wake()
}

// End is the end of the peer's stream.
func (s *Socket) End() {
	if !s.dead && !s.peerEnded {
		s.peerEnded = true
		s.wake()
	}
}

// Reset breaks a connection with err, ECONNRESET for instance. What was delivered before can still be read.
func (s *Socket) Reset(err hostsock.Errno) {
	if !s.dead {
		s.connecting, s.dead, s.err = false, true, err
		s.wake()
	}
}

// Unreachable is an ICMP error for something that a UDP or ping socket has sent.
func (s *Socket) Unreachable(err hostsock.Errno) {
	s.err = err
	s.wake()
}

// Answer is what the network says to something that a UDP or ping socket has sent. e.Data is what it brings back of that. Without a queue
// for it, it is an error that is pending, as Unreachable is.
func (s *Socket) Answer(e hostsock.SendError) {
	if s.queues {
		e.ICMP, e.Len = true, len(e.Data)
		e.Data = append([]byte(nil), e.Data...)
		s.errors = append(s.errors, e)
	}
	s.err = e.Err
	s.wake()
}

// Unheard is how many errors wait in the socket's queue.
func (s *Socket) Unheard() int { return len(s.errors) }

// Whole reports whether what the socket sends to a family of addresses has to stay whole.
func (s *Socket) Whole(v6 bool) bool { return s.whole[family(v6)] }

func family(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

// tooLong refuses what is longer than the path and has to stay whole, as this machine does.
func (s *Socket) tooLong(n int, v6 bool) bool {
	if s.PathMTU == 0 || n <= s.PathMTU || !s.Whole(v6) {
		return false
	}
	if s.queues {
		head := 28
		if v6 {
			head = 48
		}
		s.errors = append(s.errors, hostsock.SendError{Err: unix.EMSGSIZE, Info: uint32(s.PathMTU + head), Peer: s.Peer})
		s.wake()
	}
	return true
}

// Inbound lets a peer connect to a listener. The connection can be used at once; it gets its descriptor by Accept. One that does not listen refuses
// it, and it counts as aborted.
func (s *Socket) Inbound(peer, local netip.AddrPort) *Socket {
	c := newSocket(TCP)
	c.host, c.Peer, c.Local, c.end = s.host, peer, local, unaccepted
	if !s.Listening {
		c.dead, c.end = true, aborted
		return c
	}
	s.waiting = append(s.waiting, c)
	s.wake()
	return c
}

// Spurious has the socket reported although nothing has happened.
func (s *Socket) Spurious() { s.wake() }

// wake puts the socket into the ready list if it is watched.
func (s *Socket) wake() {
	if w := s.host.watched[s.fd]; w != nil && w.socket == s {
		s.host.queue(w)
	}
}

// state is what a level-triggered poll would say; all false when there is nothing to report.
func (s *Socket) state() (e hostsock.Event) {
	switch {
	case s.Kind == Listener:
		e.In, e.Out, e.Hangup = len(s.waiting) > 0, !s.Listening, !s.Listening
		return e
	case s.Kind != TCP:
		e.In = len(s.messages) > 0
		e.Out = s.writable()
	case s.dead:
		e.In, e.Out, e.End, e.Hangup = true, true, true, true
	case s.connecting:
	default:
		e.In = len(s.in) > 0 || s.peerEnded
		e.Urgent = s.urgent > 0
		e.End = s.peerEnded
		e.Out = s.writeClosed || s.writable()
		e.Hangup = s.peerEnded && s.writeClosed
	}
	e.Error = s.err != 0 || len(s.errors) > 0
	return e
}

// writable reports whether there is space; if not, space to come will be an event.
func (s *Socket) writable() bool {
	s.wantSpace = s.wantSpace || s.space == 0
	return s.space != 0
}

// takeError answers the pending error and forgets it, as SO_ERROR does.
func (s *Socket) takeError() hostsock.Errno {
	err := s.err
	s.err = 0
	return err
}

// record keeps what was sent and lets the peer react.
func (s *Socket) record(data []byte, d *hostsock.Datagram) {
	s.sentBytes += int64(len(data))
	s.sum.Write(data)
	if s.space != Unlimited {
		s.space -= len(data)
	}
	if s.Kind == TCP {
		s.sent = append(s.sent, data...)
	} else {
		s.datagrams = append(s.datagrams, Datagram{append([]byte(nil), data...), d.Peer, d.Local, d.TOS, d.TTL})
	}
	if s.OnSend != nil {
		s.OnSend(data)
	}
	if !s.Echo {
		return
	}
	switch {
	case s.Kind == Ping:
		s.Deliver(echoReply(data))
	case d.Peer.IsValid():
		s.DeliverFrom(data, d.Peer)
	default:
		s.Deliver(data)
	}
}

// echoReply turns an ICMP or ICMPv6 echo request into the reply.
func echoReply(request []byte) []byte {
	reply := append([]byte(nil), request...)
	switch {
	case len(reply) > 0 && reply[0] == 8:
		reply[0] = 0
	case len(reply) > 0 && reply[0] == 128:
		reply[0] = 129
	}
	return reply
}

// sendError is why nothing can be sent at all, 0 if something can.
func (s *Socket) sendError() hostsock.Errno {
	if err := s.takeError(); err != 0 {
		return err
	}
	switch {
	case s.dead || s.writeClosed:
		return unix.EPIPE
	case s.connecting:
		return unix.EAGAIN
	}
	return 0
}
