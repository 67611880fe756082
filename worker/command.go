package worker

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// Do has the worker run fn between two batches, in its own goroutine. It does not wait for that. It may be called from any
// goroutine; fn is not run any more once the worker has stopped.
func (w *Worker) Do(fn func()) {
	w.mu.Lock()
	w.commands = append(w.commands, fn)
	w.mu.Unlock()
	wake(w.WakeFd)
}

// Stop makes Run return after the current batch. It may be called from any goroutine, and more than once.
func (w *Worker) Stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	wake(w.WakeFd)
}

// wake wakes the worker that watches an eventfd; -1 for one whose Step is called by somebody else.
func wake(fd int) {
	if fd < 0 {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// It cannot fail: the counter, which nobody reads, has room for 2^64 - 2 wake-ups.
	_, _ = unix.Write(fd, one[:])
}

// Reconfigure has the worker go by another mapping, which is read-only from then on, another gateway, and another MTU of the link, in bytes. Flows that exist
// stay as they are, TCP with the segment size that was agreed on. It is called through Do.
func (w *Worker) Reconfigure(m *forward.Map, g gateway.Config, mtu int) error {
	if err := w.Gateway.Update(g); err != nil {
		return err
	}
	w.Map, w.MTU = m, mtu
	return nil
}

// Advertise sends the guest a router advertisement, unasked. It is called through Do.
func (w *Worker) Advertise() { w.Gateway.Advertise(w.emit) }

// takeCommands runs what Do left, and reports whether the worker is to stop.
func (w *Worker) takeCommands() (stop bool) {
	w.mu.Lock()
	commands := w.commands
	w.commands = nil
	stop = w.stopped
	w.mu.Unlock()
	for _, fn := range commands {
		fn()
	}
	return stop
}

// Snapshot is a copy of the counters with the levels of this moment. It is called in the worker's own goroutine: before
// Run, after it, or in a function given to Do.
func (w *Worker) Snapshot() stats.Worker {
	s := *w.Stats
	c := w.Queue.Counters()
	s.SysLinkRead, s.SysLinkWrite, s.LinkDescriptors, s.LinkRebuilds = c.Reads, c.Writes, c.Descriptors, c.Rebuilds
	s.LinkKicks, s.LinkPast = c.Kicks, c.Past
	for _, l := range w.loans.of {
		if l.queue != nil {
			s.SysLinkRead += l.queue.Counters().Reads
		}
	}
	s.Drops[stats.LinkFull] += c.Refused
	if d := w.deliveries.Load(); d != nil {
		s.Drops[stats.DeliveryFull] += d.full.Load()
		s.Drops[stats.LongFrame] += d.long.Load()
	}
	s.Promised = uint64(w.env.Budget.Promised)
	for _, f := range w.flows {
		if f.kind == tcpFlow {
			s.Held += uint64(f.conn.HeldBytes())
		}
	}
	s.PagesInUse = uint64(w.Hold.InUse() + w.Send.InUse())
	s.FragsInUse = uint64(w.Hold.FragsInUse() + w.Send.FragsInUse())
	s.PeakPromised = uint64(w.env.Budget.Peak)
	hold, send := w.Hold.Stats(), w.Send.Stats()
	s.PeakPages, s.PeakFrags = hold.PeakPages+send.PeakPages, hold.PeakFrags+send.PeakFrags
	return s
}

// Close ends every flow, resetting the host peers of unfinished ones, and gives queue, sockets and memory back. The worker has stopped.
func (w *Worker) Close() error {
	w.closing = true
	for _, f := range w.flows {
		switch f.kind {
		case tcpFlow:
			f.conn.HostFailed(&w.env)
			if f.fd >= 0 {
				w.Host.Abort(f.fd)
			}
			w.Stats.TCPClosed++
			w.dropFlow(f)
		case spliceFlow:
			w.spliceAbort(f, whyClosed)
		case udpFlow, icmpFlow:
			w.closeDatagram(f, whyClosed)
		}
	}
	w.closeDNS()
	w.leaveGroups()
	for _, l := range w.listeners {
		if l.fd >= 0 {
			w.Host.Close(l.fd)
		}
	}
	w.listeners, w.freeListeners = nil, nil
	w.closeInbox()
	w.closeDeliveries()
	w.recv.n = 0
	w.keepPages(0)
	err := w.Queue.Close()
	if e := w.closeLoans(); err == nil {
		err = e
	}
	for _, p := range []interface{ Close() error }{w.Hold, w.Send} {
		if e := p.Close(); err == nil {
			err = e
		}
	}
	return err
}
