package worker

// spinner decides when the worker looks for events for a while before it sleeps. To be woken costs tens of
// microseconds, more than all the work on a small request, so a worker that waits for the other half of a conversation does
// better to stay awake. In bulk it does not: there the processor is better left to whoever makes the data.
type spinner struct {
	since int64  // when the current period began
	moved uint64 // bytes moved up to then
	bulk  bool   // the period before was one of bulk
	score int8   // of late spins: up when an event came, down when none did
	skip  uint8  // waits to go without one
}

const (
	// spinBytes is how much may have moved in a period of spinPeriod nanoseconds for the worker to count as in conversation:
	// half a Gbit/s.
	spinBytes  = 64 << 10
	spinPeriod = int64(1e6)
	// spinScore bounds the score, and so how many vain spins in a row it takes to stop.
	spinScore = 8
	// spinSkip is how many waits go by before spinning is tried again after that.
	spinSkip = 32
	// spinLooks bounds one spin in calls.
	spinLooks = 256
)

// spinning reports whether to spin before this wait.
func (w *Worker) spinning() bool {
	if w.Spin == 0 || w.bulky() {
		return false
	}
	s := &w.spinner
	if s.skip > 0 {
		s.skip--
		return false
	}
	return true
}

// bulky reports whether data moves in bulk.
func (w *Worker) bulky() bool {
	s := &w.spinner
	moved := w.Stats.RxBytes + w.Stats.TxBytes
	if w.now-s.since >= spinPeriod {
		s.bulk = moved-s.moved >= spinBytes
		s.moved, s.since = moved, w.now
	}
	return s.bulk || moved-s.moved >= spinBytes
}

// spin looks for events for at most Spin nanoseconds and returns how many there are. It ends without any when another worker has given this one
// something, or when others have begun to spin: the conversation is theirs now, and so should the processor be.
func (w *Worker) spin() int {
	s := &w.spinner
	turn := w.beginSpin()
	end := w.Clock() + w.Spin
	for range spinLooks {
		if w.hasMail() || w.outspun(turn) {
			return 0
		}
		if w.rings != nil && w.rings.Ready() {
			w.linkReadable = true
			s.score = min(s.score+1, spinScore)
			return 0
		}
		w.Stats.SysWait++
		if n := w.Host.Wait(w.events[:], 0); n > 0 {
			s.score = min(s.score+1, spinScore)
			return n
		}
		if w.Clock() >= end {
			break
		}
	}
	if s.score--; s.score <= -spinScore {
		s.score, s.skip = 0, spinSkip
	}
	return 0
}

// beginSpin tells the group that this worker spins, and returns its turn.
func (w *Worker) beginSpin() uint64 {
	if w.Group == nil {
		return 0
	}
	return w.Group.spins.Add(1)
}

// outspun reports whether as many workers as may spin have begun after that turn.
func (w *Worker) outspun(turn uint64) bool {
	return w.Group != nil && w.Group.spins.Load()-turn >= uint64(w.Spinners)
}
