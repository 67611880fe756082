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
				p.rx.spans[passed], p.rx.spans[i] = p.rx.spans[i], p.rx.spans[passed]
			}
			p.rx.copyLate(&frames[passed], &p.rx.spans[passed])
			passed++
		case packet.TX:
			if !p.bounce(&frames[i], &p.rx.spans[i]) {
				stats.TXFailed++
			}
		case packet.Redirect:
			if p.redirect == nil || !p.redirect(verdicts[i].Target(), &frames[i]) {
				stats.RedirectFull++
			}
		}
	}
	if len(p.bounced) > 0 {
		p.sendBounced()
	}
	return passed
}
