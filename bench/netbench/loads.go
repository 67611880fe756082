package netbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/bench/internal/iperf"
	"github.com/vasta-net/vasta/bench/internal/procfs"
	"github.com/vasta-net/vasta/bench/internal/rounds"
	"github.com/vasta-net/vasta/internal/lab"
)

const (
	gib = 1 << 30
	mib = 1 << 20
	kib = 1 << 10

	smallMTU = 1500

	// settleAfterLoad is how long after a load its memory is looked at.
	settleAfterLoad = 10 * time.Second
	// settleBeforeMemory lets a start-up or a burst of connections end before
	// the memory is looked at.
	settleBeforeMemory = time.Second
	// crowdSize is the number of idle connections: client, server and tool need
	// a descriptor for each, and their limit is 20,000.
	crowdSize = 10_000
	// crowdLimit is how long they may take to be opened.
	crowdLimit = 30 * time.Second
)

// phase says in which part of a round a load runs. Sessions with MTU 65520 stay
// open from phaseLarge to phaseAfter, so that waiting after the load costs no time.
type phase int

const (
	phaseLarge       phase = iota // sessions of MTU 65520
	phaseSmall                    // sessions of MTU 1500
	phaseAfter                    // the sessions of phaseLarge again
	phaseCrowd                    // fresh sessions of MTU 65520
	phaseStartup                  // no session, or one of the load's own
	phaseWorkers                  // fresh sessions of MTU 65520, and so the others
	phaseLatencyUp                // the counters of a session are those of one load
	phaseLatencyDown              // and of one direction
	phaseFlows
	phaseChurn
	phaseDatagrams
	phaseSoak
	phaseVHost
	phaseNetem // each load opens a session of its own
)

// occasion says in which runs a load is measured, when it is not asked for by name.
type occasion int

const (
	whenever       occasion = iota
	whenFull                // not with --quick
	whenNetem               // with --lab, or with --here
	whenNamed               // never
	whenNetemNamed          // never, and when named, with --lab or --here only
	whenLabNamed            // the same, for what needs something else of the guest machine than netem
)

// load is one thing to do to every subject.
type load struct {
	name, title, unit string
	lowerIsBetter     bool
	phase             phase
	when              occasion
	cell              cell // of a netem
	index             int  // of the cell, among those of one netem
	once              bool // in the first round only
	// table is the heading under which the load is a row, "" for a table of its own.
	table string
	// who takes part; quickly is the same for --quick, which leaves out what no bar asks for. Without it, who takes part.
	who, quickly func(*subject) bool
	// exactly one of these is set.
	inSession func(context.Context, *rig, *session) (Sample, error)
	alone     func(context.Context, *rig, *subject) (Sample, error)
}

// Predicates for load.who. Variants of vasta, the routed veth and the loopback take part where they are named.
func everybody(s *subject) bool {
	return s.Class != ClassVariant && s.Name != routedName && s.Name != loopbackName
}
func toolsOnly(s *subject) bool      { return everybody(s) && s.Class != ClassYardstick }
func notSplice(s *subject) bool      { return everybody(s) && s.Name != spliceName }
func pastasAndVeth(s *subject) bool  { return s.PastaLike || s.Name == vethName }
func commandRunners(s *subject) bool { return everybody(s) && s.tool != nil }
func vastaOnly(s *subject) bool      { return s.Class == ClassVasta }

// loads are all that are known, in the order of the report.
var loads = slices.Concat(streamLoads(), workerLoads(), latencyLoads(), crowdLoads(), udpLoads(), dnsLoads(), policyLoads(), overloadLoads(), netemLoads(), soakLoads(), vhostLoads())

