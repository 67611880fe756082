package worker

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/ring"
	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// Frames for the guest that come from elsewhere, past gateway and flows: what another network's hook redirects, or what the program itself has. Whoever has one copies it
// into a ring; the worker gives it to the link in its own goroutine. What the link has no room for waits in the ring, and what the ring has no room for is
// lost: those who bring frames are other guests' workers, which must not be stopped.

const (
	// deliveryBytes is how much can wait, as in an inbox.
	deliveryBytes = 4 << 20
	// deliveryRecords bounds what waits when frames are small.
	deliveryRecords = 1 << 10
	// tagLen is how much longer than its packet a frame may be beside the Ethernet header: a VLAN tag (IEEE 802.1Q).
	tagLen = 4
	// maxDelivered is the longest frame in bytes that any link carries.
	maxDelivered = packet.EtherLen + tagLen + maxPacket
)

// deliveries is the ring. A record is a block with the frame's virtio-net header, and the frame. Its memory is the Go heap's, unlike other packet memory: who copies into
// it may be overtaken by the end of the worker, which must not take it away from under him.
type deliveries struct {
	*ring.Ring
	full, long atomic.Uint64 // frames that were not taken
	closed     atomic.Bool

	waking sync.Mutex // closed is set with it held; taken by who wakes the worker, which costs a system call anyway
	wakeFd int
}

// Deliver gives the guest a frame of somebody else's: as a copy, behind those that were delivered before, and counted with its reason where the link cannot carry it. False says that there
// is no room, which is counted too, or that the worker has ended. It may be called from any goroutine and does not wait. The first call makes the room for what waits.
func (w *Worker) Deliver(f *packet.Frame) bool {
	d := w.deliveries.Load()
	if d == nil {
		d = w.makeDeliveries(deliveryBytes, deliveryRecords)
	}
	return d.put(f)
}

// makeDeliveries makes the ring, once. The worker may sleep, and has not announced it to this ring: so the first frame wakes it.
func (w *Worker) makeDeliveries(bytes, records int) *deliveries {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.deliveries.Load()
	if d == nil {
		d = &deliveries{wakeFd: w.WakeFd}
		d.Ring, _ = ring.New(make([]byte, bytes), records) // it fails for sizes that are no powers of two
		d.Sleep()
		w.deliveries.Store(d)
	}
	return d
}

func (d *deliveries) put(f *packet.Frame) bool {
	if d.closed.Load() {
		return false
	}
	size := 0
	for _, b := range f.Bufs {
		size += len(b)
	}
	if size > maxDelivered {
		d.long.Add(1)
		return false
	}
	var head [noteLen]byte
	f.Hdr.Encode(head[:])
	ok, asleep := d.Put(head[:], f.Bufs)
	if !ok {
		d.full.Add(1)
	}
	if asleep {
		d.waking.Lock()
		if !d.closed.Load() {
			wake(d.wakeFd)
		}
		d.waking.Unlock()
	}
	return ok
}

// closeDeliveries has nothing be taken any more. What waits is lost with the link.
func (w *Worker) closeDeliveries() {
	d := w.makeDeliveries(ring.Block, 1) // a small one, if nobody has delivered anything
	d.waking.Lock()
	d.closed.Store(true)
	d.waking.Unlock()
}

// hasDeliveries reports whether frames from elsewhere wait that the link may take.
func (w *Worker) hasDeliveries() bool {
	d := w.deliveries.Load()
	return d != nil && !w.linkFull && (w.delivery != nil || d.Waiting())
}

// serveDeliveries gives the link what waits. A frame that the link has no room for is the first one of the next time.
func (w *Worker) serveDeliveries() {
	d := w.deliveries.Load()
	if d == nil {
		return
	}
	for end := w.spent + linkWork; w.spent < end && w.hasDeliveries(); {
		if w.delivery == nil {
			w.delivery, _ = d.Take()
		}
		if !w.deliver(w.delivery) {
			break
		}
		w.delivery = nil
		d.Release()
	}
	w.mark(w.inside.looked)
}

// deliver sends one record to the guest, or drops it where the link cannot carry it. False says that the link is full.
func (w *Worker) deliver(record []byte) bool {
	w.spent += frameWork
	b := record[noteLen:]
	f := &w.parcel
	f.Hdr.Decode(record)
	w.parcelBuf[0] = b
	f.Bufs, f.Len = w.parcelBuf[:], len(b)
	if why := w.fitOffloads(&f.Hdr, b); why != stats.None {
		w.Stats.Drop(why)
		return true
	}
	w.spent += f.Len
	if !w.sendFrame(f) {
		w.linkFull = true
		f.Hdr.Encode(record) // its checksum may be complete now
		return false
	}
	w.Stats.Delivered++
	return true
}

// fitOffloads makes a frame that another link has brought one for this link, and judges it: its header by its length, which is all that is known of it, and
// its length by the MTU, as a bridge does. Segments that the link does not cut are too long for it.
func (w *Worker) fitOffloads(h *packet.NetHdr, b []byte) stats.Reason {
	if len(b) < packet.EtherLen {
		return stats.ShortFrame
	}
	h.Flags &= packet.FlagNeedsCsum // that somebody has verified the checksum is hearsay
	h.NumBuffers = 0
	partial := h.Flags != 0
	field := int(h.CsumStart) + int(h.CsumOffset)
	if partial && field+2 > len(b) || int(h.HdrLen) > len(b) {
		return stats.BadVnetHeader
	}
	var carried bool
	switch h.GSOType &^ packet.GSOECN {
	case packet.GSONone:
		if h.GSOType != packet.GSONone {
			return stats.BadVnetHeader
		}
		if carried = len(b) <= packet.EtherLen+tagLen+w.MTU; carried && partial && !w.feat.Csum {
			completeChecksum(b[h.CsumStart:], int(h.CsumOffset))
			*h = packet.NetHdr{}
		}
	case packet.GSOTCPv4:
		carried = w.feat.TSO4
	case packet.GSOTCPv6:
		carried = w.feat.TSO6
	case packet.GSOUDPL4:
		carried = w.feat.USO
	default:
		return stats.BadVnetHeader
	}
	if h.GSOType != packet.GSONone && (h.GSOSize == 0 || !partial) {
		return stats.BadVnetHeader
	}
	if !carried {
		return stats.LongFrame
	}
	return stats.None
}

// completeChecksum makes the checksum over b, whose field, at such an offset, holds the sum of the pseudo header.
func completeChecksum(b []byte, at int) {
	sum := ^checksum.Checksum(b, 0)
	if sum == 0 && at == udpChecksum {
		sum = 0xffff // RFC 768: 0 says that there is none
	}
	binary.BigEndian.PutUint16(b[at:], sum)
}

// udpChecksum is where a UDP header has its checksum.
const udpChecksum = 6
