package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/flow/splice"
	"github.com/vasta-net/vasta/flow/tcp"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// Connections from the namespace's loopback to the host's. The kernel has ended the TCP of both, so that neither the link nor flow/tcp has a part in them: what one socket
// has goes to the other through pages of the pool, and waits in the kernel's buffers while that takes nothing.

// spliced is what a spliced flow has beside its slot, whose socket is the inner one.
type spliced struct {
	conn    splice.Conn
	outside int            // the host socket; -1: none
	to      netip.AddrPort // where on the host it leads
	second  bool           // to is of the other family than what was asked for
	bulk    [2]bool        // by the end they came from: the last bytes filled all there was to read into
}

// socket is the descriptor of an end.
func (f *flowSlot) socket(e splice.End) int {
	if e == splice.Outside {
		return f.spliced.outside
	}
	return f.fd
}

// spliceAccepted starts the flow of a connection that was accepted inside.
func (w *Worker) spliceAccepted(index int32, fd int, peer netip.AddrPort) {
	l := &w.listeners[index]
	key := flow.NewKey(packet.ProtoTCP, peer, l.port.Listen)
	to := l.port.Outer()
	if w.NoTCP {
		w.Stats.Drop(stats.Disabled)
		w.Host.Abort(fd)
		return
	}
	if !w.allowed(false, &key, to) {
		w.Host.Abort(fd)
		return
	}
	f := w.newFlow(spliceFlow, key)
	if f == nil {
		w.Stats.Drop(stats.FlowTableFull)
		w.Host.Abort(fd)
		return
	}
	w.Stats.TCPOpened++
	f.fd, f.owner = fd, index
	f.spliced = &spliced{outside: -1, to: to}
	l.pending++
	if err := w.Host.Watch(fd, token(tokenFlow, f.gen, f.index)); err != 0 {
		w.spliceRefused(f, err)
		return
	}
	w.spliceUsed(f)
	w.spliceConnect(f)
}

// spliceConnect connects a flow to the host.
func (w *Worker) spliceConnect(f *flowSlot) {
	s := f.spliced
	fd, err := w.Host.ConnectTCP(hostsock.Origin{}, s.to)
	if w.madeRoom(err) {
		fd, err = w.Host.ConnectTCP(hostsock.Origin{}, s.to)
	}
	if err == 0 {
		s.outside = fd
		err = w.Host.Watch(fd, token(tokenSplice, f.gen, f.index))
	}
	if err != 0 {
		w.spliceRefused(f, err)
	}
}

// spliceRefused deals with the host's refusal. "localhost" is one place to who asks for it: a connection that the loopback address of one family refuses goes to that of the other,
// and is reset when that refuses it too.
func (w *Worker) spliceRefused(f *flowSlot, err hostsock.Errno) {
	s := f.spliced
	if s.outside >= 0 {
		w.Host.Close(s.outside)
		s.outside = -1
	}
	if !s.second && (err == unix.ECONNREFUSED || err == unix.EADDRNOTAVAIL || err == unix.ENETUNREACH || err == unix.EAFNOSUPPORT) {
		s.second, s.to = true, netip.AddrPortFrom(forward.OtherLoopback(s.to.Addr()), s.to.Port())
		if !w.allowed(false, &f.key, s.to) {
			w.spliceAbort(f, whyDenied)
			return
		}
		w.spliceConnect(f)
		return
	}
	reason := openReason(err)
	w.Stats.Drop(reason)
	if w.talks {
		w.logRefused(f, err)
	}
	w.spliceAbort(f, reason.String())
}

// spliceEvent acts on an event of one of a flow's sockets.
func (w *Worker) spliceEvent(f *flowSlot, e *hostsock.Event) {
	s := f.spliced
	end := splice.Inside
	if e.Token>>56 == tokenSplice {
		end = splice.Outside
	}
	connecting := end == splice.Outside && !s.conn.Connected()
	if connecting && !e.Out && !e.Error && !e.Hangup {
		return
	}
	if e.Error || connecting && e.Hangup {
		if err := w.Host.ConnectResult(f.socket(end)); err != 0 {
			if connecting {
				w.spliceRefused(f, err)
			} else {
				w.spliceFailed(f, end, err)
			}
			return
		}
	}
	if connecting {
		s.conn.Connect()
		w.answeredSplice(f)
		w.spliceUsed(f)
	}
	last := e.End || e.Hangup || e.Error
	s.conn.Event(end, e.In || last, e.Out || last, last || e.Urgent)
	f.readable = true
	w.makeReady(f)
}

// answeredSplice is called when the host has answered a flow, or when that is over.
func (w *Worker) answeredSplice(f *flowSlot) {
	if f.owner >= 0 {
		w.listeners[f.owner].pending--
		f.owner = -1
	}
}

