package worker

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/tcp"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/ring"
	"github.com/vasta-net/vasta/stats"
)

// A flow belongs to one worker: that of the guest's first frame, or the one that was chosen when its connection was accepted. The link
// brings the guest's frames to the worker that wrote to the flow last, most of the time. Where it does not, the frame's
// worker does not know the flow, asks the directory, and gives the owner a copy.

// noteLen is the length of what precedes a frame in an inbox: a block of the ring, so that the frame begins at a cache line.
const noteLen = ring.Block

// Kinds of notes, in the first byte.
const (
	noteFrame    = iota // a frame follows; its virtio-net header is at noteBody, and before it whether its packet has to stay whole
	noteLent            // a worker's queue is lent to this one; its number at noteBody
	noteReturned        // the queue that this worker has lent is its own again
	noteAccepted        // an accepted connection: descriptor at noteBody, the flow's key and the rule that let it in behind it
)

const noteBody = 4

// foreign gives the frame in w.pkt to the owner of its flow, and reports true, if that is another worker. It is called where the
// flow is not in w.table.
func (w *Worker) foreign(key *flow.Key) bool {
	if w.Group == nil {
		return false
	}
	owner := w.Group.directory.Owner(key)
	if owner == flow.Nobody || owner == w.ID {
		return false
	}
	if w.given { // to us, because we had the flow. It has ended, and begun elsewhere: no frame goes round
		w.Stats.Drop(stats.HandoverStale)
		return true
	}
	f := w.pkt.Frame
	w.note[0], w.note[1] = noteFrame, 0
	if w.pkt.DF { // of what was put together the frame does not tell
		w.note[1] = 1
	}
	f.Hdr.Encode(w.note[noteBody:])
	if w.Group.put(owner, w.note[:], f.Bufs) {
		w.Stats.HandedOver++
	} else {
		w.Stats.Drop(stats.HandoverFull)
	}
	w.giveBack(owner)
	return true
}

// claim enters a new flow into the directory. False says that another worker has it, or that there are too many.
func (w *Worker) claim(key *flow.Key) bool {
	return w.Group == nil || w.Group.directory.Claim(key, w.ID) == w.ID
}

func (w *Worker) unclaim(key *flow.Key) {
	if w.Group != nil {
		w.Group.directory.Release(key, w.ID)
	}
}

// serveInbox takes what other workers have given us. It comes before the link: what was given is older.
func (w *Worker) serveInbox() {
	if w.inbox == nil {
		return
	}
	for end := w.spent + linkWork; w.spent < end; {
		n := 0
		for ; n < longBatch; n++ {
			record, ok := w.inbox.Take()
			if !ok {
				break
			}
			w.take(record)
		}
		if n == 0 {
			return
		}
		w.settleAll()
		w.inbox.Release()
		w.flush()
		w.mark(w.inside.looked)
	}
}

// take takes one record of the inbox. Its memory is borrowed until the batch ends, as that of the link's frames is.
func (w *Worker) take(record []byte) {
	w.spent += len(record) + frameWork
	if record[0] == noteAccepted {
		fd, key, rule := decodeAccepted(record[noteBody:])
		w.inbox.weight.Add(-1) // the flow counts itself
		w.tcpAdopt(fd, key, rule)
		return
	}
	switch record[0] {
	case noteLent:
		w.borrow(int(record[noteBody]))
		return
	case noteReturned:
		w.unlend()
		return
	}
	w.Stats.TakenOver++
	w.parcel.Hdr.Decode(record[noteBody:])
	w.parcelBuf[0] = record[noteLen:]
	w.parcel.Bufs, w.parcel.Len = w.parcelBuf[:], len(record)-noteLen
	if w.pkt.Parse(&w.parcel) != stats.None {
		return // it was whole before it was given to us
	}
	w.pkt.DF = record[1] != 0
	w.given = true
	if len(w.Multicast) == 0 || !w.groupReport() {
		w.dispatch()
	}
	w.given = false
}

