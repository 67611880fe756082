package vasta

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/netns"
	"github.com/vasta-net/vasta/packet"
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
	vhostDescriptors  = 10 // a queue's device, eventfds, event set, and memory
)

// Network is a guest's network: the workers that move its data, and what they need. It is made by New, works while Run runs, and is given back by Close.
// Its methods may be called from any goroutine.
type Network struct {
	config  Config
	log     *slog.Logger
	started time.Time // what the workers count their time from
	end     *end
	group   *worker.Group // nil for one worker
	members []*member
	inner   *inner
	ready   chan struct{}
	done    chan struct{} // closed when all workers have ended
	result  error         // of the first worker that ended by itself, once done is closed
	over    chan struct{} // closed when Run has ended

	mu    sync.Mutex
	state state
	plan  *plan // what the inside is like now

	changing sync.Mutex // of what follows; locked before mu
	ports    []openPort
	next     int // how many UDP ports were dealt out
}

// state of a network.
type state uint8

const (
	made state = iota
	running
	ended
	closed
)

// member is one worker and what is its alone.
type member struct {
	worker *worker.Worker
	host   *host
	wakeFd int
}

// New makes a network over a link, which it takes over, also when it fails. From then on forwarded ports are bound, and a namespace exists; data moves
// in Run.
//
// The error is, or wraps, a *ConfigError, a *PortError, or what the making of the link says.
func New(c Config, l Link) (*Network, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, errors.Join(err, l.discard())
	}
	host, err := hostNetwork(&c)
	if err != nil {
		return nil, errors.Join(err, l.discard())
	}
	p, err := makePlan(&c, host, hostResolvConf())
	if err != nil {
		return nil, errors.Join(err, l.discard())
	}
	if err := p.roomForPorts(&c, c.Limits.Queues); err != nil {
		return nil, errors.Join(err, l.discard())
	}
	e, err := l.open(&c, p)
	if err != nil {
		return nil, err
	}
	n := &Network{
		config: c, log: c.Log, started: time.Now(), end: e, plan: p, inner: newInner(),
		ready: make(chan struct{}), done: make(chan struct{}), over: make(chan struct{}),
	}
	if err := n.build(); err != nil {
		return nil, errors.Join(err, n.release())
	}
	return n, nil
}

// build makes the workers, one for each queue of the link.
func (n *Network) build() (err error) {
	if workers := len(n.end.queues); workers > 1 {
		if n.group, err = worker.NewGroup(workers, n.flowLimit()); err != nil {
			return err
		}
	}
	for len(n.members) < len(n.end.queues) {
		if err := n.add(n.end.queues[len(n.members)]); err != nil {
			return err
		}
	}
	for _, r := range n.config.Ports {
		if err := n.checkInside("Ports", r.Inside); err != nil {
			return err
		}
	}
	if err := n.checkInside("AutoInsideTCP", n.config.AutoInsideTCP || n.config.AutoInsideUDP); err != nil {
		return err
	}
	return n.openPlanned()
}

// flowLimit is how many flows there may be. Each may need a descriptor, and forwarded ports do.
func (n *Network) flowLimit() int {
	own := ownDescriptors + (len(n.end.queues)-1)*workerDescriptors + n.config.vhostDescriptors(len(n.end.queues)) + len(n.plan.ports) + worker.MaxGroups*len(n.config.UDP.Multicast)
	return min(maxFlows, max(n.config.Limits.Descriptors, own+1)-own)
}

