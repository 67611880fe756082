package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// Datagrams of the guest stay in the link's batch until it ends, or until one for another socket comes: what one socket is given goes with
// one system call, and datagrams of one length in a row as one message that the host's kernel takes apart.

const (
	// maxSegments is how many datagrams one message of ours stands for at most: what every kernel takes (UDP_MAX_SEGMENTS was 64
	// before Linux 6.9).
	maxSegments = 64
	// maxMessage is how many bytes one message carries at most: one IPv4 datagram of any length.
	maxMessage = 65507
	// maxUSO is how many bytes a frame to the guest that stands for several datagrams carries at most.
	maxUSO = maxPacket - packet.IPv6Len - packet.UDPLen
	// maxQuote is how much of a datagram is kept for the quotation in an ICMP error.
	maxQuote = 128
	// sendPieces is how many pieces of memory the messages of one system call have at most.
	sendPieces = 64
)

// udpSend is the messages that wait for a host socket. Their payload is borrowed from the link's batch.
type udpSend struct {
	fd     int
	owner  int32 // the forwarded port that fd is of, else -1
	n      int   // messages
	pieces int   // in use

	msgs   [hostsock.MaxDatagrams]hostsock.Datagram
	each   [hostsock.MaxDatagrams]sending
	memory [sendPieces][]byte
	one    [1]hostsock.Datagram // of a message that has to be sent in parts
}

// sending is what is known of one message beside what the host is told.
type sending struct {
	flow     int32 // its number
	count    int   // datagrams
	len      int   // bytes
	step     int   // length of each datagram but for the last
	closed   bool  // no further datagram may join it
	src, dst netip.Addr
	quote    [maxQuote]byte // of the first datagram, from the IP header on
	quoteLen int
}

// udpQueue puts the payload in w.pkt, datagrams of size bytes each, behind what waits for the socket fd of the flow f.
func (w *Worker) udpQueue(f *flowSlot, fd, size int) {
	n := w.pkt.PayloadLen()
	most := max(size, 1) * maxSegments
	for off := 0; ; off += most {
		w.udpPut(f, fd, off, min(most, n-off), size)
		if off+most >= n {
			return
		}
	}
}

// udpPut puts n bytes of the payload in w.pkt, from off on, behind what waits.
func (w *Worker) udpPut(f *flowSlot, fd, off, n, size int) {
	u := &w.udp
	w.iov = w.pkt.Frame.Append(w.iov[:0], w.pkt.L4+w.pkt.HeadLen+off, n)
	if len(w.iov) > sendPieces { // no link cuts a frame into so many
		w.Stats.Drop(stats.TooLong)
		return
	}
	if u.n > 0 && (u.fd != fd || u.pieces+len(w.iov) > sendPieces) {
		w.flushUDP()
	}
	if !w.udpJoin(f, n, size) {
		if u.n == hostsock.MaxDatagrams {
			w.flushUDP()
		}
		u.fd, u.owner = fd, f.owner
		w.udpMessage(f, n, size)
	}
	u.pieces += copy(u.memory[u.pieces:], w.iov)
}

// udpMessage makes a message for n bytes of the payload in w.pkt, whose pieces, in w.iov, are put into memory behind it.
func (w *Worker) udpMessage(f *flowSlot, n, size int) {
	u := &w.udp
	d, s := &u.msgs[u.n], &u.each[u.n]
	u.n++
	*d = hostsock.Datagram{
		Bufs: u.memory[u.pieces : u.pieces+len(w.iov)], Peer: f.peer, Local: f.local, TOS: w.pkt.TOS, V6: f.head.isIPv6,
	}
	if d.TTL = sentTTL(w.pkt.TTL); w.toMany(w.pkt.Dst) {
		d.TTL = w.pkt.TTL // the host's own is 1 for groups
	}
	s.flow, s.len, s.step = f.index, n, size
	s.count = max(1, (n+size-1)/max(size, 1))
	s.closed = f.single || s.count > 1 || n == 0
	if s.count > 1 {
		d.Segment = size
	}
	s.src, s.dst = w.pkt.Src, w.pkt.Dst
	s.quoteLen = copy(s.quote[:], w.quotable())
}

// udpJoin lets the datagram in w.pkt join the message before it, where both are for the same and look the same.
func (w *Worker) udpJoin(f *flowSlot, n, size int) bool {
	u := &w.udp
	if u.n == 0 {
		return false
	}
	d, s := &u.msgs[u.n-1], &u.each[u.n-1]
	if s.closed || s.flow != f.index || n > size || n == 0 || n > s.step || s.len+n > maxMessage || s.count == maxSegments ||
		d.TOS != w.pkt.TOS || d.TTL != sentTTL(w.pkt.TTL) || d.Peer != f.peer || d.Local != f.local {
		return false
	}
	d.Segment = s.step
	d.Bufs = d.Bufs[:len(d.Bufs)+len(w.iov)]
	s.count++
	s.len += n
	s.closed = n < s.step // a shorter one is the last
	return true
}

// quotable is the packet in w.pkt from its IP header on, without padding of the frame behind it, as far as it is at hand.
func (w *Worker) quotable() []byte {
	b := w.pkt.L3()
	return b[:min(w.pkt.L4+w.pkt.L4Len-packet.EtherLen, len(b))]
}

