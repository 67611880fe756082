package netbench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	loadgen "github.com/vasta-net/vasta/bench/internal/load"
	"github.com/vasta-net/vasta/internal/lab"
)

const (
	// rulesName names the vasta with a policy among the subjects.
	rulesName = "vasta-rules"
	// rulesCount is how many rules that has.
	rulesCount = 1000
)

// writeRules writes rules of every kind, none of which concerns what is measured, into dir and returns the file's name.
func writeRules(dir string) (string, error) {
	var b strings.Builder
	for i := range rulesCount {
		switch i % 4 {
		case 0:
			fmt.Fprintf(&b, "deny 198.18.%d.%d %d\n", i/256, i%256, 20000+i)
		case 1:
			fmt.Fprintf(&b, "deny tcp 2001:db8:%x::/48\n", i)
		case 2:
			fmt.Fprintf(&b, "deny udp %d-%d\n", 20000+i, 20009+i)
		default:
			fmt.Fprintf(&b, "deny host%d.example,*.domain%d.example\n", i, i)
		}
	}
	path := filepath.Join(dir, "rules")
	return path, os.WriteFile(path, []byte(b.String()), 0o644)
}

// withOrWithoutRules accepts vasta with a policy and without.
func withOrWithoutRules(s *subject) bool { return s.Name == vastaName || s.Name == rulesName }

// policyLoads compare vasta with a policy to itself without one, and forwarded ports to those of pasta.
func policyLoads() []load {
	all := []load{{
		name: "policy-crr", title: fmt.Sprintf("TCP connect/request/response (TCP_CRR), with %d rules and without", rulesCount), unit: "per s",
		phase: phaseWorkers, when: whenFull, who: withOrWithoutRules, inSession: exchange(agent.CRR),
	}}
	for _, d := range directions {
		all = append(all, load{
			name: "policy-" + d.name, title: fmt.Sprintf("TCP 1 stream, MTU 65520, %s, with %d rules and without", d.title, rulesCount), unit: "Gbit/s",
			phase: phaseWorkers, when: whenFull, who: withOrWithoutRules, inSession: throughput(1, d.down),
		})
	}
	return append(all, load{
		name: "inbound-crr", title: "TCP_CRR from outside through a forwarded port (-t)", unit: "per s",
		phase: phaseStartup, when: whenFull, who: func(s *subject) bool { return s.forwarding != nil && s.Class != ClassVariant }, alone: inbound,
	})
}

func policyBars() barList {
	var b barList
	for _, l := range []struct{ name, title string }{
		{"policy-crr", "TCP_CRR per second"}, {"policy-up", "TCP 1 stream ns→host"}, {"policy-down", "TCP 1 stream host→ns"},
	} {
		without := of(vastaName, statMedian, l.name)
		b.add(fmt.Sprintf("policy with %d rules, %s", rulesCount, l.title), atLeast(0.97, "of the same without", of(rulesName, statMedian, l.name), &without), nil)
	}
	pasta := of(anyPasta, statMedian, "inbound-crr")
	b.add("inbound connections per second through -t", atLeast(1.2, "x pasta", of(vastaName, statMedian, "inbound-crr"), &pasta), nil)
	return b
}

// inbound runs a server behind forwarded ports, and a client on another host.
func inbound(ctx context.Context, r *rig, s *subject) (_ Sample, err error) {
	// Of the host's address, for the lab's own servers have the same ports of its loopback.
	ports := fmt.Sprintf("%v/%d-%d", lab.HostAddr4.Addr(), loadgen.PortsCRR[0], loadgen.PortsCRR[len(loadgen.PortsCRR)-1])
	argv := slices.Concat(s.forwarding(ports), r.agentArgv("server", "0.0.0.0"))
	server, err := startSession(r.lab.Host.CommandContext(ctx, lab.Ordinary, argv...))
	if err != nil {
		return Sample{}, err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	client, err := startSession(r.lab.Inet.CommandContext(ctx, lab.Root, r.agentArgv("session")...))
	if err != nil {
		return Sample{}, err
	}
	defer func() { err = errors.Join(err, client.close()) }()
	client.target = netip.AddrPortFrom(lab.HostAddr4.Addr(), 0)
	request := agent.Request{Op: agent.CRR, Duration: time.Millisecond}
	for deadline := time.Now().Add(startLimit); ; {
		if _, err = client.call(request, replyLimit); err == nil {
			break
		}
		if time.Now().After(deadline) { // the tool may still be at work on its network
			return Sample{}, server.explain(err)
		}
		if err := sleepUntil(ctx, time.Now().Add(retryEvery)); err != nil {
			return Sample{}, err
		}
	}
	return exchange(agent.CRR)(ctx, r, client)
}

const (
	replyLimit = 5 * time.Second
	retryEvery = 50 * time.Millisecond
)