// add makes the next worker, over the given queue. On error, what the worker would have owned is given back, but for the queue.
func (n *Network) add(queue link.Queue) error {
	m := &member{wakeFd: -1}
	c, workers := &n.config, len(n.end.queues)
	wc := worker.Config{
		Queue: queue, Map: &n.plan.mapping, Stats: new(stats.Worker), Group: n.group, ID: len(n.members),
		MTU: n.plan.inside.MTU, MaxFlows: n.flowLimit(), Budget: c.Limits.Budget / int64(workers), MaxWindow: maxWindow, NearWindow: nearWindow, MaxFlight: maxFlight,
		KeepIdle: int64(keepIdle), IdleLimit: int64(c.Limits.IdleTimeout), UDPIdle: int64(udpIdle), UDPFirst: int64(udpFirst), ICMPIdle: int64(icmpIdle),
		Overload:    overload(c),
		EvictAges:   worker.DefaultEvictAges.Cap(int64(c.Limits.EvictIdle)),
		SourceFlows: (c.Limits.SourceFlows + workers - 1) / workers, EndpointIndependent: c.UDP.EndpointIndependent,
		Multicast: slices.Clone(c.UDP.Multicast), MulticastDevice: n.plan.device(),
		Policy: c.judge(), Ended: c.FlowEnded, NoTCP: c.Filter.NoTCP, NoUDP: c.Filter.NoUDP, NoICMP: c.Filter.NoICMP,
		Origin: origins(c), Clock: n.monotonic, Seed: secret(), Log: n.log, Capture: captureOf(c), Redirect: c.Redirect,
		Spin: spinFor(workers), Spinners: max(1, runtime.NumCPU()/2), Yield: yieldFor(workers), Idle: c.Idle, Intercept: n.intercept,
	}
	if wc.ID == 0 {
		wc.Receivers = receivers(n.end.queues)
	}
	if c.Hook != nil {
		wc.Hook = c.Hook(wc.ID)
	}
	if err := n.complete(m, &wc); err != nil {
		return errors.Join(err, m.release())
	}
	n.members = append(n.members, m)
	return nil
}

// overload is what workers do without room.
func overload(c *Config) worker.Overload {
	if c.Limits.DropOnOverload {
		return worker.Drop
	}
	return worker.Backpressure
}

// receivers are the receiving sides of all queues but the first, by which the first worker does it all while there is little to do; nil where the link has none.
func receivers(queues []link.Queue) (all []link.Queue) {
	for i, q := range queues {
		s, ok := q.(link.Shared)
		if !ok || len(queues) == 1 {
			return nil
		}
		if i == 0 {
			all = append(all, nil)
		} else {
			all = append(all, s.Receiver())
		}
	}
	return all
}

// complete completes a worker's configuration and makes the worker.
func (n *Network) complete(m *member, c *worker.Config) (err error) {
	if len(n.members) > 0 {
		c.Gateway = n.members[0].worker.Gateway.Sibling(c.Stats)
	} else if c.Gateway, err = gateway.New(n.plan.gateway(&n.config, n.end, c.Stats)); err != nil {
		return err
	}
	if m.host, err = newHost(n.inner); err != nil {
		return err
	}
	if m.wakeFd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("vasta: cannot make an eventfd: %w", err)
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
	m.worker.SetNaming(n.plan.names.at, n.plan.names.resolvers)
	return nil
}

// release gives back what a worker had, its queue too.
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

func origins(c *Config) [2]hostsock.Origin {
	return [2]hostsock.Origin{
		forward.V4: {Addr: netip.AddrPortFrom(c.Host.Outbound.V4, 0), Device: c.Host.Interface4},
		forward.V6: {Addr: netip.AddrPortFrom(c.Host.Outbound.V6, 0), Device: c.Host.Interface6},
	}
}

func captureOf(c *Config) func(worker.Direction, *packet.NetHdr, [][]byte) {
	if c.Capture == nil {
		return nil
	}
	return func(d worker.Direction, hdr *packet.NetHdr, bufs [][]byte) {
		to := ToHost
		if d == worker.ToGuest {
			to = ToGuest
		}
		c.Capture(to, hdr, bufs)
	}
}