// streamLoads are those of issue A.
func streamLoads() []load {
	var all []load
	all = append(all, load{
		name: "mem-idle", title: "memory of the tool, idle, before load", unit: "MiB", lowerIsBetter: true,
		phase: phaseLarge, who: toolsOnly, quickly: vastaOnly, inSession: memoryBefore,
	})
	for _, mtu := range []struct {
		size  int
		phase phase
	}{{lab.MTU, phaseLarge}, {smallMTU, phaseSmall}} {
		for _, streams := range []int{1, 8} {
			for _, dir := range []struct {
				name, title string
				reverse     bool
			}{{"up", "ns→host", false}, {"down", "host→ns", true}} {
				plural := ""
				quickly := toolsOnly
				if streams > 1 {
					plural = "s"
				} else if mtu.size == lab.MTU {
					quickly = everybody
				}
				all = append(all, load{
					name:  fmt.Sprintf("tcp-%d-%d-%s", streams, mtu.size, dir.name),
					title: fmt.Sprintf("TCP %d stream%s, MTU %d, %s", streams, plural, mtu.size, dir.title),
					unit:  "Gbit/s", phase: mtu.phase, who: everybody, quickly: quickly,
					inSession: throughput(streams, dir.reverse),
				})
			}
		}
	}
	return append(all,
		load{
			name: "tcp-rr", title: "TCP request/response (TCP_RR), p50", unit: "µs", lowerIsBetter: true,
			phase: phaseLarge, who: notSplice, quickly: pastasAndVeth, inSession: exchange(agent.RR),
		},
		load{
			name: "udp-rr", title: "UDP request/response (UDP_RR), p50", unit: "µs", lowerIsBetter: true,
			phase: phaseLarge, who: notSplice, quickly: pastasAndVeth, inSession: exchange(agent.UDPRR),
		},
		load{
			name: "tcp-crr", title: "TCP connect/request/response (TCP_CRR)", unit: "per s",
			phase: phaseLarge, who: notSplice, quickly: pastasAndVeth, inSession: exchange(agent.CRR),
		},
		load{
			name: "cpu-up", title: "CPU seconds per GiB, whole machine, 1 stream, MTU 65520, ns→host", unit: "s/GiB", lowerIsBetter: true,
			phase: phaseLarge, who: everybody, quickly: notSplice, inSession: cpuPerGiB(false),
		},
		load{
			name: "cpu-down", title: "CPU seconds per GiB, whole machine, 1 stream, MTU 65520, host→ns", unit: "s/GiB", lowerIsBetter: true,
			phase: phaseLarge, who: everybody, quickly: notSplice, inSession: cpuPerGiB(true),
		},
		load{
			name: "mem-after", title: "memory of the tool, idle, 10 s after load", unit: "MiB", lowerIsBetter: true,
			phase: phaseAfter, who: toolsOnly, quickly: vastaOnly, inSession: memoryAfter,
		},
		load{
			name: "mem-conn", title: "memory of the tool per open idle connection, 10,000 connections", unit: "KiB", lowerIsBetter: true,
			phase: phaseCrowd, who: toolsOnly, quickly: vastaOnly, inSession: memoryPerConnection,
		},
		load{
			name: "startup", title: "start-up: TOOL -- true", unit: "ms", lowerIsBetter: true,
			phase: phaseStartup, who: commandRunners, quickly: commandRunners, alone: startup,
		},
	)
}

// result is where its measurements go.
func (l *load) result() LoadResult {
	return LoadResult{Name: l.name, Title: l.title, Table: l.table, Unit: l.unit, LowerIsBetter: l.lowerIsBetter}
}

// takesPart says whether the subject is measured under the load.
func (l *load) takesPart(s *subject, quick bool) bool {
	if quick && l.quickly != nil {
		return l.quickly(s)
	}
	return l.who(s)
}

// selectLoads returns the loads that o asks for: those whose names begin with one of --only or, without it, all that are usual.
func selectLoads(o Options) []load {
	var selected []load
	for _, l := range loads {
		named := slices.ContainsFunc(o.Only, func(p string) bool { return p != "" && strings.HasPrefix(l.name, p) })
		usual := l.when == whenever || l.when == whenFull && !o.Quick || l.when == whenNetem
		possible := !l.needsNetem() || o.Here && l.index < o.Cells
		if possible && (named || len(o.Only) == 0 && usual) {
			selected = append(selected, l)
		}
	}
	return selected
}

func (l *load) needsNetem() bool {
	return l.when == whenNetem || l.when == whenNetemNamed || l.when == whenLabNamed
}

