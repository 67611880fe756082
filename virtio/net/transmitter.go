package net

import (
	"errors"
	"fmt"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/virtio/queue"
)

// Out is a frame to be sent. Its memory is of the pair's pool: a piece with room for the header (Pair.HdrLen bytes) and then the first bytes
// of the frame, if any, and further pieces behind it, of which there are seldom any. Each piece carries a reference to its page, which is the queue's once the
// frame is sent.
type Out struct {
	Hdr  packet.NetHdr
	Head pagepool.Piece
	Rest []pagepool.Piece
	// Borrowed says that Rest is of the pool that Pair.Borrow has named.
	Borrowed bool
}

// maxRest is the most pieces behind the head: a frame of 64 KiB in pieces of 4 KiB, with one to spare.
const maxRest = bigChain - 1

// borrowed is a bit beside a number of pages, which is less.
const borrowed = 1 << 7

// ErrFrame is what Send answers to a frame that no device could take.
var ErrFrame = errors.New("virtio-net: a frame shorter than its header, of too many pieces, or longer than 65550 bytes")

// transmitter is the transmit queue of a pair. Three things go round in it: frames that the caller fills, descriptors that the device has, and pages that come
// back when it looks.
type transmitter struct {
	vq    queue.Driver
	t     Transport
	index int
	pool  *pagepool.Pool
	base  uint64 // of the pool's memory, where the device has it
	hdr   int

	lender     *pagepool.Pool // of pieces that are borrowed
	lenderBase uint64         // ... where the device has its memory

	pages []pagepool.Page // by slot, maxRest+1 each
	count []uint8         // ... and how many, with the bit borrowed where all but the first are the lender's
	free  []uint32

	bufs []queue.Buffer
	segs []queue.Segment
	used []queue.Used

	stats TransmitStats
	err   error
}

// TransmitStats count what a transmit queue did.
type TransmitStats struct {
	Frames, Bytes uint64
	Descriptors   uint64 // segments, before they go into indirect tables
	Full          uint64 // calls that could not send all frames
	Kicks         uint64
}

func (q *transmitter) init(d *Driver, p *Pair, ring queue.DriverConfig, wake func(pair int)) (err error) {
	n := ring.Size
	*q = transmitter{
		t: d.t, index: txIndex(p.Index), pool: p.Pool, hdr: d.features.hdrLen(),
		pages: make([]pagepool.Page, n*(maxRest+1)), count: make([]uint8, n), free: make([]uint32, n),
		bufs: make([]queue.Buffer, min(n, publishBatch)), segs: make([]queue.Segment, min(n, publishBatch)*(maxRest+1)), used: make([]queue.Used, publishBatch),
	}
	for i := range q.free {
		q.free[i] = uint32(n - 1 - i)
	}
	q.base, _ = d.arena.Base()
	if q.vq, err = queue.NewDriver(ring); err != nil {
		return err
	}
	q.vq.Suppress()
	return d.t.Attach(q.index, ring.Ring, func() {
		if wake != nil {
			wake(p.Index)
		}
	})
}

// send publishes frames, as many as there is room for.
func (q *transmitter) send(outs []Out) (sent int, err error) {
	if q.err != nil {
		return 0, q.err
	}
	if len(q.free) < len(q.pages)/(maxRest+1)/2 || len(q.free) < len(outs) {
		q.reclaim()
	}
	for sent < len(outs) && len(q.free) > 0 {
		n := 0
		for n < len(q.bufs) && n < len(q.free) && sent+n < len(outs) {
			if err = q.fill(n, q.free[len(q.free)-1-n], &outs[sent+n]); err != nil {
				break
			}
			n++
		}
		k, e := q.vq.Publish(q.bufs[:n])
		for i := range k {
			q.stats.Descriptors += uint64(len(q.bufs[i].Out))
		}
		for _, id := range q.free[len(q.free)-n : len(q.free)-k] {
			q.count[id] = 0 // did not fit into the ring
		}
		q.free = q.free[:len(q.free)-k]
		sent += k
		if e != nil {
			q.err, err = e, e
		}
		if err != nil || k < n && !q.reclaim() {
			break
		}
	}
	q.stats.Frames += uint64(sent)
	if sent < len(outs) {
		q.stats.Full++
	}
	if q.vq.ShouldNotify() {
		q.stats.Kicks++
		q.t.Kick(q.index)
	}
	return sent, err
}

// fill writes the header of a frame and notes its pieces, under a slot.
func (q *transmitter) fill(i int, id uint32, o *Out) error {
	head := q.pool.PieceBytes(o.Head)
	if len(head) < q.hdr || len(head) == q.hdr && len(o.Rest) == 0 || len(o.Rest) > maxRest {
		return ErrFrame
	}
	o.Hdr.NumBuffers = 0 // 5.1.6.2
	o.Hdr.Encode(head)
	if q.hdr > plainHdrLen {
		clear(head[plainHdrLen:q.hdr])
	}
	segs := q.segs[i*(maxRest+1):]
	segs[0] = queue.Segment{Addr: q.base + pieceOff(o.Head), Len: o.Head.Len}
	at := int(id) * (maxRest + 1)
	q.pages[at] = o.Head.Page
	total := len(head) - q.hdr
	base, lent := q.base, uint8(0)
	if o.Borrowed {
		base, lent = q.lenderBase, borrowed
	}
	for k, b := range o.Rest {
		segs[1+k] = queue.Segment{Addr: base + pieceOff(b), Len: b.Len}
		q.pages[at+1+k] = b.Page
		total += int(b.Len)
	}
	if total > MaxFrame {
		return ErrFrame
	}
	q.stats.Bytes += uint64(total)
	q.count[id] = uint8(1+len(o.Rest)) | lent
	q.bufs[i] = queue.Buffer{Out: segs[: 1+len(o.Rest) : 1+len(o.Rest)], Token: uint64(id)}
	return nil
}

// reclaim takes back what the device has sent, and says whether there was anything.
func (q *transmitter) reclaim() bool {
	for had := len(q.free); ; {
		n, err := q.vq.Reap(q.used)
		for _, u := range q.used[:n] {
			q.release(uint32(u.Token))
		}
		if err != nil && q.err == nil {
			q.err = err
		}
		if n < len(q.used) {
			return len(q.free) > had
		}
	}
}

// listen asks to be told when half of what the device has is sent. True says that something is sent already.
func (q *transmitter) listen() bool { return q.vq.Listen((q.vq.InFlight() + 1) / 2) }

// release gives the pages of a slot back.
func (q *transmitter) release(id uint32) {
	at := int(id) * (maxRest + 1)
	q.pool.Put(q.pages[at])
	from := q.pool
	if q.count[id]&borrowed != 0 {
		from = q.lender
	}
	for _, pg := range q.pages[at+1 : at+int(q.count[id]&^borrowed)] {
		from.Put(pg)
	}
	q.count[id] = 0
	q.free = append(q.free, id)
}

// close gives back the pages of all frames that the device has not sent. It has been reset.
func (q *transmitter) close() {
	if q.vq == nil {
		return
	}
	for id, n := range q.count {
		if n > 0 {
			q.release(uint32(id))
		}
	}
	q.vq, q.err = nil, fmt.Errorf("virtio-net: transmit queue %d: %w", q.index/2, errClosed)
}
