package overloadbench

import (
	"context"
	"fmt"

	"github.com/vasta-net/vasta/bench/internal/command"
)

// Sizes of the rows.
const (
	ringSize  = 512
	frameSize = 64
	// sizedQueue is the queue of a TAP that vasta makes, kernelQueue what the kernel would give it.
	sizedQueue, kernelQueue = 32767, 1000
	burstFrames             = 4000
)

// queues are what bursts go through.
var queues = []struct {
	mode   string
	places int // 0: those that vasta gives a TAP
}{{"sized queue", 0}, {"kernel's queue", kernelQueue}}

// row is one line of the table: a subject under a load.
type row struct {
	name, title string
	run         func(ctx context.Context, o *Options) ([]Sample, error)
}

// rows are all of them.
func rows() (list command.Rows[row]) {
	subjects := []struct {
		name, title string
		open        func(setup) (bed, error)
		ring        int
		keeps       bool // it has both modes
	}{
		{"ring", "ring.Bounded, " + fmt.Sprint(ringSize) + " places", newRingBed, ringSize, true},
		{"link", "link/mem, a ring of " + fmt.Sprint(ringSize), newMemBed, ringSize, true},
		{"tap", "packet socket → TAP, queue of " + fmt.Sprint(kernelQueue), newTAPBed, kernelQueue, false},
	}
	for _, s := range subjects {
		for _, producers := range []int{1, 4, 8} {
			list = append(list, row{fmt.Sprintf("%s-%d", s.name, producers), fmt.Sprintf("%s, %d producers, consumer at a quarter", s.title, producers),
				func(ctx context.Context, o *Options) ([]Sample, error) {
					return throttled(ctx, cell{setup: setup{producers: producers, ring: s.ring}, open: s.open, size: frameSize, count: o.Count}, s.keeps)
				}})
		}
	}
	return append(list, row{"bursts", fmt.Sprintf("bursts of %d → TAP, mean rate half of what is served", burstFrames),
		func(ctx context.Context, o *Options) ([]Sample, error) { return bursts(ctx, o.Count) }},
		row{"vasta", fmt.Sprintf("bursts of %d → TAP → vasta → socket, mean rate half of what is served", burstFrames),
			func(ctx context.Context, o *Options) ([]Sample, error) { return throughVasta(ctx, o.Vasta, o.Count) }})
}

// throttled measures how fast the producers are alone, and then what becomes of it when the consumer takes a quarter of that: in both modes, where the subject has them.
func throttled(ctx context.Context, c cell, both bool) (all []Sample, err error) {
	free := c
	free.count = max(c.count/4, 1)
	s, err := free.measure(ctx, "free")
	if err != nil {
		return nil, err
	}
	all = append(all, s)
	c.rate = float64(s.Transmitted) / s.Seconds / 4
	c.drop = true
	if s, err = c.measure(ctx, "drop"); err != nil {
		return nil, err
	}
	if all = append(all, s); !both {
		return all, nil
	}
	c.drop = false
	s, err = c.measure(ctx, "backpressure")
	return append(all, s), err
}

// bursts sends bursts at full speed, at a mean rate of half of what the consumer takes, through the queue that vasta sizes and through the kernel's.
func bursts(ctx context.Context, count uint64) (all []Sample, err error) {
	c := cell{setup: setup{producers: 1, ring: sizedQueue, drop: true}, open: newTAPBed, size: frameSize, count: count / 4}
	free, err := c.measure(ctx, "free")
	if err != nil {
		return nil, err
	}
	c.count, c.burst = max(count/4, 4*burstFrames), burstFrames
	c.rate = free.PerSecond / 2
	c.pace = c.rate / 2
	for _, q := range queues {
		if c.ring = q.places; c.ring == 0 {
			c.ring = sizedQueue
		}
		s, err := c.measure(ctx, q.mode)
		if err != nil {
			return all, err
		}
		all = append(all, s)
	}
	return all, nil
}
