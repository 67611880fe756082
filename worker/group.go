package worker

import (
	"fmt"
	"sync/atomic"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/ring"
	"golang.org/x/sys/unix"
)

// Sizes of an inbox.
const (
	// inboxBytes is how much can wait for a worker that is behind: 63 frames of 64 KiB. Memory is used from the first record on until the
	// worker has been idle for a while.
	inboxBytes = 4 << 20
	// inboxRecords bounds what waits when frames are small.
	inboxRecords = 1 << 10
)

// Group is what the workers of one network share: who owns which flow, and a way to give each other what belongs to another.
type Group struct {
	directory *flow.Directory
	inboxes   []inbox

	calm        atomic.Bool   // there is little to do: queues may be lent to the first worker
	spins       atomic.Uint64 // how often a worker has begun to spin
	halfOpen    halfOpen
	pingRefused atomic.Bool // the host forbids echo sockets, and one of the workers has said so
}

// inbox is where a worker gets what other workers have for it.
type inbox struct {
	*ring.Ring
	memory []byte
	wakeFd int
	weight atomic.Int64 // TCP flows that the worker has, or is about to be given, less those of which a side has ended
	_      [64]byte     // the next one's are written by another processor
}

// NewGroup makes what so many workers need to share at most maxFlows flows. Each of them gets it with its number in Config.
func NewGroup(workers, maxFlows int) (*Group, error) {
	if workers < 1 || workers > flow.MaxWorkers {
		return nil, fmt.Errorf("worker: a group of %d workers; it may have 1 to %d", workers, flow.MaxWorkers)
	}
	g := &Group{directory: flow.NewDirectory(maxFlows), inboxes: make([]inbox, workers)}
	for i := range g.inboxes {
		in := &g.inboxes[i]
		in.wakeFd = -1
		var err error
		in.memory, err = unix.Mmap(-1, 0, inboxBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err == nil {
			in.Ring, err = ring.New(in.memory, inboxRecords)
		}
		if err != nil {
			_ = g.Close()
			return nil, fmt.Errorf("worker: cannot map %d bytes for what workers give each other: %w", inboxBytes, err)
		}
	}
	return g, nil
}

// Close gives the memory back. The workers are closed.
func (g *Group) Close() (err error) {
	for i := range g.inboxes {
		if in := &g.inboxes[i]; in.memory != nil {
			if e := unix.Munmap(in.memory); err == nil {
				err = e
			}
			in.memory, in.Ring = nil, nil
		}
	}
	return err
}

// Flows is how many flows the workers have together.
func (g *Group) Flows() int { return g.directory.Len() }

// put gives a worker a record, and wakes it when it sleeps.
func (g *Group) put(worker int, head []byte, pieces [][]byte) bool {
	in := &g.inboxes[worker]
	ok, asleep := in.Put(head, pieces)
	if asleep {
		wake(in.wakeFd)
	}
	return ok
}

// lightest is the worker with the least weight; the one that asks, where there is no lighter one.
func (g *Group) lightest(self int) int {
	best := self
	for i := range g.inboxes {
		if g.inboxes[i].weight.Load() < g.inboxes[best].weight.Load() {
			best = i
		}
	}
	return best
}

// weight is that of all workers.
func (g *Group) weight() (n int64) {
	for i := range g.inboxes {
		n += g.inboxes[i].weight.Load()
	}
	return n
}

// trim gives the memory of an inbox back to the system.
func (in *inbox) trim() {
	in.Trim(func(mem []byte) { _ = unix.Madvise(mem, unix.MADV_DONTNEED) }) // if it fails the memory is only kept
}

// weigh counts a new TCP flow of the worker's.
func (w *Worker) weigh(f *flowSlot) {
	if w.inbox != nil && !f.weighs {
		f.weighs = true
		w.inbox.weight.Add(1)
	}
}

// lighten ends that. A connection that is being ended weighs nothing: of clients that come one after the other, each finds the worker of the one before as free
// as the others, and need not wake one of those.
func (w *Worker) lighten(f *flowSlot) {
	if f.weighs {
		f.weighs = false
		w.inbox.weight.Add(-1)
	}
}
