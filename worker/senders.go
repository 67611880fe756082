package worker

// The queue of the link has no more order than the frames came in: a lone request from the guest stands behind all that flows in bulk have sent
// before it, which is what their windows allow. So flows that send at the same time share the window that one of them alone would
// have. It bounds that queue, and the memory that passes through the cache; less than two or three frames each would leave the
// worker, or the guest, waiting for the other.
type senders struct {
	round  uint32 // number of the present sendersRound; flowSlot.sentIn names the last in which a flow counted
	since  int64  // when it began
	now    int    // flows that have sent in bulk in it
	before int    // and in the one before
}

const (
	// sendersRound is how long a flow counts as one that sends, in nanoseconds, and up to twice so long.
	sendersRound = int64(50e6)
	// sendersBytes is what a flow has to send in one batch to count.
	sendersBytes = 16 << 10
	// sendersWindows is the sum of the windows that flows share, in windows of one flow.
	sendersWindows = 2
	// leastWindow is the least that each keeps.
	leastWindow = 128 << 10
)

// sentBulk notes that the guest has sent so many bytes of f in one batch.
func (w *Worker) sentBulk(f *flowSlot, bytes int) {
	s := &w.senders
	if bytes < sendersBytes || f.sentIn == s.round+1 {
		return
	}
	if f.sentIn == 0 {
		// The kernel gives a socket room for twenty segments at once, 1.3 MiB with an MTU of 65520, and twice its congestion window later. On a slow path
		// all that waits there, seconds of it, instead of with the program that sends. Flows that never send in bulk are spared the system call.
		_ = w.Host.LimitUnsent(f.fd) // where it fails the socket keeps more
	}
	f.sentIn = s.round + 1 // 0 is none
	s.now++
	w.shareWindow()
}

// nextSenders begins a new round when it is time.
func (w *Worker) nextSenders() {
	s := &w.senders
	if w.now-s.since < sendersRound || s.now+s.before == 0 {
		return
	}
	s.before, s.now = s.now, 0
	s.round, s.since = s.round+1, w.now
	w.shareWindow()
}

// shareWindow says how far windows may grow now.
func (w *Worker) shareWindow() {
	n := max(w.senders.now, w.senders.before, 1)
	w.env.NearWindow = min(w.NearWindow, max(sendersWindows*w.NearWindow/int64(n), leastWindow))
}