// flushUDP gives what waits to its socket. What that does not take now is held, behind what is held for it already.
func (w *Worker) flushUDP() {
	u := &w.udp
	at := 0
	if u.n > 0 && w.heldWith(w.flows[u.each[0].flow], u.owner).first == 0 {
		at = w.sendUDP()
	}
	for ; at < u.n; at++ {
		w.udpHold(at)
	}
	clear(u.memory[:u.pieces])
	u.n, u.pieces = 0, 0
}

// sendUDP sends what waits, and returns how many messages are done with: fewer than there are when the socket takes no more now.
func (w *Worker) sendUDP() (at int) {
	u := &w.udp
	tried := false
	for at < u.n {
		n, err := w.Host.SendDatagrams(u.fd, u.msgs[at:u.n])
		at += n
		if err == 0 {
			tried = false
			continue
		}
		if err == unix.EAGAIN {
			return at
		}
		said, mtu := w.sendErrors(err)
		if again(err, mtu, tried) {
			tried = true
			if said == 0 && err == unix.ECONNREFUSED {
				w.udpSendFailed(&u.each[at], err, 0, 1)
			}
			continue
		}
		if !w.udpAlone(at, err, mtu) {
			return at
		}
		at++
		tried = false
	}
	return at
}

// sendErrors passes on what the network has said about what was sent earlier from the socket that has refused a message with err; the answers are
// those of takeErrors.
func (w *Worker) sendErrors(err hostsock.Errno) (said, mtu int) {
	u := &w.udp
	if !pending(err) {
		return 0, 0
	}
	return w.takeErrors(u.fd, w.flows[u.each[0].flow], u.owner) // a flow with a socket of its own is not closed before this
}

// again reports whether a message that was refused with err is to be tried once more: the error may be an earlier one's, which waited in the socket. It waits there even when the
// queue of errors has none, since the kernel puts an error into the queue before it marks the socket with it: who takes it in between finds the mark afterwards. To report the mark clears it, so that a second
// refusal is the message's own; so is one that comes with the width of the way, mtu.
func again(err hostsock.Errno, mtu int, tried bool) bool { return pending(err) && mtu == 0 && !tried }

// udpAlone deals with message i, which was refused: where it stands for several datagrams, they are sent one by one. mtu is the width of the way
// if it was too long for that. It reports false when the socket takes no more now; the message is what is left of it then.
func (w *Worker) udpAlone(i int, err hostsock.Errno, mtu int) (done bool) {
	u := &w.udp
	d, s := &u.msgs[i], &u.each[i]
	if d.Segment == 0 || err != unix.EINVAL && err != unix.EIO && err != unix.EMSGSIZE {
		w.udpSendFailed(s, err, mtu, s.count)
		return true
	}
	if f := w.flows[s.flow]; f.kind == udpFlow {
		f.single = true // what is wider than the way there will be so again
	}
	one := &u.one[0]
	*one = *d
	one.Segment = 0
	for off := 0; off < s.len; off += s.step {
		w.iov = appendRange(w.iov[:0], d.Bufs, off, min(s.step, s.len-off))
		one.Bufs = w.iov
		err, mtu := w.sendOne()
		switch err {
		case 0:
		case unix.EAGAIN:
			d.Bufs = cutFront(d.Bufs, off)
			s.len -= off
			s.count -= off / s.step
			u.one[0] = hostsock.Datagram{}
			return false
		default:
			w.udpSendFailed(s, err, mtu, 1)
		}
	}
	u.one[0] = hostsock.Datagram{}
	return true
}

// sendOne sends the message that stands for one datagram alone. mtu is the width of the way when it is too long for that.
func (w *Worker) sendOne() (err hostsock.Errno, mtu int) {
	u := &w.udp
	for tried := false; ; tried = true {
		if _, err = w.Host.SendDatagrams(u.fd, u.one[:]); err == 0 {
			return 0, 0
		}
		if _, mtu = w.sendErrors(err); !again(err, mtu, tried) {
			return err, mtu
		}
	}
}

// cutFront takes n bytes from the front of bufs, in place.
func cutFront(bufs [][]byte, n int) [][]byte {
	for n > 0 {
		k := min(n, len(bufs[0]))
		if bufs[0] = bufs[0][k:]; len(bufs[0]) == 0 {
			bufs = bufs[1:]
		}
		n -= k
	}
	return bufs
}

// appendRange appends the pieces of n bytes from off on in bufs.
func appendRange(pieces, bufs [][]byte, off, n int) [][]byte {
	for _, b := range bufs {
		if off >= len(b) {
			off -= len(b)
			continue
		}
		b = b[off:min(len(b), off+n)]
		off = 0
		pieces = append(pieces, b)
		if n -= len(b); n == 0 {
			break
		}
	}
	return pieces
}

// udpSendFailed counts datagrams of s that the host did not take, and tells the guest where there is a reason for it.
func (w *Worker) udpSendFailed(s *sending, err hostsock.Errno, mtu, count int) {
	w.Stats.Drops[sendReason(err)] += uint64(count)
	w.sendFailed(s.dst, s.src, err, mtu, s.quote[:s.quoteLen])
}

// sendReason is how the failure to send a datagram is counted.
func sendReason(err hostsock.Errno) stats.Reason {
	switch err {
	case unix.EAGAIN, unix.ENOBUFS:
		return stats.SocketFull
	case unix.EMSGSIZE:
		return stats.TooLong
	case unix.ECONNREFUSED:
		return stats.HostRefused
	}
	return stats.HostUnreachable
}
