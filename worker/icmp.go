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

// icmpInput takes the ICMP or ICMPv6 message in w.pkt. Echo requests are carried; errors tell of flows.
func (w *Worker) icmpInput() {
	if w.NoICMP {
		w.Stats.Drop(stats.Disabled)
		return
	}
	h := w.pkt.Transport()
	if !icmp.EchoRequest(w.pkt.V6, h[0], h[1]) {
		w.icmpReport()
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
	w.arrived(f)
	w.obeyDF(f, f.fd)
	w.icmpSend(f)
}

// icmpSend gives the message in w.pkt to the host socket.
func (w *Worker) icmpSend(f *flowSlot) {
	for tried := false; ; tried = true {
		w.iov = w.pkt.Frame.Append(w.iov[:0], w.pkt.L4, w.pkt.L4Len)
		w.echo[0] = hostsock.Datagram{Bufs: w.iov, TOS: w.pkt.TOS, TTL: sentTTL(w.pkt.TTL), V6: w.pkt.V6}
		_, err := w.Host.SendDatagrams(f.fd, w.echo[:])
		w.echo[0].Bufs = nil
		if err == 0 {
			return
		}
		mtu := 0
		if pending(err) {
			_, mtu = w.takeErrors(f.fd, f, -1)
		}
		if again(err, mtu, tried) {
			continue
		}
		w.Stats.Drop(sendReason(err))
		w.sendFailed(w.pkt.Dst, w.pkt.Src, err, mtu, w.quotable())
		return
	}
}

// icmpOpen opens an echo socket for the request in w.pkt.
func (w *Worker) icmpOpen(key flow.Key) *flowSlot {
	to, ok := w.Map.Outbound(key.PeerAddrPort())
	if !ok {
		w.Stats.Drop(stats.BadDestination)
		return nil
	}
	if !w.allowed(false, &key, netip.AddrPortFrom(to.Addr(), 0)) {
		w.refuseDatagram()
		return nil
	}
	f := w.begin(icmpFlow, key)
	if f == nil {
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
	d := &w.echo[0]
	for cost < f.deficit {
		if f.failed {
			said, _ := w.takeErrors(f.fd, f, -1)
			cost += said * frameWork
		}
		w.tx.one[0] = buf
		*d = hostsock.Datagram{Bufs: w.tx.one[:]}
		_, err := w.Host.RecvDatagrams(f.fd, w.echo[:])
		d.Bufs = nil
		if err == unix.EAGAIN {
			f.readable = f.failed
			return cost, f.failed
		}
		cost += d.Len + frameWork
		if err != 0 {
			if !w.datagramFailed(f, err) {
				return cost, false
			}
			continue
		}
		f.failures = 0
		msg := buf[:min(d.Len, len(buf))]
		if !icmp.EchoReply(f.head.isIPv6, msg) {
			continue
		}
		f.answered = true
		icmp.SetIdent(msg, f.key.GuestPort)
		f.head.mark(d.TOS, d.TTL)
		w.touch(f)
		if w.sendICMP(&f.head, msg) {
			continue
		}
		if w.Overload == Drop {
			w.Stats.Drop(stats.LinkFull)
			continue
		}
		w.reply = waitingReply{flow: f.index, gen: f.gen, len: len(msg)}
		return cost, true
	}
	return cost, true
}

// waitingReply is an echo reply for which the link had no room, in the first of Worker.pages.
type waitingReply struct {
	flow int32
	gen  uint32
	len  int // 0: none waits
}

// resumeEcho sends the reply that waits for the link. It reports false while there is no room.
func (w *Worker) resumeEcho() bool {
	r := &w.reply
	if r.len == 0 {
		return true
	}
	if f := w.flows[r.flow]; f.kind != icmpFlow || f.gen != r.gen {
		w.Stats.Drop(stats.LinkFull)
	} else if !w.sendICMP(&f.head, w.Send.Bytes(w.pages[0])[:r.len]) {
		return false
	}
	r.len = 0
	return true
}

// sendICMP sends an ICMP message, whose checksum it makes, to the guest. It reports false when the link is full.
func (w *Worker) sendICMP(h *header, msg []byte) bool {
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
	if l4-packet.EtherLen+len(msg) > w.mtuOf(h) {
		ok = w.sendFragments(h, head, msg)
	} else {
		w.tx.cur = h
		w.tx.one[0] = msg
		w.tx.out = link.Out{Head: head, Payload: w.tx.one[:]}
		ok = w.transmit()
	}
	if ok {
		h.sent(len(msg)-icmp.HeaderLen, 0)
	}
	return ok
}
