package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow/tcp"
)

// FlowEnd is what there is to say of a flow at its end, or of one that was refused before it began.
type FlowEnd struct {
	Proto   uint8
	Inbound bool // begun from outside
	// Guest and Peer are its ends as the guest knows them, the latter as the host does for one that was refused. An echo flow has the identifier for the guest's port.
	Guest, Peer netip.AddrPort
	// Began and Ended are times of the worker's clock, in nanoseconds.
	Began, Ended int64
	// FromGuest and ToGuest are what it has carried.
	FromGuest, ToGuest Tally
	Retransmits        uint64 // segments sent again toward the guest
	Why                string // it ended
	Rule               int32  // of the policy that decided about it; 0 for none
}

// Tally is what was carried one way: payload, of TCP what has arrived in order and was acknowledged; packets as long as the link's MTU lets them
// be, without what a GSO frame saves.
type Tally struct {
	Bytes, Packets uint64
}

// Reasons for an end that is not a connection's own (see endings).
const (
	whyDenied  = "denied"
	whyIdle    = "idle"
	whyEvicted = "evicted"
	whyFailed  = "the host socket failed"
	whyClosed  = "the network was closed"
	// The guest has answered that nobody is there, and the forwarded port of a flow was closed.
	whyRefused    = "refused by the guest"
	whyPortClosed = "the port is not forwarded any more"
)

// arrived counts the packet in w.pkt for its flow.
func (w *Worker) arrived(f *flowSlot) {
	n := uint64(w.pkt.PayloadLen())
	f.fromGuest.Bytes += n
	f.fromGuest.Packets += packets(n, uint64(w.pkt.Frame.Hdr.GSOSize))
}

// packets is how many packets a payload takes that is cut into pieces of a size, 0 for one piece.
func packets(n, size uint64) uint64 {
	if size == 0 || n <= size {
		return 1
	}
	return (n + size - 1) / size
}

// sent counts n bytes of payload toward the guest, in pieces of a size.
func (h *header) sent(n, size int) {
	h.tally.Bytes += uint64(n)
	h.tally.Packets += packets(uint64(n), uint64(size))
}

// tellEnd tells of a flow's end whoever wants to know.
func (w *Worker) tellEnd(f *flowSlot) {
	if w.Ended == nil || f.kind == dnsFlow {
		return
	}
	e := &w.ending
	*e = FlowEnd{
		Proto: f.key.Proto, Inbound: f.inbound, Guest: f.key.GuestAddrPort(), Peer: f.key.PeerAddrPort(), Began: f.began, Ended: w.now,
		FromGuest: f.fromGuest, ToGuest: f.head.tally, Why: f.why, Rule: f.rule,
	}
	if f.kind == tcpFlow {
		from, to := f.conn.Carried()
		e.FromGuest.Bytes, e.ToGuest.Bytes, e.Retransmits = uint64(from), uint64(to), f.conn.Retransmits()
		if e.Why == "" {
			e.Why = endings[f.conn.Why()]
			if f.conn.Why() == tcp.HostReset && w.closing {
				e.Why = whyClosed
			}
		}
	}
	w.Ended(e)
}

// tellDenied tells of a flow that the policy has refused just now.
func (w *Worker) tellDenied() {
	if w.Ended == nil {
		return
	}
	a := &w.judge.asked
	w.ending = FlowEnd{Proto: a.Proto, Inbound: a.Inbound, Guest: a.Guest, Peer: a.Peer, Began: w.now, Ended: w.now, Why: whyDenied, Rule: w.judge.rule}
	w.Ended(&w.ending)
}
