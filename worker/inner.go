package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/tcp"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// Connections whose host end is this program's own: one of a pair of sockets instead of a socket toward a host peer.

// Connect starts a flow from the address from to the guest's, as if a host peer had been accepted on fd, which is the worker's from then on unless the answer is an
// error. done is called once, in the worker's goroutine: with 0 when the guest has accepted, or else with why not. EADDRINUSE says that there is a flow between these ends
// already. It is called before Run, or through Do.
func (w *Worker) Connect(fd int, from, guest netip.AddrPort, done func(hostsock.Errno)) hostsock.Errno {
	key := flow.NewKey(packet.ProtoTCP, guest, from)
	if _, taken := w.table.Get(&key); taken {
		return unix.EADDRINUSE
	}
	if w.Group != nil && w.Group.directory.Owner(&key) != flow.Nobody {
		return unix.EADDRINUSE
	}
	w.halfOpenTo(key.GuestPort).Add(1)
	w.tcpAdopt(fd, key, 0)
	i, ok := w.table.Get(&key)
	if !ok { // counted; fd was closed
		done(unix.ENOBUFS)
		return 0
	}
	if w.dials == nil {
		w.dials = make(map[int32]func(hostsock.Errno))
	}
	w.flows[i].dialed = true
	w.dials[i] = done
	return 0
}

// GiveUp ends a flow that Connect has started, unless the guest has accepted it by now. It is called before Run, or through Do.
func (w *Worker) GiveUp(from, guest netip.AddrPort) {
	key := flow.NewKey(packet.ProtoTCP, guest, from)
	if i, ok := w.table.Get(&key); ok && w.flows[i].dialed {
		w.hostFailed(w.flows[i], unix.ECONNRESET)
	}
}

// dialOver tells whoever called Connect how it went, as soon as that is known.
func (w *Worker) dialOver(f *flowSlot) {
	err := hostsock.Errno(0)
	switch f.conn.State() {
	case tcp.SynSent:
		return
	case tcp.Closed:
		switch f.conn.Why() {
		case tcp.GuestReset:
			err = unix.ECONNREFUSED
		case tcp.GuestSilent:
			err = unix.ETIMEDOUT
		default:
			err = unix.ECONNABORTED
		}
	}
	f.dialed = false
	done := w.dials[f.index]
	delete(w.dials, f.index)
	done(err)
}

// connectHost connects the guest's new flow to whoever it leads to: this program, or a host peer.
func (w *Worker) connectHost(key *flow.Key, to netip.AddrPort) (fd int, err hostsock.Errno) {
	if w.Intercept != nil {
		if fd, err, ok := w.Intercept(key.GuestAddrPort(), key.PeerAddrPort()); ok {
			return fd, err
		}
	}
	from := w.Origin[familyOf(to.Addr())]
	from.TOS, from.TTL = w.pkt.TOS&^ecnBits, sentTTL(w.pkt.TTL)
	return w.Host.ConnectTCP(from, to)
}
