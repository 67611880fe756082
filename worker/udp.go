package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// maxGSO is how many datagrams one frame of the guest stands for at most (UDP_MAX_SEGMENTS, include/linux/udp.h).
const maxGSO = 128

// udpInput takes the UDP datagram, or the GSO frame of several, in w.pkt.
func (w *Worker) udpInput() {
	if w.NoUDP {
		w.Stats.Drop(stats.Disabled)
		return
	}
	size := w.pkt.PayloadLen()
	if h := &w.pkt.Frame.Hdr; h.GSOType == packet.GSOUDPL4 {
		if size > maxGSO*int(h.GSOSize) {
			w.Stats.Drop(stats.BadVnetHeader)
			return
		}
		size = int(h.GSOSize)
	}
	key := flow.NewKey(packet.ProtoUDP, netip.AddrPortFrom(w.pkt.Src, w.pkt.SrcPort), netip.AddrPortFrom(w.pkt.Dst, w.pkt.DstPort))
	if w.pkt.DstPort == dnsPort && w.forDNS(key.PeerAddrPort()) {
		if !w.mayResolve(&key) {
			w.refuseDatagram()
			return
		}
		w.dnsInput(size)
		return
	}
	var f *flowSlot
	if i, ok := w.table.Get(&key); ok {
		f = w.flows[i]
	} else if w.foreign(&key) {
		return
	} else if f = w.udpOpen(key); f == nil {
		return
	}
	fd := f.fd
	if f.owner >= 0 {
		fd = w.listeners[f.owner].fd
		f.answered = f.answered || f.inbound
	}
	w.touch(f)
	w.arrived(f)
	w.obeyDF(f, fd)
	w.udpQueue(f, fd, size)
}

// udpOpen starts a flow for the datagram in w.pkt. The host socket keeps the guest's source port when it can be had.
func (w *Worker) udpOpen(key flow.Key) *flowSlot {
	to, ok := w.Map.Outbound(key.PeerAddrPort())
	many := !ok && len(w.Multicast) > 0 && w.toMany(w.pkt.Dst)
	if !ok && !many {
		w.Stats.Drop(stats.BadDestination)
		return nil
	}
	if many {
		to = key.PeerAddrPort()
	}
	if !w.allowed(false, &key, to) {
		if !many { // of what was sent to many, no error tells (RFC 1122, 3.2.2; RFC 4443, 2.4)
			w.refuseDatagram()
		}
		return nil
	}
	if many || w.EndpointIndependent || w.hasEndpoint(&key) {
		return w.udpShared(key, to)
	}
	f := w.begin(udpFlow, key)
	if f == nil {
		return nil
	}
	w.Stats.UDPOpened++
	f.head = makeHeader(w.pkt.Dst, w.pkt.Src, packet.ProtoUDP, 0, hopLimit)
	from := w.Origin[familyOf(to.Addr())]
	local := from.Addr.Addr()
	if !local.IsValid() {
		local = unspecified(to.Addr())
	}
	from.Addr = netip.AddrPortFrom(local, key.GuestPort)
	fd, err := w.Host.OpenUDP(from, to, false)
	if w.madeRoom(err) {
		fd, err = w.Host.OpenUDP(from, to, false)
	}
	if err == unix.EADDRINUSE || err == unix.EACCES {
		from.Addr = netip.AddrPortFrom(local, 0)
		fd, err = w.Host.OpenUDP(from, to, false)
	}
	return w.datagramOpened(f, fd, err)
}

