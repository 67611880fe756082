package netbench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/bench/internal/iperf"
	loadgen "github.com/vasta-net/vasta/bench/internal/load"
	"github.com/vasta-net/vasta/bench/internal/procfs"
	"github.com/vasta-net/vasta/internal/lab"
)

// vhostPath is how frames go between vasta and its namespace: by system calls on the TAP, or through the kernel's vhost-net.
type vhostPath struct {
	name string // of the subject
	args []string
}

// The paths that are compared, and the sizes of vhost-net's transmit ring that are.
var (
	tapPath   = vhostPath{"vasta-tap", []string{"--vhost", "off"}}
	vhostsWay = vhostPath{"vasta-vhost", []string{"--vhost", "on"}}
	pagesWay  = vhostPath{"vasta-vhost-4k", []string{"--vhost", "on", "--vhost-tuning", "buffer=4096,receive=256"}}
	pollPath  = vhostPath{"vasta-vhost-poll", []string{"--vhost", "on", "--vhost-tuning", "poll=50"}}

	transmitSizes = []int{64, 256, 1024, 4096}
)

func transmitPath(size int) vhostPath {
	return vhostPath{fmt.Sprintf("vasta-vhost-%d", size), []string{"--vhost", "on", "--vhost-tuning", "transmit=" + strconv.Itoa(size)}}
}

// subject is vasta with the path. One queue pair: what is compared is the way of a frame.
func (p vhostPath) subject(bin string, queues int) *subject {
	return vastaSubject(p.name, ClassVariant, bin, append([]string{"--queues", strconv.Itoa(queues)}, p.args...)...)
}

// vhostSubjects are all of them.
func vhostSubjects(bin string) (all []*subject) {
	for _, p := range []vhostPath{tapPath, vhostsWay, pagesWay, pollPath} {
		all = append(all, p.subject(bin, 1))
	}
	for _, size := range transmitSizes {
		all = append(all, transmitPath(size).subject(bin, 1))
	}
	for _, queues := range vhostStreams {
		for _, p := range []vhostPath{tapPath, vhostsWay} {
			p.name = queuedPath(p.name, queues)
			all = append(all, p.subject(bin, queues))
		}
	}
	for _, p := range []vhostPath{tapPath, vhostsWay} {
		all = append(all, p.dropping().subject(bin, 1))
	}
	return append(all, receiveSubjects(bin)...)
}

// vhostStreams are how many streams are carried, beside one: over one queue pair, and over as many.
var vhostStreams = []int{4, 8}

func queuedPath(name string, queues int) string { return fmt.Sprintf("%s-%dq", name, queues) }

// named accepts the subjects of these names.
func named(names ...string) func(*subject) bool {
	return func(s *subject) bool { return slices.Contains(names, s.Name) }
}

// Names of what a vhost load measures beside its speed.
const (
	extraCalls       = "calls/frame"       // system calls on the link and waits, both directions' frames counted
	extraKicks       = "kicks/frame"       // of rings
	extraDescriptors = "descriptors/frame" // in rings, toward the namespace
)

