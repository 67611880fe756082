package worker

// fragmenting is what a host socket was told of the guest's wish to have its packets arrive whole.
type fragmenting uint8

const (
	untold fragmenting = iota
	whole
	divisible
)

// obeyDF has the host socket fd, through which f sends, treat what follows as the packet in w.pkt wants it: IPv4's DF, and for IPv6 whatever the
// guest has not cut itself, goes whole or not at all; the rest may be cut where the way is narrow.
func (w *Worker) obeyDF(f *flowSlot, fd int) {
	told, want := &f.told, divisible
	if f.owner >= 0 {
		told = &w.listeners[f.owner].told[familyOf(w.pkt.Dst)]
	}
	if w.pkt.DF {
		want = whole
	}
	if *told == want {
		return
	}
	if w.udp.n > 0 && w.udp.fd == fd {
		w.flushUDP() // what waits wants the other
	}
	if w.Host.DontFragment(fd, w.pkt.V6, w.pkt.DF) == 0 {
		*told = want
	}
}

// sentTTL is the hop limit that a packet of the guest's leaves with, 0 for the host's own: what all systems begin with goes with that.
func sentTTL(ttl uint8) uint8 {
	if ttl == hopLimit {
		return 0
	}
	return ttl
}
