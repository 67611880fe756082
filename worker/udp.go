package worker

import (
	"encoding/binary"
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// udpRounds bounds the datagrams read from one forwarded port in one iteration.
const udpRounds = 16

// maxSegments is how many datagrams one GSO frame stands for at most (UDP_MAX_SEGMENTS, include/linux/udp.h).
const maxSegments = 128

// udpInput takes the UDP datagram, or the GSO frame of several, in w.pkt.
func (w *Worker) udpInput() {
	if w.NoUDP {
		w.Stats.Drop(stats.Disabled)
		return
	}
	size := w.pkt.PayloadLen()
	if h := &w.pkt.Frame.Hdr; h.GSOType == packet.GSOUDPL4 {
		if size > maxSegments*int(h.GSOSize) {
			w.Stats.Drop(stats.BadVnetHeader)
			return
		}
		size = int(h.GSOSize)
	}
	key := flow.NewKey(packet.ProtoUDP, netip.AddrPortFrom(w.pkt.Src, w.pkt.SrcPort), netip.AddrPortFrom(w.pkt.Dst, w.pkt.DstPort))
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
		fd, f.answered = w.listeners[f.owner].fd, true
	}
	w.touch(f)
	w.udpToHost(fd, f.peer, size)
}

// udpToHost sends the payload in w.pkt as datagrams of size bytes, the last one of what is left.
func (w *Worker) udpToHost(fd int, peer netip.AddrPort, size int) {
	n := w.pkt.PayloadLen()
	for off := 0; ; off += size {
		w.iov = w.pkt.Frame.Append(w.iov[:0], w.pkt.L4+packet.UDPLen+off, min(size, n-off))
		err := w.Host.SendTo(fd, w.iov, peer)
		if err == unix.ECONNREFUSED { // for an earlier datagram; this one was not sent
			w.udpSendFailed(err)
			err = w.Host.SendTo(fd, w.iov, peer)
		}
		if err != 0 {
			w.udpSendFailed(err)
			return
		}
		if off+size >= n {
			return
		}
	}
}

// udpSendFailed counts a datagram that the host did not take, and tells the guest where there is a reason for it.
func (w *Worker) udpSendFailed(err hostsock.Errno) {
	switch err {
	case unix.EAGAIN, unix.ENOBUFS:
		w.Stats.Drop(stats.SocketFull)
	case unix.EMSGSIZE:
		w.Stats.Drop(stats.TooLong)
	case unix.ECONNREFUSED:
		w.Stats.Drop(stats.HostRefused)
		w.quoteError(err)
	default:
		w.Stats.Drop(stats.HostUnreachable)
		w.quoteError(err)
	}
}

