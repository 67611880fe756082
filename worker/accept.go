package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// tcpAccept takes connections from a forwarded TCP port until there are none.
func (w *Worker) tcpAccept(index int32) {
	l := &w.listeners[index]
	for {
		fd, peer, _, err := w.Host.Accept(l.fd)
		switch err {
		case 0:
			w.tcpAccepted(l, fd, peer)
		case unix.EAGAIN:
			return
		case unix.ECONNABORTED, unix.EINTR, unix.EPROTO:
			w.Stats.Drop(stats.HostError)
		default:
			// The edge is used up, and there is no use in trying again at once.
			w.Stats.Drop(openReason(err))
			w.acceptLater = true
			return
		}
	}
}

// tcpAccepted starts the flow of an accepted host peer: the guest gets a SYN.
func (w *Worker) tcpAccepted(l *listener, fd int, peer netip.AddrPort) {
	from, ok := w.Map.Inbound(peer)
	guest := w.Map.Guest[familyOf(peer.Addr())]
	reason := stats.None
	var f *flowSlot
	switch {
	case !ok || !guest.IsValid():
		reason = stats.BadDestination
	case !w.env.Budget.Admit():
		reason = stats.BudgetSpent
	default:
		key := flow.NewKey(packet.ProtoTCP, netip.AddrPortFrom(guest, l.port.To), from)
		if _, taken := w.table.Get(&key); taken {
			reason = stats.NoPorts
		} else if f = w.newFlow(tcpFlow, key); f == nil {
			reason = stats.FlowTableFull
		}
	}
	if reason != stats.None {
		w.Stats.Drop(reason)
		w.Host.Abort(fd)
		return
	}
	w.Stats.TCPAccepted++
	f.fd = fd
	f.head = makeHeader(from.Addr(), guest, packet.ProtoTCP, 0, hopLimit)
	f.conn.FromHost(&w.env, w.tcpConfig(f.key.GuestAddrPort(), from))
	if err := w.Host.Watch(fd, token(tokenFlow, f.gen, f.index)); err != 0 {
		w.Stats.Drop(openReason(err))
		w.Host.Abort(fd)
		f.fd = -1
		f.conn.HostFailed(&w.env)
	}
	w.makeDirty(f)
}
