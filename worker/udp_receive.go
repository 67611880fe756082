package worker

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// Datagrams for the guest are received several at once, each into a page of the pool, and go to the link straight from there: several of
// one length in a row as one frame, where the link carries such. What a full link does not take stays in its page until there is room.

const (
	// udpRounds bounds the receive calls on one forwarded port in one iteration.
	udpRounds = 4
	// udpFew is how many datagrams are asked for while they come one by one: more than one, because fewer than there is room for says that
	// no other waits.
	udpFew = 4
	// maxUDP is the longest UDP datagram that an IPv4 packet carries, in bytes. IPv6 has room for 20 more, which no host sends.
	maxUDP = 65507
	// datagramWork is what a datagram costs but for its bytes and its frame, in bytes.
	datagramWork = 2 << 10
)

// udpReceive is the messages that were received last, in the first of Worker.pages. Those from at on are still to be sent.
type udpReceive struct {
	msgs     [hostsock.MaxDatagrams]hostsock.Datagram
	bufs     [hostsock.MaxDatagrams][1][]byte
	at, n    int
	flow     int32  // the flow they are for
	gen      uint32 // of that flow
	listener int32  // or the forwarded port that they came to, else -1
	pieces   [hostsock.MaxDatagrams][]byte
}

// udpPending reports whether messages wait for the link.
func (w *Worker) udpPending() bool { return w.recv.at < w.recv.n }

// udpReceiveFrom receives from fd what there is room for, and reports how many messages came and whether more may wait.
func (w *Worker) udpReceiveFrom(fd, room int) (more bool, err hostsock.Errno) {
	if !w.readPages(room) {
		return true, unix.ENOMEM
	}
	r := &w.recv
	room = min(room, len(w.pages))
	for i := range room {
		r.bufs[i][0] = w.Send.Bytes(w.pages[i])
		r.msgs[i].Bufs = r.bufs[i][:]
	}
	r.at = 0
	r.n, err = w.Host.RecvDatagrams(fd, r.msgs[:room])
	return r.n == room, err
}

// udpRead moves datagrams from a flow's host socket to the guest for the rest of its turn, and reports the work that was and whether there
// may be more.
func (w *Worker) udpRead(f *flowSlot) (cost int, again bool) {
	defer w.keepPages(1)
	for cost < f.deficit {
		if f.failed {
			said, _ := w.takeErrors(f.fd, f, -1)
			cost += said * frameWork
		}
		room := udpFew
		if f.bulk {
			room = min(max((f.deficit-cost)/(f.size+datagramWork), udpFew), hostsock.MaxDatagrams)
		}
		more, err := w.udpReceiveFrom(f.fd, room)
		switch {
		case w.noMemory:
			return cost, true
		case err == unix.EAGAIN:
			f.readable, f.bulk = f.failed, false
			return cost, f.failed
		case err != 0:
			cost += frameWork
			if !w.datagramFailed(f, err) {
				return cost, false
			}
			continue
		}
		cost += w.udpReceived(f)
		f.bulk = more
		if !w.udpDeliver() {
			return cost, true
		}
		if !more && !f.failed {
			f.readable = false
			return cost, false
		}
	}
	return cost, true
}

// udpReceived notes that messages have come for f, and returns the work that they are.
func (w *Worker) udpReceived(f *flowSlot) (cost int) {
	r := &w.recv
	r.flow, r.gen, r.listener = f.index, f.gen, -1
	f.failures, f.answered = 0, true
	f.size = 0
	for i := range r.msgs[:r.n] {
		f.size = max(f.size, r.msgs[i].Len)
		cost += r.msgs[i].Len + datagramWork
	}
	w.touch(f)
	return cost + frameWork
}

// udpAccept takes datagrams from a forwarded UDP port, and reports whether there may be more.
func (w *Worker) udpAccept(index int32) (again bool) {
	defer w.keepPages(1)
	for range udpRounds {
		if w.listeners[index].fd < 0 { // an endpoint, whose last flow has made room for others
			return false
		}
		more, err := w.udpReceiveFrom(w.listeners[index].fd, hostsock.MaxDatagrams)
		switch {
		case w.noMemory:
			return true
		case err == unix.EAGAIN:
			return false
		case err != 0:
			if said, _ := w.takeErrors(w.listeners[index].fd, nil, index); said > 0 {
				continue
			}
			w.listenerFailed(err)
			return true
		}
		w.recv.listener = index
		if !w.udpDeliver() {
			return true
		}
		if !more {
			return false
		}
	}
	return true
}

// udpDeliver sends the messages that were received to the guest. It reports false when the link is full: the rest waits, or is lost, by w.Overload.
func (w *Worker) udpDeliver() bool {
	if w.udpDelivered() {
		return true
	}
	if w.Overload == Drop {
		w.Stats.Drops[stats.LinkFull] += uint64(w.recv.n - w.recv.at)
		w.recv.at = w.recv.n
	}
	return false
}

// udpDelivered reports whether the link had room for all messages.
func (w *Worker) udpDelivered() bool {
	r := &w.recv
	for r.at < r.n {
		if r.listener >= 0 && w.listeners[r.listener].group.IsValid() {
			if !w.groupToGuest(&w.listeners[r.listener], &r.msgs[r.at]) {
				return false
			}
			r.at++
			continue
		}
		f := w.udpReceiver(&r.msgs[r.at])
		if f == nil {
			r.at++
			continue
		}
		if f.across {
			r.at += w.udpAcross(f, r.at)
			continue
		}
		n, ok := w.udpToGuest(f, r.at)
		if !ok {
			return false
		}
		r.at += n
	}
	return true
}

