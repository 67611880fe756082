package vasta

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/netns"
)

const (
	// lookEvery is how often the guest's sockets are looked at, where that was asked for: the kernel tells nobody that one begins to listen.
	lookEvery = 200 * time.Millisecond
	// maxAuto bounds the ports of each protocol that are forwarded because the guest, or the host, listens on them.
	maxAuto = 1024
)

// portWatch keeps forwarded ports as the guest's sockets are: those of --listen-when-ready, and those of "auto"; and those inside as the host's are.
type portWatch struct {
	log     *slog.Logger
	network *Network
	sockets *netns.Sockets // the guest's; nil when nobody asks for them
	host    *netns.Sockets // the same of the host
	ready   netns.PortSet  // at the last look
	autos   []*autoPorts
	inside  []*autoInside
	stopped chan struct{}
	running sync.WaitGroup
}

// autoPorts are the ports of a protocol that were forwarded because the guest listens on them.
type autoPorts struct {
	name string // "tcp" or "udp"
	udp  bool
	at   forward.Port // where, but for the port
	open map[uint16]*member
	full bool // and that was said
}

// watchPorts begins to keep ports as the guest's sockets are, if that was asked for, and has looked at them once.
func (n *Network) watchPorts() (*portWatch, error) {
	w := &portWatch{log: n.log, network: n, stopped: make(chan struct{})}
	if n.end.ns != nil {
		w.sockets = n.end.ns.Sockets()
	}
	if err := w.watchHost(); err != nil {
		return nil, err
	}
	if w.sockets == nil && w.host == nil {
		return w, nil
	}
	for _, a := range []struct {
		asked bool
		name  string
		udp   bool
	}{{n.config.AutoTCP, "tcp", false}, {n.config.AutoUDP, "udp", true}} {
		if a.asked {
			w.autos = append(w.autos, &autoPorts{name: a.name, udp: a.udp, at: n.currentPlan().listener(PortRule{}), open: map[uint16]*member{}})
		}
	}
	if err := w.look(); err != nil {
		w.closeHost()
		return nil, fmt.Errorf("%w: %w", ErrWatch, err)
	}
	w.running.Go(w.run)
	return w, nil
}

// stop ends it. The network and the namespace are still there.
func (w *portWatch) stop() {
	close(w.stopped)
	w.running.Wait()
	w.closeHost()
}

func (w *portWatch) run() {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	failed := false
	for {
		select {
		case <-w.stopped:
			return
		case <-w.network.done:
			return
		case <-ticker.C:
		}
		err := w.look()
		if err != nil && !failed {
			w.log.Warn("forwarded ports stay as they are", "error", err)
		}
		failed = err != nil
	}
}

// deferred are the ports that listen only while the guest does. They are as they were opened in New.
func (n *Network) deferred() (ports []openPort) {
	n.changing.Lock()
	defer n.changing.Unlock()
	for _, p := range n.ports {
		if p.Deferred {
			ports = append(ports, p)
		}
	}
	return ports
}

// look asks what listens inside, and on the host, and has the workers follow.
func (w *portWatch) look() error {
	if err := w.lookOut(); err != nil || w.sockets == nil {
		return err
	}
	var now netns.PortSet
	if err := w.sockets.Listening(&now, false); err != nil {
		return err
	}
	for _, d := range w.network.deferred() {
		if ready := now.Has(d.To); ready != w.ready.Has(d.To) {
			d.member.worker.Do(func() {
				if errno := d.member.worker.SetReady(d.Port, ready); errno != 0 {
					w.log.Warn("a forwarded port cannot follow the guest", "port", d.Listen, "listens_inside", ready, "error", errno)
				}
			})
		}
	}
	w.ready = now
	for _, a := range w.autos {
		set := &now
		if a.udp {
			set = new(netns.PortSet)
			if err := w.sockets.Listening(set, true); err != nil {
				return err
			}
		}
		w.follow(a, set)
	}
	return nil
}

// follow forwards the ports of a set, and those that are not in it no more.
func (w *portWatch) follow(a *autoPorts, set *netns.PortSet) {
	for port, m := range a.open {
		if !set.Has(port) {
			delete(a.open, port)
			p := a.port(port)
			m.worker.Do(func() { m.worker.Unforward(p, a.udp) })
			w.log.Debug("port not forwarded any more", "network", a.name, "port", p.Listen)
		}
	}
	low, high := clientPorts()
	for port := range set.All() {
		if a.open[port] != nil || a.udp && low <= port && port <= high { // what a client has of UDP is not to be served
			continue
		}
		if len(a.open) == maxAuto {
			if !a.full {
				w.log.Warn("the namespace listens on more ports than are forwarded", "network", a.name, "forwarded", maxAuto)
			}
			a.full = true
			return
		}
		m := w.network.members[0] // as portMember has it
		if a.udp {
			m = w.network.members[len(a.open)%len(w.network.members)]
		}
		a.open[port] = m // also if it cannot be had: it is tried again when it has been closed inside meanwhile
		p := a.port(port)
		m.worker.Do(func() {
			if errno := m.worker.Forward(p, a.udp); errno != 0 {
				w.log.Info("a port that the namespace listens on is not forwarded", "network", a.name, "port", p.Listen, "error", errno)
				return
			}
			w.log.Debug("port forwarded", "network", a.name, "port", p.Listen)
		})
	}
}

// port is the forwarded port of that number.
func (a *autoPorts) port(n uint16) forward.Port {
	p := a.at
	p.Listen, p.To = netip.AddrPortFrom(p.Listen.Addr(), n), n
	return p
}