// Run moves data until ctx ends, Close is called, or the guest is gone. It is called once.
//
// The error is nil when ctx has ended or Close was called, ErrGone when the guest's end of the link does not exist any more, ErrClosed after Close, and
// otherwise what has failed. What the guest had open is not ended before Close.
func (n *Network) Run(ctx context.Context) error {
	n.mu.Lock()
	switch n.state {
	case made:
	case closed:
		n.mu.Unlock()
		return ErrClosed
	default:
		n.mu.Unlock()
		return errors.New("vasta: Run is called once for a network; make another one with New")
	}
	n.state = running
	n.start()
	n.mu.Unlock()
	err := n.serve(ctx)
	n.stopWorkers()
	<-n.done
	n.mu.Lock()
	if n.state == running {
		n.state = ended
	}
	n.mu.Unlock()
	close(n.over)
	return errors.Join(err, n.result)
}

// serve has the inside follow what happens outside and in, until it is time to end.
func (n *Network) serve(ctx context.Context) error {
	ports, err := n.watchPorts()
	if err != nil {
		return err
	}
	defer ports.stop()
	if !n.config.Host.Fixed {
		defer n.follow().stop()
	}
	close(n.ready)
	select {
	case <-ctx.Done():
	case <-n.end.gone:
		return ErrGone
	case <-n.done:
	}
	return nil
}

// Ready is closed when the network works: when Run has started. A process in the namespace has been able to use its interface, and host peers to connect,
// since New; nothing has been lost, and now it is answered.
func (n *Network) Ready() <-chan struct{} { return n.ready }

// start runs each worker in a thread of its own.
func (n *Network) start() {
	ended := make(chan error, len(n.members))
	for _, m := range n.members {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread() // so that the thread, and what hangs on it, stays
			ended <- m.worker.Run()
		}()
	}
	go func() {
		for range n.members {
			if err := <-ended; n.result == nil && err != nil {
				n.result = err
				if errors.Is(err, link.ErrGone) {
					n.result = ErrGone
				}
				n.stopWorkers() // one that has failed takes its flows with it: better none than some
			}
		}
		close(n.done)
	}()
}

func (n *Network) stopWorkers() {
	for _, m := range n.members {
		m.worker.Stop()
	}
}

// Close ends Run, if it runs, then every flow, resetting what is not over, and gives everything back: ports, the link, and a namespace that was made
// with everything that runs in it. A second Close does nothing.
func (n *Network) Close() error {
	n.mu.Lock()
	before := n.state
	n.state = closed
	n.mu.Unlock()
	switch before {
	case closed:
		return nil
	case made:
		close(n.over)
	case running:
		n.stopWorkers()
		<-n.over
	}
	return n.release()
}

// release gives back what New had taken, as far as it had come.
func (n *Network) release() (err error) {
	n.inner.close()
	for _, m := range n.members {
		err = errors.Join(err, m.release())
	}
	if n.group != nil {
		err = errors.Join(err, n.group.Close())
	}
	return errors.Join(err, n.end.close(len(n.members)))
}

// do has fn run where the worker of m may be touched: in its goroutine, or here while that does not run. fn is not run, and the answer is an error, when ctx has
// ended, or the network has.
func (n *Network) do(ctx context.Context, m *member, fn func()) error {
	n.mu.Lock()
	if n.state == made {
		defer n.mu.Unlock()
		fn()
		return nil
	}
	n.mu.Unlock()
	t := newTask(fn)
	if !n.post(m, t.run) {
		return ErrClosed
	}
	select {
	case <-t.over:
		return nil
	case <-n.done:
		if t.cancel() {
			return ErrClosed
		}
	case <-ctx.Done():
		if t.cancel() {
			return context.Cause(ctx)
		}
	}
	<-t.over
	return nil
}

// post has fn run in the worker's goroutine, and reports false when that does not run. The lock keeps Close from closing the descriptor that wakes the
// worker meanwhile.
func (n *Network) post(m *member, fn func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state != running {
		return false
	}
	m.worker.Do(fn)
	return true
}

// task is a function that is run once, or never.
type task struct {
	fn   func()
	over chan struct{}
	once sync.Once
}

func newTask(fn func()) *task { return &task{fn: fn, over: make(chan struct{})} }

func (t *task) run() {
	t.once.Do(func() {
		t.fn()
		close(t.over)
	})
}