// vhostLoads are those of issue E. They need vhost-net, and run in the guest machine.
func vhostLoads() []load {
	var all []load
	add := func(name, title, unit string, lower bool, p phase, who func(*subject) bool, do func(context.Context, *rig, *session) (Sample, error)) {
		all = append(all, load{
			name: "vhost-" + name, title: title, unit: unit, lowerIsBetter: lower, phase: p, when: whenLabNamed, who: who, inSession: do,
		})
	}
	paths := named(tapPath.name, vhostsWay.name, pagesWay.name, pollPath.name, pastaName, vethName, loopbackName)
	two := named(tapPath.name, vhostsWay.name, pollPath.name, pastaName, vethName)
	datagrams := named(tapPath.name, vhostsWay.name, pastaName)
	for _, d := range directions {
		add("1-"+d.name, "TCP 1 stream, MTU 65520, "+d.title, "Gbit/s", false, phaseVHost, paths, linkThroughput(1, d.down))
		for _, streams := range vhostStreams {
			add(fmt.Sprintf("%d-%s", streams, d.name), fmt.Sprintf("TCP %d streams, MTU 65520, %s", streams, d.title), "Gbit/s", false, phaseVHost, paths, linkThroughput(streams, d.down))
		}
		var sizes []string
		for _, size := range transmitSizes {
			sizes = append(sizes, transmitPath(size).name)
		}
		add("ring-"+d.name, "TCP 8 streams, MTU 65520, "+d.title+", by the size of the transmit ring", "Gbit/s", false, phaseVHost, named(sizes...), linkThroughput(8, d.down))
		for _, n := range vhostStreams {
			add(fmt.Sprintf("%dq-%s", n, d.name), fmt.Sprintf("TCP %d streams over %d queue pairs, MTU 65520, %s", n, n, d.title), "Gbit/s", false, phaseVHost,
				named(queuedPath(tapPath.name, n), queuedPath(vhostsWay.name, n)), linkThroughput(n, d.down))
		}
		add("udp-"+d.name, "UDP 1472 B, "+d.title+", highest rate with ≤ 0.1 % loss", "datagrams/s", false, phaseVHost, datagrams, highestRate(loadgen.Stream{Size: 1472}, d.down))
		add("mtu1500-"+d.name, "TCP 1 stream, MTU 1500, "+d.title, "Gbit/s", false, phaseSmall, two, linkThroughput(1, d.down))
	}
	add("tcp-rr", "TCP request/response (TCP_RR), p50", "µs", true, phaseVHost, two, exchange(agent.RR))
	add("udp-rr", "UDP request/response (UDP_RR), p50", "µs", true, phaseVHost, two, exchange(agent.UDPRR))
	return slices.Concat(all, receiveLoads(), pktgenLoads(), ladderLoads(), pressureLoads())
}

// vhostBars are those of issue E that speak of TCP.
func vhostBars() barList {
	var b barList
	reach := func(l limit) *limit { return &l }
	for _, d := range []struct {
		name, title string
		reach       float64
	}{{"up", "ns→host", 1.4}, {"down", "host→ns", 1.1}} {
		one := "vhost-1-" + d.name
		vhost, tap := of(vhostsWay.name, statMedian, one), of(tapPath.name, statMedian, one)
		cpu := tap.with(extraToolCPU)
		b.add("vhost-net, CPU seconds per GiB of vasta and the kernel's thread, "+d.title, atMost(0.8, "x TAP", vhost.with(extraToolCPU), &cpu), nil)
		pasta := of(pastaName, statBest, one)
		b.add("vhost-net, 1 stream, "+d.title, atLeast(1, "x pasta's best round", vhost, &pasta), reach(atLeast(d.reach, "x TAP", vhost, &tap)))
		b.add("vhost-net, kicks per frame in bulk, "+d.title, atMost(0.1, "a frame", vhost.with(extraKicks), nil), nil)
	}
	b.add("vhost-net, descriptors per frame in bulk, host→ns", atMost(2, "a frame", of(vhostsWay.name, statMedian, "vhost-1-down").with(extraDescriptors), nil), nil)
	for _, name := range []string{"tcp-rr", "udp-rr"} {
		tap := of(tapPath.name, statMedian, "vhost-"+name)
		b.add("vhost-net, one packet at a time ("+name+"), p50", atMost(1.1, "x TAP", of(vhostsWay.name, statMedian, "vhost-"+name), &tap), nil)
	}
	return slices.Concat(b, pktgenBars(), ladderBars(), pressureBars())
}

