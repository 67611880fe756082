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
type impairment struct{ name, title, netem string }

const (
	// netemLimit is the queue of netem, in packets: more than a delay ever holds, so that nothing is lost there but what is to be.
	netemLimit = 10_000
	// slowQueue is the queue in front of what limits the rate, in bytes.
	slowQueue = 1 << 20
	// slowBurst lets the largest packet through whole: taken apart, it would be another load than without the limit.
	slowBurst = 128 << 10
)

// impairments are those of the issue. netem reorders by letting some packets go ahead of others that it delays, so that
// reordering comes with a small delay of the rest.
var impairments = []impairment{
	{"loss", "1 % loss", "loss 1%"},
	{"reorder", "5 % reordered by 1 ms", "delay 1ms reorder 5%"},
	{"dup", "1 % duplicated", "duplicate 1%"},
	{"delay", "20 ms", "delay 20ms"},
}

// shape lets each direction carry rate Mbit/s at most, 0 for as much as the processors can.
func (i impairment) shape(rate int) shape {
	q := qdiscs{fmt.Sprintf("root handle 1: netem limit %d %s", netemLimit, i.netem)}
	if rate > 0 {
		// Not netem's own rate: what netem reorders goes ahead of everything that waits for it.
		q = append(q, fmt.Sprintf("parent 1:1 handle 10: tbf rate %dmbit burst %d limit %d", rate, slowBurst, slowQueue))
	}
	return shape{out: q, in: q}
}

// throttle is the slow link of the issue: 100 Mbit/s with a queue of 100 packets for the data, and the delay on the way of the
// ACKs, where it takes no part in the queue.
func throttle(down bool) shape {
	slow := qdiscs{"root handle 1: tbf rate 100mbit burst 16kb limit 10mb", "parent 1:1 handle 10: pfifo limit 100"}
	far := qdiscs{fmt.Sprintf("root netem limit %d delay 50ms", netemLimit)}
	if down {
		return shape{out: far, in: slow}
	}
	return shape{out: slow, in: far}
}

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
		x, err := s.open(ctx, r, s, c.mtu)
		if err != nil {
			if x != nil {
				err = errors.Join(err, x.close())
			}
			return Sample{}, fmt.Errorf("start: %w", err)
		}
		defer func() { err = errors.Join(err, x.close()) }()
		link, server := r.onLink(), lab.FarAddr4.Addr()
		if c.v6 {
			server = lab.FarAddr6.Addr()
		}
		if s.Name == routedName {
			link = r.onBehind()
		}
		if s.tool != nil && l == guestLeg {
			pid, err := x.agentPID()
			if err != nil {
				return Sample{}, err
			}
			link, server = r.onGuest(pid, x.network.Interface), x.gateway(c.v6)
		}
		// The link must be as it was for the next load even when the time is over.
		defer func() { err = errors.Join(err, link.clear(context.WithoutCancel(ctx))) }()
		if err := link.apply(ctx, sh(r.opts.Rate)); err != nil {
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
			extraWrong: float64(t.Wrong), extraCut: float64(t.Cut), extraRetransmits: float64(after - before),
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

// agentPID is the process id of the agent, which runs in the tool's namespace.
func (x *session) agentPID() (int, error) {
	procs, err := procfs.Processes()
	if err != nil {
		return 0, err
	}
	for _, p := range procfs.Tree(procs, x.toolPID, func(procfs.Process) bool { return false }) {
		if isAgent(p) {
			return p.PID, nil
		}
	}
	return 0, errors.New("the agent has ended")
}
