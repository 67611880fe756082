package virtiobench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/mem"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// producerFrame is what each producer sends: 64 bytes with its own number, and that of the frame.
const producerFrame = 64

// producerRow is one queue that several producers send into.
func producerRow() row {
	r := row{name: "producers", table: tableQueues, title: "64 B, threads that send at the guest's end of one link/mem, on one processor, to an event loop on the other", unit: "Mpps"}
	for _, n := range []int{1, 4, 8} {
		name := fmt.Sprintf("%d producers", n)
		if n == 1 {
			name = "1 producer"
		}
		r.subjects = append(r.subjects, subject{name, func(ctx context.Context, d time.Duration) (Sample, error) { return producers(ctx, n, d) }})
	}
	return r
}

// producers measures how many frames a second come out of a link that n threads send into.
func producers(ctx context.Context, n int, d time.Duration) (Sample, error) {
	cpus, err := processors()
	if err != nil {
		return Sample{}, err
	}
	if len(cpus) < 2 {
		return Sample{}, errors.New("two processors are needed, one for the producers")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n + 3)) // each producer has a thread of its own
	network, guest, err := mem.New(mem.Config{})
	if err != nil {
		return Sample{}, err
	}
	b := &bed{sinks: make([]sink, 1)}
	var all sync.WaitGroup
	errs, busy := make([]error, n+1), make([]float64, n)
	var full atomic.Uint64
	for i := range n {
		all.Go(func() {
			if errs[i] = pin(cpus[0]); errs[i] != nil {
				return
			}
			began, cpu := time.Now(), threadTime()
			produce(b, guest, uint8(i), &full)
			busy[i] = float64(threadTime()-cpu) / float64(time.Since(began))
		})
	}
	all.Go(func() {
		if errs[n] = pin(cpus[1]); errs[n] == nil {
			errs[n] = consume(b, network)
		}
		b.stop.Store(true)
	})
	perSecond := b.watch(ctx, d)
	all.Wait()
	if err := errors.Join(errors.Join(errs...), guest.Close(), network.Close(), moved(perSecond)); err != nil {
		return Sample{}, err
	}
	for _, x := range busy {
		b.busy += x
	}
	s := b.sample(perSecond, producerFrame)
	s.Extra["full_of_sent"] = float64(full.Load()) / float64(max(b.of(0).kept, 1))
	return s, nil
}

// produce sends numbered frames until it is told to stop.
func produce(b *bed, guest *mem.Guest, id uint8, full *atomic.Uint64) {
	frame := make([]byte, producerFrame)
	out := link.Out{Payload: [][]byte{frame}}
	waits := uint64(0)
	for n := uint64(0); !b.stop.Load(); n++ {
		stamp(frame, n)
		frame[packet.EtherLen] = id
		for !guest.Send(&out) {
			if waits++; b.stop.Load() {
				break
			}
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // the others are on this processor too
		}
	}
	full.Add(waits)
}

// consume receives as an event loop does, and looks at the number of each frame.
func consume(b *bed, network link.Queue) error {
	var next [256]uint64
	var frames [link.MaxBatch]packet.Frame
	to := b.of(0)
	fds := []unix.PollFd{{Fd: int32(network.Fd()), Events: unix.POLLIN}}
	for !b.stop.Load() {
		n, err := network.Receive(frames[:])
		if err != nil {
			return err
		}
		for i := range frames[:n] {
			f := frames[i].Bufs[0]
			id := f[packet.EtherLen]
			if seq := number(f); seq != next[id] {
				to.wrong++
				next[id] = seq
			}
			next[id]++
		}
		to.kept += uint64(n)
		to.count.Store(to.kept)
		if n < len(frames) {
			_, _ = unix.Poll(fds, 10) // in milliseconds, to hear that it is time to stop
		}
	}
	return nil
}
