// Package kerneltest is a vhost-net in memory, for tests of what drives one: a twin of kernel.Handle whose two rings are served here, and whose TAP the
// test plays. No device and no privileges are needed.
//
//	twin := kerneltest.New()
//	d, err := kernel.New(kernel.Config{Calls: twin, TAP: fd, Call: bell})
//	… map memory, attach rings, start …
//	twin.Give(hdr, frame)     // as the guest's kernel would have sent it
//	hdr, frame, ok := twin.Take()
//
// Any call can be made to fail with any error (Fail), a ring can be declared broken, as the kernel does (Break), and its used index be written with nonsense (Corrupt).
package kerneltest

import (
	"fmt"
	"strings"
	"sync"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/vhost/kernel"
	"github.com/vasta-net/vasta/virtio/queue"
	"golang.org/x/sys/unix"
)

// Features are what the twin offers: those of Linux 6.1.
const Features = 1<<15 /* MRG_RXBUF */ | 1<<24 | 1<<26 | 1<<27 | indirect | eventIdx | 1<<32 /* VERSION_1 */ | 1<<33 | 1<<40

const (
	indirect = 1 << 28
	eventIdx = 1 << 29
	inOrder  = 1 << 35
)

// Twin is a kernel.Calls. Its methods may be called from any goroutine.
type Twin struct {
	// Offered are the features, Features if it is zero. NoWorkers: the kernel is older than threads for each ring.
	Offered   uint64
	NoWorkers bool

	mu       sync.Mutex
	fails    map[string]failure
	calls    []string
	features uint64
	owned    bool
	closed   bool
	regions  []kernel.Region
	rings    [2]ring
	waiting  []frame  // toward the driver
	held     []uint16 // buffers of the transmit ring that were taken and not returned
	serving  sync.WaitGroup
}

type failure struct {
	err   error
	times int
}

type frame struct {
	hdr  packet.NetHdr
	data []byte
}

type ring struct {
	size            int
	base            uint32
	areas           queue.Areas
	kick, call, err int
	vq              queue.Device // nil: it does not run
	stop            int          // an eventfd that ends the goroutine of a ring that runs
}

var _ kernel.Calls = (*Twin)(nil)

// New is a device that has just been opened.
func New() *Twin { return &Twin{fails: map[string]failure{}} }

// Fail makes the next so many calls of a method, named as in kernel.Calls, answer err.
func (t *Twin) Fail(method string, err error, times int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fails[method] = failure{err, times}
}

// Called is every call since the last one, each as its method, ring and number: "SetVringNum 0 256".
func (t *Twin) Called() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	calls := t.calls
	t.calls = nil
	return calls
}

// enter notes a call, and answers the error that it is to fail with. The lock is held by the caller.
func (t *Twin) enter(method string, args ...any) error {
	t.calls = append(t.calls, strings.TrimSpace(fmt.Sprintln(append([]any{method}, args...)...)))
	if f := t.fails[method]; f.times > 0 {
		f.times--
		t.fails[method] = f
		return f.err
	}
	switch {
	case t.closed:
		return unix.EBADF
	case !t.owned && method != "SetOwner" && method != "Features" && method != "Close":
		return unix.EPERM
	}
	return nil
}

// SetOwner implements kernel.Calls.
func (t *Twin) SetOwner() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter("SetOwner"); err != nil {
		return err
	}
	if t.owned {
		return unix.EBUSY
	}
	t.owned = true
	return nil
}

// Features implements kernel.Calls.
func (t *Twin) Features() (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.offered(), t.enter("Features")
}

func (t *Twin) offered() uint64 {
	if t.Offered != 0 {
		return t.Offered
	}
	return Features
}

// SetFeatures implements kernel.Calls.
func (t *Twin) SetFeatures(f uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter("SetFeatures"); err != nil {
		return err
	}
	if f&^t.offered() != 0 {
		return unix.EOPNOTSUPP
	}
	t.features = f
	return nil
}

