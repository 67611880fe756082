package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/stats"
)

// Datagrams from the namespace's loopback to the host's, and back. A flow has the port inside, which it shares with all who send there, and a host socket of its own,
// connected, so that its answers find the way back. What comes is received as for any other flow of UDP, but leaves by the flow's other socket.

// acrossOpen starts the flow of somebody inside, whose first datagram has come to an inner port.
func (w *Worker) acrossOpen(index int32, key flow.Key) *flowSlot {
	l := &w.listeners[index]
	to := l.port.Outer()
	if w.NoUDP {
		w.Stats.Drop(stats.Disabled)
		return nil
	}
	if !w.allowed(false, &key, to) { // whom nobody can tell: loopback has no router
		return nil
	}
	f := w.newFlow(udpFlow, key)
	if f == nil {
		w.Stats.Drop(stats.FlowTableFull)
		return nil
	}
	w.Stats.UDPOpened++
	f.across, f.peer = true, key.GuestAddrPort()
	f.head.isIPv6 = to.Addr().Is6()
	w.join(f, index)
	fd, err := w.Host.OpenUDP(hostsock.Origin{}, to, false)
	if w.madeRoom(err) {
		fd, err = w.Host.OpenUDP(hostsock.Origin{}, to, false)
	}
	return w.datagramOpened(f, fd, err)
}

// udpAcross sends message i of those that were received, and those behind it that go the same way, by the other socket of f, and returns how many messages that were.
func (w *Worker) udpAcross(f *flowSlot, i int) (n int) {
	r := &w.recv
	fd, peer := f.fd, netip.AddrPort{}
	if r.listener < 0 {
		fd, peer = w.listeners[f.owner].fd, f.peer
	}
	from := r.msgs[i].Peer
	for n = 0; i+n < r.n && (r.listener < 0 || r.msgs[i+n].Peer == from); n++ {
		d := &r.msgs[i+n]
		d.Bufs[0] = d.Bufs[0][:min(d.Len, len(d.Bufs[0]))]
		d.Peer, d.Local, d.TTL, d.V6 = peer, netip.Addr{}, 0, f.key.Family == flow.IPv6
		w.acrossCount(f, d)
	}
	tried := false
	for sent := 0; sent < n; {
		k, err := w.Host.SendDatagrams(fd, r.msgs[i+sent:i+n])
		sent += k
		switch {
		case err == 0:
			tried = false
		case again(err, 0, tried):
			tried = true
			if r.listener >= 0 {
				w.takeErrors(fd, f, -1)
			}
		default:
			w.Stats.Drop(sendReason(err))
			sent++
			tried = false
		}
	}
	return n
}

// acrossCount counts a message for its flow.
func (w *Worker) acrossCount(f *flowSlot, d *hostsock.Datagram) {
	t := &f.fromGuest
	if w.recv.listener < 0 {
		t = &f.head.tally
	}
	t.Bytes += uint64(d.Len)
	t.Packets += packets(uint64(d.Len), uint64(d.Segment))
}
