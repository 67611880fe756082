package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow/icmp"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// ICMP errors for the guest. Those of the network come from the error queues of the host's sockets, with who has sent them and what they have
// brought back; the guest gets them as its router would have passed them on, about the packet that it knows. Those of this machine
// come as the failure of a call.

// maxErrors is how many errors of a socket are taken at once.
const maxErrors = 16

// errorState is the memory that errors are taken into and quotations made in.
type errorState struct {
	taken   hostsock.SendError
	brought [icmp.MaxError6]byte // what an error has brought back
	quoted  [packet.EtherLen + packet.IPv6Len + icmp.HeaderLen + icmp.MaxError6]byte
	message [icmp.HeaderLen + icmp.MaxError6]byte
}

// pending reports whether err, the answer to a message that was to be sent, may be about an earlier one, or comes with more than its number.
func pending(err hostsock.Errno) bool { return err != 0 && err != unix.EAGAIN && err != unix.ENOBUFS }

// takeErrors passes on to the guest what the network has said about what was sent from fd: the socket of f, or that of a forwarded port, whose
// number is owner then (f is not used). It reports how many errors that were, and how wide this machine has found the way, in bytes, if something was too
// long for it.
func (w *Worker) takeErrors(fd int, f *flowSlot, owner int32) (said, mtu int) {
	e := &w.errs.taken
	more := true
	for range maxErrors {
		e.Data = w.errs.brought[:]
		if w.Host.RecvError(fd, e) != 0 {
			more = false
			break
		}
		if !e.ICMP {
			mtu = int(e.Info)
			continue
		}
		said++
		about := f
		if owner >= 0 {
			about = w.udpFlowOf(owner, e.Peer)
		}
		w.relay(about, e)
	}
	if owner < 0 {
		f.failed = more
	}
	return said, mtu
}

// relay passes an error of the network about what f, which may be nil, has sent on to the guest.
func (w *Worker) relay(f *flowSlot, e *hostsock.SendError) {
	if f == nil {
		w.Stats.Drop(stats.ICMPNoFlow)
		return
	}
	if f.across { // nobody there can be told: errors come from a router, and loopback has none
		w.Stats.Drop(sendReason(e.Err))
		return
	}
	report, ok := icmp.Relayed(f.head.isIPv6, e.Type, e.Code, e.Info)
	if !ok {
		w.Stats.Drop(stats.UnknownProtocol)
		return
	}
	w.Stats.Drop(sendReason(e.Err))
	ttl := uint8(hopLimit)
	if report.TimeExceeded() {
		ttl = 1
	}
	quoted := w.quoteFlow(f, ttl, e.Data[:e.Len])
	w.icmpError(w.reporter(f, e.From), f.key.GuestAddrPort().Addr(), report, quoted)
}

// reporter is who the guest is shown as the sender of an error about f that has come from the address from.
func (w *Worker) reporter(f *flowSlot, from netip.Addr) netip.Addr {
	if from.IsValid() {
		if seen, ok := w.Map.Inbound(netip.AddrPortFrom(from, 0)); ok && seen.Addr().Is6() == f.head.isIPv6 {
			return seen.Addr()
		}
	}
	peer := f.key.PeerAddrPort().Addr()
	return w.routerOf(peer, peer)
}

// routerOf is the guest's router, or another address where that has none, in the family of like.
func (w *Worker) routerOf(like, other netip.Addr) netip.Addr {
	if gw := w.Map.Gateway[familyOf(like)]; gw.IsValid() {
		return gw
	}
	return other
}

// sendFailed tells the guest why a packet of its, quoted, could not be sent, where there is a reason for it; mtu is the width of the way
// if the packet was too long.
func (w *Worker) sendFailed(dst, src netip.Addr, err hostsock.Errno, mtu int, quoted []byte) {
	switch reason := sendReason(err); {
	case err == unix.EMSGSIZE && mtu > 0:
		w.icmpError(w.routerOf(dst, dst), src, icmp.TooBig(src.Is6(), mtu), quoted)
	case reason == stats.HostRefused || reason == stats.HostUnreachable:
		w.cannotReach(dst, src, err, quoted)
	}
}

// cannotReach sends a destination unreachable message. It comes from the guest's router where that has an address, as an
// error of the network would.
func (w *Worker) cannotReach(peer, guest netip.Addr, err hostsock.Errno, quoted []byte) {
	if w.toMany(peer) {
		return // RFC 1122, 3.2.2; RFC 4443, 2.4
	}
	from := peer
	if err != unix.ECONNREFUSED {
		from = w.routerOf(peer, peer)
	}
	w.icmpError(from, guest, icmp.Of(guest.Is6(), err), quoted)
}

// quoteError answers the packet in w.pkt with an ICMP error.
func (w *Worker) quoteError(err hostsock.Errno) {
	w.cannotReach(w.pkt.Dst, w.pkt.Src, err, w.quotable())
}

// unreachable tells the guest that a flow's destination cannot be reached.
func (w *Worker) unreachable(f *flowSlot, err hostsock.Errno) {
	if f.across {
		return
	}
	w.cannotReach(f.key.PeerAddrPort().Addr(), f.key.GuestAddrPort().Addr(), err, w.quoteFlow(f, hopLimit, nil))
}

// quoteFlow makes the packet of the guest's that an error is about from what the flow knows, and from data, what the error has brought back: the payload of UDP,
// or an ICMP message. It is an IP header and 8 bytes behind it at least, which is all that RFC 792 asks for.
func (w *Worker) quoteFlow(f *flowSlot, ttl uint8, data []byte) []byte {
	guest, peer := f.key.GuestAddrPort(), f.key.PeerAddrPort()
	h := makeHeader(guest.Addr(), peer.Addr(), f.head.proto, 0, ttl)
	l4 := int(h.len)
	q, n := w.errs.quoted[l4:], icmp.HeaderLen
	clear(q[:n])
	switch f.kind {
	case tcpFlow:
		f.synPacket(q)
	case icmpFlow:
		if len(data) < icmp.HeaderLen {
			icmp.PutRequest(q, h.isIPv6, f.key.GuestPort)
			break
		}
		n = copy(q, data)
		icmp.SetIdent(q, f.key.GuestPort)
	default:
		n += copy(q[packet.UDPLen:], data)
		putPorts(q, guest.Port(), peer.Port())
		q[4], q[5] = byte(n>>8), byte(n)
	}
	h.put(w.errs.quoted[:l4], w.Gateway, n)
	return w.errs.quoted[packet.EtherLen : l4+n]
}

// icmpError sends an ICMP error that quotes a packet of the guest's.
func (w *Worker) icmpError(from, guest netip.Addr, e icmp.Error, quoted []byte) {
	proto := uint8(packet.ProtoICMP)
	if e.V6 {
		proto = packet.ProtoICMPv6
	}
	w.Stats.ICMPErrorsSent++
	w.tx.spare = makeHeader(from, guest, proto, 0, hopLimit)
	if !w.sendICMP(&w.tx.spare, e.Put(w.errs.message[:], quoted)) {
		w.Stats.Drop(stats.LinkFull)
	}
}
