package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/stats"
)

// listener is one forwarded port.
type listener struct {
	fd        int    // -1: a place that is free
	gen       uint32 // tells events of an earlier port in this place
	udp       bool
	listening bool // connections and datagrams come
	waiting   bool // is in Worker.waiting
	held      bool // is in Worker.held
	told      [2]fragmenting
	port      forward.Port
	guest     netip.AddrPort // of an endpoint (endpoint.go); a forwarded port leads to the guest's address of each family
	flows     int            // UDP: that use the socket
	pending   int            // TCP inside: connections that wait for the host
	unsent    held           // UDP: what the socket does not take now
	group     netip.AddrPort // of a group that the guest has joined (multicast.go)
}

// ForwardInside opens a port of the guest's loopback. fd is a socket of the guest's namespace, neither bound nor connected, which is the worker's from then on. It is
// called before Run, or through Do.
func (w *Worker) ForwardInside(p forward.Port, fd int, udp bool) hostsock.Errno {
	adopt := w.Host.AdoptTCP
	if udp {
		adopt = w.Host.AdoptUDP
	}
	if err := adopt(fd, p.Listen); err != 0 {
		w.Host.Close(fd)
		return err
	}
	_, err := w.listen(fd, listener{udp: udp, listening: true, port: p})
	return err
}

// Forward opens a forwarded port. One that is not Ready yet is bound only: connections are refused until SetReady. It is called before Run, or
// through Do.
func (w *Worker) Forward(p forward.Port, udp bool) hostsock.Errno {
	var fd int
	var err hostsock.Errno
	switch {
	case udp:
		fd, err = w.Host.OpenUDP(hostsock.Origin{Addr: p.Listen, Device: p.Device}, netip.AddrPort{}, p.Dual)
	case p.Deferred:
		fd, err = w.Host.BindTCP(p.Listen, p.Device, p.Dual)
	default:
		fd, err = w.Host.ListenTCP(p.Listen, p.Device, p.Dual)
	}
	if err != 0 {
		return err
	}
	if !udp {
		w.halfOpenTo(p.To) // so that its memory is there before the first connection
	}
	_, err = w.listen(fd, listener{udp: udp, listening: udp || !p.Deferred, port: p})
	return err
}

// listen makes fd a port as l has it, and returns its place. On error fd is closed.
func (w *Worker) listen(fd int, port listener) (index int32, err hostsock.Errno) {
	if len(w.freeListeners) == 0 {
		w.listeners = append(w.listeners, listener{fd: -1})
		w.freeListeners = append(w.freeListeners, int32(len(w.listeners)-1))
	}
	last := len(w.freeListeners) - 1
	index = w.freeListeners[last]
	l := &w.listeners[index]
	if port.udp {
		v6 := port.port.Listen.Addr().Is6() || port.guest.Addr().Is6() || port.group.Addr().Is6()
		err = w.Host.QueueErrors(fd, v6, port.port.Dual)
	}
	if err == 0 {
		err = w.Host.Watch(fd, token(tokenListener, l.gen, index))
	}
	if err != 0 {
		w.Host.Close(fd)
		return -1, err
	}
	w.freeListeners = w.freeListeners[:last]
	port.fd, port.gen, port.waiting, port.held = fd, l.gen, l.waiting, l.held
	*l = port
	return index, 0
}

// findListener returns the place of a port; -1 if it is not forwarded here.
func (w *Worker) findListener(p *forward.Port, udp bool) int32 {
	for i := range w.listeners {
		if l := &w.listeners[i]; l.fd >= 0 && l.udp == udp && l.port.Listen == p.Listen && l.port.Device == p.Device && l.port.Inside == p.Inside {
			return int32(i)
		}
	}
	return -1
}

// Unforward closes a forwarded port, and reports false if this worker does not have it. TCP connections go on; UDP flows, which use the port
// itself, end. It is called before Run, or through Do.
func (w *Worker) Unforward(p forward.Port, udp bool) bool {
	index := w.findListener(&p, udp)
	if index < 0 {
		return false
	}
	for _, f := range w.flows {
		switch {
		case f.owner != index:
		case f.kind == udpFlow:
			w.closeDatagram(f, whyPortClosed)
		case f.kind == spliceFlow:
			f.owner = -1
		}
	}
	w.closeListener(index)
	return true
}

// closeListener closes a port that no flow uses.
func (w *Worker) closeListener(index int32) {
	l := &w.listeners[index]
	if w.udp.n > 0 && w.udp.fd == l.fd {
		w.flushUDP()
	}
	w.dropHeld(&l.unsent)
	if w.udpPending() && w.recv.listener == index {
		w.Stats.Drops[stats.LinkFull] += uint64(w.recv.n - w.recv.at)
		w.recv.at = w.recv.n
	}
	w.Host.Close(l.fd)
	l.fd, l.listening = -1, false
	l.gen++
	w.freeListeners = append(w.freeListeners, index)
}

// SetReady says whether the guest takes connections at the port that a deferred port leads to. It is called before Run, or through Do.
func (w *Worker) SetReady(p forward.Port, ready bool) hostsock.Errno {
	index := w.findListener(&p, false)
	if index < 0 || w.listeners[index].listening == ready {
		return 0
	}
	l := &w.listeners[index]
	act := w.Host.Unlisten
	if ready {
		act = w.Host.Listen
	}
	err := act(l.fd)
	if err == 0 {
		l.listening = ready
	}
	return err
}
