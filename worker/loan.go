package worker

import "github.com/vasta-net/vasta/link"

// While there is little to do, one worker does it all. Frames of new flows come on any of the queues, so that many short connections, one after the other, would
// wake one worker after the other, each of which has to be given a processor first; and where there are few processors, that is the one on which another worker
// still looks for events. So a worker that has no flow lends its queue to the first one before it sleeps. That one takes the frames of both, and what they
// begin is its own. It gives the queues back as soon as there is more than one connection, or bulk, or something for a queue's owner.
//
// Only who receives from a queue changes: its owner may send at any time, and a frame of another worker's flow is handed over as always.

const (
	// calmFor is how long there has to have been little to do before queues are lent, in nanoseconds. They are given back at once.
	calmFor = int64(10e6)
	// calmWeight is up to what weight of all workers there is little to do.
	calmWeight = 1
)

// loan is the receiving side of another worker's queue.
type loan struct {
	queue    link.Queue // nil: the first worker's own
	here     bool       // it is lent
	readable bool       // frames may wait
}

// loans are what may be lent to the first worker of a group.
type loans struct {
	of       []loan // by worker; nil where nothing is ever lent
	here     int    // how many of them are
	readable int    // the same
	stirred  int64  // when there was more to do
	calm     bool   // there is little to do, as the group knows
}

// newLoans makes the first worker's loans.
func (w *Worker) newLoans() {
	if w.Group == nil || w.ID != 0 || len(w.Receivers) == 0 {
		return
	}
	w.loans = loans{of: make([]loan, len(w.Receivers)), stirred: w.now - calmFor, calm: true}
	for i, q := range w.Receivers {
		w.loans.of[i].queue = q
	}
	w.Group.calm.Store(true)
}

// alone reports whether all frames of the guest come to this worker, whatever queue they are on.
func (w *Worker) alone() bool {
	return w.Group == nil || w.loans.of != nil && w.loans.here == len(w.loans.of)-1
}

// lend lends the worker's queue to the first one if it has no flow and there is little to do.
func (w *Worker) lend() {
	if w.Group == nil || w.ID == 0 || w.lent || w.Stats.Flows > 0 || !w.Group.calm.Load() {
		return
	}
	w.Host.Unwatch(w.Queue.Fd())
	w.note[0], w.note[noteBody] = noteLent, byte(w.ID)
	if w.lent = w.Group.put(0, w.note[:], nil); !w.lent {
		w.unlend()
	}
}

// unlend has the worker receive from its own queue again.
func (w *Worker) unlend() {
	w.lent, w.linkReadable = false, true
	if err := w.Host.Watch(w.Queue.Fd(), token(tokenLink, 0, 0)); err != 0 {
		w.gone = err
	}
}

// borrow takes over the receiving side of a worker's queue.
func (w *Worker) borrow(from int) {
	l := &w.loans.of[from]
	l.here = true
	w.loans.here++
	if err := w.Host.Watch(l.queue.Fd(), token(tokenLoan, 0, int32(from))); err != 0 && !w.giveBack(from) {
		w.gone = err
	}
	w.loanReadable(from)
}

// giveBack gives a queue that is lent back to its worker. False says that this has to be tried again.
func (w *Worker) giveBack(to int) bool {
	if to >= len(w.loans.of) || !w.loans.of[to].here {
		return true
	}
	w.note[0] = noteReturned
	if !w.Group.put(to, w.note[:], nil) {
		return false
	}
	l := &w.loans.of[to]
	w.Host.Unwatch(l.queue.Fd())
	l.here = false
	w.loans.here--
	w.loanEmpty(l)
	return true
}

// loanReadable notes that frames may wait in a queue that is lent.
func (w *Worker) loanReadable(from int) {
	if from >= len(w.loans.of) {
		return
	}
	if l := &w.loans.of[from]; l.here && !l.readable {
		l.readable = true
		w.loans.readable++
	}
}

// loanEmpty notes that none does.
func (w *Worker) loanEmpty(l *loan) {
	if l.readable {
		l.readable = false
		w.loans.readable--
	}
}

// minded looks whether one worker is enough, and gives the queues back when it is not.
func (w *Worker) minded() {
	s := &w.loans
	if s.of == nil {
		return
	}
	if w.bulky() || w.linkStopped() || w.Group.weight() > calmWeight {
		w.stir()
	} else if !s.calm && w.now-s.stirred >= calmFor {
		s.calm = true
		w.Group.calm.Store(true)
	}
}

// stir gives the queues back, and has none lent for a while.
func (w *Worker) stir() {
	s := &w.loans
	s.stirred = w.now
	if s.calm {
		s.calm = false
		w.Group.calm.Store(false)
	}
	for i := range s.of {
		w.giveBack(i)
	}
}

// serveLoans takes a batch from each queue that is lent, unless one of them shows that there is more to do: of a crowd of connections that is begun at once, only as many as
// are in the first batch become this worker's.
func (w *Worker) serveLoans() {
	for i := 0; w.loans.readable > 0 && !w.linkStopped() && i < len(w.loans.of); i++ {
		l := &w.loans.of[i]
		if !l.readable {
			continue
		}
		n, err := l.queue.Receive(w.frames[:longBatch])
		if err != nil {
			w.gone = err
			return
		}
		if n < longBatch {
			w.loanEmpty(l)
		}
		if n == 0 {
			continue
		}
		w.received(n)
		w.settleAll()
		w.flush()
		w.mark(w.inside.looked)
		w.tick()
		w.Stats.Residence.FromGuest.Add(w.now-w.inside.looked, uint64(n))
		if n == longBatch || w.Group.weight() > calmWeight {
			w.stir()
		}
	}
}

// closeLoans gives the memory of the receiving sides back.
func (w *Worker) closeLoans() (err error) {
	for _, l := range w.loans.of {
		if l.queue != nil {
			if e := l.queue.Close(); err == nil {
				err = e
			}
		}
	}
	return err
}