// udpReceiver is the flow that a message is for, nil when there is none any more.
func (w *Worker) udpReceiver(d *hostsock.Datagram) *flowSlot {
	r := &w.recv
	if r.listener >= 0 {
		f := w.udpPeer(r.listener, d.Peer)
		switch {
		case f == nil:
			return nil
		case f.inbound:
			f.local = d.Local
		case f.across:
		default:
			f.answered = true
		}
		w.touch(f)
		return f
	}
	if f := w.flows[r.flow]; f.kind == udpFlow && f.gen == r.gen {
		return f
	}
	w.Stats.Drop(stats.LinkFull)
	return nil
}

// udpToGuest sends message i to the guest, with those behind it that can share its frame, and returns how many messages that were. It
// reports false when the link is full.
func (w *Worker) udpToGuest(f *flowSlot, i int) (n int, ok bool) {
	d := &w.recv.msgs[i]
	room := w.mtuOf(&f.head) - (int(f.head.len) - packet.EtherLen) - packet.UDPLen
	f.head.mark(d.TOS, d.TTL)
	if d.Len > maxUDP { // what was received of it is not all
		w.Stats.Drop(stats.TooLong)
		return 1, true
	}
	if d.Segment > 0 {
		return 1, w.udpSegments(f, d, room)
	}
	if d.Len > room {
		return 1, w.udpCut(&f.head, f.key.PeerPort, f.key.GuestPort, d.Bufs[0][:d.Len])
	}
	pieces := append(w.recv.pieces[:0], d.Bufs[0][:d.Len])
	total := d.Len
	for w.feat.USO && d.Len > 0 && i+len(pieces) < w.recv.n {
		next := &w.recv.msgs[i+len(pieces)]
		if next.Segment > 0 || next.Len > d.Len || next.Len == 0 || next.Peer != d.Peer || next.TOS != d.TOS || next.TTL != d.TTL || next.Local != d.Local ||
			total+next.Len > maxUSO {
			break
		}
		pieces = append(pieces, next.Bufs[0][:next.Len])
		total += next.Len
		if next.Len < d.Len {
			break
		}
	}
	return len(pieces), w.udpFrame(&f.head, f.key.PeerPort, f.key.GuestPort, pieces, total, d.Len)
}

// udpSegments sends a message that stands for several datagrams: as one frame where the link carries such.
func (w *Worker) udpSegments(f *flowSlot, d *hostsock.Datagram, room int) bool {
	buf := d.Bufs[0]
	if w.feat.USO && d.Segment <= room && d.Len <= maxUSO && d.Len <= maxSegments*d.Segment {
		w.tx.one[0] = buf[:d.Len]
		return w.udpFrame(&f.head, f.key.PeerPort, f.key.GuestPort, w.tx.one[:], d.Len, d.Segment)
	}
	for d.Len > 0 {
		n := min(d.Len, d.Segment)
		if n > room {
			if !w.udpCut(&f.head, f.key.PeerPort, f.key.GuestPort, buf[:n]) {
				return false
			}
		} else {
			w.tx.one[0] = buf[:n]
			if !w.udpFrame(&f.head, f.key.PeerPort, f.key.GuestPort, w.tx.one[:], n, n) {
				return false
			}
		}
		buf = buf[n:] // what the link has taken is not sent again when there is room for the rest
		d.Bufs[0], d.Len = buf, d.Len-n
	}
	return true
}

// udpCut sends a datagram from one port to another that is longer than the link carries, in fragments. It reports false when the link
// is full.
func (w *Worker) udpCut(h *header, from, to uint16, data []byte) bool {
	head, pseudo := w.udpHead(h, from, to, len(data))
	w.tx.one[0] = data
	binary.BigEndian.PutUint16(head[int(h.len)+6:], transportSum(head[h.len:], w.tx.one[:], pseudo, packet.ProtoUDP))
	ok := w.sendFragments(h, head, data)
	if ok {
		h.sent(len(data), 0)
	}
	return ok
}

// udpHead writes the headers of a packet with n bytes of payload, without the UDP checksum, and returns the sum of its pseudo header.
func (w *Worker) udpHead(h *header, from, to uint16, n int) (head []byte, pseudo uint16) {
	l4 := int(h.len)
	head = w.tx.head[:l4+packet.UDPLen]
	pseudo = h.put(head, w.Gateway, packet.UDPLen+n)
	u := head[l4:]
	putPorts(u, from, to)
	binary.BigEndian.PutUint16(u[4:], uint16(packet.UDPLen+n))
	u[6], u[7] = 0, 0
	return head, pseudo
}

// udpFrame sends n bytes from one port to another, as datagrams of size bytes each but for the last. It reports false when the link is full.
func (w *Worker) udpFrame(h *header, from, to uint16, payload [][]byte, n, size int) bool {
	head, pseudo := w.udpHead(h, from, to, n)
	w.tx.cur = h
	w.tx.out = link.Out{Head: head, Payload: payload}
	if n > size {
		o := &w.tx.out.Hdr
		o.GSOType, o.GSOSize, o.HdrLen = packet.GSOUDPL4, uint16(size), uint16(len(head))
	}
	ok := w.send(int(h.len), 6, pseudo)
	if ok {
		h.sent(n, size)
	}
	return ok
}

// resumeUDP sends what the link had no room for. It reports false while there is none.
func (w *Worker) resumeUDP() bool {
	if !w.udpPending() {
		return true
	}
	if !w.udpDeliver() {
		return false
	}
	w.keepPages(1)
	return true
}
