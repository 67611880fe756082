package netbench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/bench/internal/iperf"
	"github.com/vasta-net/vasta/bench/internal/procfs"
)

// workerQueues are the numbers of queues, and with them of workers, that are compared with each other.
var workerQueues = []int{1, 2, 16}

// queuesName names the vasta with so many queues among the subjects.
func queuesName(queues int) string { return fmt.Sprintf("vasta-%dq", queues) }

// withQueues accepts the vastas with these numbers of queues.
func withQueues(queues ...int) func(*subject) bool {
	return func(s *subject) bool {
		return slices.ContainsFunc(queues, func(q int) bool { return s.Name == queuesName(q) })
	}
}

// directions are the two ways that bytes go.
var directions = []struct {
	name, title string
	down        bool // host to namespace
}{{"up", "ns→host", false}, {"down", "host→ns", true}}

// workerLoads compare numbers of workers.
func workerLoads() []load {
	var all []load
	for _, group := range []struct {
		streams int
		who     func(*subject) bool
	}{{8, withQueues(1, 2)}, {64, withQueues(2, 16)}} {
		for _, d := range directions {
			all = append(all, load{
				name:  fmt.Sprintf("workers-%d-%s", group.streams, d.name),
				title: fmt.Sprintf("TCP %d streams, MTU 65520, %s, by workers", group.streams, d.title),
				unit:  "Gbit/s", phase: phaseWorkers, when: whenFull, who: group.who,
				inSession: workersThroughput(group.streams, d.down),
			})
		}
	}
	return all
}

func workerBars() barList {
	var b barList
	for _, d := range directions {
		eight, many := "workers-8-"+d.name, "workers-64-"+d.name
		two, one := of(queuesName(2), statMedian, eight), of(queuesName(1), statMedian, eight)
		b.add("2 workers, 8 streams, "+d.title, atLeast(1, "x 1 worker", two, &one), nil)
		twoCPU, oneCPU := two.with(extraCPU), one.with(extraCPU)
		b.add("2 workers, 8 streams, "+d.title+", CPU seconds per GiB", atMost(1.1, "x 1 worker", twoCPU, &oneCPU), nil)
		b.add("2 workers, 8 streams, "+d.title+", out of order within a flow",
			atMost(0, "segments", of(queuesName(2), statWorst, eight).with(extraReordered), nil), nil)
		few := of(queuesName(2), statMedian, many)
		b.add("16 workers, 64 streams, "+d.title, atLeast(0.8, "x 2 workers", of(queuesName(16), statMedian, many), &few), nil)
	}
	return b
}

// workersThroughput is throughput with the processor time of the whole machine, and what arrived out of order. The receiver of
// what a namespace sends is vasta, that of what the host sends is the namespace's kernel.
func workersThroughput(streams int, down bool) func(context.Context, *rig, *session) (Sample, error) {
	return func(ctx context.Context, r *rig, x *session) (Sample, error) {
		before, err := x.outOfOrder(ctx, down)
		if err != nil {
			return Sample{}, err
		}
		busy, err := procfs.BusyTime()
		if err != nil {
			return Sample{}, err
		}
		test := iperf.Test{Streams: streams, Reverse: down, Duration: r.opts.Duration}
		report, err := r.runIperf(ctx, x, test, r.opts.Duration+r.patience())
		if err != nil {
			return Sample{}, err
		}
		busyAfter, err := procfs.BusyTime()
		if err != nil {
			return Sample{}, err
		}
		after, err := x.outOfOrder(ctx, down)
		if err != nil {
			return Sample{}, err
		}
		return Sample{
			Value: report.BitsPerSecond / 1e9,
			Extra: map[string]float64{
				extraRetransmits: float64(report.Retransmits),
				extraReordered:   float64(after - before),
				extraCPU:         (busyAfter - busy).Seconds() / (float64(report.Bytes) / gib),
			},
		}, nil
	}
}

// outOfOrder tells how many segments the receiver of one direction got out of order so far.
func (x *session) outOfOrder(ctx context.Context, down bool) (int64, error) {
	if !down {
		c, err := x.readCounters(ctx)
		return c.TCP.OutOfOrder, err
	}
	resp, err := x.call(agent.Request{Op: agent.TCP}, time.Second)
	if err != nil {
		return 0, err
	}
	return resp.TCP.OutOfOrder, nil
}
