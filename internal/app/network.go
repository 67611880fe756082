// Package app puts vasta together: from options over namespaces, links and workers to a running network, and back
// to nothing.
package app

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/internal/options"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/tap"
	"github.com/vasta-net/vasta/netns"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/packet/pcap"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// Sizes and times of a network.
const (
	maxFlows   = 128 << 10
	sendPool   = 512 << 20 // bytes of address space; memory is used as the guest leaves data unacknowledged
	maxWindow  = 8 << 20   // bytes, over a long round trip: more than a Linux host gives a connection of its own (6 MiB)
	nearWindow = 1 << 20   // bytes, over a short one; see docs/results.md for what other sizes do
	maxFlight  = 4 << 20   // bytes

	keepIdle = 2 * time.Hour
	udpIdle  = 180 * time.Second
	udpFirst = 30 * time.Second
	icmpIdle = 60 * time.Second
)

// Descriptors that are kept from flows for everything else.
const (
	ownDescriptors    = 32 // the command's start, the log, the counters, the first worker, and the runtime's own
	workerDescriptors = 5  // another worker's queue, event set, eventfd, and pools
)

// flowLimit is how many flows there may be. Each may need a descriptor, and forwarded ports do.
func (p *plan) flowLimit(workers int) int {
	own := uint64(ownDescriptors + (workers-1)*workerDescriptors + len(p.ports.tcp) + len(p.ports.udp))
	return int(min(maxFlows, max(descriptorLimit(), own+1)-own))
}

// network is the running workers and what they need.
type network struct {
	log     *slog.Logger
	group   *worker.Group // nil for one worker
	members []*member
	pcap    *pcap.Writer

	deferred []deferredPort // forwarded ports that listen only while the guest does
	idle     *time.Timer    // gives memory back once all workers are idle
	done     chan struct{}  // closed when all workers have ended
	result   error          // of the first worker that ended by itself, once done is closed
}

// member is one worker and what is its alone.
type member struct {
	worker *worker.Worker
	host   *hostsock.System
	wakeFd int
}

// idleDelay is how long after a worker has become idle the program's memory goes back to the system, unless another one does so meanwhile.
const idleDelay = 100 * time.Millisecond

// newNetwork makes the network of a plan over the queues of t, whose descriptors it owns from now on.
func newNetwork(o *options.Options, p *plan, t *netns.TAP, log *slog.Logger) (*network, error) {
	n := &network{log: log, done: make(chan struct{})}
	n.idle = time.AfterFunc(time.Hour, debug.FreeOSMemory)
	n.idle.Stop()
	fds := t.FDs
	err := p.roomForPorts(len(fds))
	if err == nil {
		err = n.share(o, p, t)
	}
	for err == nil && len(fds) > 0 {
		err = n.add(o, p, t, fds[0])
		fds = fds[1:]
	}
	if err == nil {
		err = n.openPorts(p)
	}
	if err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return nil, errors.Join(err, n.release())
	}
	return n, nil
}

// share makes what the workers share.
func (n *network) share(o *options.Options, p *plan, t *netns.TAP) (err error) {
	if o.Pcap != "" {
		if n.pcap, err = pcap.Create(o.Pcap, t.Name, n.log); err != nil {
			return err
		}
	}
	if workers := len(t.FDs); workers > 1 {
		n.group, err = worker.NewGroup(workers, p.flowLimit(workers))
	}
	return err
}

// add makes the next worker, over the queue of the given descriptor, which it owns from now on. On error, what it has filled in is released
// by the caller; the rest it has given back.
func (n *network) add(o *options.Options, p *plan, t *netns.TAP, fd int) error {
	queue, err := tap.New(fd, link.Features{Csum: true, TSO4: true, TSO6: true, USO: t.USO()})
	if err != nil {
		_ = unix.Close(fd)
		return err
	}
	m := &member{wakeFd: -1}
	workers := len(t.FDs)
	c := worker.Config{
		Queue: queue, Map: &p.mapping, Stats: new(stats.Worker), Group: n.group, ID: len(n.members),
		MTU: t.MTU, MaxFlows: p.flowLimit(workers), Budget: o.Limits.Budget / int64(workers), MaxWindow: maxWindow, NearWindow: nearWindow, MaxFlight: maxFlight,
		KeepIdle: int64(keepIdle), IdleLimit: int64(o.Limits.IdleTimeout), UDPIdle: int64(udpIdle), UDPFirst: int64(udpFirst), ICMPIdle: int64(icmpIdle),
		EvictAges: worker.DefaultEvictAges.Cap(int64(o.Limits.EvictIdle)),
		NoTCP:     o.Filter.NoTCP, NoUDP: o.Filter.NoUDP, NoICMP: o.Filter.NoICMP,
		Origin: origins(o), Clock: monotonic, Seed: secret(), Log: n.log, Capture: n.watcher(o),
		Spin: spinFor(workers), Idle: func() { n.idle.Reset(idleDelay) },
	}
	if err := m.build(&c, p, o, t, n.members); err != nil {
		return errors.Join(err, queue.Close(), m.release())
	}
	n.members = append(n.members, m)
	return nil
}