// udpOpen starts a flow for the datagram in w.pkt. The host socket keeps the guest's source port when it can be had.
func (w *Worker) udpOpen(key flow.Key) *flowSlot {
	to, ok := w.Map.Outbound(key.PeerAddrPort())
	if !ok {
		w.Stats.Drop(stats.BadDestination)
		return nil
	}
	f := w.newFlow(udpFlow, key)
	if f == nil {
		if !w.foreign(&key) { // by now another worker may have made it
			w.Stats.Drop(stats.FlowTableFull)
		}
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
		err = w.Host.Watch(fd, token(tokenFlow, f.gen, f.index))
	}
	if err != 0 {
		w.Stats.Drop(openReason(err))
		if w.talks {
			w.logRefused(f, err)
		}
		if openReason(err) == stats.HostUnreachable {
			w.quoteError(err)
		}
		w.closeDatagram(f)
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
	if !w.wheel.Armed(f.index) {
		w.wheel.Set(f.index, w.now+w.idleLimit(f))
	}
}

func (w *Worker) idleLimit(f *flowSlot) int64 {
	switch {
	case f.kind == icmpFlow:
		return w.ICMPIdle
	case f.answered:
		return w.UDPIdle
	}
	return w.UDPFirst
}

// idleTimeout ends a datagram flow that was not used for its limit.
func (w *Worker) idleTimeout(f *flowSlot) {
	if at := f.last + w.idleLimit(f); at > w.now {
		w.wheel.Set(f.index, at)
		return
	}
	w.closeDatagram(f)
}

// closeDatagram ends a UDP or ICMP flow.
func (w *Worker) closeDatagram(f *flowSlot) {
	if f.fd >= 0 {
		w.Host.Close(f.fd)
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

// keepPages gives the pages to read into back, but for n.
func (w *Worker) keepPages(n int) {
	for len(w.pages) > n {
		last := len(w.pages) - 1
		w.Send.Put(w.pages[last])
		w.pages = w.pages[:last]
	}
}

// udpRead moves datagrams from a flow's host socket to the guest for the rest of its turn, and reports the work that was and whether
// there may be more.
func (w *Worker) udpRead(f *flowSlot) (cost int, again bool) {
	if !w.readPages(1) {
		return 0, true
	}
	buf := w.Send.Bytes(w.pages[0])
	for cost < f.deficit {
		n, _, err := w.Host.RecvFrom(f.fd, buf)
		if err == unix.EAGAIN {
			f.readable = false
			return cost, false
		}
		cost += n + frameWork
		if err != 0 {
			if !w.udpHostError(f, err) {
				return cost, false
			}
			continue
		}
		f.failures = 0
		if !f.answered {
			f.answered = true
		}
		w.touch(f)
		if !w.udpToGuest(f, buf, n) {
			return cost, true
		}
	}
	return cost, true
}

// udpToGuest sends one datagram of n bytes to the guest. It reports false when the link is full: the datagram is lost, and counted.
func (w *Worker) udpToGuest(f *flowSlot, buf []byte, n int) bool {
	l4 := int(f.head.len)
	if n > len(buf) || l4-packet.EtherLen+packet.UDPLen+n > w.MTU {
		w.Stats.Drop(stats.TooLong)
		return true
	}
	head := w.tx.head[:l4+packet.UDPLen]
	pseudo := f.head.put(head, w.Gateway, packet.UDPLen+n)
	u := head[l4:]
	putPorts(u, f.key.PeerPort, f.key.GuestPort)
	binary.BigEndian.PutUint16(u[4:], uint16(packet.UDPLen+n))
	u[6], u[7] = 0, 0
	w.tx.cur = &f.head
	w.tx.one[0] = buf[:n]
	w.tx.out = link.Out{Head: head, Payload: w.tx.one[:]}
	if !w.send(l4, 6, pseudo) {
		w.Stats.Drop(stats.LinkFull)
		return false
	}
	return true
}

// maxFailures is how often in succession reading a datagram flow's host socket may fail.
const maxFailures = 32

// udpHostError passes an ICMP error that reached a flow's host socket on to the guest. It ends a flow whose socket does
// nothing but fail, and reports whether the flow goes on.
func (w *Worker) udpHostError(f *flowSlot, err hostsock.Errno) (open bool) {
	reason := openReason(err)
	w.Stats.Drop(reason)
	if f.failures++; f.failures == maxFailures {
		w.closeDatagram(f)
		return false
	}
	if reason == stats.HostRefused || reason == stats.HostUnreachable {
		w.unreachable(f, err)
	}
	return true
}

// listener is one forwarded port.
type listener struct {
	fd      int
	udp     bool
	waiting bool // is in Worker.waiting
	port    forward.Port
}

// Forward opens a forwarded port. It is called before Run, or through Do.
func (w *Worker) Forward(p forward.Port, udp bool) hostsock.Errno {
	dual := p.Listen.Addr() == netip.IPv6Unspecified()
	var fd int
	var err hostsock.Errno
	if udp {
		fd, err = w.Host.OpenUDP(hostsock.Origin{Addr: p.Listen, Device: p.Device}, netip.AddrPort{}, dual)
	} else {
		fd, err = w.Host.ListenTCP(p.Listen, p.Device, dual)
	}
	if err != 0 {
		return err
	}
	if err := w.Host.Watch(fd, token(tokenListener, 0, int32(len(w.listeners)))); err != 0 {
		w.Host.Close(fd)
		return err
	}
	w.listeners = append(w.listeners, listener{fd: fd, udp: udp, port: p})
	return 0
}

// udpAccept takes datagrams from a forwarded UDP port, and reports whether there may be more.
func (w *Worker) udpAccept(index int32) (again bool) {
	if !w.readPages(1) {
		return true
	}
	buf := w.Send.Bytes(w.pages[0])
	l := w.listeners[index]
	for range udpRounds {
		n, peer, err := w.Host.RecvFrom(l.fd, buf)
		if err == unix.EAGAIN {
			return false
		}
		if err != 0 {
			w.listenerFailed(err)
			return true
		}
		f := w.udpPeer(index, &l, peer)
		if f == nil {
			continue
		}
		w.touch(f)
		if !w.udpToGuest(f, buf, n) {
			return true
		}
	}
	return true
}

// udpPeer finds or starts the flow of a host peer at a forwarded UDP port.
func (w *Worker) udpPeer(index int32, l *listener, peer netip.AddrPort) *flowSlot {
	from, ok := w.Map.Inbound(peer)
	guest := w.Map.Guest[familyOf(peer.Addr())]
	if !ok || !guest.IsValid() {
		w.Stats.Drop(stats.BadDestination)
		return nil
	}
	key := flow.NewKey(packet.ProtoUDP, netip.AddrPortFrom(guest, l.port.To), from)
	if i, ok := w.table.Get(&key); ok {
		return w.flows[i]
	}
	f := w.newFlow(udpFlow, key)
	if f == nil {
		w.Stats.Drop(stats.FlowTableFull)
		return nil
	}
	w.Stats.UDPOpened++
	f.owner, f.peer = index, peer
	f.head = makeHeader(from.Addr(), guest, packet.ProtoUDP, 0, hopLimit)
	return f
}
