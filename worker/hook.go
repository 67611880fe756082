package worker

import (
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// hookState is what the hook and its verdicts need.
type hookState struct {
	verdicts [frameBatch]packet.Verdict
	rest     [][]byte // of the frame that is sent
	out      link.Out
}

// runHook shows a batch to the hook, before anything is made of its frames, and carries the verdicts out. What passes moves together, in its order; the answer is
// how many frames that is.
func (w *Worker) runHook(n int) (passed int) {
	frames, verdicts := w.frames[:n], w.hooked.verdicts[:n]
	clear(verdicts)
	w.Hook(frames, verdicts)
	for i := range frames {
		f := &frames[i]
		if verdicts[i] == packet.Pass {
			if passed != i {
				frames[passed], frames[i] = frames[i], frames[passed]
			}
			passed++
			continue
		}
		w.Stats.RxFrames++
		w.Stats.RxBytes += uint64(f.Len)
		w.spent += frameWork
		if w.Capture != nil {
			w.Capture(FromGuest, &f.Hdr, f.Bufs)
		}
		switch verdicts[i].Kind() {
		case packet.TX:
			if !w.sendFrame(f) {
				w.Stats.Drop(stats.LinkFull)
			}
		case packet.Redirect:
			w.redirect(verdicts[i].Target(), f)
		default:
			w.Stats.Drop(stats.Filtered)
		}
	}
	return passed
}

// redirect gives a frame to whom it is for: somebody outside this network, who copies it.
func (w *Worker) redirect(target int, f *packet.Frame) {
	w.spent += f.Len
	if w.Redirect == nil || !w.Redirect(target, f) {
		w.Stats.Drop(stats.RedirectRefused)
		return
	}
	w.Stats.Redirected++
}

// sendFrame gives a whole frame of somebody's to the guest as it is: its own, or one from elsewhere.
func (w *Worker) sendFrame(f *packet.Frame) bool {
	if len(f.Bufs) == 0 {
		return false
	}
	head := f.Bufs[0][:min(len(f.Bufs[0]), link.MaxHead)]
	h := &w.hooked
	h.rest = h.rest[:0]
	if rest := f.Bufs[0][len(head):]; len(rest) > 0 {
		h.rest = append(h.rest, rest)
	}
	h.rest = append(h.rest, f.Bufs[1:]...)
	h.out = link.Out{Hdr: f.Hdr, Head: head, Payload: h.rest}
	h.out.Hdr.NumBuffers = 0
	if !w.Queue.Send(&h.out) {
		return false
	}
	w.Stats.TxFrames++
	w.Stats.TxBytes += uint64(f.Len)
	if w.Capture != nil {
		w.Capture(ToGuest, &f.Hdr, f.Bufs)
	}
	return true
}
