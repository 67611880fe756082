package worker

import (
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
)

// Overload says what becomes of datagrams for which there is no room, in either direction.
type Overload uint8

// The choices.
const (
	// Backpressure has whoever sends wait: datagrams for the guest stay in their host sockets, and while a host socket does not take what the guest
	// sends, the link is not read. Where they are lost all the same, it is the sender's own kernel that drops them, and knows.
	Backpressure Overload = iota
	// Drop loses and counts them, and nobody waits for another's flow.
	Drop
)

// Datagrams of the guest that a host socket does not take now are copied into pages, and sent in their order when it says that it has room. A flow holds so many
// that a socket which is full for a moment loses none. What comes after those is lost, or the link is left alone until half of them have gone: that is what stops
// the guest, but all of its flows, and so never for longer than stopLimit without anything being sent.
//
// Flows that share a socket (of an endpoint or a forwarded port) share what it holds.

const (
	// holdLimit is how many datagrams a flow holds. The rest of a batch that was taken from the link is held beyond it.
	holdLimit = 64
	// holdMost bounds what comes beyond it by way of other workers, whose links are not stopped, in messages.
	holdMost = 4 * holdLimit
	// stopLimit is how long flows may keep the link from being read while their sockets take nothing, in nanoseconds.
	stopLimit = int64(1e9)
)

// held are the messages that wait for one socket, first to last, by their places in holds. It is a flow's, or a port's that flows share.
type held struct {
	first, last int32 // plus 1; 0: none
	messages    int
	datagrams   int
	stops       bool // the link is not read because of them
	lossy       bool // it has stopped the link for too long: until it holds nothing, it loses what is too much
}

// holds is what waits for all sockets, and who stops the link.
type holds struct {
	places []holding
	free   int32 // plus 1; 0: none
	stops  int   // sockets that stop the link
	since  int64 // when one of them has made progress last
}

// holding is a message in a page of its own.
type holding struct {
	next    int32 // plus 1; 0: none
	page    pagepool.Page
	message hostsock.Datagram // but for Bufs
	what    sending
}

// linkStopped reports whether the link is not to be read now.
func (w *Worker) linkStopped() bool { return w.holds.stops > 0 }

// heldWith is what waits for the socket that the flow f sends by, or, with an owner, the port.
func (w *Worker) heldWith(f *flowSlot, owner int32) *held {
	if owner >= 0 {
		return &w.listeners[owner].unsent
	}
	return &f.held
}

// udpHold copies message i of those that wait into a page, or counts its datagrams as lost.
func (w *Worker) udpHold(i int) {
	u := &w.udp
	d, s := &u.msgs[i], &u.each[i]
	h := w.heldWith(w.flows[s.flow], u.owner)
	full := h.datagrams >= holdLimit
	if full && (w.Overload == Drop || h.lossy) || h.messages >= holdMost {
		w.Stats.Drops[stats.SocketFull] += uint64(s.count)
		return
	}
	page, ok := w.Send.Get()
	if !ok {
		w.Stats.Drops[stats.NoBuffers] += uint64(s.count)
		return
	}
	to := w.Send.Bytes(page)
	for _, b := range d.Bufs {
		to = to[copy(to, b):]
	}
	at := w.holds.take()
	x := &w.holds.places[at-1]
	x.page, x.message, x.what = page, *d, *s
	x.message.Bufs = nil
	if h.last == 0 {
		h.first = at
	} else {
		w.holds.places[h.last-1].next = at
	}
	h.last = at
	h.messages++
	h.datagrams += s.count
	w.Stats.UDPHeld += uint64(s.count)
	if h.datagrams >= holdLimit && w.Overload == Backpressure && !h.lossy && !h.stops {
		h.stops = true
		if w.holds.stops++; w.holds.stops == 1 {
			w.holds.since = w.now
		}
		w.Stats.LinkStops++
	}
}

// take takes a place, and answers its number plus 1. Places are made as overload asks for them, and kept.
func (h *holds) take() int32 {
	if h.free == 0 {
		h.places = append(h.places, holding{})
		return int32(len(h.places))
	}
	at := h.free
	h.free = h.places[at-1].next
	h.places[at-1].next = 0
	return at
}

// udpResume sends what waits for a socket, that of a flow or of the port owner, as much as it takes.
func (w *Worker) udpResume(h *held, fd int, owner int32) {
	u := &w.udp
	w.flushUDP()
	for h.first != 0 {
		u.fd, u.owner = fd, owner
		for at := h.first; at != 0 && u.n < len(u.msgs) && u.pieces < len(u.memory); u.n++ {
			x := &w.holds.places[at-1]
			u.msgs[u.n], u.each[u.n] = x.message, x.what
			u.memory[u.pieces] = w.Send.Bytes(x.page)[:x.what.len]
			u.msgs[u.n].Bufs = u.memory[u.pieces : u.pieces+1]
			u.pieces++
			at = x.next
		}
		n := u.n
		sent := w.sendUDP()
		for range sent {
			w.unhold(h)
		}
		if sent < n {
			w.shorten(h, &u.msgs[sent], &u.each[sent])
		}
		clear(u.memory[:u.pieces])
		u.n, u.pieces = 0, 0
		if sent > 0 {
			w.holds.since = w.now
		}
		if sent < n {
			break
		}
	}
	if h.stops && h.datagrams <= holdLimit/2 {
		w.endStop(h)
	}
	h.lossy = h.lossy && h.first != 0
}

// shorten has the first message of h be d, what was not sent of it.
func (w *Worker) shorten(h *held, d *hostsock.Datagram, s *sending) {
	x := &w.holds.places[h.first-1]
	if s.len == x.what.len {
		return
	}
	copy(w.Send.Bytes(x.page), d.Bufs[0])
	h.datagrams -= x.what.count - s.count
	w.Stats.UDPHeld -= uint64(x.what.count - s.count)
	x.what = *s
	w.holds.since = w.now
}

// unhold forgets the first message of h.
func (w *Worker) unhold(h *held) {
	at := h.first
	x := &w.holds.places[at-1]
	w.Send.Put(x.page)
	h.messages--
	h.datagrams -= x.what.count
	w.Stats.UDPHeld -= uint64(x.what.count)
	if h.first = x.next; h.first == 0 {
		h.last = 0
	}
	*x = holding{next: w.holds.free}
	w.holds.free = at
}

// dropHeld counts what waits for a socket that is about to be closed as lost.
func (w *Worker) dropHeld(h *held) {
	w.Stats.Drops[stats.SocketFull] += uint64(h.datagrams)
	for h.first != 0 {
		w.unhold(h)
	}
	if h.stops {
		w.endStop(h)
	}
}

// endStop has a socket not stop the link any more.
func (w *Worker) endStop(h *held) {
	h.stops = false
	w.holds.stops--
}

// endStops lets the link be read again when sockets have stopped it for too long: until they have taken what waits for them, what is too much is lost.
func (w *Worker) endStops() {
	if !w.linkStopped() || w.now-w.holds.since < stopLimit {
		return
	}
	for _, f := range w.flows {
		w.giveUp(&f.held)
	}
	for i := range w.listeners {
		w.giveUp(&w.listeners[i].unsent)
	}
}

func (w *Worker) giveUp(h *held) {
	if h.stops {
		w.endStop(h)
		h.lossy = true
		w.Stats.LinkStalls++
	}
}
