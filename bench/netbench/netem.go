package netbench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/bench/internal/procfs"
	"github.com/vasta-net/vasta/internal/lab"
)

// leg is one of the two ways that a connection through vasta has.
type leg struct{ name, title string }

var (
	guestLeg = leg{"guest", "between namespace and vasta"}
	hostLeg  = leg{"host", "between vasta's host and the server"}
)

// impairment is what netem does to each packet of both directions. A packet here is what TCP hands down at once, up to 64 KiB
// with segmentation offloads: netem does not take them apart, for vasta as little as for the kernel.
type impairment struct {
	name, title string
	netem       lab.Impairment
}

const (
	// slowQueue is the queue in front of what limits the rate, in bytes.
	slowQueue = 1 << 20
	// slowBurst lets the largest packet through whole: taken apart, it would be another load than without the limit.
	slowBurst = 128 << 10
)

// impairments are those of the issue. netem reorders by letting some packets go ahead of others that it delays, so that
// reordering comes with a small delay of the rest.
var impairments = []impairment{
	{"loss", "1 % loss", lab.Impairment{Loss: 1}},
	{"reorder", "5 % reordered by 1 ms", lab.Impairment{Delay: time.Millisecond, Reorder: 5}},
	{"dup", "1 % duplicated", lab.Impairment{Duplicate: 1}},
	{"delay", "20 ms", lab.Impairment{Delay: 20 * time.Millisecond}},
}

// shape is what a link does to both directions. Its near end is that of the client.
type shape struct {
	out, in lab.Impairment // from the client, to the client
}

// shape lets each direction carry rate Mbit/s at most, 0 for as much as the processors can.
func (i impairment) shape(rate int) shape {
	way := i.netem
	if rate > 0 {
		// Not netem's own rate: what netem reorders goes ahead of everything that waits for it.
		way.Bottleneck = lab.Bottleneck{Rate: uint64(rate) * mega, Burst: slowBurst, Bytes: slowQueue}
	}
	return shape{out: way, in: way}
}

// throttle is the slow link of the issue: 100 Mbit/s with a queue of 100 packets for the data, and the delay on the way of the
// ACKs, where it takes no part in the queue.
func throttle(down bool) shape {
	slow := lab.Impairment{Bottleneck: lab.Bottleneck{Rate: 100 * mega, Burst: 16 << 10, Packets: 100}}
	far := lab.Impairment{Delay: 50 * time.Millisecond}
	if down {
		return shape{out: far, in: slow}
	}
	return shape{out: slow, in: far}
}

// mega is a million, in bits per second.
const mega = 1_000_000

// shaped is the link that a shape lies on: a device of a namespace.
type shaped struct {
	ns     *lab.Namespace
	device string
}

// apply shapes the link. The caller mends it, whatever apply returns.
func (l shaped) apply(sh shape) error {
	return errors.Join(l.ns.ImpairSent(l.device, sh.out), l.ns.ImpairReceived(l.device, sh.in))
}

func (l shaped) mend() error { return l.ns.Mend(l.device) }

// Goodput through bad networks is measured for vasta and for the kernel's own TCP over veth.
func vastaAndVeth(s *subject) bool { return s.Class == ClassVasta || s.Name == vethName }

// On the slow link the kernel is measured twice, because over a plain veth it drops nothing of its own: a packet keeps its socket as far
// as the queue, whose length TCP then sees (TCP small queues). A sender at the other end of a real link does not, nor does vasta.
func vastaVethAndRouted(s *subject) bool { return vastaAndVeth(s) || s.Name == routedName }

// throttled are the cells of the slow link.
var throttled = []cell{
	{streams: 1, mtu: smallMTU}, {streams: 1, mtu: smallMTU, down: true},
	{streams: 8, mtu: smallMTU}, {streams: 8, mtu: smallMTU, down: true},
}

// netemLoads need a kernel with netem.
func netemLoads() []load {
	var all []load
	add := func(name, table string, c cell, l leg, sh func(rate int) shape, index int, who func(*subject) bool) {
		all = append(all, load{
			name: name + "-" + c.name(), title: c.title(), table: table, unit: "Mbit/s", cell: c, index: index,
			phase: phaseNetem, when: whenNetem, who: who, alone: goodput(c, l, sh),
		})
	}
	for _, l := range []leg{guestLeg, hostLeg} {
		for _, i := range impairments {
			for k, c := range cells {
				add(netemName(i, l), fmt.Sprintf("netem %s, both ways, %s: goodput", i.title, l.title), c, l, i.shape, k, vastaAndVeth)
			}
		}
	}
	for k, c := range throttled {
		add("tbf", "100 Mbit/s with a queue of 100 packets, 50 ms, "+guestLeg.title+": goodput", c, guestLeg, func(int) shape { return throttle(c.down) }, k, vastaVethAndRouted)
	}
	return all
}

func netemName(i impairment, l leg) string { return "netem-" + l.name + "-" + i.name }

func netemBars() barList {
	var b barList
	for _, l := range []leg{guestLeg, hostLeg} {
		for _, i := range impairments {
			var names []string
			for _, c := range cells {
				names = append(names, netemName(i, l)+"-"+c.name())
			}
			b.addGoodput(fmt.Sprintf("netem %s, %s leg", i.title, l.name), names)
		}
	}
	for _, c := range throttled {
		name := "tbf-" + c.name()
		row := "100 Mbit/s, 50 ms, 100 packets, " + c.title()
		b.addGoodput(row, []string{name})
		veth := of(vethName, statMedian, name).with(extraRetransmits)
		routed := of(routedName, statMedian, name).with(extraRetransmits)
		b.add(row+", retransmits", atMost(1.5, "x veth", of(vastaName, statMedian, name).with(extraRetransmits), &veth), nil)
		b.add(row+", retransmits", atMost(1.5, "x routed", of(vastaName, statMedian, name).with(extraRetransmits), &routed), nil)
	}
	return b
}

