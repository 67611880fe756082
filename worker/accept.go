package worker

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// acceptRounds bounds the connections taken from one forwarded port in one iteration.
const acceptRounds = 8

// maxHalfOpen bounds the connections to one port of the guest that were accepted and that the guest has not answered yet, for all workers together.
// Beyond it connections wait in the host's queue, where the kernel has its own means against a flood (SYN cookies), and the guest's budget is
// not promised away.
const maxHalfOpen = 512

// halfOpen counts them, by the guest's port. It is shared by the workers: one accepts, another has the flow.
type halfOpen struct {
	once  sync.Once
	ports *[1 << 16]atomic.Int32
}

// halfOpenTo is the count of one port.
func (w *Worker) halfOpenTo(port uint16) *atomic.Int32 {
	h := w.halfOpen
	h.once.Do(func() { h.ports = new([1 << 16]atomic.Int32) })
	return &h.ports[port]
}

// answeredHalf is called when the guest has answered a connection that was accepted, or when that is over.
func (w *Worker) answeredHalf(f *flowSlot) {
	f.half = false
	w.Stats.TCPHalfOpen--
	w.halfOpenTo(f.key.GuestPort).Add(-1)
}

// makeWaiting notes that something may wait at a forwarded port, and reports false if it is not that port any more.
func (w *Worker) makeWaiting(index int32, gen uint32) bool {
	if int(index) >= len(w.listeners) || w.listeners[index].gen&0xffffff != gen {
		return false
	}
	if l := &w.listeners[index]; !l.waiting && !l.held {
		l.waiting = true
		w.waiting = append(w.waiting, index)
	}
	return true
}

// hold leaves a port alone for a while, because too many connections through it wait for the guest.
func (w *Worker) hold(index int32) {
	w.Stats.TCPAcceptsHeld++
	w.listeners[index].held = true
	w.held = append(w.held, index)
	if w.heldUntil == 0 {
		w.heldUntil = w.now + retryAccept
	}
}

// release looks at the ports again that were left alone.
func (w *Worker) release() {
	w.heldUntil = 0
	for _, i := range w.held {
		l := &w.listeners[i]
		l.held = false
		w.makeWaiting(i, l.gen&0xffffff)
	}
	w.held = w.held[:0]
}

// serveListeners takes what waits at the forwarded ports, a batch from each in turn.
func (w *Worker) serveListeners() {
	if w.heldUntil != 0 && w.heldUntil <= w.now {
		w.release()
	}
	if w.acceptAt > w.now {
		return
	}
	w.acceptAt = 0
	n, k := len(w.waiting), 0
	for ; k < n && w.acceptAt == 0 && !w.linkFull && !w.noMemory; k++ {
		i := w.waiting[k]
		l := &w.listeners[i]
		l.waiting = false
		if !l.listening {
			continue
		}
		accept := w.tcpAccept
		if l.udp {
			accept = w.udpAccept
		}
		if accept(i) {
			w.makeWaiting(i, l.gen&0xffffff)
		}
	}
	w.waiting = w.waiting[:copy(w.waiting, w.waiting[k:])]
}

// tcpAccept takes connections from a forwarded TCP port, and reports whether there may be more.
func (w *Worker) tcpAccept(index int32) (again bool) {
	l := &w.listeners[index]
	for range acceptRounds {
		if w.crowded(l) {
			w.hold(index)
			return false
		}
		fd, peer, err := w.Host.Accept(l.fd)
		switch err {
		case 0:
			if l.port.Inside {
				w.spliceAccepted(index, fd, peer)
			} else {
				w.tcpAccepted(l, fd, peer)
			}
		case unix.EAGAIN:
			return false
		case unix.ECONNABORTED, unix.EINTR, unix.EPROTO:
			w.Stats.Drop(stats.HostError)
		default:
			if w.madeRoom(err) {
				continue
			}
			w.listenerFailed(err)
			return true
		}
	}
	return true
}

// crowded reports whether enough connections through a port wait for their answer.
func (w *Worker) crowded(l *listener) bool {
	if l.port.Inside {
		return l.pending >= maxHalfOpen
	}
	return w.halfOpenTo(l.port.To).Load() >= maxHalfOpen
}

// listenerFailed leaves the forwarded ports alone for a while: there is no use in trying again at once.
func (w *Worker) listenerFailed(err hostsock.Errno) {
	w.Stats.Drop(openReason(err))
	w.acceptAt = w.now + retryAccept
}

// tcpAccepted finds a worker for an accepted host peer.
func (w *Worker) tcpAccepted(l *listener, fd int, peer netip.AddrPort) {
	from, ok := w.Map.Inbound(peer)
	guest := w.Map.Guest[familyOf(peer.Addr())]
	if !ok || !guest.IsValid() {
		w.Stats.Drop(stats.BadDestination)
		w.Host.Abort(fd)
		return
	}
	key := flow.NewKey(packet.ProtoTCP, netip.AddrPortFrom(guest, l.port.To), from)
	if !w.allowed(true, &key, peer) {
		w.Host.Abort(fd)
		return
	}
	w.halfOpenTo(l.port.To).Add(1) // now, not when its worker takes it
	if !w.passOn(fd, &key, w.judge.rule) {
		w.tcpAdopt(fd, key, w.judge.rule)
	}
}

// tcpAdopt starts the flow of an accepted host peer, which a rule of the policy has let in: the guest gets a SYN.
func (w *Worker) tcpAdopt(fd int, key flow.Key, rule int32) {
	reason := stats.None
	var f *flowSlot
	if _, taken := w.table.Get(&key); taken {
		reason = stats.NoPorts
	} else if !w.admit() {
		reason = stats.BudgetSpent
	} else if f = w.newFlow(tcpFlow, key); f == nil {
		reason = stats.FlowTableFull
	}
	if reason != stats.None {
		w.Stats.Drop(reason)
		w.Host.Abort(fd)
		w.halfOpenTo(key.GuestPort).Add(-1)
		return
	}
	f.half, f.inbound, f.rule = true, true, rule
	w.Stats.TCPHalfOpen++
	if e := w.waits.find(&key); e != nil {
		w.waits.forget(e)
	}
	w.Stats.TCPAccepted++
	f.fd = fd
	guest, from := key.GuestAddrPort(), key.PeerAddrPort()
	f.head = makeHeader(from.Addr(), guest.Addr(), packet.ProtoTCP, 0, hopLimit)
	f.conn.FromHost(&w.env, w.tcpConfig(guest, from))
	w.attract(f)
	if err := w.Host.Watch(fd, token(tokenFlow, f.gen, f.index)); err != 0 {
		w.Stats.Drop(openReason(err))
		w.Host.Abort(fd)
		f.fd = -1
		f.conn.HostFailed(&w.env)
	}
	w.makeDirty(f)
}