// loadNames lists the loads, those of one netem as one.
func loadNames() []string {
	var names []string
	for _, l := range loads {
		name := l.name
		if l.when == whenNetem {
			name = strings.TrimSuffix(name, l.cell.name()) + "…"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func throughput(streams int, reverse bool) func(context.Context, *rig, *session) (Sample, error) {
	return func(ctx context.Context, r *rig, x *session) (Sample, error) {
		rep, err := r.runIperf(ctx, x, iperf.Test{Streams: streams, Reverse: reverse, Duration: r.opts.Duration}, r.opts.Duration+r.patience())
		if err != nil {
			return Sample{}, err
		}
		return Sample{
			Value: rep.BitsPerSecond / 1e9,
			Extra: map[string]float64{extraRetransmits: float64(rep.Retransmits)},
		}, nil
	}
}

// cpuPerGiB moves a fixed number of bytes and counts for how long the machine's
// processors were busy with it.
func cpuPerGiB(reverse bool) func(context.Context, *rig, *session) (Sample, error) {
	return func(ctx context.Context, r *rig, x *session) (Sample, error) {
		var cpu0, cpu1 time.Duration
		busy0, err := procfs.BusyTime()
		if err != nil {
			return Sample{}, err
		}
		if x.toolPID != 0 {
			if cpu0, err = x.toolCPU(); err != nil {
				return Sample{}, err
			}
		}
		rep, err := r.runIperf(ctx, x, iperf.Test{Streams: 1, Reverse: reverse, Bytes: r.cpuBytes()}, r.patience()+r.opts.Duration)
		if err != nil {
			return Sample{}, err
		}
		busy1, err := procfs.BusyTime()
		if err != nil {
			return Sample{}, err
		}
		moved := float64(rep.Bytes) / gib
		s := Sample{
			Value: (busy1 - busy0).Seconds() / moved,
			Extra: map[string]float64{extraGbit: rep.BitsPerSecond / 1e9},
		}
		if x.toolPID != 0 {
			if cpu1, err = x.toolCPU(); err != nil {
				return Sample{}, err
			}
			s.Extra[extraToolCPU] = (cpu1 - cpu0).Seconds() / moved
		}
		return s, nil
	}
}

func exchange(op agent.Operation) func(context.Context, *rig, *session) (Sample, error) {
	return func(_ context.Context, r *rig, x *session) (Sample, error) {
		d := r.exchangeTime()
		resp, err := x.call(agent.Request{Op: op, Duration: d}, d)
		if err != nil {
			return Sample{}, err
		}
		l := resp.Latency
		const µs = float64(time.Microsecond)
		if op == agent.CRR {
			return Sample{
				Value: l.PerSecond,
				Extra: map[string]float64{"p50 µs": float64(l.P50) / µs, extraP99: float64(l.P99) / µs},
			}, nil
		}
		s := Sample{
			Value: float64(l.P50) / µs,
			Extra: map[string]float64{extraP99: float64(l.P99) / µs, extraRate: l.PerSecond},
		}
		if op == agent.UDPRR {
			s.Extra[extraLost] = float64(l.Lost)
		}
		return s, nil
	}
}

func memoryBefore(ctx context.Context, r *rig, x *session) (Sample, error) {
	return memorySince(ctx, x, settleBeforeMemory)
}

func memoryAfter(ctx context.Context, r *rig, x *session) (Sample, error) {
	return memorySince(ctx, x, settleAfterLoad)
}

// memorySince looks at the tool's memory once its last load is d ago.
func memorySince(ctx context.Context, x *session, d time.Duration) (Sample, error) {
	if err := sleepUntil(ctx, x.lastLoad.Add(d)); err != nil {
		return Sample{}, err
	}
	m, err := x.toolMemory()
	return Sample{Value: float64(m) / mib}, err
}

// memoryPerConnection looks at the memory before and after a crowd of connections
// is opened. It takes a session that has had no load: one that has may have kept
// memory from which the connections could be served.
func memoryPerConnection(ctx context.Context, _ *rig, x *session) (Sample, error) {
	if err := sleepUntil(ctx, x.lastLoad.Add(settleBeforeMemory)); err != nil {
		return Sample{}, err
	}
	before, err := x.toolMemory()
	if err != nil {
		return Sample{}, err
	}
	if _, err := x.call(agent.Request{Op: agent.Gather, Count: crowdSize}, crowdLimit); err != nil {
		return Sample{}, err
	}
	err = sleepUntil(ctx, x.lastLoad.Add(settleBeforeMemory))
	with, memErr := x.toolMemory()
	_, callErr := x.call(agent.Request{Op: agent.Release}, crowdLimit)
	return Sample{
		Value: float64(with-before) / kib / crowdSize,
		Extra: map[string]float64{extraTotal: float64(with) / mib},
	}, errors.Join(err, memErr, callErr)
}

// startup runs the tool with a command that does nothing, several times, and
// takes the median.
func startup(ctx context.Context, r *rig, s *subject) (Sample, error) {
	var ms []float64
	for range r.startups() {
		cmd := r.lab.Host.CommandContext(ctx, lab.Ordinary, append(s.tool(lab.MTU), "true")...)
		start := time.Now()
		if _, err := cmd.Output(); err != nil {
			return Sample{}, err
		}
		ms = append(ms, float64(time.Since(start))/float64(time.Millisecond))
	}
	return Sample{Value: rounds.Median(ms), Extra: map[string]float64{"slowest ms": slices.Max(ms)}}, nil
}

// sleepUntil waits for t or the end of ctx.
func sleepUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return os.ErrDeadlineExceeded
	}
}