// addGoodput adds the rows that hold for all the loads of a netem: goodput in each, and every byte right.
func (b *barList) addGoodput(row string, loads []string) {
	veth := of(vethName, statMedian, loads...)
	must := atLeast(0.8, "of veth", of(vastaName, statMedian, loads...), &veth)
	must.each, must.some = true, true
	if len(loads) > 1 {
		row += ", worst cell"
	}
	b.add(row, must, nil)
	right := atMost(0, "streams", of(vastaName, statWorst, loads...).with(extraWrong), nil)
	right.some = true
	b.add(row+", wrong bytes", right, nil)
}

// goodput carries checked streams over a link that is shaped for them alone. The same qdiscs lie on the namespace's end of vasta's TAP
// (the guest leg) or on host's end of the veth (the host leg, and the kernel's own TCP).
func goodput(c cell, l leg, sh func(rate int) shape) func(context.Context, *rig, *subject) (Sample, error) {
	return func(ctx context.Context, r *rig, s *subject) (sample Sample, err error) {
		if err := r.lab.SetMTU(c.mtu); err != nil {
			return Sample{}, err
		}
		defer func() { err = errors.Join(err, r.lab.SetMTU(lab.MTU)) }()
		x, err := started(s.open(ctx, r, s, c.mtu))
		if err != nil {
			return Sample{}, err
		}
		defer func() { err = errors.Join(err, x.close()) }()
		link, server := shaped{r.lab.Host, lab.LinkName}, lab.FarAddr4.Addr()
		if c.v6 {
			server = lab.FarAddr6.Addr()
		}
		if s.Name == routedName {
			link.ns = r.behind
		}
		if s.tool != nil && l == guestLeg {
			inside, openErr := x.inside(r)
			if openErr != nil {
				return Sample{}, openErr
			}
			// What lies on the tool's own link goes with the tool.
			defer func() { err = errors.Join(err, inside.Close()) }()
			link, server = shaped{inside, x.network.Interface}, x.gateway(c.v6)
		} else {
			// The link must be as it was for the next load even when the time is over.
			defer func() { err = errors.Join(err, link.mend()) }()
		}
		if err := link.apply(sh(r.opts.Rate)); err != nil {
			return Sample{}, err
		}
		return r.stream(ctx, x, agent.Request{Op: agent.Streams, Server: server, Count: c.streams, Download: c.down, Duration: r.opts.Duration})
	}
}

// stream runs checked streams.
func (r *rig) stream(ctx context.Context, x *session, req agent.Request) (Sample, error) {
	before, err := r.retransmits(ctx, x)
	if err != nil {
		return Sample{}, err
	}
	busy, err := procfs.BusyTime()
	if err != nil {
		return Sample{}, err
	}
	began := time.Now()
	resp, err := x.call(req, req.Duration+streamSlack)
	if err != nil {
		return Sample{}, err
	}
	took := time.Since(began)
	after, err := r.retransmits(ctx, x)
	if err != nil {
		return Sample{}, err
	}
	busyAfter, err := procfs.BusyTime()
	if err != nil {
		return Sample{}, err
	}
	t := resp.Streamed
	if t.Bytes == 0 {
		return Sample{}, errors.New("nothing was received")
	}
	return Sample{
		Value: t.BitsPerSecond / 1e6,
		Extra: map[string]float64{
			extraWrong: float64(t.Wrong), extraCut: float64(t.Cut), extraStuck: float64(t.Stuck), extraRetransmits: float64(after - before),
			extraBusy: (busyAfter - busy).Seconds() / took.Seconds(),
		},
		Note: t.Example,
	}, nil
}

// streamSlack is what connecting and what is on its way at the end may take.
const streamSlack = time.Minute

// retransmits counts the segments that anybody on the way has sent again so far: the kernels of all namespaces, and vasta.
func (r *rig) retransmits(ctx context.Context, x *session) (int64, error) {
	var sum int64
	for _, ns := range []*lab.Namespace{r.lab.Host, r.lab.Inet} {
		err := ns.Do(func() error {
			c, err := procfs.ReadTCPCounters()
			sum += c.Retransmits
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	if x.counters == "" {
		return sum, nil
	}
	resp, err := x.call(agent.Request{Op: agent.TCP}, time.Second)
	if err != nil {
		return 0, err
	}
	c, err := x.readCounters(ctx)
	return sum + resp.TCP.Retransmits + c.TCP.Retransmits, err
}

// gateway is the address inside that leads to the host's loopback.
func (x *session) gateway(v6 bool) netip.Addr {
	if v6 {
		return lab.InetAddr6.Addr() // copied from host, as the IPv4 one
	}
	return x.network.Gateway
}

// inside opens the namespace of the tool, where the agent runs. The caller closes it.
func (x *session) inside(r *rig) (*lab.Namespace, error) {
	procs, err := procfs.Processes()
	if err != nil {
		return nil, err
	}
	for _, p := range procfs.Tree(procs, x.toolPID, func(procfs.Process) bool { return false }) {
		if isAgent(p) {
			return r.lab.Open("inside", fmt.Sprintf("/proc/%d/ns/net", p.PID))
		}
	}
	return nil, errors.New("the agent has ended")
}
