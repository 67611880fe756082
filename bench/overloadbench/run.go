package overloadbench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"github.com/vasta-net/vasta/bench/pktgen"
)

// setup is what one measurement runs over.
type setup struct {
	producers int
	ring      int  // places
	drop      bool // a full ring loses, instead of stopping the producers
}

// bed is what frames pass through: producers at one end, a consumer at the other.
type bed interface {
	// out opens the end of producer i, for frames of size bytes. It is closed by who has opened it.
	out(i, size int) (pktgen.Port, error)
	in() (pktgen.Port, error)
	// counts are what the bed itself has counted so far.
	counts() (counts, error)
	close() error
}

// counts are the counters of a bed.
type counts struct {
	dropped uint64 // frames that it has lost
	wakes   uint64 // of stopped producers
	overdue uint64 // of those, by the watchdog
	calls   uint64 // system calls of the bed, beside those of its ports
}

// cell is a measurement: how much traffic over which bed.
type cell struct {
	setup
	open  func(s setup) (bed, error)
	size  int
	count uint64  // frames in all
	rate  float64 // that the consumer takes a second; 0: as many as come
	pace  float64 // that the producers make a second; 0: as many as go
	burst int
}

// Sample is what one cell came to.
type Sample struct {
	Mode        string  `json:"mode"` // free, drop, backpressure, or what the row says
	Transmitted uint64  `json:"transmitted"`
	Delivered   uint64  `json:"delivered"`
	Lost        uint64  `json:"lost"`
	Counted     uint64  `json:"counted"` // of those lost, by whoever has lost them
	Wrong       uint64  `json:"wrong"`   // reordered, duplicated or damaged
	Seconds     float64 `json:"seconds"`
	PerSecond   float64 `json:"per_second"` // delivered
	LostSecond  float64 `json:"lost_per_second"`
	Generator   float64 `json:"generator"` // share of a processor that each producer has used
	Switches    float64 `json:"switches"`  // context switches for each million of frames delivered, both sides
	Calls       float64 `json:"calls"`     // system calls to move frames and to wait for them, for each frame delivered; Go's own, to have threads sleep and wake, are not among them
	Wakes       float64 `json:"wakes"`     // of producers, for each frame delivered
	Overdue     uint64  `json:"overdue"`   // wake-ups by the watchdog
	P50         int64   `json:"p50_ns"`
	P99         int64   `json:"p99_ns"`
	Note        string  `json:"note,omitempty"`
}

// addresses are those of RFC 2544.
var addresses = pktgen.Addresses{
	SrcMAC: [6]byte{2, 'v', 'a', 's', 't', 'a'}, DstMAC: [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	Src: netip.MustParseAddr("198.18.0.1"), Dst: netip.MustParseAddr("198.18.0.42"), Port: 9,
}

// quiet is for how long nothing comes before the sink believes that nothing will.
const quiet = 100 * time.Millisecond

// measure runs a cell.
func (c cell) measure(ctx context.Context, mode string) (s Sample, err error) {
	b, err := c.open(c.setup)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var ports []pktgen.Port
	defer func() {
		for _, p := range ports {
			err = errors.Join(err, p.Close())
		}
	}()
	for i := range c.producers {
		p, err := b.out(i, c.size)
		if err != nil {
			return s, err
		}
		ports = append(ports, p)
	}
	in, err := b.in()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()

	before, err := b.counts()
	if err != nil {
		return s, err
	}
	l := pktgen.NewLedger()
	sinkCtx, end := context.WithCancel(ctx)
	defer end()
	type outcome struct {
		used pktgen.Sunk
		err  error
	}
	sunk := make(chan outcome, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		used, err := pktgen.Sink{Rate: c.rate, Quiet: quiet}.Run(sinkCtx, in, l, nil)
		if err != nil {
			end() // nobody would wake the producers
		}
		sunk <- outcome{used, err}
	}()
	t := pktgen.Traffic{Addresses: addresses, Size: c.size, Burst: max(c.burst, 1), Flows: c.producers, Rate: c.pace, Count: c.count, Drop: c.drop}
	if c.burst == 0 {
		t.Burst = 64
	}
	sent, err := pktgen.Generate(sinkCtx, ports, t, nil)
	end()
	o := <-sunk
	if err = errors.Join(err, o.err, ctx.Err()); err != nil {
		return s, err
	}
	after, err := b.counts()
	if err != nil {
		return s, err
	}
	r := pktgen.Receive(l, &sent)
	s = Sample{
		Mode: mode, Transmitted: sent.Frames + sent.Refused, Delivered: l.Distinct(), Lost: r.Lost + sent.Refused, Wrong: r.Reordered + r.Duplicated + r.Damaged,
		Counted: after.dropped - before.dropped, Overdue: after.overdue, P50: r.Latency.P50, P99: r.Latency.P99,
	}
	s.Seconds = max(sent.Elapsed, o.used.Elapsed).Seconds()
	if s.Delivered == 0 || s.Seconds == 0 {
		return s, fmt.Errorf("nothing was delivered of %d frames", s.Transmitted)
	}
	s.PerSecond = float64(s.Delivered) / o.used.Elapsed.Seconds()
	s.LostSecond = float64(s.Lost) / s.Seconds
	s.Generator = sent.Busy.Seconds() / sent.Elapsed.Seconds() / float64(c.producers)
	s.Switches = float64(sent.Switches+o.used.Switches) / float64(s.Delivered) * 1e6
	s.Calls = float64(sent.Calls+o.used.Calls+after.calls-before.calls) / float64(s.Delivered)
	s.Wakes = float64(after.wakes-before.wakes) / float64(s.Delivered)
	return s, nil
}
