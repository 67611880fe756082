package worker

// Residence: how long frames are inside. The clock is read once for a batch, and what it says counts for every frame of it.
//
// A frame from the guest is inside from when the worker learned that frames wait in the link until the host sockets were given what the
// batch carried and the guest its answers. The worker learns it from the events, or from a batch that came back full: for the
// batch behind that one the time counts from before the full one was received. The time that a frame waits in the queue of the link
// before the worker looks is not seen.
//
// A frame to the guest is inside from when the worker learned of its cause until Send returned: of data, from when the flow
// entered the list of those to be read from, or had its last turn there; of an answer, from when the batch was learned of that it answers; of an
// ACK that was put off, from then; of everything else, from the last look at the events. The time that data waits in the host socket before the worker
// looks is not seen, nor that of data waiting in the flow's send queue for the guest's window.
//
// A frame that belongs to another worker's flow counts with the worker that took it from the link, until it was handed over.
type residence struct {
	looked int64  // when the worker last looked at the events
	link   int64  // when it learned that frames wait in the link
	late   int64  // when the first of the ACKs that wait was put off
	sent   uint64 // Stats.TxFrames as far as frames are noted

	noted [8]notedFrames // sent since the clock was read
	n     int
}

// notedFrames are frames whose cause was known at the same time.
type notedFrames struct {
	since  int64
	frames uint64
}

// mark takes down that the frames sent since the last call were caused by what was known at the time since.
func (w *Worker) mark(since int64) {
	r := &w.inside
	frames := w.Stats.TxFrames - r.sent
	if frames == 0 {
		return
	}
	r.sent = w.Stats.TxFrames
	r.noted[r.n] = notedFrames{since, frames}
	if r.n++; r.n == len(r.noted) {
		w.tick()
	}
}

// tick reads the clock, and counts what was noted.
func (w *Worker) tick() {
	w.now = w.Clock()
	w.env.Now = w.now
	r := &w.inside
	for i := range r.noted[:r.n] {
		w.Stats.Residence.ToGuest.Add(w.now-r.noted[i].since, r.noted[i].frames)
	}
	r.n = 0
}

// tickIfNoted reads the clock where that is owed: before the worker does something else for long.
func (w *Worker) tickIfNoted() {
	if w.inside.n > 0 {
		w.tick()
	}
}