// build completes a worker's configuration and makes the worker. others are those that were made before.
func (m *member) build(c *worker.Config, p *plan, o *options.Options, t *netns.TAP, others []*member) (err error) {
	if len(others) > 0 {
		c.Gateway = others[0].worker.Gateway.Sibling(c.Stats)
	} else if c.Gateway, err = gateway.New(p.gateway(o, t, c.Stats)); err != nil {
		return err
	}
	if m.host, err = hostsock.NewSystem(); err != nil {
		return err
	}
	if m.wakeFd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("cannot make an eventfd: %w", err)
	}
	c.Host, c.WakeFd = m.host, m.wakeFd
	if c.Hold, err = pagepool.New(int(c.Budget) + maxFlows*2*pagepool.FragSize); err != nil {
		return err
	}
	if c.Send, err = pagepool.New(sendPool); err != nil {
		return errors.Join(err, c.Hold.Close())
	}
	if m.worker, err = worker.New(*c); err != nil {
		return errors.Join(err, c.Hold.Close(), c.Send.Close())
	}
	m.worker.SetNaming(p.names.at, p.names.resolvers)
	return nil
}

// release gives back what a worker had.
func (m *member) release() (err error) {
	if m.worker != nil {
		err = m.worker.Close()
	}
	if m.host != nil {
		err = errors.Join(err, m.host.Release())
	}
	if m.wakeFd >= 0 {
		_ = unix.Close(m.wakeFd)
	}
	return err
}

func origins(o *options.Options) [2]hostsock.Origin {
	return [2]hostsock.Origin{
		forward.V4: {Addr: netip.AddrPortFrom(o.Host.Outbound.V4, 0), Device: o.Host.Interface4},
		forward.V6: {Addr: netip.AddrPortFrom(o.Host.Outbound.V6, 0), Device: o.Host.Interface6},
	}
}

// start runs each worker in a thread of its own. There is a processor for each of them, and one more: a worker's system calls do not tell the
// Go scheduler, which must not wait for them.
func (n *network) start() {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), len(n.members)+1))
	ended := make(chan error, len(n.members))
	for _, m := range n.members {
		go func() {
			runtime.LockOSThread()
			ended <- m.worker.Run()
		}()
	}
	go func() {
		for range n.members {
			if err := <-ended; n.result == nil && err != nil {
				n.result = err
				n.stopWorkers() // one that has failed takes its flows with it: better none than some
			}
		}
		close(n.done)
	}()
}

func (n *network) stopWorkers() {
	for _, m := range n.members {
		m.worker.Stop()
	}
}

// stop ends the workers. Their counters may be read until release.
func (n *network) stop() error {
	n.stopWorkers()
	<-n.done
	if errors.Is(n.result, link.ErrGone) {
		return nil
	}
	return n.result
}

// release gives back what newNetwork had taken, as far as it had come.
func (n *network) release() (err error) {
	n.idle.Stop()
	for _, m := range n.members {
		err = errors.Join(err, m.release())
	}
	if n.group != nil {
		err = errors.Join(err, n.group.Close())
	}
	if n.pcap != nil {
		err = errors.Join(err, n.pcap.Close())
	}
	return err
}

// counters asks the workers for copies of their counters; false when one does not answer.
func (n *network) counters() (all []stats.Worker, ok bool) {
	limit := time.After(time.Second)
	for _, m := range n.members {
		got := make(chan stats.Worker, 1)
		m.worker.Do(func() { got <- m.snapshot() })
		select {
		case s := <-got:
			all = append(all, s)
		case <-n.done:
			return n.snapshots(), true
		case <-limit:
			return nil, false
		}
	}
	return all, true
}

// snapshots are the counters of all workers, which have ended.
func (n *network) snapshots() (all []stats.Worker) {
	for _, m := range n.members {
		all = append(all, m.snapshot())
	}
	return all
}

// snapshot is called in the worker's goroutine, or after its end.
func (m *member) snapshot() stats.Worker {
	s := m.worker.Snapshot()
	c := m.host.Counters()
	s.SysWait, s.SysSend, s.SysRecv, s.SysSocket = c.Wait, c.Send, c.Recv, c.Socket
	return s
}

// spinFor is how long a worker looks for events before it sleeps. With fewer processors than workers that would only keep those
// waiting that could cause any.
func spinFor(workers int) int64 {
	if runtime.NumCPU() < max(workers, 2) {
		return 0
	}
	return int64(40 * time.Microsecond)
}

// monotonic is the clock of the workers, in nanoseconds.
func monotonic() int64 { return int64(time.Since(started)) + 1 }

var started = time.Now()

func secret() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return binary.NativeEndian.Uint64(b[:])
}

// watcher is what sees every frame: the capture, the trace, both or, most of the time, nobody.
func (n *network) watcher(o *options.Options) func(worker.Direction, *packet.NetHdr, [][]byte) {
	if o.Log.Level != options.Trace {
		if n.pcap == nil {
			return nil
		}
		return n.capture
	}
	t := &tracer{log: n.log}
	if n.pcap == nil {
		return t.frame
	}
	return func(d worker.Direction, hdr *packet.NetHdr, bufs [][]byte) {
		n.capture(d, hdr, bufs)
		t.frame(d, hdr, bufs)
	}
}

func (n *network) capture(d worker.Direction, hdr *packet.NetHdr, bufs [][]byte) {
	to := pcap.FromGuest
	if d == worker.ToGuest {
		to = pcap.ToGuest
	}
	n.pcap.Capture(to, hdr, bufs)
}