// datagramOpened ends the opening of the UDP or ICMP flow f for the packet in w.pkt: fd and err are what the host answered. On
// failure the guest is told where there is a reason for it, the flow ends, and the answer is nil.
func (w *Worker) datagramOpened(f *flowSlot, fd int, err hostsock.Errno) *flowSlot {
	if err == 0 {
		f.fd = fd
		if err = w.Host.QueueErrors(fd, f.head.isIPv6, false); err == 0 {
			err = w.Host.Watch(fd, token(tokenFlow, f.gen, f.index))
		}
	}
	if err != 0 {
		w.Stats.Drop(openReason(err))
		if w.talks {
			w.logRefused(f, err)
		}
		if openReason(err) == stats.HostUnreachable && !f.across {
			w.quoteError(err)
		}
		w.closeDatagram(f, openReason(err).String())
		return nil
	}
	return f
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// openReason is how the failure to open a socket is counted.
func openReason(err hostsock.Errno) stats.Reason {
	switch err {
	case unix.ECONNREFUSED, unix.ECONNRESET:
		return stats.HostRefused
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EHOSTDOWN, unix.ETIMEDOUT, unix.EACCES, unix.EPERM,
		unix.EINVAL: // a blackhole route
		return stats.HostUnreachable
	case unix.EMFILE, unix.ENFILE:
		return stats.NoDescriptors
	case unix.ENOBUFS, unix.ENOMEM:
		return stats.NoBuffers
	case unix.EADDRNOTAVAIL, unix.EADDRINUSE, unix.EAGAIN:
		return stats.NoPorts
	}
	return stats.HostError
}

// touch postpones the idle timeout of a datagram flow. The wheel is left alone: the timeout looks at f.last.
func (w *Worker) touch(f *flowSlot) {
	f.last = w.now
	w.used(f)
	if !w.wheel.Armed(f.index) {
		w.wheel.Set(f.index, w.now+w.idleLimit(f))
	}
}

func (w *Worker) idleLimit(f *flowSlot) int64 {
	switch {
	case f.kind == spliceFlow:
		return w.IdleLimit
	case f.kind == icmpFlow:
		return w.ICMPIdle
	case f.answered:
		return w.UDPIdle
	}
	return w.UDPFirst
}

// idleTimeout ends a datagram flow, or a spliced one, that was not used for its limit.
func (w *Worker) idleTimeout(f *flowSlot) {
	if at := f.last + w.idleLimit(f); at > w.now {
		w.wheel.Set(f.index, at)
		return
	}
	if f.kind == spliceFlow {
		w.spliceAbort(f, whyIdle)
		return
	}
	w.closeDatagram(f, whyIdle)
}

// closeDatagram ends a UDP or ICMP flow, and says why.
func (w *Worker) closeDatagram(f *flowSlot, why string) {
	f.why = why
	if w.udp.n > 0 && w.udp.fd == f.fd {
		w.flushUDP()
	}
	w.dropHeld(&f.held)
	if f.fd >= 0 {
		w.Host.Close(f.fd)
	}
	if f.owner >= 0 {
		w.part(f.owner)
	}
	if f.kind == udpFlow {
		w.Stats.UDPClosed++
	} else {
		w.Stats.ICMPClosed++
	}
	w.dropFlow(f)
}

// readPages makes sure that there is a page to read host data into, and gets up to n if they are to be had.
func (w *Worker) readPages(n int) bool {
	for len(w.pages) < n {
		page, ok := w.Send.Get()
		if !ok && len(w.pages) == 0 && w.evict(stats.OfSendMemory) {
			page, ok = w.Send.Get()
		}
		if !ok {
			break
		}
		w.pages = append(w.pages, page)
	}
	if len(w.pages) == 0 {
		w.Stats.Drop(stats.NoBuffers)
		w.noMemory = true
	}
	return len(w.pages) > 0
}

// keepPages gives the pages to read into back, but for n and those whose datagrams wait for the link.
func (w *Worker) keepPages(n int) {
	if w.udpPending() {
		n = max(n, w.recv.n)
	}
	if w.reply.len > 0 {
		n = max(n, 1)
	}
	for len(w.pages) > n {
		last := len(w.pages) - 1
		w.Send.Put(w.pages[last])
		w.pages = w.pages[:last]
	}
}

// maxFailures is how often in succession reading a datagram flow's host socket may fail.
const maxFailures = 32

// datagramFailed deals with the failure to read from a flow's host socket: mostly an error of the network, which is passed on to the
// guest. It ends a flow whose socket does nothing but fail, and reports whether the flow goes on.
func (w *Worker) datagramFailed(f *flowSlot, err hostsock.Errno) (open bool) {
	if said, _ := w.takeErrors(f.fd, f, -1); said > 0 {
		return true
	}
	reason := openReason(err)
	w.Stats.Drop(reason)
	if f.failures++; f.failures == maxFailures {
		w.closeDatagram(f, whyFailed)
		return false
	}
	if reason == stats.HostRefused || reason == stats.HostUnreachable {
		w.unreachable(f, err)
	}
	return true
}

// udpKey is the key of the flow of a host peer at a forwarded UDP port. It is not ok when the guest cannot be shown this peer.
func (w *Worker) udpKey(index int32, peer netip.AddrPort) (key flow.Key, ok bool) {
	l := &w.listeners[index]
	if l.port.Inside {
		return flow.NewKey(packet.ProtoUDP, peer, l.port.Listen), true
	}
	from, ok := w.Map.Inbound(peer)
	guest := l.guest.Addr()
	if !guest.IsValid() {
		guest = w.Map.Guest[familyOf(peer.Addr())]
	}
	if !ok || !guest.IsValid() {
		return flow.Key{}, false
	}
	return flow.NewKey(packet.ProtoUDP, netip.AddrPortFrom(guest, l.port.To), from), true
}

// udpFlowOf is the flow of a host peer at a forwarded UDP port, nil when there is none.
func (w *Worker) udpFlowOf(index int32, peer netip.AddrPort) *flowSlot {
	if key, ok := w.udpKey(index, peer); ok {
		if i, ok := w.table.Get(&key); ok {
			return w.flows[i]
		}
	}
	return nil
}

// udpPeer finds or starts the flow of a host peer at a forwarded UDP port.
func (w *Worker) udpPeer(index int32, peer netip.AddrPort) *flowSlot {
	key, ok := w.udpKey(index, peer)
	if !ok {
		w.Stats.Drop(stats.BadDestination)
		return nil
	}
	if i, ok := w.table.Get(&key); ok {
		return w.flows[i]
	}
	if w.listeners[index].port.Inside {
		return w.acrossOpen(index, key)
	}
	if !w.allowed(true, &key, peer) { // whom nobody can tell: an ordinary user sends no ICMP
		return nil
	}
	w.listeners[index].flows++ // an endpoint does not close while room is made
	f := w.newFlow(udpFlow, key)
	if f == nil {
		w.part(index)
		w.Stats.Drop(stats.FlowTableFull)
		return nil
	}
	w.Stats.UDPOpened++
	f.owner, f.peer, f.inbound = index, peer, true
	f.head = makeHeader(key.PeerAddrPort().Addr(), key.GuestAddrPort().Addr(), packet.ProtoUDP, 0, hopLimit)
	return f
}
