package net

import "github.com/vasta-net/vasta/packet"

// judge shows a batch to the hook and carries its verdicts out. What passes moves together; the answer is how many frames that is.
func (p *Pair) judge(frames []packet.Frame) (passed int) {
	if len(p.verdicts) < len(frames) {
		p.verdicts = make([]packet.Verdict, len(frames)) // grows to the caller's batch, once
	}
	verdicts := p.verdicts[:len(frames)]
	clear(verdicts)
	p.hook(frames, verdicts)
	stats := &p.rx.stats
	for i := range frames {
		kind := verdicts[i].Kind()
		if kind > packet.Redirect {
			kind = packet.Drop
		}
		stats.Verdicts[kind]++
		switch kind {
		case packet.Pass:
			if passed != i {
				frames[passed], frames[i] = frames[i], frames[passed]
				p.rx.ranges[passed], p.rx.ranges[i] = p.rx.ranges[i], p.rx.ranges[passed]
			}
			passed++
		case packet.TX:
			if !p.bounce(&frames[i]) {
				stats.TXFailed++
			}
		case packet.Redirect:
			if p.redirect == nil || !p.redirect(verdicts[i].Target(), &frames[i]) {
				stats.RedirectFull++
			}
		}
	}
	return passed
}

// bounce sends a received frame back, as a copy in memory of the pool.
func (p *Pair) bounce(f *packet.Frame) bool {
	return p.SendCopy(f)
}

// SendCopy sends a copy of a frame of whatever memory, of at most MaxFrame bytes. False says that there is no room.
func (p *Pair) SendCopy(f *packet.Frame) bool {
	var out [1]Out
	if f.Len+p.rx.hdr > 1<<16 {
		return false
	}
	b, ok := p.Pool.CutPiece(p.rx.hdr+f.Len, false)
	if !ok {
		return false
	}
	f.CopyAt(p.Pool.PieceBytes(b)[p.rx.hdr:], 0)
	out[0] = Out{Hdr: f.Hdr, Head: b}
	if n, _ := p.Send(out[:]); n == 0 {
		p.Pool.Put(b.Page)
		return false
	}
	return true
}
