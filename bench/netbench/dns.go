package netbench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/internal/lab"
)

const (
	// dnsRate is how many questions are asked a second, for dnsTime.
	dnsRate = 10_000
	dnsTime = 5 * time.Second
	// dnsLimit is how long it may take until the last is answered, or given up.
	dnsLimit = dnsTime + 10*time.Second

	extraGap = "longest s without an answer"
)

// dnsAt is where vasta's forwarder is asked. deadResolver is whom it asks first, goodResolver second: --dns-host has one of each family.
var (
	dnsAt        = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	deadResolver = loopback
	goodResolver = netip.IPv6Loopback()
)

// dnsKinds are the ways in which a resolver is dead.
var dnsKinds = []struct {
	name, title string
	silent      bool
}{
	{"dns-closed", "first resolver's port closed", false},
	{"dns-silent", "first resolver silent", true},
}

const dnsRow = "DNS, 10,000 queries/s through the forwarder, "

// dnsLoads ask many questions whose first resolver is dead.
func dnsLoads() []load {
	var all []load
	for _, k := range dnsKinds {
		all = append(all, load{
			name: k.name, title: dnsRow + k.title + ", lost of 50,000", unit: "queries", lowerIsBetter: true,
			phase: phaseStartup, when: whenFull, who: vastaOnly, alone: resolve(k.silent),
		})
	}
	return all
}

func dnsBars() barList {
	var b barList
	for _, k := range dnsKinds {
		lost := of(vastaName, statWorst, k.name)
		b.add(dnsRow+k.title+", lost", atMost(0, "queries", lost, nil), nil)
		b.add(dnsRow+k.title+", failover", atMost(1, "s", lost.with(extraGap), nil), nil)
	}
	return b
}

// resolve asks through a vasta of its own.
func resolve(silent bool) func(context.Context, *rig, *subject) (Sample, error) {
	return func(ctx context.Context, r *rig, s *subject) (sample Sample, failed error) {
		kinds := [][]string{{"resolver", goodResolver.String()}}
		if silent {
			kinds = append(kinds, []string{"silent", deadResolver.String()})
		}
		for _, args := range kinds {
			x, err := startSession(r.lab.Host.CommandContext(ctx, lab.Root, r.agentArgv(args...)...))
			if err != nil {
				return Sample{}, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
			}
			defer func() { failed = errors.Join(failed, x.close()) }()
		}
		return r.alone(ctx, s, lab.MTU, func(x *session) (Sample, error) { return asking(ctx, x) }, "--dns-host="+deadResolver.String(), "--dns-host="+goodResolver.String())
	}
}

// asking asks through a session.
func asking(ctx context.Context, x *session) (Sample, error) {
	resp, drops, err := x.counted(ctx, agent.Request{Op: agent.Resolve, Server: dnsAt, Count: dnsRate, Duration: dnsTime}, dnsLimit)
	if err != nil {
		return Sample{}, err
	}
	const µs = float64(time.Microsecond)
	a := resp.Resolved
	sample := Sample{
		Value: float64(a.Lost),
		Extra: map[string]float64{
			extraWrong: float64(a.Wrong), extraP50: float64(a.P50) / µs, extraP99: float64(a.P99) / µs, extraGap: a.Gap.Seconds(),
		},
		Note: a.Example,
	}
	if sample.Note == "" && len(drops) > 0 {
		sample.Note = "vasta counts " + reasons(drops)
	}
	return sample, nil
}