// spliceMove carries what there is to carry between the sockets of f for the rest of its turn, and reports the work that was and whether there may be more.
func (w *Worker) spliceMove(f *flowSlot) (cost int, again bool) {
	c := &f.spliced.conn
	defer w.keepPages(1)
	for cost < f.deficit {
		op, end := c.Next()
		switch op {
		case splice.Wait:
			f.readable = false
			return cost, false
		case splice.Read:
			n, ok := w.spliceRead(f, end, f.deficit-cost)
			if w.noMemory {
				return cost, true
			}
			if !ok {
				return cost + frameWork, false
			}
			cost += n
		case splice.Write:
			w.iov = c.Held(w.Send, end, w.iov[:0])
			n, ok := w.spliceSend(f, end, w.iov)
			if !ok {
				return cost + frameWork, false
			}
			c.Wrote(w.Send, end, n)
			cost += n
		case splice.Shutdown:
			c.Told(end)
			w.lighten(f)
			if err := w.Host.ShutdownWrite(f.socket(end)); err != 0 && err != unix.ENOTCONN {
				w.spliceFailed(f, end, err)
				return cost + frameWork, false
			}
		case splice.Finish:
			f.why = endings[tcp.Finished]
			w.Host.Close(f.spliced.outside)
			w.Host.Close(f.fd)
			w.spliceOver(f)
			return cost + frameWork, false
		}
		cost += frameWork
	}
	return cost, true
}

// spliceRead reads from an end, and gives the other one what it takes of that. It reports how many bytes have come, and false when the flow has ended.
func (w *Worker) spliceRead(f *flowSlot, from splice.End, budget int) (n int, ok bool) {
	s := f.spliced
	c, to := &s.conn, from.Other()
	pages := 1
	if s.bulk[from] {
		pages = min(max(budget/frameBytes, 1), splice.MaxHeld)
	}
	if !w.readPages(pages) {
		return 0, true
	}
	pages = min(pages, len(w.pages))
	w.iov = w.iov[:0]
	room := 0
	for _, p := range w.pages[:pages] {
		w.iov = append(w.iov, w.Send.Bytes(p))
		room += len(w.Send.Bytes(p))
	}
	n, err := w.Host.Recv(f.socket(from), w.iov)
	switch {
	case err == unix.EAGAIN:
		c.Empty(from)
		s.bulk[from] = false
		return 0, true
	case err != 0:
		w.spliceFailed(f, from, err)
		return 0, false
	case n == 0:
		c.Ended(from)
		return 0, true
	}
	s.bulk[from] = n == room
	c.Moved(from, n < room)
	w.spliceUsed(f)
	w.spliceCount(f, from, n)
	w.iov = appendRange(w.iov[:0], w.iov, 0, n)
	sent, ok := w.spliceSend(f, to, w.iov)
	if ok && sent < n {
		w.pages = w.pages[:copy(w.pages, w.pages[c.Hold(w.Send, to, w.pages, sent, n):])]
	}
	return n, ok
}

// spliceSend offers bytes to an end, and reports how many it has taken, and false when the flow has ended.
func (w *Worker) spliceSend(f *flowSlot, to splice.End, bufs [][]byte) (n int, ok bool) {
	n, err := w.Host.Send(f.socket(to), bufs)
	switch err {
	case 0:
		return n, true
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return 0, true
	}
	w.spliceFailed(f, to, err)
	return 0, false
}

// spliceCount counts n bytes that have come from an end.
func (w *Worker) spliceCount(f *flowSlot, from splice.End, n int) {
	t := &f.fromGuest
	if from == splice.Outside {
		t = &f.head.tally
	}
	t.Bytes += uint64(n)
	t.Packets += packets(uint64(n), frameBytes)
}

// spliceUsed notes that a flow carries something.
func (w *Worker) spliceUsed(f *flowSlot) {
	if w.IdleLimit > 0 {
		w.touch(f)
	} else {
		w.used(f)
	}
}

// spliceFailed ends a flow of which a socket reports an error: the other end gets a reset too.
func (w *Worker) spliceFailed(f *flowSlot, at splice.End, err hostsock.Errno) {
	why := tcp.GuestReset
	if at == splice.Outside {
		why = tcp.HostReset
	}
	if err != unix.ECONNRESET && err != unix.EPIPE {
		w.Stats.Drop(stats.HostError)
	}
	w.spliceAbort(f, endings[why])
}

// spliceAbort resets both ends of a flow, and says why.
func (w *Worker) spliceAbort(f *flowSlot, why string) {
	f.why = why
	if f.spliced.outside >= 0 {
		w.Host.Abort(f.spliced.outside)
	}
	w.Host.Abort(f.fd)
	w.Stats.TCPReset++
	w.spliceOver(f)
}

// spliceOver gives the slot of a flow back, whose sockets are closed.
func (w *Worker) spliceOver(f *flowSlot) {
	w.answeredSplice(f)
	f.spliced.conn.Release(w.Send)
	w.Stats.TCPClosed++
	w.dropFlow(f)
	f.spliced = nil
}
