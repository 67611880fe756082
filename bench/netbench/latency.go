package netbench

import (
	"context"
	"errors"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/bench/internal/iperf"
)

const (
	// pingTime gives 2,000 echo requests.
	pingTime = 4 * time.Second
	// bulkStreams are the streams beside a ping.
	bulkStreams = 8
	// bulkLonger is how much longer than a ping the streams beside it last.
	bulkLonger = 3 * time.Second
)

// latencyLoads ping while others use the way for bulk.
func latencyLoads() []load {
	var all []load
	for i, d := range directions {
		all = append(all, load{
			name:  "latency-" + d.name,
			title: "ping beside 8 bulk streams, MTU 65520, " + d.title + ", p99",
			unit:  "µs", lowerIsBetter: true, phase: [...]phase{phaseLatencyUp, phaseLatencyDown}[i], when: whenFull, who: pastasAndVeth,
			inSession: pingBesideBulk(d.down),
		})
	}
	return all
}

func latencyBars() barList {
	var b barList
	for _, d := range directions {
		name := "latency-" + d.name
		vasta, veth, pasta := of(vastaName, statMedian, name), of(vethName, statMedian, name), of(anyPasta, statMedian, name)
		row := "ping beside 8 bulk streams " + d.title + ", p99"
		b.add(row, atMost(2, "x veth", vasta, &veth), nil)
		b.add(row, atMost(0.5, "x pasta", vasta, &pasta), nil)
		b.add("frame residence inside vasta beside it, p99, "+d.title, atMost(1, "ms", of(vastaName, statWorst, name).with(extraResidence), nil), nil)
	}
	return b
}

// pingBesideBulk pings what the streams are connected to: behind a tool that is the host's loopback, by the gateway's
// address.
func pingBesideBulk(down bool) func(context.Context, *rig, *session) (Sample, error) {
	return func(ctx context.Context, r *rig, x *session) (Sample, error) {
		d := pingTime
		if r.opts.Quick {
			d = r.opts.Duration
		}
		test := iperf.Test{Streams: bulkStreams, Reverse: down, Duration: d + bulkLonger}
		before, err := x.scheduling()
		if err != nil {
			return Sample{}, err
		}
		resp, report, err := r.withIperf(ctx, x, test, agent.Request{Op: agent.Ping, Duration: d}, d+bulkLonger+r.patience())
		if err != nil {
			return Sample{}, err
		}
		const µs = float64(time.Microsecond)
		l := resp.Latency
		s := Sample{
			Value: float64(l.P99) / µs,
			Extra: map[string]float64{extraP50: float64(l.P50) / µs, extraLost: float64(l.Lost), extraGbit: report.BitsPerSecond / 1e9},
		}
		after, err := x.scheduling()
		if err != nil {
			return Sample{}, err
		}
		if ran, waited := after.Ran-before.Ran, after.Waited-before.Waited; ran > 0 {
			s.Extra[extraStarved] = 100 * float64(waited) / float64(ran+waited)
		}
		if x.counters == "" {
			return s, nil
		}
		c, err := x.readCounters(ctx)
		if err != nil {
			return Sample{}, err
		}
		// The session is a fresh one of this load, so that what it counted is the load's.
		if c.Residence == nil {
			s.Note = errNoResidence.Error()
		} else {
			s.Extra[extraResidence] = float64(max(c.Residence.FromGuest.P99, c.Residence.ToGuest.P99)) / float64(time.Millisecond)
		}
		return s, nil
	}
}

var errNoResidence = errors.New("this vasta does not measure how long frames stay inside")
