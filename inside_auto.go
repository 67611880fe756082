package vasta

import (
	"context"
	"fmt"

	"github.com/vasta-net/vasta/netns"
)

// autoInside are the ports of a protocol at the namespace's loopback that are there because the host listens on them.
type autoInside struct {
	network string // "tcp" or "udp"
	udp     bool
	open    map[uint16][]openPort // by the port's number; none for one that could not be had
	full    bool                  // and that was said
}

// watchHost begins to look at the host's sockets, if that was asked for.
func (w *portWatch) watchHost() (err error) {
	c := &w.network.config
	for _, a := range []struct {
		asked   bool
		network string
	}{{c.AutoInsideTCP, "tcp"}, {c.AutoInsideUDP, "udp"}} {
		if a.asked {
			w.inside = append(w.inside, &autoInside{network: a.network, udp: a.network == "udp", open: map[uint16][]openPort{}})
		}
	}
	if len(w.inside) == 0 {
		return nil
	}
	if w.host, err = netns.OwnSockets(); err != nil {
		return fmt.Errorf("%w: %w", ErrWatch, err)
	}
	return nil
}

func (w *portWatch) closeHost() {
	if w.host != nil {
		w.host.Close()
	}
}

// lookOut asks what listens on the host, and has the ports inside follow.
func (w *portWatch) lookOut() error {
	for _, a := range w.inside {
		var set netns.PortSet
		if err := w.host.Listening(&set, a.udp); err != nil {
			return err
		}
		w.mirror(a, &set)
	}
	return nil
}

// ours are the ports of a protocol that this network listens on on the host. Inside they would lead back to where they come from.
func (w *portWatch) ours(udp bool) (set netns.PortSet) {
	n := w.network
	n.changing.Lock()
	defer n.changing.Unlock()
	for _, p := range n.ports {
		if p.udp == udp && !p.Inside {
			set.Add(p.Listen.Port())
		}
	}
	for _, a := range w.autos {
		for port := range a.open {
			if a.udp == udp {
				set.Add(port)
			}
		}
	}
	return set
}

// mirror opens the ports of a set inside, and closes those that are not in it any more.
func (w *portWatch) mirror(a *autoInside, set *netns.PortSet) {
	n := w.network
	for port, opened := range a.open {
		if !set.Has(port) {
			delete(a.open, port)
			_ = n.closePorts(context.Background(), opened) // fails when the network has ended, and with it the ports
			w.log.Debug("port inside not forwarded any more", "network", a.network, "port", port)
		}
	}
	ours := w.ours(a.udp)
	low, high := clientPorts()
	var wanted []plannedPort
	for port := range set.All() {
		if _, known := a.open[port]; known || ours.Has(port) || a.udp && low <= port && port <= high { // what a client has of UDP is not to be served
			continue
		}
		if len(a.open) == maxAuto {
			if !a.full {
				w.log.Warn("the host listens on more ports than are forwarded from inside", "network", a.network, "forwarded", maxAuto)
			}
			a.full = true
			break
		}
		a.open[port] = nil // also if it cannot be had: it is tried again when it has been closed outside meanwhile
		for _, at := range n.currentPlan().forwarded(&n.config, PortRule{Network: a.network, Inside: true, First: port}) {
			at.Optional = true
			wanted = append(wanted, at)
		}
	}
	if len(wanted) == 0 {
		return
	}
	n.changing.Lock()
	opened, err := n.openPorts(context.Background(), wanted)
	n.changing.Unlock()
	if err != nil {
		w.log.Info("ports that the host listens on are not forwarded from inside", "network", a.network, "error", err)
	}
	for _, p := range opened {
		port := p.Listen.Port()
		a.open[port] = append(a.open[port], p)
		w.log.Debug("port inside forwarded", "network", a.network, "port", p.Listen)
	}
}