// cancel reports whether the function will never run. If it runs at this moment, cancel waits for it.
func (t *task) cancel() (never bool) {
	t.once.Do(func() { never = true })
	return never
}

// Stats are a network's counters and levels.
type Stats struct {
	Total   stats.Worker   // of all workers together
	Workers []stats.Worker // of each
	// QueueDropped is how many of the guest's frames the kernel has dropped because the interface's queue was full, where that is known: in namespaces that the network has made.
	QueueDropped uint64
}

// Stats returns the counters, from New until Close.
func (n *Network) Stats(ctx context.Context) (s Stats, err error) {
	for _, m := range n.members {
		var w stats.Worker
		err := n.do(ctx, m, func() { w = m.snapshot() })
		if errors.Is(err, ErrClosed) {
			w, err = n.lastStats(m)
		}
		if err != nil {
			return Stats{}, err
		}
		s.Workers = append(s.Workers, w)
		s.Total.Add(&w)
	}
	if ns := n.end.ns; ns != nil {
		s.QueueDropped, _ = ns.Dropped()
	}
	return s, nil
}

// lastStats are the counters of a worker that does not run any more.
func (n *Network) lastStats(m *member) (stats.Worker, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state == closed {
		return stats.Worker{}, ErrClosed
	}
	select {
	case <-n.done:
		return m.snapshot(), nil
	default:
		return stats.Worker{}, ErrClosed
	}
}

// snapshot is called in the worker's goroutine, or while that does not run.
func (m *member) snapshot() stats.Worker {
	s := m.worker.Snapshot()
	c := m.host.Counters()
	s.SysWait, s.SysSend, s.SysRecv, s.SysSocket = c.Wait, c.Send, c.Recv, c.Socket
	return s
}

func (n *Network) currentPlan() *plan {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.plan
}

// Inside is what the guest's end of a network is like. It changes when the network follows the host.
type Inside struct {
	IfName string // of an interface that was made here
	MAC    netns.MAC
	MTU    int // bytes
	Addrs  []netip.Prefix
	// Gateway is the router, and HostLoopback what stands for the host's loopback; the zero address where there is none.
	Gateway, HostLoopback AddrPair
	// DNS are the addresses whose port 53 is the forwarder's.
	DNS []netip.Addr
}

// Inside returns what the guest's end is like now.
func (n *Network) Inside() Inside {
	p := n.currentPlan()
	pair := func(a [2]netip.Addr) AddrPair { return AddrPair{V4: a[forward.V4], V6: a[forward.V6]} }
	return Inside{
		IfName: n.end.name, MAC: n.end.mac, MTU: p.inside.MTU, Addrs: slices.Clone(p.inside.Addrs),
		Gateway: pair(p.mapping.Gateway), HostLoopback: pair(p.mapping.Loopback), DNS: slices.Clone(p.names.at),
	}
}

// Namespace is the namespace of a Sandbox or an Attach, where commands are started; nil for other links. It belongs to the network.
func (n *Network) Namespace() *netns.Namespace { return n.end.ns }

// spinFor is how long a worker looks for events before it sleeps. With fewer processors than workers that would only keep those
// waiting that could cause any.
func spinFor(workers int) int64 {
	if runtime.NumCPU() < max(workers, 2) {
		return 0
	}
	return int64(40 * time.Microsecond)
}

// yieldFor has workers that are more than the processors let others run before they look at what there is to do: they are woken for a frame each
// otherwise, and sixteen on two processors move 64 streams a sixth slower.
func yieldFor(workers int) func() {
	if runtime.NumCPU() < workers {
		return hostsock.Yield
	}
	return nil
}

// Epoch is when the clock of FlowEnd records was 0.
func (n *Network) Epoch() time.Time { return n.started }

// monotonic is the clock of the workers, in nanoseconds.
func (n *Network) monotonic() int64 { return int64(time.Since(n.started)) + 1 }

func secret() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return binary.NativeEndian.Uint64(b[:])
}
