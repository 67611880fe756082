// Package netbench is the benchmark "vasta bench net": it measures vasta, its
// peers and two yardsticks side by side, in a lab of two network namespaces, and
// holds the results against the bars that the project set itself.
//
// Rounds are interleaved: every load runs on one subject after the other before
// the next load begins, and the order of the subjects turns from round to round,
// so that whatever else happens on the machine happens to all.
package netbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/bench/internal/iperf"
	"github.com/vasta-net/vasta/internal/lab"
)

// quickLimit leaves --quick time to take down the lab within its 50 seconds.
const quickLimit = 47 * time.Second

// errOutOfTime is why loads of --quick are not measured when it takes too long.
var errOutOfTime = errors.New("out of time")

// errInterrupted is the end of a run that a signal ended.
var errInterrupted = errors.New("interrupted")

// run is one run of the benchmark.
type run struct {
	rig      *rig
	subjects []*subject
	loads    []load
	results  *Results
	progress io.Writer
	// sessions are the open ones, by subject; failures says why one is not.
	sessions map[*subject]*session
	failures map[*subject]error
}

// measure builds the lab, runs all rounds and takes the lab down. Progress goes
// to progress, a line for each measurement.
func measure(ctx context.Context, o Options, progress io.Writer) (res *Results, err error) {
	started := time.Now()
	machine, err := describeMachine()
	if err != nil {
		return nil, err
	}
	if machine.Background, err = backgroundLoad(ctx); err != nil {
		return nil, err
	}
	if o.Quick {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, quickLimit, errOutOfTime)
		defer cancel()
	}
	rig, err := newRig(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		// What the end of ctx killed is no fault of the take-down.
		if closeErr := rig.close(); ctx.Err() == nil {
			err = errors.Join(err, closeErr)
		}
	}()
	subjects, err := newSubjects(o, rig.lab.Dir())
	if err != nil {
		return nil, err
	}
	if machine.Iperf, err = programVersion(iperf.Program); err != nil {
		return nil, fmt.Errorf("%w: apt-get install iperf3", err)
	}
	r := &run{
		rig: rig, loads: selectLoads(o), progress: progress,
		results: &Results{
			Machine: machine, Started: started.UTC(), Rounds: o.Rounds, Quick: o.Quick, Seconds: o.Duration.Seconds(), NetemRate: o.Rate,
		},
	}
	rig.say = r.say
	if r.needsDevice() {
		if err := openDevice(ctx, rig.lab); err != nil {
			return nil, err
		}
	}
	r.subjects = slices.DeleteFunc(subjects, func(s *subject) bool { return s.Class == ClassVariant && !r.measures(s) })
	for _, l := range r.loads {
		lr := l.result()
		for _, s := range r.subjects {
			if l.takesPart(s, o.Quick) {
				lr.Series = append(lr.Series, Series{Subject: s.Name})
			}
		}
		r.results.Loads = append(r.results.Loads, lr)
	}
	for n := range o.Rounds {
		r.round(ctx, n+1)
	}
	for _, s := range r.subjects {
		r.results.Subjects = append(r.results.Subjects, s.SubjectInfo)
	}
	// An interrupted run has nothing to say; one out of time has.
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errOutOfTime) {
		return nil, errInterrupted
	}
	r.results.Bars = judge(r.results)
	r.results.Elapsed = time.Since(started)
	return r.results, nil
}

// round runs every load on every subject once.
func (r *run) round(ctx context.Context, n int) {
	r.sessions, r.failures = make(map[*subject]*session), make(map[*subject]error)
	order := turned(r.subjects, n-1)

	r.open(ctx, order, lab.MTU, phaseLarge, phaseAfter)
	r.phase(ctx, n, phaseLarge, order, lab.MTU)
	large, failures := r.sessions, r.failures

	r.sessions, r.failures = make(map[*subject]*session), make(map[*subject]error)
	if r.used(phaseSmall) {
		// The tools' links have the MTU by their options, the yardsticks' is the lab's.
		err := r.rig.lab.SetMTU(smallMTU)
		if err != nil {
			r.say("round %d: %v", n, err)
		}
		r.open(ctx, order, smallMTU, phaseSmall)
		r.phase(ctx, n, phaseSmall, order, smallMTU)
		r.closeSessions(n)
		if err := r.rig.lab.SetMTU(lab.MTU); err != nil {
			r.say("round %d: %v", n, err)
		}
	}

	r.sessions, r.failures = large, failures
	r.phase(ctx, n, phaseAfter, order, lab.MTU)
	r.closeSessions(n)

	for _, p := range []phase{phaseCrowd, phaseWorkers, phaseLatencyUp, phaseLatencyDown, phaseFlows, phaseChurn, phaseDatagrams, phaseSoak, phaseVHost} {
		r.open(ctx, order, lab.MTU, p)
		r.phase(ctx, n, p, order, lab.MTU)
		r.closeSessions(n)
	}
	r.phase(ctx, n, phaseStartup, order, lab.MTU)
	r.phase(ctx, n, phaseNetem, order, lab.MTU)
}

