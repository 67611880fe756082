package virtiobench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

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
	queues    int                // pairs, all in use, that both ends go round; 0: 1
	ring      int                // descriptors; 0: 256
	frame     int                // bytes
	copyBreak int                // as in DriverConfig
	headroom  int
	general   bool // buffers from the general allocator
	hook      func(b *bed) packet.Hook
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
	busy   float64 // share of its time that the generator's thread had the processor

	_      apart         // what follows is the sink's
	count  atomic.Uint64 // frames at the sink
	kept   uint64        // ... that are not in count yet
	wrong  uint64        // frames out of sequence, or with other bytes
	next   uint64        // the number that the sink waits for
	slow   uint64        // slow allocations of the pools by the time that the sink was warm
	allocs uint64        // objects that the whole process has put on the heap while it was measured
	copied time.Duration // what the sink has spent on copying
	sinkOn time.Duration // how long the sink has run
	_      apart
}

// apart keeps what generator and sink write out of each other's cache lines, and of those that the processor fetches beside them.
type apart [128]byte

// newBed makes a datapath.
func newBed(s setup) (b *bed, err error) {
	b = &bed{}
	queues := max(1, s.queues)
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
		c.Hook = func(int) packet.Hook { return s.hook(b) }
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
		began, cpu := time.Now(), threadTime()
		errs[0] = loop(&b.stop, generator)
		b.busy = float64(threadTime()-cpu) / float64(time.Since(began))
	})
	all.Go(func() {
		if errs[1] = pin(cpus[1]); errs[1] != nil {
			return
		}
		began := time.Now()
		errs[1] = loop(&b.stop, sink)
		b.sinkOn = time.Since(began)
	})
	perSecond = b.watch(ctx, d)
	all.Wait()
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
		if b.count.Load() > 0 || time.Now().After(deadline) || b.stop.Load() || ctx.Err() != nil {
			break
		}
	}
	var m [2]runtime.MemStats
	runtime.ReadMemStats(&m[0])
	from, began := b.count.Load(), time.Now()
	wait(d)
	for deadline := began.Add(d + patience); b.count.Load() == from && time.Now().Before(deadline) && !b.stop.Load() && ctx.Err() == nil; {
		wait(d)
	}
	to, took := b.count.Load(), time.Since(began)
	runtime.ReadMemStats(&m[1])
	b.allocs = m[1].Mallocs - m[0].Mallocs
	b.stop.Store(true)
	return float64(to-from) / took.Seconds()
}

// sample is what the run of a bed is worth.
func (b *bed) sample(perSecond float64, frame int) Sample {
	s := Sample{Value: perSecond / 1e6, Extra: map[string]float64{"gbit_s": perSecond * float64(frame) * 8 / 1e9, "generator": b.busy}}
	s.Extra["wrong"], s.Extra["heap_allocations"] = float64(b.wrong), float64(b.allocs)
	if b.copied > 0 {
		s.Extra["copy_of_cpu"] = float64(b.copied) / float64(b.sinkOn)
	}
	switch {
	case b.wrong > 0:
		s.Note = fmt.Sprintf("%d frames were out of sequence or had other bytes", b.wrong)
	case b.busy < 0.97:
		s.Note = fmt.Sprintf("the generator had its processor for %.0f %% of the time", 100*b.busy)
	}
	return s
}
