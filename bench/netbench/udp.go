package netbench

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	loadgen "github.com/vasta-net/vasta/bench/internal/load"
	"github.com/vasta-net/vasta/bench/internal/procfs"
)

const (
	// largeCount is how many of the largest datagrams are sent, and answered.
	largeCount = 200
	largeLimit = time.Minute
	// searchLimit is how long a search for a rate may take.
	searchLimit = 2 * time.Minute
	// probesPerLoad is how many times shorter than other loads a probe of a search is.
	probesPerLoad = 4
)

// Values beside those of the loads of datagrams.
const (
	extraOffered   = "offered per s"                // by a sender that is not paced
	extraFlooded   = "received per s under a flood" // of that sender's
	extraUncounted = "lost without a reason"        // datagrams that nobody has counted as dropped
)

// datagramLoads are streams of datagrams of some kinds.
var datagramLoads = []struct {
	name, title string
	stream      loadgen.Stream
	down        bool
	bar         float64 // how many times as many as pasta
}{
	{"udp-64-up", "UDP 64 B, ns→host", loadgen.Stream{Size: 64}, false, 1.2},
	{"udp-1472-up", "UDP 1472 B, ns→host", loadgen.Stream{Size: 1472}, false, 2},
	{"udp-1472-down", "UDP 1472 B, host→ns", loadgen.Stream{Size: 1472}, true, 2},
	{"udp-gso-up", "UDP 1200 B, 1 flow, 40 at a time (UDP_SEGMENT), ns→host", loadgen.Stream{Size: 1200, Segments: true}, false, 4},
}

const udpFlood, udpLarge = "udp-64-flood", "udp-65507"

// udpLoads are what a network carries as datagrams, and what it does not.
func udpLoads() []load {
	var all []load
	for _, d := range datagramLoads {
		all = append(all, load{
			name: d.name, title: d.title + ", highest rate with ≤ 0.1 % loss", unit: "datagrams/s",
			phase: phaseDatagrams, when: whenFull, who: pastasAndVeth, inSession: highestRate(d.stream, d.down),
		})
	}
	return append(all,
		load{
			name: udpFlood, title: "UDP 64 B, ns→host, received under a flood", unit: "datagrams/s",
			phase: phaseDatagrams, when: whenFull, who: pastasAndVeth, inSession: flooded,
		},
		load{
			name: udpLarge, title: fmt.Sprintf("UDP 65,507 B, request and response, right ones of %d", largeCount), unit: "answers",
			phase: phaseDatagrams, when: whenFull, who: pastasAndVeth, inSession: largest,
		},
	)
}

func udpBars() barList {
	var b barList
	for _, d := range datagramLoads {
		pasta := of(anyPasta, statMedian, d.name)
		b.add(d.title+", highest rate with ≤ 0.1 % loss", atLeast(d.bar, "x pasta", of(vastaName, statMedian, d.name), &pasta), nil)
	}
	pasta := of(anyPasta, statMedian, udpFlood)
	b.add("UDP 64 B, ns→host, received under a flood", atLeast(1, "x pasta", of(vastaName, statMedian, udpFlood), &pasta), nil)
	b.add("UDP 64 B, ns→host, under a flood, lost without a reason", atMost(0, "datagrams", of(vastaName, statWorst, udpFlood).with(extraUncounted), nil), nil)
	b.add("UDP 65,507 B, request and response", atLeast(largeCount, "right answers", of(vastaName, statWorst, udpLarge), nil), nil)
	rr := of(anyPasta, statMedian, "udp-rr")
	b.add("UDP_RR p50", atMost(1, "x pasta", of(vastaName, statMedian, "udp-rr"), &rr), nil)
	return b
}

// highestRate searches for the highest rate of a stream that is carried.
func highestRate(stream loadgen.Stream, down bool) func(context.Context, *rig, *session) (Sample, error) {
	return func(ctx context.Context, r *rig, x *session) (Sample, error) {
		stream.Duration = r.opts.Duration / probesPerLoad
		resp, drops, err := x.counted(ctx, agent.Request{Op: agent.RateOf, Datagrams: stream, Download: down}, searchLimit)
		if err != nil {
			return Sample{}, err
		}
		f := resp.Found
		l := losses{vasta: drops}
		for _, p := range f.Probes {
			l.add(p)
		}
		s := Sample{
			Value: f.Best.Offered(),
			Extra: map[string]float64{extraOffered: f.Flood.Offered(), extraFlooded: f.Flood.Received()},
			Note:  fmt.Sprintf("in %d probes %v", len(f.Probes), l),
		}
		if len(f.Probes) > 0 && !slices.ContainsFunc(f.Probes, func(p loadgen.Probe) bool { return !p.Carried() }) {
			s.Note = "all that the sender can offer was carried; " + s.Note
		}
		return s, nil
	}
}

