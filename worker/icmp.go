package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/icmp"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// icmpInput takes the ICMP or ICMPv6 message in w.pkt. Only echo requests are carried.
func (w *Worker) icmpInput() {
	if w.NoICMP {
		w.Stats.Drop(stats.Disabled)
		return
	}
	h := w.pkt.Transport()
	if !icmp.EchoRequest(w.pkt.V6, h[0], h[1]) {
		w.Stats.Drop(stats.UnknownProtocol)
		return
	}
	key := flow.NewKey(w.pkt.Proto, netip.AddrPortFrom(w.pkt.Src, icmp.Ident(h)), netip.AddrPortFrom(w.pkt.Dst, 0))
	var f *flowSlot
	if i, ok := w.table.Get(&key); ok {
		f = w.flows[i]
	} else if w.foreign(&key) {
		return
	} else if f = w.icmpOpen(key); f == nil {
		return
	}
	w.touch(f)
	w.iov = w.pkt.Frame.Append(w.iov[:0], w.pkt.L4, w.pkt.L4Len)
	if _, err := w.Host.Send(f.fd, w.iov); err != 0 {
		reason := sendReason(err)
		w.Stats.Drop(reason)
		if reason == stats.HostRefused || reason == stats.HostUnreachable {
			w.quoteError(err)
		}
	}
}

// icmpOpen opens an echo socket for the request in w.pkt.
func (w *Worker) icmpOpen(key flow.Key) *flowSlot {
	to, ok := w.Map.Outbound(key.PeerAddrPort())
	if !ok {
		w.Stats.Drop(stats.BadDestination)
		return nil
	}
	f := w.newFlow(icmpFlow, key)
	if f == nil {
		if !w.foreign(&key) { // by now another worker may have made it
			w.Stats.Drop(stats.FlowTableFull)
		}
		return nil
	}
	w.Stats.ICMPOpened++
	f.head = makeHeader(w.pkt.Dst, w.pkt.Src, w.pkt.Proto, 0, hopLimit)
	// With the guest's identifier the socket could take another's replies: the kernel lets ping sockets share one.
	fd, err := w.Host.OpenPing(0, to.Addr())
	if w.madeRoom(err) {
		fd, err = w.Host.OpenPing(0, to.Addr())
	}
	opened := w.datagramOpened(f, fd, err)
	if err == unix.EACCES && w.pingRefused.CompareAndSwap(false, true) {
		w.Log.Warn("ping: this user may not open echo sockets; as root: sysctl -w net.ipv4.ping_group_range='0 2147483647'")
	}
	return opened
}

// icmpRead moves echo replies from the host socket to the guest for the rest of its turn, and reports the work that was and whether there
// may be more.
func (w *Worker) icmpRead(f *flowSlot) (cost int, again bool) {
	if !w.readPages(1) {
		return 0, true
	}
	buf := w.Send.Bytes(w.pages[0])
	for cost < f.deficit {
		w.tx.one[0] = buf
		n, err := w.Host.Recv(f.fd, w.tx.one[:])
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
		msg := buf[:min(n, len(buf))]
		if !icmp.EchoReply(f.head.isIPv6, msg) {
			continue
		}
		f.answered = true
		icmp.SetIdent(msg, f.key.GuestPort)
		w.touch(f)
		w.sendICMP(&f.head, msg)
	}
	return cost, true
}

// sendICMP sends an ICMP message, whose checksum it makes, to the guest.
func (w *Worker) sendICMP(h *header, msg []byte) {
	l4 := int(h.len)
	head := w.tx.head[:l4]
	pseudo := h.put(head, w.Gateway, len(msg))
	if !h.isIPv6 {
		pseudo = 0
	}
	msg[2], msg[3] = 0, 0
	sum := transportSum(msg, nil, pseudo, h.proto)
	msg[2], msg[3] = byte(sum>>8), byte(sum)
	var ok bool
	if l4-packet.EtherLen+len(msg) > w.MTU {
		ok = w.sendFragments(h, head, msg)
	} else {
		w.tx.cur = h
		w.tx.one[0] = msg
		w.tx.out = link.Out{Head: head, Payload: w.tx.one[:]}
		ok = w.transmit()
	}
	if !ok {
		w.Stats.Drop(stats.LinkFull)
	}
}

// quoteError answers the packet in w.pkt with an ICMP error.
func (w *Worker) quoteError(err hostsock.Errno) {
	w.icmpError(w.pkt.Dst, w.pkt.Src, err, w.quotable())
}

// unreachable tells the guest that a flow's destination cannot be reached. The packet it quotes is made from what
// the flow knows: IP header and the first 8 bytes behind it, which is all that RFC 792 asks for.
func (w *Worker) unreachable(f *flowSlot, err hostsock.Errno) {
	guest, peer := f.key.GuestAddrPort(), f.key.PeerAddrPort()
	h := makeHeader(guest.Addr(), peer.Addr(), f.head.proto, 0, hopLimit)
	quoted := w.tx.quoted[:int(h.len)+8]
	h.put(quoted, w.Gateway, 8)
	q := quoted[h.len:]
	clear(q)
	switch f.kind {
	case tcpFlow:
		f.synPacket(q)
	case icmpFlow:
		q[0] = 8
		if h.isIPv6 {
			q[0] = 128
		}
		icmp.SetIdent(q, f.key.GuestPort)
	default:
		putPorts(q, guest.Port(), peer.Port())
		q[5] = packet.UDPLen
	}
	w.icmpError(peer.Addr(), guest.Addr(), err, quoted[packet.EtherLen:])
}

// icmpError sends a destination unreachable message. It comes from the guest's router where that has an address, as an
// error of the network would.
func (w *Worker) icmpError(peer, guest netip.Addr, err hostsock.Errno, quoted []byte) {
	from := peer
	if gw := w.Map.Gateway[familyOf(guest)]; gw.IsValid() && err != unix.ECONNREFUSED {
		from = gw
	}
	proto := uint8(packet.ProtoICMP)
	if guest.Is6() {
		proto = packet.ProtoICMPv6
	}
	w.Stats.ICMPErrorsSent++
	w.tx.spare = makeHeader(from, guest, proto, 0, hopLimit)
	w.sendICMP(&w.tx.spare, icmp.Unreachable(w.tx.icmp[:], guest.Is6(), err, quoted))
}
