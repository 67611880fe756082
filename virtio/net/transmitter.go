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
	// Borrowed says that Rest is of the pool that Pair.Borrow has named, and Within that Head is: the header lies in front of the payload, in its page.
	Borrowed, Within bool
}

// maxRest is the most pieces behind the head: a frame of 64 KiB in pieces of 4 KiB, with one to spare.
const maxRest = bigChain - 1

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
	size  int // descriptors

	lender     *pagepool.Pool // of pieces that are borrowed
	lenderBase uint64         // ... where the device has its memory

	// A buffer's token is the page of the frame's head, and in its upper half the tail, if the frame has pieces behind the head or the head is borrowed.
	tails []tail
	free  []uint32 // of tails: 0 is none

	bufs []queue.Buffer
	segs []queue.Segment
	used []queue.Used

	stats TransmitStats
	err   error
}

// tail has the pages of the pieces behind the head of a frame, and whose all are.
type tail struct {
	pages [maxRest]pagepool.Page
	n     uint8
	from  *pagepool.Pool
	head  *pagepool.Pool
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
		t: d.t, index: txIndex(p.Index), pool: p.Pool, hdr: d.features.hdrLen(), size: n,
		tails: make([]tail, 1+n), free: make([]uint32, n),
		bufs: make([]queue.Buffer, min(n, publishBatch)), segs: make([]queue.Segment, min(n, publishBatch)*(maxRest+1)), used: make([]queue.Used, publishBatch),
	}
	for i := range q.free {
		q.free[i] = uint32(n - i)
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
	if room := q.vq.Free(); room < q.size/2 || room < len(outs) {
		q.reclaim()
	}
	for sent < len(outs) {
		room := min(len(outs)-sent, len(q.bufs), q.vq.Free()) // a frame takes one descriptor at least
		n := 0
		for n < room {
			if err = q.fill(n, &outs[sent+n]); err != nil {
				break
			}
			n++
		}
		k, e := q.vq.Publish(q.bufs[:n])
		q.published(k, n)
		sent += k
		if e != nil {
			q.err, err = e, e
		}
		if err != nil || (k < n || n == 0) && !q.reclaim() {
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

// fill writes the header of a frame, and makes the i-th buffer of it. Stores are spared here: the processor holds back only so many behind those that
// wait for a line from the device's processor (queue.Driver's singles).
func (q *transmitter) fill(i int, o *Out) error {
	heads, base := q.pool, q.base
	if o.Within {
		heads, base = q.lender, q.lenderBase
	}
	head := heads.PieceBytes(o.Head)
	total := len(head) - q.hdr
	if total < 0 || total == 0 && len(o.Rest) == 0 || len(o.Rest) > maxRest {
		return ErrFrame
	}
	for _, b := range o.Rest {
		total += int(b.Len)
	}
	if total > MaxFrame {
		return ErrFrame
	}
	if o.Hdr.NumBuffers != 0 {
		o.Hdr.NumBuffers = 0 // 5.1.6.2
	}
	o.Hdr.Encode(head)
	if q.hdr > plainHdrLen {
		clear(head[plainHdrLen:q.hdr])
	}
	segs, token := q.segs[i*(maxRest+1):], uint64(o.Head.Page)
	segs[0] = queue.Segment{Addr: base + pieceOff(o.Head), Len: o.Head.Len}
	if len(o.Rest) > 0 || o.Within {
		id := q.free[len(q.free)-1]
		q.free = q.free[:len(q.free)-1]
		t := &q.tails[id]
		t.n, t.from, t.head = uint8(len(o.Rest)), q.pool, heads
		base := q.base
		if o.Borrowed {
			t.from, base = q.lender, q.lenderBase
		}
		for k, b := range o.Rest {
			segs[1+k] = queue.Segment{Addr: base + pieceOff(b), Len: b.Len}
			t.pages[k] = b.Page
		}
		token |= uint64(id) << 32
	}
	b := &q.bufs[i]
	b.Token = token
	if len(b.Out) != 1+len(o.Rest) {
		b.Out = segs[: 1+len(o.Rest) : 1+len(o.Rest)]
	}
	return nil
}

// published counts the first k of n buffers, which the queue has taken, and forgets the others, whose pieces stay the caller's.
func (q *transmitter) published(k, n int) {
	bytes, segments := 0, 0
	for i := range q.bufs[:k] {
		out := q.bufs[i].Out
		segments += len(out)
		for _, s := range out {
			bytes += int(s.Len)
		}
	}
	q.stats.Bytes += uint64(bytes - k*q.hdr)
	q.stats.Descriptors += uint64(segments)
	for i := range q.bufs[k:n] {
		if id := uint32(q.bufs[k+i].Token >> 32); id != 0 {
			q.free = append(q.free, id)
		}
	}
}

// reclaim takes back what the device has sent, and says whether there was anything.
func (q *transmitter) reclaim() bool {
	for some := false; ; {
		n, err := q.vq.Reap(q.used)
		q.release(q.used[:n])
		some = some || n > 0
		if err != nil && q.err == nil {
			q.err = err
		}
		if n < len(q.used) {
			return some
		}
	}
}

// listen asks to be told when half of what the device has is sent. True says that something is sent already.
func (q *transmitter) listen() bool { return q.vq.Listen((q.vq.InFlight() + 1) / 2) }

// release gives the pages of frames back, those of one piece in one page together.
func (q *transmitter) release(used []queue.Used) {
	for i := 0; i < len(used); {
		token, first := used[i].Token, i
		for i++; i < len(used) && used[i].Token == token; i++ {
		}
		pg, id := pagepool.Page(uint32(token)), uint32(token>>32)
		if id == 0 {
			q.pool.PutRefs(pg, i-first)
		} else {
			t := &q.tails[id]
			t.head.PutRefs(pg, i-first)
			for _, pg := range t.pages[:t.n] {
				t.from.Put(pg)
			}
			q.free = append(q.free, id)
		}
	}
}

// close gives back the pages of all frames that the device has not sent. It has been reset.
func (q *transmitter) close() {
	if q.vq == nil {
		return
	}
	for {
		n := q.vq.Reclaim(q.used)
		if n == 0 {
			break
		}
		q.release(q.used[:n])
	}
	q.vq, q.err = nil, fmt.Errorf("virtio-net: transmit queue %d: %w", q.index/2, errClosed)
}
