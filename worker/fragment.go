package worker

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// sendFragments sends a packet that is longer than the MTU: head is its headers, from the Ethernet header on, with the checksum of
// the transport header made, and payload what follows. The IP header, written by h, ends at h.len. It reports false when the link is
// full and nothing was sent; a packet of which the link takes only a part is lost, and counted.
func (w *Worker) sendFragments(h *header, head []byte, payload []byte) bool {
	l4 := int(h.len)
	before := l4
	if h.isIPv6 {
		before += packet.FragmentLen
	}
	room := (w.mtuOf(h) - (before - packet.EtherLen)) &^ 7 // every fragment but the last is a multiple of 8
	w.fragmentID++
	transport := head[l4:]
	total := len(transport) + len(payload)
	part := &w.tx.part
	for off := 0; off < total; off += room {
		n := min(room, total-off)
		copy(part[:], head[:l4])
		h.cut(part[:before], w.fragmentID, off, n, off+n < total)
		at := before
		if off == 0 {
			at += copy(part[at:], transport)
		}
		w.tx.one[0] = payload[max(off-len(transport), 0) : off+n-len(transport)]
		w.tx.out = link.Out{Head: part[:at], Payload: w.tx.one[:]}
		if !w.transmit() {
			if off == 0 {
				return false
			}
			w.Stats.Drop(stats.LinkFull)
			return true
		}
	}
	return true
}

// cut makes b, headers of a whole packet written by put, those of its fragment at off with n bytes.
func (h *header) cut(b []byte, id uint32, off, n int, more bool) {
	ip := b[packet.EtherLen:]
	if !h.isIPv6 {
		packet.Fragmented(ip, uint16(id), off, n, more)
		return
	}
	ip[6] = packet.ProtoFragment
	binary.BigEndian.PutUint16(ip[4:], uint16(packet.FragmentLen+n))
	packet.PutFragment(ip[packet.IPv6Len:], h.proto, id, off, more)
}
