package worker

// Who is served when. The worker's time is the scarce good, and work is its measure: the bytes of a frame, and frameWork for the
// frame itself. That keeps an iteration short without a look at the clock, and is what flows toward the guest share.
//
// Flows whose host socket may be read take turns by deficit round robin (Shreedhar and Varghese, 1995), with the two lists of
// fq_codel (RFC 8290, 4.1.2): a flow that had nothing to be read is served before those that always have, once; so a lone answer
// does not wait for bulk. After that it goes to the end of the others even when it has nothing left, and until its place has come up
// there it has only the rest of its turn before them, so that a flow which comes and goes cannot get more than its share. One that
// moved a whole frame in its last turn is bulk that waited for the guest's window, and goes to the end at once.

const (
	// frameWork is what a frame costs but for its bytes, in bytes: the calls for a small one take about the time of copying so much.
	frameWork = 16 << 10
	// linkWork and readyWork bound what one iteration takes from the link and from the host sockets: about 100 µs each.
	linkWork, readyWork = 512 << 10, 512 << 10
	// lookWork is how much is done at most between two looks at the events.
	lookWork = 1 << 20
	// readFrames bounds the frames read from one host socket at once.
	readFrames = 4
	// roundWork is about how much all flows together are read in one round, as long as that leaves each a frame.
	roundWork = 1 << 20
	// frameBytes is what the largest frame carries.
	frameBytes = 64 << 10
	// readTick is the work between two readings of the clock while flows are read.
	readTick = 128 << 10
)

// turns are the flows that may be read from.
type turns struct {
	fresh flowList // had nothing to be read before
	old   flowList // the others
}

// quantum is how much a flow is given for each round.
func (t *turns) quantum() int {
	return min(max(roundWork/(t.fresh.n+t.old.n), frameBytes), readFrames*frameBytes)
}

// waiting is the flow whose turn it is, nil for none.
func (t *turns) waiting() *flowSlot {
	if t.fresh.head != nil {
		return t.fresh.head
	}
	return t.old.head
}

// makeReady notes that the host socket of f may be read.
func (w *Worker) makeReady(f *flowSlot) {
	if !f.readable || f.readySince != 0 {
		return
	}
	f.readySince = w.now
	switch l := f.links[byTurn].list; {
	case l == &w.turns.old && f.deficit > 0: // it did not use up its last turn
		w.turns.fresh.push(f)
	case l != nil:
	case f.greedy:
		w.turns.old.push(f)
	default:
		w.turns.fresh.push(f)
		f.deficit = w.turns.quantum()
	}
}

// serveReady reads from the host sockets that have data, by turns.
func (w *Worker) serveReady() {
	t := &w.turns
	ticked := 0
	for work := 0; work < readyWork && !w.linkFull && !w.noMemory; {
		f := t.waiting()
		if f == nil {
			break
		}
		if f.readySince == 0 { // nothing came since its last turn
			f.leave(byTurn)
			continue
		}
		if f.deficit <= 0 {
			f.deficit += t.quantum()
			t.old.push(f)
			continue
		}
		since := f.readySince
		f.readySince = 0
		cost, again := w.read(f)
		w.mark(since)
		f.deficit -= cost
		f.greedy = cost >= frameBytes
		if work += cost; work-ticked >= readTick {
			ticked = work
			w.tickIfNoted()
		}
		switch {
		case f.kind == freeSlot:
		case again:
			f.readySince = w.now
		case f.links[byTurn].list == &t.fresh && t.old.head != nil:
			t.old.push(f)
		default:
			f.leave(byTurn)
		}
	}
	w.tickIfNoted()
}

// read moves data from the host socket of f to the guest, as much as f has left of its turn. It reports the work that was, and whether there
// may be more to do at once.
func (w *Worker) read(f *flowSlot) (cost int, again bool) {
	switch f.kind {
	case tcpFlow:
		return w.tcpRead(f)
	case udpFlow:
		return w.udpRead(f)
	case dnsFlow:
		return w.dnsRead(f)
	case spliceFlow:
		return w.spliceMove(f)
	default:
		return w.icmpRead(f)
	}
}
