package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// acceptRounds bounds the connections taken from one forwarded port in one iteration.
const acceptRounds = 8

// makeWaiting notes that something may wait at a forwarded port.
func (w *Worker) makeWaiting(index int32) {
	if int(index) < len(w.listeners) && !w.listeners[index].waiting {
		w.listeners[index].waiting = true
		w.waiting = append(w.waiting, index)
	}
}

// serveListeners takes what waits at the forwarded ports, a batch from each in turn.
func (w *Worker) serveListeners() {
	if w.acceptAt > w.now {
		return
	}
	w.acceptAt = 0
	n, k := len(w.waiting), 0
	for ; k < n && w.acceptAt == 0 && !w.linkFull && !w.noMemory; k++ {
		i := w.waiting[k]
		l := &w.listeners[i]
		l.waiting = false
		accept := w.tcpAccept
		if l.udp {
			accept = w.udpAccept
		}
		if accept(i) {
			w.makeWaiting(i)
		}
	}
	w.waiting = w.waiting[:copy(w.waiting, w.waiting[k:])]
}

// tcpAccept takes connections from a forwarded TCP port, and reports whether there may be more.
func (w *Worker) tcpAccept(index int32) (again bool) {
	l := &w.listeners[index]
	for range acceptRounds {
		fd, peer, _, err := w.Host.Accept(l.fd)
		switch err {
		case 0:
			w.tcpAccepted(l, fd, peer)
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
	if !w.passOn(fd, &key) {
		w.tcpAdopt(fd, key)
	}
}

// tcpAdopt starts the flow of an accepted host peer: the guest gets a SYN.
func (w *Worker) tcpAdopt(fd int, key flow.Key) {
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
		return
	}
	if e := w.waits.find(&key); e != nil {
		w.waits.forget(e)
	}
	w.Stats.TCPAccepted++
	f.fd = fd
	guest, from := key.GuestAddrPort(), key.PeerAddrPort()
	f.head = makeHeader(from.Addr(), guest.Addr(), packet.ProtoTCP, 0, hopLimit)
	f.conn.FromHost(&w.env, w.tcpConfig(guest, from))
	if err := w.Host.Watch(fd, token(tokenFlow, f.gen, f.index)); err != 0 {
		w.Stats.Drop(openReason(err))
		w.Host.Abort(fd)
		f.fd = -1
		f.conn.HostFailed(&w.env)
	}
	w.makeDirty(f)
}
