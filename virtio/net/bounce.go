package net

import (
	"errors"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
)

// bounce puts a received frame among those that go back with the batch: the pages that the device has written, without a copy (DESIGN.md, decision 6). Only
// a frame that does not lie in them any more is copied: one that a hook has put elsewhere or has pushed so much in front of that the header has no room, and one
// of more pieces than a descriptor chain may have. False says that there is no memory for that.
func (p *Pair) bounce(f *packet.Frame, at *span) bool {
	o, ok := p.moved(f, at)
	if !ok {
		o, ok = p.copied(f)
	}
	if ok {
		p.bounced = append(p.bounced, o)
	}
	return ok
}

// moved makes a frame to be sent of the memory that it was received in, with references of its own. False says that it is not all there.
func (p *Pair) moved(f *packet.Frame, at *span) (o Out, ok bool) {
	q := &p.rx
	origins := q.origins[at.pieces[0]:at.pieces[1]]
	if q.from != Buffers(p.Pool) || len(f.Bufs) == 0 || len(f.Bufs) > len(origins) || origins[0] == private {
		return o, false
	}
	// The first piece may have moved in its room; a big buffer's has none.
	first, behind := origins[0], f.Bufs
	if q.mode != Big {
		if f.Headroom() < q.hdr {
			return o, false
		}
		first += uint64(f.Headroom()) - uint64(q.geo.Headroom+q.hdr)
		behind = behind[1:]
	}
	if !q.liesAt(f.Bufs[0], first) || len(behind) > maxRest {
		return o, false
	}
	for i, b := range f.Bufs[1:] {
		if !q.liesAt(b, origins[1+i]) {
			return o, false
		}
	}
	o.Hdr = f.Hdr
	if q.mode == Big {
		o.Head = q.slots[q.lent[at.slots[0]]].chain[0]
	} else {
		o.Head = pieceAt(first-uint64(q.hdr), q.hdr+len(f.Bufs[0]))
	}
	q.shared(at)
	p.Pool.Ref(o.Head.Page)
	from := len(p.rest)
	for i, b := range behind {
		r := pieceAt(origins[len(f.Bufs)-len(behind)+i], len(b))
		p.Pool.Ref(r.Page)
		p.rest = append(p.rest, r)
	}
	o.Rest = p.rest[from:len(p.rest):len(p.rest)]
	return o, true
}

// liesAt says whether b begins at a place in the arena: whether it is still the memory that the tables say, and not what a hook has put in its place.
func (q *receiver) liesAt(b []byte, origin uint64) bool { return len(b) > 0 && &b[0] == &q.mem[origin] }

// pieceAt is the piece of n bytes at a place in the arena.
func pieceAt(origin uint64, n int) pagepool.Piece {
	return pagepool.Piece{Page: pagepool.Page(origin / pagepool.PageSize), Off: uint32(origin % pagepool.PageSize), Len: uint32(n)}
}

// copied makes a frame to be sent of a copy in memory of the pool. False says that there is none, or that the frame is longer than any may be.
func (p *Pair) copied(f *packet.Frame) (o Out, ok bool) {
	if f.Len > MaxFrame {
		return o, false
	}
	hdr := p.rx.hdr
	n := min(f.Len, pagepool.PageSize-hdr)
	if o.Head, ok = p.Pool.CutPiece(hdr+n, false); !ok {
		return o, false
	}
	o.Hdr = f.Hdr
	f.CopyAt(p.Pool.PieceBytes(o.Head)[hdr:], 0)
	if n == f.Len {
		return o, true
	}
	r, ok := p.Pool.CutPiece(f.Len-n, false)
	if !ok {
		p.Pool.Put(o.Head.Page)
		return o, false
	}
	f.CopyAt(p.Pool.PieceBytes(r), n)
	from := len(p.rest)
	p.rest = append(p.rest, r)
	o.Rest = p.rest[from : from+1 : from+1]
	return o, true
}

// sendBounced sends what goes back. What there is no room for is gone, and counted.
func (p *Pair) sendBounced() {
	outs := p.bounced
	for len(outs) > 0 {
		n, err := p.Send(outs)
		outs = outs[n:]
		if len(outs) == 0 || !errors.Is(err, ErrFrame) {
			break
		}
		p.forget(&outs[0])
		outs = outs[1:]
	}
	for i := range outs {
		p.forget(&outs[i])
	}
	p.bounced, p.rest = p.bounced[:0], p.rest[:0]
}

// forget gives back what a frame that is not sent has references to.
func (p *Pair) forget(o *Out) {
	p.rx.stats.TXFailed++
	p.Pool.Put(o.Head.Page)
	for _, b := range o.Rest {
		p.Pool.Put(b.Page)
	}
}

// SendCopy sends a copy of a frame of whatever memory, of at most MaxFrame bytes. False says that there is no room.
func (p *Pair) SendCopy(f *packet.Frame) bool {
	var out [1]Out
	had := len(p.rest) // of what waits to be sent back, when a hook redirects to the pair it is called on
	var ok bool
	if out[0], ok = p.copied(f); !ok {
		return false
	}
	n, _ := p.Send(out[:])
	if n == 0 {
		p.Pool.Put(out[0].Head.Page)
		for _, b := range out[0].Rest {
			p.Pool.Put(b.Page)
		}
	}
	p.rest = p.rest[:had]
	return n > 0
}
