package virtiobench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vasta-net/vasta/bench/internal/procfs"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	virtionet "github.com/vasta-net/vasta/virtio/net"
	"golang.org/x/sys/unix"
)

// base are the features of all runs, but for what a run is about. Notifications are suppressed: both ends poll.
const base = virtionet.Version1 | virtionet.Csum | virtionet.HostTSO4 | virtionet.HostTSO6

// burst is how many frames an end handles at once, as testpmd does.
const burst = 32

// setup is one datapath: a driver and a device, joined in this process.
type setup struct {
	features  virtionet.Features // beside base
	queues    int                // pairs, all in use; 0: 1. Several are dealt out to all processors, and both ends of each are on one
	ring      int                // descriptors; 0: 256
	frame     int                // bytes
	copyBreak int                // as in DriverConfig
	headroom  int
	general   bool // buffers from the general allocator
	hook      func(to *sink) packet.Hook
	copies    bool // the sink copies each frame
	bursts    int  // the generator delivers so many frames at once and drops what does not fit; 0: it repeats
}

// Sample is one measured round of one subject.
type Sample struct {
	Round int                `json:"round"` // from 1
	Value float64            `json:"value"` // in the row's unit
	Extra map[string]float64 `json:"extra,omitempty"`
	Note  string             `json:"note,omitempty"` // why the value cannot be trusted
}

// bed is a datapath that runs.
type bed struct {
	device *virtionet.Device
	driver *virtionet.Driver
	arena  *pagepool.Arena

	stop   atomic.Bool
	refuse uint64  // frames for which there were no buffers
	busy   float64 // share of the time that the generator's thread wanted its processor for which it had it

	allocs uint64 // objects that the whole process has put on the heap while it was measured
	sinks  []sink // one for each thread that receives
}

// sink is what a thread that receives has counted.
type sink struct {
	_      apart
	count  atomic.Uint64 // frames
	kept   uint64        // ... that are not in count yet
	wrong  uint64        // frames out of sequence, or with other bytes
	next   uint64        // the number that is to come
	slow   uint64        // slow allocations of the pools by the time that they were warm
	copied time.Duration // spent on copying
	on     time.Duration // how long it has run
	_      apart
}

// counted is how many frames have come.
func (b *bed) counted() (n uint64) {
	for i := range b.sinks {
		n += b.sinks[i].count.Load()
	}
	return n
}

// of is the sink of a pair.
func (b *bed) of(pair int) *sink { return &b.sinks[pair%len(b.sinks)] }

// apart keeps what generator and sink write out of each other's cache lines, and of those that the processor fetches beside them.
type apart [128]byte

// newBed makes a datapath.
func newBed(s setup) (b *bed, err error) {
	queues := max(1, s.queues)
	b = &bed{sinks: make([]sink, 1)}
	if queues > 1 {
		cpus, err := processors()
		if err != nil {
			return nil, err
		}
		b.sinks = make([]sink, min(queues, len(cpus)))
	}
	if b.device, err = virtionet.NewDevice(virtionet.DeviceConfig{Config: virtionet.Config{MTU: 1500, MaxPairs: uint16(queues)}}); err != nil {
		return nil, err
	}
	if b.arena, err = pagepool.NewArena(64 << 20); err != nil {
		return nil, err
	}
	c := virtionet.DriverConfig{
		Transport: b.device, Features: base | s.features, Pairs: queues, QueueSize: s.ring, Arena: b.arena, CopyBreak: s.copyBreak, Headroom: s.headroom,
	}
	if queues > 1 {
		c.Features |= virtionet.CtrlVQ | virtionet.MQ
	}
	if s.general {
		general := newGeneral(b.arena)
		c.Buffers = func(int) virtionet.Buffers { return general }
	}
	if s.hook != nil {
		c.Hook = func(pair int) packet.Hook { return s.hook(b.of(pair)) }
	}
	if b.driver, err = virtionet.NewDriver(c); err != nil || queues == 1 {
		return b, err
	}
	return b, b.driver.SetPairs(context.Background(), queues)
}

// close ends the datapath; nothing may be held any more.
func (b *bed) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(b.driver.Close(ctx))
}

// stamp writes every byte of a frame: its number, and what is to be found behind it.
func stamp(f []byte, number uint64) {
	le := binary.LittleEndian
	le.PutUint64(f, 0x0200_0000_0002_0002)
	le.PutUint64(f[8:], 0x0008_0045_0000_0200+number<<56)
	le.PutUint64(f[16:], number)
	i := 24
	for ; i+8 <= len(f); i += 8 {
		le.PutUint64(f[i:], number^uint64(i))
	}
	for ; i < len(f); i++ {
		f[i] = byte(number)
	}
}

// number reads a frame's number.
func number(f []byte) uint64 { return binary.LittleEndian.Uint64(f[16:]) }

// pin binds the calling goroutine to a thread of its own on one processor; the thread ends with the goroutine.
func pin(cpu int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("bind to processor %d: %w", cpu, err)
	}
	return nil
}

// processors are those that this process may use.
func processors() (list []int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			list = append(list, i)
		}
	}
	return list, nil
}

// threadTime is the processor time of the calling thread.
func threadTime() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// occupied calls f, and answers for which part of the time that the calling thread wanted its processor meanwhile it had it. A thread that waits for a lock wants none.
func occupied(f func() error) (share float64, err error) {
	before, err := procfs.ReadThreadScheduling()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := procfs.ReadThreadScheduling()
	return after.Since(before).Share(), err
}