// measures says whether the subject takes part in a selected load.
func (r *run) measures(s *subject) bool {
	return slices.ContainsFunc(r.loads, func(l load) bool { return l.takesPart(s, r.rig.opts.Quick) })
}

// used says whether a selected load runs in the phase.
func (r *run) used(p phase) bool {
	return slices.ContainsFunc(r.loads, func(l load) bool { return l.phase == p })
}

// open opens the sessions of the subjects that take part in the phases.
func (r *run) open(ctx context.Context, order []*subject, mtu int, phases ...phase) {
	for _, s := range order {
		if slices.ContainsFunc(r.loads, func(l load) bool {
			return slices.Contains(phases, l.phase) && l.takesPart(s, r.rig.opts.Quick)
		}) {
			r.openOne(ctx, s, mtu)
		}
	}
}

// openOne opens a subject's session or notes why it cannot be.
func (r *run) openOne(ctx context.Context, s *subject, mtu int) {
	delete(r.sessions, s)
	if s.Absent != "" {
		r.failures[s] = errors.New(s.Absent)
		return
	}
	x, err := s.open(ctx, r.rig, s, mtu)
	if err == nil && x.network.MTU != mtu && !s.ownMTU {
		err = fmt.Errorf("its link has an MTU of %d instead of %d", x.network.MTU, mtu)
	}
	if x, err = started(x, err); err != nil {
		r.failures[s] = err
		return
	}
	s.Congestion = x.network.Congestion
	r.sessions[s] = x
	delete(r.failures, s)
}

func (r *run) closeSessions(n int) {
	for s, x := range r.sessions {
		if err := x.close(); err != nil && !errors.Is(err, agent.ErrDead) {
			r.say("round %d: closing %s: %v", n, s.Name, err)
		}
	}
	r.sessions = make(map[*subject]*session)
}

// phase runs the loads of a phase, each on every subject that takes part.
func (r *run) phase(ctx context.Context, n int, p phase, order []*subject, mtu int) {
	for i := range r.loads {
		l := &r.loads[i]
		if l.phase != p || l.once && n > 1 {
			continue
		}
		for _, s := range order {
			if l.takesPart(s, r.rig.opts.Quick) {
				r.one(ctx, n, l, s, mtu)
			}
		}
	}
}

// one runs one load on one subject and records the outcome.
func (r *run) one(ctx context.Context, n int, l *load, s *subject, mtu int) {
	sample, err := r.sample(ctx, l, s)
	if l.alone == nil && errors.Is(err, agent.ErrDead) && ctx.Err() == nil {
		// The next load gets a fresh session; this one has failed.
		if x := r.sessions[s]; x != nil {
			x.agentCmd.Kill()
			_ = x.close() // killed
		}
		r.openOne(ctx, s, mtu)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	series := r.results.load(l.name).series(s.Name)
	if err != nil {
		series.Failures = append(series.Failures, fmt.Sprintf("round %d: %s", n, command.OneLine(err)))
		r.say("round %d/%d  %-16s  %-12s  not measured: %s", n, r.rig.opts.Rounds, l.name, s.Name, command.OneLine(err))
		return
	}
	sample.Round = n
	series.Samples = append(series.Samples, sample)
	r.say("round %d/%d  %-16s  %-12s  %s %s", n, r.rig.opts.Rounds, l.name, s.Name, number(sample.Value), l.unit)
}

func (r *run) sample(ctx context.Context, l *load, s *subject) (Sample, error) {
	if ctx.Err() != nil {
		return Sample{}, context.Cause(ctx)
	}
	if l.alone != nil {
		if s.Absent != "" {
			return Sample{}, errors.New(s.Absent)
		}
		return l.alone(ctx, r.rig, s)
	}
	x := r.sessions[s]
	if x == nil {
		return Sample{}, r.failures[s]
	}
	return l.inSession(ctx, r.rig, x)
}

func (r *run) say(format string, args ...any) {
	if !r.rig.opts.Quiet {
		fmt.Fprintf(r.progress, format+"\n", args...)
	}
}

// turned returns s with its first n elements moved to its end.
func turned[T any](s []T, n int) []T {
	n %= len(s)
	return append(append([]T(nil), s[n:]...), s[:n]...)
}