// flooded sends as many datagrams as the sender can.
func flooded(ctx context.Context, r *rig, x *session) (Sample, error) {
	stream := loadgen.Stream{Size: 64, Duration: r.opts.Duration}
	resp, drops, err := x.counted(ctx, agent.Request{Op: agent.Datagrams, Datagrams: stream}, r.opts.Duration+r.patience())
	if err != nil {
		return Sample{}, err
	}
	l := losses{vasta: drops}
	l.add(*resp.Probe)
	return Sample{
		Value: resp.Probe.Received(),
		Extra: map[string]float64{extraOffered: resp.Probe.Offered(), extraUncounted: float64(l.uncounted())},
		Note:  l.String(),
	}, nil
}

// largest has the largest datagrams that there are answered.
func largest(_ context.Context, r *rig, x *session) (Sample, error) {
	resp, err := x.call(agent.Request{Op: agent.Large, Count: largeCount}, largeLimit)
	if err != nil {
		return Sample{}, err
	}
	a := resp.Answered
	return Sample{
		Value: float64(a.Right),
		Extra: map[string]float64{extraLost: float64(a.Lost), extraWrong: float64(a.Wrong)},
		Note:  a.Example,
	}, nil
}

// counted is call, and tells what vasta counted as dropped meanwhile, by reason; nil for others.
func (x *session) counted(ctx context.Context, req agent.Request, d time.Duration) (agent.Response, map[string]int64, error) {
	if x.counters == "" {
		resp, err := x.call(req, d)
		return resp, nil, err
	}
	before, err := x.readCounters(ctx)
	if err != nil {
		return agent.Response{}, nil, err
	}
	resp, err := x.call(req, d)
	if err != nil {
		return agent.Response{}, nil, err
	}
	after, err := x.readCounters(ctx)
	if err != nil {
		return agent.Response{}, nil, err
	}
	drops := make(map[string]int64)
	for reason, n := range after.Drops {
		if n -= before.Drops[reason]; n > 0 {
			drops[reason] = n
		}
	}
	return resp, drops, nil
}

// losses are lost datagrams, and who has counted them.
type losses struct {
	sent, lost        int
	reordered, double int
	near, far         procfs.UDPDrops
	vasta             map[string]int64 // by reason
}

func (l *losses) add(p loadgen.Probe) {
	l.sent += p.Sent.Datagrams
	l.lost += p.Lost()
	l.reordered += p.Arrivals.OutOfOrder
	l.double += p.Arrivals.Duplicates
	l.near, l.far = l.near.Add(p.Near), l.far.Add(p.Far)
}

// uncounted is how many nobody has counted.
func (l *losses) uncounted() int64 {
	n := int64(l.lost) - l.near.Link - l.near.Socket - l.far.Link - l.far.Socket
	for _, dropped := range l.vasta {
		n -= dropped
	}
	return max(n, 0)
}

// String says how many were lost, and where.
func (l losses) String() string {
	parts := []string{fmt.Sprintf("%d of %d lost", l.lost, l.sent)}
	for _, p := range []struct {
		n    int64
		what string
	}{
		{l.near.Link, "by the namespace's link"}, {l.near.Socket, "by its sockets"},
		{l.far.Link, "by the host's links"}, {l.far.Socket, "by the host's sockets"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if len(l.vasta) > 0 {
		parts = append(parts, "by vasta "+reasons(l.vasta))
	}
	parts = append(parts, fmt.Sprintf("%d out of order, %d twice", l.reordered, l.double))
	return strings.Join(parts, ", ")
}

// reasons lists what was counted by reason: what vasta has dropped, what failed.
func reasons[N int | int64](drops map[string]N) string {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(drops)) {
		parts = append(parts, fmt.Sprintf("%d %s", drops[reason], reason))
	}
	return strings.Join(parts, ", ")
}
