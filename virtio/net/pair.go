package net

import (
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/virtio/queue"
)

// Features are those that the driver has negotiated.
func (p *Pair) Features() Features { return p.d.features }

// HdrLen is the length of the header in front of every frame, in bytes.
func (p *Pair) HdrLen() int { return p.rx.hdr }

// Cut takes memory for frames of n bytes each, and their headers, from the pool (a page holds both at most): the heads of outs. It answers how many there was memory for. A header lies
// at the end of a cache line and its frame begins the next one: so to write a frame of one line takes one line from the device's processor, for headers
// seldom change (packet.NetHdr.Encode).
func (p *Pair) Cut(outs []Out, n int) (got int) {
	lead := roundUp(p.rx.hdr, queue.CacheLine)
	if lead+n > pagepool.PageSize {
		lead = p.rx.hdr
	}
	skip := uint32(lead - p.rx.hdr)
	for got < len(outs) {
		cut := p.rx.cut[:min(len(p.rx.cut), len(outs)-got)]
		k := p.Pool.CutPieces(cut, lead+n, false)
		for _, b := range cut[:k] {
			outs[got].Head = pagepool.Piece{Page: b.Page, Off: b.Off + skip, Len: b.Len - skip}
			got++
		}
		if k < len(cut) {
			break
		}
	}
	return got
}

// Receive gives the buffers of the last batch back to the device and fills frames with the next ones, as many as there are. What it
// answers has passed the hook. The frames' memory is borrowed until the next Receive; the Hdr of each is a copy. An error says that the queue is broken: it stays
// so until the driver is closed, and other pairs are not concerned.
//
// When Starving answers true afterwards, there was no memory for some buffers: whoever sleeps until frames arrive must call Receive again
// within RefillRetry all the same, for no frame may ever arrive.
func (p *Pair) Receive(frames []packet.Frame) (int, error) {
	if p.d.down.Load() {
		return 0, nil
	}
	n, err := p.rx.receive(frames)
	if p.hook == nil || n == 0 {
		return n, err
	}
	return p.judge(frames[:n]), err
}

// Hold keeps the memory of the i-th frame of the last Receive beyond the next one: it appends the frame's pages to pages, each with a reference that the caller gives back
// with Pool.Put, or from another goroutine with Pool.PutRemote. A frame up to the copy-break has none: it is in memory of the queue's own, and has to be copied.
func (p *Pair) Hold(pages []pagepool.Page, i int) []pagepool.Page {
	q := &p.rx
	q.shared(&q.spans[i])
	at := q.spans[i].slots
	for _, id := range q.lent[at[0]:at[1]] {
		s := &q.slots[id]
		if q.mode != Big {
			p.Pool.Ref(s.piece.Page)
			pages = append(pages, s.piece.Page)
			continue
		}
		for _, b := range s.chain {
			p.Pool.Ref(b.Page)
			pages = append(pages, b.Page)
		}
	}
	return pages
}

// Listen asks for Wake when the next frame has arrived. It answers true when there is one already: then Wake may not be called, and the caller has to receive instead
// of sleeping. Awake ends the asking; frames that arrive call Wake no more, though a late call may come.
func (p *Pair) Listen() bool {
	if p.rx.next < p.rx.reaped || p.rx.vq.Listen(1) {
		return true
	}
	p.rx.admit()
	return false
}

// Waiting says whether there is something to receive, and asks for nothing.
func (p *Pair) Waiting() bool { return p.rx.next < p.rx.reaped || p.rx.vq.Waiting() }

// Awake ends what Listen began.
func (p *Pair) Awake() { p.rx.vq.Suppress() }

// Starving says that buffers could not be posted for lack of memory.
func (p *Pair) Starving() bool { return p.rx.starve }

// RefillRetry is after how many milliseconds to try again then.
const RefillRetry = 100

// Send gives frames to the device, in order, and answers how many there was room for: those are the queue's, with the references of their pieces; the others
// stay the caller's. ErrFrame with the count before it says that a frame cannot be sent at all.
func (p *Pair) Send(outs []Out) (int, error) {
	if p.d.down.Load() {
		return 0, nil
	}
	return p.tx.send(outs)
}

// Borrow names the pool that frames with Out.Borrowed or Out.Within have pieces of, which has to outlive the driver; base is where the device has its memory. It is called once.
func (p *Pair) Borrow(pool *pagepool.Pool, base uint64) { p.tx.lender, p.tx.lenderBase = pool, base }

// ListenSend asks for Wake when the device has sent half of the frames that it has. It answers true when some are sent already: then Wake may not be called, and
// the caller has to send or reclaim instead of sleeping. AwakeSend ends the asking.
func (p *Pair) ListenSend() bool { return p.tx.listen() }

// AwakeSend ends what ListenSend began.
func (p *Pair) AwakeSend() { p.tx.vq.Suppress() }

// Unsent is the number of frames that the device has not sent yet, as of the last Send or Reclaim.
func (p *Pair) Unsent() int { return p.tx.vq.InFlight() }

// Reclaim takes back the memory of frames that the device has sent. Send does that too, when it needs room.
func (p *Pair) Reclaim() { p.tx.reclaim() }

// Tight says that the frames of the last Receive hold so many buffers that the longest frame may find too few: it comes only after the next Receive.
func (p *Pair) Tight() bool { return p.rx.tight() }

// Posted is the number of receive buffers that the device has.
func (p *Pair) Posted() int { return p.rx.vq.InFlight() }

// ReceiveStats are the counters of the receive queue.
func (p *Pair) ReceiveStats() ReceiveStats { return p.rx.stats }

// TransmitStats are the counters of the transmit queue.
func (p *Pair) TransmitStats() TransmitStats { return p.tx.stats }
