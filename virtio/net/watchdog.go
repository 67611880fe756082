package net

import (
	"sync"
	"time"

	"github.com/vasta-net/vasta/virtio/queue"
)

// Stall is a queue that does not move: the driver has sent frames, and the device's side of the pair does nothing about it.
type Stall struct {
	Pair int
	For  time.Duration // at least
	Held bool          // frames were taken, and Done does not follow
}

// Watch has a goroutine look after the pairs: when frames of the driver's have waited for longer than limit, and none was taken or given back meanwhile, report is called, once
// until the pair moves again. It is a tripwire for whoever serves the pairs, and wakes up four times in each limit. stop ends it and waits for that.
func (d *Device) Watch(limit time.Duration, report func(Stall)) (stop func()) {
	w := newWatchdog(d, limit, report, time.Now())
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(max(limit/4, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				w.look(now)
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		all.Wait()
	}
}

// watchdog remembers when each pair has moved last.
type watchdog struct {
	device *Device
	limit  time.Duration
	report func(Stall)
	pairs  []watched
}

type watched struct {
	moves    uint64 // of deviceTx, when they were looked at last
	since    time.Time
	reported bool
}

func newWatchdog(d *Device, limit time.Duration, report func(Stall), now time.Time) *watchdog {
	w := &watchdog{device: d, limit: limit, report: report, pairs: make([]watched, len(d.pairs))}
	for i := range w.pairs {
		w.pairs[i].since = now
	}
	return w
}

// look looks at all pairs.
func (w *watchdog) look(now time.Time) {
	s := w.device.state.Load()
	for i, p := range w.device.pairs {
		have := &w.pairs[i]
		moves := p.tx.moves.Load()
		waits, held := p.tx.waits()
		if moves != have.moves || !waits || s == nil || i >= s.pairs {
			*have = watched{moves: moves, since: now}
			continue
		}
		if still := now.Sub(have.since); still >= w.limit && !have.reported {
			have.reported = true
			w.report(Stall{Pair: i, For: still, Held: held})
		}
	}
}

// waits says whether there is something to do for the device, and whether that is to give back what it has taken. Any goroutine may ask.
func (q *deviceTx) waits() (waits, held bool) {
	if !q.mu.TryLock() {
		return true, true // or a call is under way, which moves
	}
	defer q.mu.Unlock()
	return q.vq != nil && q.err == nil && waiting(&q.err, q.memory, q.vq), false
}

// waiting says whether there is something to take.
func waiting(broken *error, m *queue.Memory, vq queue.Device) (more bool) {
	_ = gone(broken, m.Guard(func() error {
		more = vq.Waiting()
		return nil
	}))
	return more
}
