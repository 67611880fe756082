package netbench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
)

const (
	// activeSize is the number of active flows: client, server and vasta need a descriptor for each, and their limit is 20,000.
	activeSize = 10_000
	// activeTime is how long they are active.
	activeTime = 10 * time.Second
	// activeSlack is how late the generator may be: later than that, it and not vasta was measured.
	activeSlack = time.Second

	// churnTotal and churnClients are the number of short connections, and of those at a time.
	churnTotal   = 100_000
	churnClients = 64
	// churnLimit is how long they may take.
	churnLimit = 5 * time.Minute

	// budget is vasta's default of --budget.
	budget = 256 // MiB
)

// crowdLoads have many flows at once, or one after the other.
func crowdLoads() []load {
	return []load{
		{
			name:  "flows",
			title: "10,000 flows, each active both ways at 1 kbit/s, CPU of the tool",
			unit:  "s/s", lowerIsBetter: true, phase: phaseFlows, when: whenFull, who: vastaOnly,
			inSession: activeFlows,
		},
		{
			name:  "churn",
			title: "100,000 short connections on 64 clients, failed",
			unit:  "connections", lowerIsBetter: true, phase: phaseChurn, when: whenFull, once: true, who: vastaOnly,
			inSession: shortConnections,
		},
	}
}

func crowdBars() barList {
	var b barList
	flows, churn := of(vastaName, statWorst, "flows"), of(vastaName, statWorst, "churn")
	const row = "10,000 flows, each active both ways at 1 kbit/s"
	b.add(row+", lost or wrong", atMost(0, "messages", flows.with(extraLost), nil), nil)
	b.add(row+", CPU of the tool", atMost(1, "CPU second per second", of(vastaName, statMedian, "flows"), nil), nil)
	b.add(row+", memory", atMost(budget, "MiB", flows.with(extraMemory), nil), nil)
	b.add(row+", promised", atMost(budget, "MiB", flows.with(extraPromised), nil), nil)
	b.add(row+", left behind", atMost(0, "things", flows.with(extraLeft), nil), nil)
	b.add("100,000 short connections on 64 clients, failed", atMost(0, "connections", churn, nil), nil)
	b.add("100,000 short connections on 64 clients, left behind", atMost(0, "things", churn.with(extraLeft), nil), nil)
	return b
}

// activeFlows opens connections, lets each carry 1 kbit a second both ways, and closes them.
func activeFlows(ctx context.Context, r *rig, x *session) (s Sample, err error) {
	before, err := x.settle(ctx)
	if err != nil {
		return Sample{}, err
	}
	d := activeTime
	if r.opts.Quick {
		d = r.opts.Duration
	}
	if _, err := x.call(agent.Request{Op: agent.Gather, Count: activeSize}, crowdLimit); err != nil {
		return Sample{}, err
	}
	cpu, err := x.toolCPU()
	if err != nil {
		return Sample{}, err
	}
	began := time.Now()
	resp, err := x.call(agent.Request{Op: agent.Trickle, Duration: d}, d+crowdLimit)
	if err != nil {
		return Sample{}, err
	}
	took := time.Since(began)
	cpuAfter, err := x.toolCPU()
	if err != nil {
		return Sample{}, err
	}
	memory, err := x.toolMemory()
	if err != nil {
		return Sample{}, err
	}
	during, err := x.readCounters(ctx)
	if err != nil {
		return Sample{}, err
	}
	if _, err := x.call(agent.Request{Op: agent.Release}, crowdLimit); err != nil {
		return Sample{}, err
	}
	after, err := x.settle(ctx)
	if err != nil {
		return Sample{}, err
	}
	t := resp.Trickled
	if t.Late > activeSlack {
		return Sample{}, fmt.Errorf("the generator fell %v behind its plan", t.Late)
	}
	things, which := after.left(before)
	return Sample{
		Value: (cpuAfter - cpu).Seconds() / took.Seconds(),
		Extra: map[string]float64{
			extraLost: float64(t.Lost), extraWrong: float64(t.Wrong), extraLeft: float64(things),
			extraMemory: float64(memory) / mib, extraPromised: float64(during.Levels.Promised) / mib,
		},
		Note: note(t.Example, which),
	}, nil
}

// shortConnections opens, uses and closes connections.
func shortConnections(ctx context.Context, r *rig, x *session) (Sample, error) {
	before, err := x.settle(ctx)
	if err != nil {
		return Sample{}, err
	}
	total := churnTotal
	if r.opts.Quick {
		total /= 20
	}
	resp, err := x.call(agent.Request{Op: agent.Churn, Count: total, Clients: churnClients}, churnLimit)
	if err != nil {
		return Sample{}, err
	}
	after, err := x.settle(ctx)
	if err != nil {
		return Sample{}, err
	}
	c := resp.Churned
	if c.Done+c.Failed != total {
		return Sample{}, errors.New("not all connections were tried")
	}
	things, which := after.left(before)
	return Sample{
		Value: float64(c.Failed),
		Extra: map[string]float64{extraRate: c.PerSecond, extraTried: float64(total), extraWrong: float64(c.Wrong), extraLeft: float64(things)},
		Note:  note(c.Example, which),
	}, nil
}

// note puts into words what went wrong in a load and what it left behind; "" for nothing.
func note(example, left string) string {
	switch {
	case left == "":
		return example
	case example == "":
		return "left behind: " + left
	}
	return example + "; left behind: " + left
}