// SetMemTable implements kernel.Calls.
func (t *Twin) SetMemTable(regions []kernel.Region) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter("SetMemTable", len(regions)); err != nil {
		return err
	}
	t.regions = append([]kernel.Region(nil), regions...)
	for i := range t.rings {
		if vq := t.rings[i].vq; vq != nil {
			m, err := t.memory()
			if err != nil {
				return unix.EFAULT
			}
			vq.SetMemory(m)
		}
	}
	return nil
}

func (t *Twin) memory() (*queue.Memory, error) {
	var regions []queue.Region
	for _, r := range t.regions {
		regions = append(regions, queue.Region(r))
	}
	return queue.NewMemory(regions...)
}

// set is a call about a ring that is not to run.
func (t *Twin) set(method string, i, arg int, store func(r *ring)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter(method, i, arg); err != nil {
		return err
	}
	if i < 0 || i > 1 {
		return unix.ENOBUFS
	}
	if t.rings[i].vq != nil {
		return unix.EBUSY
	}
	store(&t.rings[i])
	return nil
}

// SetVringNum implements kernel.Calls.
func (t *Twin) SetVringNum(i, size int) error {
	if size < 1 || size > 0xffff || size&(size-1) != 0 {
		return unix.EINVAL
	}
	return t.set("SetVringNum", i, size, func(r *ring) { r.size = size })
}

// SetVringBase implements kernel.Calls.
func (t *Twin) SetVringBase(i int, base uint32) error {
	return t.set("SetVringBase", i, int(base), func(r *ring) { r.base = base })
}

// VringBase implements kernel.Calls.
func (t *Twin) VringBase(i int) (base uint32, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter("VringBase", i); err != nil {
		return 0, err
	}
	return t.rings[i].base, nil
}

// SetVringAddr implements kernel.Calls.
func (t *Twin) SetVringAddr(i int, areas queue.Areas) error {
	return t.set("SetVringAddr", i, 0, func(r *ring) { r.areas = areas })
}

// SetVringKick implements kernel.Calls.
func (t *Twin) SetVringKick(i, fd int) error {
	return t.set("SetVringKick", i, fd, func(r *ring) { r.kick = fd })
}

// SetVringCall implements kernel.Calls.
func (t *Twin) SetVringCall(i, fd int) error {
	return t.set("SetVringCall", i, fd, func(r *ring) { r.call = fd })
}

// SetVringErr implements kernel.Calls.
func (t *Twin) SetVringErr(i, fd int) error {
	return t.set("SetVringErr", i, fd, func(r *ring) { r.err = fd })
}

// SetVringBusyPoll implements kernel.Calls.
func (t *Twin) SetVringBusyPoll(i, microseconds int) error {
	return t.set("SetVringBusyPoll", i, microseconds, func(*ring) {})
}

// NewWorker implements kernel.Calls.
func (t *Twin) NewWorker() (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter("NewWorker"); err != nil {
		return 0, err
	}
	if t.NoWorkers {
		return 0, unix.ENOBUFS // what a kernel answers that takes the number for a ring's
	}
	return 1, nil
}

// AttachVringWorker implements kernel.Calls.
func (t *Twin) AttachVringWorker(i, id int) error {
	return t.set("AttachVringWorker", i, id, func(*ring) {})
}

// SetBackend implements kernel.Calls.
func (t *Twin) SetBackend(i, fd int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter("SetBackend", i, fd); err != nil {
		return err
	}
	if i < 0 || i > 1 {
		return unix.ENOBUFS
	}
	if t.stop(i); fd < 0 {
		return nil
	}
	return t.start(i)
}

// Close implements kernel.Calls.
func (t *Twin) Close() error {
	t.mu.Lock()
	err := t.enter("Close")
	for i := range t.rings {
		t.stop(i)
	}
	t.closed = true
	t.mu.Unlock()
	t.serving.Wait()
	return err
}
