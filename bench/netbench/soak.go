package netbench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	loadgen "github.com/vasta-net/vasta/bench/internal/load"
	"github.com/vasta-net/vasta/bench/internal/rounds"
	"github.com/vasta-net/vasta/internal/lab"
)

const (
	// mixTime is how long one request to the agent for a mix of loads takes; what it finds is told after each.
	mixTime = 10 * time.Second
	// disturbEvery is the time between two disturbances.
	disturbEvery = 2 * time.Second
	// soakSamples is how often the tool is looked at in the whole time, about; not more often than each soakPause.
	soakSamples = 400
	soakPause   = 250 * time.Millisecond
)

// Values beside what a soak measures.
const (
	extraGrowthMemory      = "x memory" // median of the last quarter of the time per median of the second
	extraGrowthDescriptors = "x descriptors"
	extraGrowthGoroutines  = "x goroutines"
	extraFailed            = "failed"
	extraMoved             = "GiB"
	extraDisturbances      = "disturbances"
	extraConnections       = "connections"
)

// soakLoads run a mix of everything for a long time while links go down, queues are taken away and netem changes.
func soakLoads() []load {
	soak := func(name, title string, when occasion, netem bool) load {
		return load{
			name: name, title: title, unit: "wrong", lowerIsBetter: true,
			phase: phaseSoak, when: when, once: true, who: vastaOnly, inSession: soak(netem),
		}
	}
	return []load{
		soak("soak", "soak: mixed load, flaps, queue changes, changes of the slow link", whenNamed, false),
		soak("soak-netem", "soak: mixed load, flaps, queue changes, changes of netem", whenNetemNamed, true),
	}
}

func soakBars() barList {
	var b barList
	for _, name := range []string{"soak", "soak-netem"} {
		soak := of(vastaName, statWorst, name)
		b.add(name+", wrong bytes", atMost(0, "streams, connections or datagrams", soak, nil), nil)
		for _, kind := range []struct{ title, extra string }{
			{"memory", extraGrowthMemory}, {"descriptors", extraGrowthDescriptors}, {"goroutines", extraGrowthGoroutines},
		} {
			b.add(name+", "+kind.title+" in the last quarter, median", atMost(1.05, "x second quarter", soak.with(kind.extra), nil), nil)
		}
	}
	return b
}

// watched is what is looked at again and again in a soak.
type watched struct{ memory, descriptors, goroutines []float64 }

func (w *watched) look(ctx context.Context, x *session) error {
	memory, err := x.toolMemory()
	if err != nil {
		return err
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", x.toolPID))
	if err != nil {
		return err
	}
	c, err := x.readCounters(ctx)
	if err != nil {
		return err
	}
	w.memory = append(w.memory, float64(memory)/mib)
	w.descriptors = append(w.descriptors, float64(len(fds)))
	w.goroutines = append(w.goroutines, float64(c.Process.Goroutines))
	return nil
}

// growth is the median of the last quarter of v in proportion to that of the second.
func growth(v []float64) (float64, error) {
	quarter := len(v) / 4
	if quarter == 0 {
		return 0, fmt.Errorf("%d looks are too few for quarters", len(v))
	}
	second, last := rounds.Median(v[quarter:2*quarter]), rounds.Median(v[len(v)-quarter:])
	if second == 0 {
		return 0, errors.New("nothing was in use in the second quarter")
	}
	return last / second, nil
}

func soak(netem bool) func(context.Context, *rig, *session) (Sample, error) {
	return func(ctx context.Context, r *rig, x *session) (Sample, error) {
		d, err := newDisturber(r, x, netem)
		if err != nil {
			return Sample{}, err
		}
		// What a soak that was ended early has left behind must not trouble the next load.
		defer func() { _ = d.calm() }()
		return soakWith(ctx, r, x, d)
	}
}

// soakWith has the mix and the disturbances at once, and looks at the tool meanwhile.
func soakWith(ctx context.Context, r *rig, x *session, d *disturber) (Sample, error) {
	began := time.Now()
	end := began.Add(r.opts.Soak)
	mixed := make(chan loadgen.Mixed)
	failed := make(chan error, 1)
	go func() { // alone with the agent until the channel is closed
		defer close(mixed)
		for {
			left := min(mixTime, time.Until(end)).Truncate(time.Second)
			if left <= 0 || ctx.Err() != nil {
				return
			}
			req := agent.Request{Op: agent.Mix, Duration: left, Far: []netip.Addr{lab.FarAddr4.Addr(), lab.FarAddr6.Addr()}}
			resp, err := x.call(req, left+streamSlack)
			if err != nil {
				failed <- err
				return
			}
			mixed <- *resp.Mixed
		}
	}()
	look := time.NewTicker(max(soakPause, r.opts.Soak/soakSamples))
	defer look.Stop()
	disturb := time.NewTicker(disturbEvery)
	defer disturb.Stop()

	var (
		sum   loadgen.Mixed
		w     watched
		first error // of looking and disturbing; the mix is waited for all the same
	)
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	for done := false; !done; {
		select {
		case m, more := <-mixed:
			sum.Add(m)
			if done = !more; more {
				d.say(r, began, sum, w)
			}
		case <-look.C:
			keep(w.look(ctx, x))
		case <-disturb.C:
			keep(d.next(ctx))
		}
	}
	select {
	case err := <-failed:
		keep(err)
	default:
	}
	if first != nil {
		return Sample{}, first
	}
	s := Sample{
		Value: float64(sum.Wrong),
		Extra: map[string]float64{
			extraFailed: float64(sum.Failed), extraLost: float64(sum.Lost), extraMoved: float64(sum.Bytes) / gib,
			extraDisturbances: float64(d.count), extraConnections: float64(sum.Connections),
		},
		Note: sum.Example,
	}
	if sum.Failed > 0 {
		s.Note = fmt.Sprintf("failed: %s; one: %s", reasons(sum.Reasons), sum.Example)
	}
	for _, kind := range []struct {
		extra  string
		values []float64
	}{{extraGrowthMemory, w.memory}, {extraGrowthDescriptors, w.descriptors}, {extraGrowthGoroutines, w.goroutines}} {
		g, err := growth(kind.values)
		if err != nil {
			return Sample{}, err
		}
		s.Extra[kind.extra] = g
	}
	return s, nil
}

// say tells how far a soak has come.
func (d *disturber) say(r *rig, began time.Time, sum loadgen.Mixed, w watched) {
	last := func(v []float64) float64 {
		if len(v) == 0 {
			return 0
		}
		return v[len(v)-1]
	}
	why := ""
	if sum.Failed > 0 {
		why = " (" + reasons(sum.Reasons) + ")"
	}
	r.say("soak %v of %v: %s GiB, %d streams, %d connections, %d datagrams, %d pings; %d wrong, %d failed%s, %d lost; %d disturbances; %s MiB, %.0f descriptors, %.0f goroutines",
		time.Since(began).Round(time.Second), r.opts.Soak, number(float64(sum.Bytes)/gib), sum.Streams, sum.Connections, sum.Datagrams, sum.Pings,
		sum.Wrong, sum.Failed, why, sum.Lost, d.count, number(last(w.memory)), last(w.descriptors), last(w.goroutines))
}
