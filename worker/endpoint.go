package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// An endpoint is a UDP port of the guest that has one host socket for all its peers: its mapping is the same for all (RFC 4787, REQ-1), and whoever
// has learned of it may send to it (REQ-8), which is how games and WebRTC find a direct way. It is a forwarded port that the guest's first
// datagram opens, and that closes with its last flow. Otherwise each pair of ends has a socket of its own, which takes from its peer alone.

// endpointKey is the key of the endpoint of a flow, by which its worker is found.
func endpointKey(k *flow.Key) flow.Key {
	return flow.Key{Guest: k.Guest, GuestPort: k.GuestPort, Proto: k.Proto, Family: k.Family}
}

// hasEndpoint reports whether the guest's port of a flow has an endpoint, because it has sent to a group for instance.
func (w *Worker) hasEndpoint(k *flow.Key) bool {
	if w.endpoints.Len() == 0 {
		return false
	}
	key := endpointKey(k)
	_, ok := w.endpoints.Get(&key)
	return ok
}

// udpShared starts a flow for the datagram in w.pkt through the endpoint of the guest's port.
func (w *Worker) udpShared(key flow.Key, to netip.AddrPort) *flowSlot {
	shared := endpointKey(&key)
	if _, ok := w.endpoints.Get(&shared); !ok && w.foreign(&shared) {
		return nil
	}
	f := w.begin(udpFlow, key)
	if f == nil {
		return nil
	}
	w.Stats.UDPOpened++
	f.head = makeHeader(w.pkt.Dst, w.pkt.Src, packet.ProtoUDP, 0, hopLimit)
	f.peer = to
	index, err := w.endpoint(&shared, to.Addr())
	if err != 0 {
		return w.datagramOpened(f, -1, err)
	}
	w.join(f, index)
	return f
}

// endpoint finds or opens the endpoint with the given key, from which something is to be sent to an address.
func (w *Worker) endpoint(key *flow.Key, to netip.Addr) (index int32, err hostsock.Errno) {
	if index, ok := w.endpoints.Get(key); ok {
		return index, 0
	}
	guest := key.GuestAddrPort()
	from := w.Origin[familyOf(to)]
	local := from.Addr.Addr()
	if !local.IsValid() {
		local = unspecified(to)
	}
	// Not shared with another socket at this port: datagrams would go to either.
	from.Addr, from.Exclusive = netip.AddrPortFrom(local, guest.Port()), true
	from.Multicast, from.MulticastDevice = len(w.Multicast) > 0, w.MulticastDevice
	fd, err := w.Host.OpenUDP(from, netip.AddrPort{}, false)
	if w.madeRoom(err) {
		fd, err = w.Host.OpenUDP(from, netip.AddrPort{}, false)
	}
	if err == unix.EADDRINUSE {
		if index := w.forwardedTo(guest); index >= 0 {
			return index, 0
		}
	}
	if err == unix.EADDRINUSE || err == unix.EACCES {
		from.Addr = netip.AddrPortFrom(local, 0)
		fd, err = w.Host.OpenUDP(from, netip.AddrPort{}, false)
	}
	if err != 0 {
		return -1, err
	}
	if !w.claim(key) {
		w.Host.Close(fd)
		return -1, unix.EAGAIN // another worker was quicker, or there is no room
	}
	index, err = w.listen(fd, listener{udp: true, listening: true, guest: guest, port: forward.Port{To: guest.Port()}})
	if err == 0 && !w.endpoints.Put(*key, index) {
		w.closeListener(index)
		err = unix.EAGAIN
	}
	if err != 0 {
		w.unclaim(key)
	}
	return index, err
}

// forwardedTo is the forwarded port that leads to an end of the guest from all of the host's addresses, -1 if there is none.
func (w *Worker) forwardedTo(guest netip.AddrPort) int32 {
	if guest.Addr() != w.Map.Guest[familyOf(guest.Addr())] {
		return -1
	}
	for i := range w.listeners {
		l := &w.listeners[i]
		at := l.port.Listen.Addr()
		if l.fd >= 0 && l.udp && l.port.To == guest.Port() && at.IsUnspecified() && (l.port.Dual || at.Is4() == guest.Addr().Is4()) {
			return int32(i)
		}
	}
	return -1
}

// join has f use the socket of a port.
func (w *Worker) join(f *flowSlot, index int32) {
	f.owner = index
	w.listeners[index].flows++
}

// part ends what join has begun. An endpoint closes with the last of its flows.
func (w *Worker) part(index int32) {
	l := &w.listeners[index]
	if l.flows--; l.flows > 0 || !l.guest.IsValid() {
		return
	}
	key := flow.NewKey(packet.ProtoUDP, l.guest, netip.AddrPort{})
	w.endpoints.Delete(&key)
	w.unclaim(&key)
	w.closeListener(index)
}