// linkThroughput is throughput with what it cost: processor time of the tool and its threads in the kernel, system calls, kicks and descriptors.
func linkThroughput(streams int, down bool) func(context.Context, *rig, *session) (Sample, error) {
	return func(ctx context.Context, r *rig, x *session) (Sample, error) {
		before, err := x.linkCosts(ctx)
		if err != nil {
			return Sample{}, err
		}
		busy, err := procfs.BusyTime()
		if err != nil {
			return Sample{}, err
		}
		report, err := r.runIperf(ctx, x, iperf.Test{Streams: streams, Reverse: down, Duration: r.opts.Duration}, r.opts.Duration+r.patience())
		if err != nil {
			return Sample{}, err
		}
		busyAfter, err := procfs.BusyTime()
		if err != nil {
			return Sample{}, err
		}
		after, err := x.linkCosts(ctx)
		if err != nil {
			return Sample{}, err
		}
		moved := float64(report.Bytes) / gib
		s := Sample{Value: report.BitsPerSecond / 1e9, Extra: map[string]float64{
			extraRetransmits: float64(report.Retransmits), extraCPU: (busyAfter - busy).Seconds() / moved,
		}}
		if x.toolPID != 0 {
			s.Extra[extraToolCPU] = (after.cpu - before.cpu).Seconds() / moved
		}
		c, was := after.counters, before.counters
		if toGuest := float64(c.ToGuest - was.ToGuest); toGuest > 0 {
			frames := toGuest + float64(c.FromGuest-was.FromGuest)
			s.Extra[extraCalls] = float64(c.linkCalls()-was.linkCalls()) / frames
			s.Extra[extraKicks] = float64(c.Rings.Kicks-was.Rings.Kicks) / frames
			s.Extra[extraDescriptors] = float64(c.Rings.Descriptors-was.Rings.Descriptors) / max(1, toGuest-float64(c.Rings.Past-was.Rings.Past))
		}
		return s, nil
	}
}

// linkCosts are what a tool has cost so far.
type linkCosts struct {
	counters
	cpu time.Duration
}

func (x *session) linkCosts(ctx context.Context) (c linkCosts, err error) {
	if x.counters != "" {
		if c.counters, err = x.readCounters(ctx); err != nil {
			return c, err
		}
	}
	if x.toolPID != 0 {
		c.cpu, err = x.toolCPU()
	}
	return c, err
}

const vhostUsage = `Usage: vasta bench vhost [options]

Measures vasta over the kernel's vhost-net beside vasta over read and write on
the TAP, pasta and plain veth, in a virtual machine whose kernel has vhost-net.
The options are those of vasta bench net; --only takes the names without vhost-.

`

// VHostMain is the command "vasta bench vhost": the loads of vhost-net, in the guest machine. It returns the exit status.
func VHostMain(args []string, stdout, stderr io.Writer) int {
	return labMain("vhost", vhostUsage, args, stdout, stderr)
}

// labMain measures, in the guest machine, the loads whose names begin with family, which args name without it.
func labMain(family, usage string, args []string, stdout, stderr io.Writer) int {
	only := family
	var rest []string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--help" || args[i] == "-h":
			fmt.Fprint(stdout, usage)
			return command.Met
		case (args[i] == "--only" || args[i] == "-only") && i+1 < len(args):
			only = family + "-" + strings.ReplaceAll(args[i+1], ",", ","+family+"-")
			i++
		default:
			rest = append(rest, args[i])
		}
	}
	return Main(append([]string{"--lab", "--only", only}, rest...), stdout, stderr)
}

// openDevice has an ordinary user be able to open vhost-net, as members of group kvm are on most machines.
func openDevice(ctx context.Context, l *lab.Lab) error {
	const script = "modprobe vhost_net && chmod 666 /dev/vhost-net"
	if _, err := l.Host.CommandContext(ctx, lab.Root, "sh", "-c", script).Output(); err != nil {
		return fmt.Errorf("vhost-net: %w", err)
	}
	return nil
}

// needsDevice says whether a selected load opens vhost-net.
func (r *run) needsDevice() bool {
	return slices.ContainsFunc(r.loads, func(l load) bool { return l.when == whenLabNamed })
}
