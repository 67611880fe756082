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
// Sockets that several flows share (endpoints and forwarded ports) hold nothing: what they do not take is lost and counted.

const (
	// holdLimit is how many datagrams a flow holds. The rest of a batch that was taken from the link is held beyond it.
	holdLimit = 64
	// holdMost bounds what comes beyond it by way of other workers, whose links are not stopped, in messages.
	holdMost = 4 * holdLimit
	// stopLimit is how long flows may keep the link from being read while their sockets take nothing, in nanoseconds.
	stopLimit = int64(1e9)
)

// held are the messages that a flow holds, first to last, by their places in holds.
type held struct {
	first, last int32 // plus 1; 0: none
	messages    int
	datagrams   int
	stops       bool // the link is not read because of it
	lossy       bool // it has stopped the link for too long: until it holds nothing, it loses what is too much
}

// holds is what all flows hold, and who stops the link.
type holds struct {
	places []holding
	free   int32 // plus 1; 0: none
	stops  int   // flows that stop the link
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

// udpHold copies message i of those that wait into pages of its flow, or counts its datagrams as lost.
func (w *Worker) udpHold(i int) {
	u := &w.udp
	d, s := &u.msgs[i], &u.each[i]
	f := w.flows[s.flow]
	h := &f.held
	full := h.datagrams >= holdLimit
	if f.kind != udpFlow || full && (w.Overload == Drop || h.lossy) || h.messages >= holdMost {
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

// udpResume sends what f holds, as much as its socket takes.
func (w *Worker) udpResume(f *flowSlot) {
	u := &w.udp
	w.flushUDP()
	for f.held.first != 0 {
		u.fd, u.owner = f.fd, -1
		for at := f.held.first; at != 0 && u.n < len(u.msgs) && u.pieces < len(u.memory); u.n++ {
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
			w.unhold(f)
		}
		if sent < n {
			w.shorten(f, &u.msgs[sent], &u.each[sent])
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
	h := &f.held
	if h.stops && h.datagrams <= holdLimit/2 {
		w.endStop(f)
	}
	h.lossy = h.lossy && h.first != 0
}

// shorten has the first message that f holds be d, what was not sent of it.
func (w *Worker) shorten(f *flowSlot, d *hostsock.Datagram, s *sending) {
	x := &w.holds.places[f.held.first-1]
	if s.len == x.what.len {
		return
	}
	copy(w.Send.Bytes(x.page), d.Bufs[0])
	f.held.datagrams -= x.what.count - s.count
	w.Stats.UDPHeld -= uint64(x.what.count - s.count)
	x.what = *s
	w.holds.since = w.now
}

// unhold forgets the first message that f holds.
func (w *Worker) unhold(f *flowSlot) {
	h := &f.held
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

// dropHeld counts what f holds as lost; the flow is at its end.
func (w *Worker) dropHeld(f *flowSlot) {
	w.Stats.Drops[stats.SocketFull] += uint64(f.held.datagrams)
	for f.held.first != 0 {
		w.unhold(f)
	}
	if f.held.stops {
		w.endStop(f)
	}
}

// endStop has f not stop the link any more.
func (w *Worker) endStop(f *flowSlot) {
	f.held.stops = false
	w.holds.stops--
}

// endStops lets the link be read again when flows have stopped it for too long: until they have sent what they hold, they lose what is too much.
func (w *Worker) endStops() {
	if !w.linkStopped() || w.now-w.holds.since < stopLimit {
		return
	}
	for _, f := range w.flows {
		if f.held.stops {
			w.endStop(f)
			f.held.lossy = true
			w.Stats.LinkStalls++
		}
	}
}