// passOn gives an accepted connection to the worker with the fewest, and reports false if that is this one.
func (w *Worker) passOn(fd int, key *flow.Key, rule int32) bool {
	if w.Group == nil {
		return false
	}
	to := w.Group.lightest(w.ID)
	if to == w.ID {
		return false
	}
	w.note[0] = noteAccepted
	encodeAccepted(w.note[noteBody:], fd, key, rule)
	w.Group.inboxes[to].weight.Add(1) // now, so that the next one is not given to the same
	if w.Group.put(to, w.note[:], nil) {
		w.giveBack(to)
		return true
	}
	w.Group.inboxes[to].weight.Add(-1)
	return false
}

// attract has the link bring what the guest answers to a new flow's first frame to this worker. A TAP with several queues learns from a frame only after
// the guest's kernel has taken it, and so after it has answered it in the same call; until then it goes by a hash that nobody else knows. So a frame with the
// flow's addresses goes before, that the guest's kernel drops because it is for another Ethernet address. It is a reset: who took it all the same would do nothing.
func (w *Worker) attract(f *flowSlot) {
	if w.alone() || !w.feat.Learns {
		return
	}
	w.tx.spare = f.head
	w.tx.spare.toSelf(w.Gateway.MAC())
	w.tx.cur = &w.tx.spare
	w.tx.ports = [2]uint16{f.key.PeerPort, f.key.GuestPort}
	w.SendTCP(nil, &tcp.Out{Flags: tcp.RST})
}

func encodeAccepted(b []byte, fd int, k *flow.Key, rule int32) {
	binary.NativeEndian.PutUint32(b[0:], uint32(fd))
	binary.NativeEndian.PutUint16(b[4:], k.GuestPort)
	binary.NativeEndian.PutUint16(b[6:], k.PeerPort)
	b[8], b[9] = k.Proto, k.Family
	copy(b[10:], k.Guest[:])
	copy(b[26:], k.Peer[:])
	binary.NativeEndian.PutUint32(b[42:], uint32(rule))
}

func decodeAccepted(b []byte) (fd int, k flow.Key, rule int32) {
	k = flow.Key{
		GuestPort: binary.NativeEndian.Uint16(b[4:]), PeerPort: binary.NativeEndian.Uint16(b[6:]),
		Proto: b[8], Family: b[9], Guest: [16]byte(b[10:26]), Peer: [16]byte(b[26:42]),
	}
	return int(binary.NativeEndian.Uint32(b[0:])), k, int32(binary.NativeEndian.Uint32(b[42:]))
}

// hasMail reports whether something waits that others have given us: records of other workers, or frames from elsewhere.
func (w *Worker) hasMail() bool { return w.inbox != nil && w.inbox.Waiting() || w.hasDeliveries() }

// mayWait announces to the others that they have to wake this worker, and reports false when it must not wait because one of them was
// quicker. Frames for a full link need not: it is looked at again soon.
func (w *Worker) mayWait() bool {
	if w.inbox != nil && !w.inbox.Sleep() {
		return false
	}
	d := w.deliveries.Load()
	return d == nil || w.linkFull || d.Sleep()
}

// awake ends what mayWait announced.
func (w *Worker) awake() {
	if w.inbox != nil {
		w.inbox.Awake()
	}
	if d := w.deliveries.Load(); d != nil {
		d.Awake()
	}
}

// closeInbox gives back what was not taken any more.
func (w *Worker) closeInbox() {
	if w.inbox == nil {
		return
	}
	for {
		record, ok := w.inbox.Take()
		if !ok {
			break
		}
		if record[0] == noteAccepted {
			fd, key, _ := decodeAccepted(record[noteBody:])
			w.Host.Abort(fd)
			w.halfOpenTo(key.GuestPort).Add(-1)
		}
	}
	w.inbox.Release()
}

// parcelState is the memory of frames that come from other workers, and of what goes to them.
type parcelState struct {
	note      [noteLen]byte
	parcel    packet.Frame
	parcelBuf [1][]byte
	given     bool // the frame in pkt is one that another worker gave us
}
