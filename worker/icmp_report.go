package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/icmp"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// icmpReport takes what the guest, or a router of its side, says in w.pkt about something that was sent to it. An ordinary user's program cannot
// pass an ICMP error on; what is told is obeyed here: segments and datagrams get shorter, and a flow that nobody wants at the guest's end
// loses its host socket, so that the host itself refuses what its peer still sends.
func (w *Worker) icmpReport() {
	h := w.pkt.Transport()
	if _, ok := icmp.Relayed(w.pkt.V6, h[0], h[1], 0); !ok {
		w.Stats.Drop(stats.UnknownProtocol)
		return
	}
	b := w.pkt.L3()[w.pkt.L4-packet.EtherLen:]
	r, ok := icmp.ParseReport(w.pkt.V6, b[:min(w.pkt.L4Len, len(b))])
	if !ok {
		w.Stats.Drop(stats.BadTransport)
		return
	}
	if r.Src != w.pkt.Dst { // an error goes to who has sent the packet
		w.Stats.Drop(stats.BadDestination)
		return
	}
	peer, guest := netip.AddrPortFrom(r.Src, r.SrcPort), netip.AddrPortFrom(r.Dst, r.DstPort)
	if r.Proto == packet.ProtoICMP || r.Proto == packet.ProtoICMPv6 {
		peer, guest = netip.AddrPortFrom(r.Src, 0), netip.AddrPortFrom(r.Dst, r.SrcPort)
	}
	key := flow.NewKey(r.Proto, guest, peer)
	i, ok := w.table.Get(&key)
	if !ok {
		if !w.foreign(&key) {
			w.Stats.Drop(stats.ICMPNoFlow)
		}
		return
	}
	if f := w.flows[i]; f.kind == tcpFlow {
		w.tcpReport(f, &r)
	} else {
		w.datagramReport(f, &r)
	}
}

// tcpReport has a connection obey an error.
func (w *Worker) tcpReport(f *flowSlot, r *icmp.Report) {
	switch {
	case r.TooBig() && f.conn.TooBig(r.Seq, int(r.Info)):
		w.makeDirty(f)
	case r.Refused() && f.conn.GuestUnreachable(&w.env, r.Seq):
		w.Stats.Drop(stats.GuestUnreachable)
		w.makeDirty(f)
	default:
		w.Stats.Drop(stats.ICMPIgnored)
	}
}

// Lower bounds of what a router of the guest's side may say about the width of the way there, as for TCP (tcp.Conn.TooBig).
const (
	minPath4 = 552
	minPath6 = 1280
)

// datagramReport has a UDP or ICMP flow obey an error.
func (w *Worker) datagramReport(f *flowSlot, r *icmp.Report) {
	switch {
	case r.TooBig():
		least := minPath4
		if f.head.isIPv6 {
			least = minPath6
		}
		if mtu := max(int(r.Info), least); mtu < w.mtuOf(&f.head) {
			f.head.mtu = uint16(mtu)
			return
		}
		w.Stats.Drop(stats.ICMPIgnored)
	case r.Refused() && f.kind == udpFlow:
		w.Stats.Drop(stats.GuestUnreachable)
		w.closeDatagram(f, whyRefused)
	default:
		w.Stats.Drop(stats.ICMPIgnored)
	}
}