// warmUp is how long a datapath runs before it is measured.
const warmUp = 150 * time.Millisecond

// run runs generator and sink, each on its own processor, and measures the frames per second at the sink.
func (b *bed) run(ctx context.Context, d time.Duration, generator, sink func() error) (perSecond float64, err error) {
	cpus, err := processors()
	if err != nil {
		return 0, err
	}
	if len(cpus) < 2 {
		return 0, errors.New("two processors are needed, one for each end")
	}
	var all sync.WaitGroup
	errs := make([]error, 2)
	all.Go(func() {
		if errs[0] = pin(cpus[0]); errs[0] != nil {
			return
		}
		b.busy, errs[0] = occupied(func() error { return loop(&b.stop, generator) })
	})
	all.Go(func() {
		if errs[1] = pin(cpus[1]); errs[1] != nil {
			return
		}
		began := time.Now()
		errs[1] = loop(&b.stop, sink)
		b.sinks[0].on = time.Since(began)
	})
	perSecond = b.watch(ctx, d)
	all.Wait()
	return perSecond, errors.Join(errs...)
}

// runBothEnds runs both ends of each pair on one processor, the pairs dealt out to all of them, and measures the frames per second at the sinks.
func (b *bed) runBothEnds(ctx context.Context, s setup, d time.Duration) (perSecond float64, err error) {
	cpus, err := processors()
	if err != nil {
		return 0, err
	}
	var all sync.WaitGroup
	errs, busy := make([]error, len(b.sinks)), make([]float64, len(b.sinks))
	for i := range b.sinks {
		all.Go(func() {
			if errs[i] = pin(cpus[i]); errs[i] != nil {
				return
			}
			var ends []func() error
			for pair := i; pair < s.queues; pair += len(b.sinks) {
				ends = append(ends, b.deliverer(s, pair), b.receiver(s, pair))
			}
			busy[i], errs[i] = occupied(func() error {
				return loop(&b.stop, func() error {
					for _, end := range ends {
						if err := end(); err != nil {
							return err
						}
					}
					return nil
				})
			})
		})
	}
	perSecond = b.watch(ctx, d)
	all.Wait()
	b.busy = slices.Min(busy)
	return perSecond, errors.Join(errs...)
}

// patience is how much longer a measurement may take until the first frame comes.
const patience = 5 * time.Second

// loop calls step until it is told to stop, or step fails.
func loop(stop *atomic.Bool, step func() error) error {
	for !stop.Load() {
		if err := step(); err != nil {
			stop.Store(true)
			return err
		}
	}
	return nil
}

// spareThreads sees to it that Go's scheduler has n threads that nothing runs on. It makes one when it finds none as it takes a P away from a thread, and allocates for that:
// what is measured would then be the scheduler's.
func spareThreads(n int) {
	var have, done sync.WaitGroup
	have.Add(n)
	for range n {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread() // or the thread would end with the goroutine
			have.Done()
			have.Wait()
		})
	}
	done.Wait()
}

// watch waits, and answers how many frames a second came in after the warm-up.
func (b *bed) watch(ctx context.Context, d time.Duration) float64 {
	timer := time.NewTimer(0) // one for all waits: to wait allocates nothing
	<-timer.C
	wait := func(d time.Duration) {
		timer.Reset(d)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	// Where others use the processors too, both ends may not have been awake at the same time yet.
	for deadline := time.Now().Add(patience); ; {
		wait(warmUp)
		if b.counted() > 0 || time.Now().After(deadline) || b.stop.Load() || ctx.Err() != nil {
			break
		}
	}
	spareThreads(2 * runtime.GOMAXPROCS(0))
	var m [2]runtime.MemStats
	runtime.ReadMemStats(&m[0])
	from, began := b.counted(), time.Now()
	wait(d)
	for deadline := began.Add(d + patience); b.counted() == from && time.Now().Before(deadline) && !b.stop.Load() && ctx.Err() == nil; {
		wait(d)
	}
	to, took := b.counted(), time.Since(began)
	runtime.ReadMemStats(&m[1])
	b.allocs = m[1].Mallocs - m[0].Mallocs
	b.stop.Store(true)
	return float64(to-from) / took.Seconds()
}

// sample is what the run of a bed is worth.
func (b *bed) sample(perSecond float64, frame int) Sample {
	s := Sample{Value: perSecond / 1e6, Extra: map[string]float64{"gbit_s": perSecond * float64(frame) * 8 / 1e9, "generator": b.busy}}
	wrong := uint64(0)
	for i := range b.sinks {
		wrong += b.sinks[i].wrong
	}
	s.Extra["wrong"], s.Extra["heap_allocations"] = float64(wrong), float64(b.allocs)
	if to := &b.sinks[0]; to.copied > 0 {
		s.Extra["copy_of_cpu"] = float64(to.copied) / float64(to.on)
	}
	switch {
	case wrong > 0:
		s.Note = fmt.Sprintf("%d frames were out of sequence or had other bytes", wrong)
	case b.busy < 0.97:
		s.Note = fmt.Sprintf("the generator had its processor for %.0f %% of the time", 100*b.busy)
	}
	return s
}
