package worker_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
)

// Who is who. The gateway stands for the host's loopback address.
var (
	guestMAC = gateway.MAC{0x02, 0, 0, 0, 0, 2}
	gwMAC    = gateway.MAC{0x02, 0, 0, 0, 0, 1}

	guest4, guest6   = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	gw4, gw6         = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	alias4, alias6   = netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")
	dns4, dns6       = netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")
	resolver4        = netip.MustParseAddr("127.0.0.53")
	resolver6        = netip.MustParseAddr("2001:db8:f::53")
	server4, server6 = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:1::7")
)

const (
	millisecond = int64(1e6)
	second      = int64(1e9)
)

var allFeatures = link.Features{Csum: true, TSO4: true, TSO6: true, USO: true}

// TB is what testing.T, testing.B, testing.F and rapid.T have in common and the rig needs.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// rig is a worker between a guest and a host that the test plays, in virtual time.
type rig struct {
	t     TB
	host  *hosttest.Host
	link  *linktest.Queue
	w     *worker.Worker
	stats *stats.Worker
	log   bytes.Buffer
	crew  *crew // all workers, where there are several; w, link and stats are then the first one's

	conns map[[2]netip.AddrPort]*guestConn // by guest's and peer's end
	other []got                            // frames that no connection took
	port  uint16                           // of the guest, last used

	closed bool
}

// newRig makes a rig that is closed and checked at the end of the test.
func newRig(t testing.TB, edit ...func(*worker.Config)) *rig {
	t.Helper()
	return newRigOn(t, linktest.New(allFeatures), edit...)
}

// newRigOn is newRig over a link that the test chooses.
func newRigOn(t testing.TB, q *linktest.Queue, edit ...func(*worker.Config)) *rig {
	t.Helper()
	r := makeRig(t, q, edit...)
	t.Cleanup(r.close)
	return r
}

// makeRig makes a rig that the test closes by itself. edit may change the configuration.
func makeRig(t TB, q *linktest.Queue, edit ...func(*worker.Config)) *rig {
	t.Helper()
	r := &rig{t: t, host: hosttest.New(), link: q, conns: make(map[[2]netip.AddrPort]*guestConn), port: 20000}
	q.Notify = func() { r.host.Wake(linktest.Fd) }
	r.host.OnOpen = establish
	r.host.OnWait = func(timeout int64) {
		if n := q.Unflushed(); n > 0 && timeout != 0 {
			t.Errorf("the worker sleeps, and %d frames were not flushed", n)
		}
	}
	r.host.Advance(second) // 0 is no time for a worker
	c := config(t, q, r.host)
	c.Clock = r.host.Now
	c.Log = slog.New(slog.NewTextHandler(&r.log, nil))
	r.stats = c.Stats
	for _, f := range edit {
		f(&c)
	}
	var err error
	if r.w, err = worker.New(c); err != nil {
		t.Fatalf("worker: %v", err)
	}
	r.w.SetNaming([]netip.Addr{dns4, dns6}, []netip.AddrPort{at(resolver4, 53), at(resolver6, 53)})
	return r
}

// config is a worker's configuration but for the clock.
func config(t TB, q link.Queue, host hostsock.Host) worker.Config {
	t.Helper()
	block := new(stats.Worker)
	gw, err := gateway.New(router(65520, block))
	if err != nil {
		t.Fatalf("gateway: %v", err)
	}
	return worker.Config{
		Queue: q, Host: host, Gateway: gw, Stats: block,
		Map: &forward.Map{
			Loopback:   [2]netip.Addr{gw4, gw6},
			GuestAlias: [2]netip.Addr{alias4, alias6},
			Guest:      [2]netip.Addr{guest4, guest6},
			Gateway:    [2]netip.Addr{gw4, gw6},
		},
		Hold: newPool(t, 32<<20), Send: newPool(t, 32<<20),
		MTU: 65520, MaxFlows: 1000, Budget: 8 << 20, MaxWindow: 8 << 20, NearWindow: 1 << 20, MaxFlight: 1 << 20,
		KeepIdle: 7200 * second, UDPIdle: 180 * second, UDPFirst: 30 * second, ICMPIdle: 60 * second,
		WakeFd: -1, Seed: 1, Log: slog.New(slog.DiscardHandler),
	}
}

// router is the gateway's configuration, on a link with that MTU.
func router(mtu uint32, block *stats.Worker) gateway.Config {
	return gateway.Config{
		MAC: gwMAC, GuestMAC: guestMAC, Guest: []netip.Addr{guest4, guest6}, Ours: []netip.Addr{gw4, gw6},
		LinkLocal: netip.MustParseAddr("fe80::1"), Router: &gateway.Router{Lifetime: gateway.MaxLifetime, MTU: mtu}, Stats: block,
	}
}

func newPool(t TB, size int) *pagepool.Pool {
	t.Helper()
	p, err := pagepool.New(size)
	if err != nil {
		t.Fatalf("pool: %v", err)
	}
	return p
}

// establish lets connects succeed as soon as the worker looks.
func establish(s *hosttest.Socket) hostsock.Errno {
	s.Establish()
	return 0
}

// close ends the worker and checks that nothing is left: no socket, page, fragment, flow or promise.
func (r *rig) close() {
	r.t.Helper()
	r.closed = true
	if r.crew != nil {
		r.closeCrew()
		return
	}
	if err := r.w.Close(); err != nil {
		r.t.Errorf("Close: %v", err)
	}
	r.host.Check(r.t)
	r.link.Check(r.t)
	s := r.stats
	if s.Flows|s.TCPFlows|s.UDPFlows|s.ICMPFlows != 0 {
		r.t.Errorf("flows left: %d, of them TCP %d, UDP %d, ICMP %d", s.Flows, s.TCPFlows, s.UDPFlows, s.ICMPFlows)
	}
	if s.TCPOpened+s.TCPAccepted != s.TCPClosed || s.UDPOpened != s.UDPClosed || s.ICMPOpened != s.ICMPClosed {
		r.t.Errorf("flows opened and closed: TCP %d + %d, %d; UDP %d, %d; ICMP %d, %d",
			s.TCPOpened, s.TCPAccepted, s.TCPClosed, s.UDPOpened, s.UDPClosed, s.ICMPOpened, s.ICMPClosed)
	}
}

// discard gives the memory of a rig back after a failure.
func (r *rig) discard() {
	switch {
	case r.closed:
	case r.crew != nil:
		r.crew.discard()
	default:
		_ = r.w.Close()
	}
}

// idle checks that no flow is left and that nothing is promised or kept for one.
func (r *rig) idle() {
	r.t.Helper()
	s := r.total()
	if s.Flows != 0 || s.Promised != 0 || s.Held != 0 || s.FragsInUse != 0 {
		r.t.Errorf("%d flows left, %d bytes promised, %d held, %d fragments in use", s.Flows, s.Promised, s.Held, s.FragsInUse)
	}
	if s.PagesInUse > r.workers() { // each worker keeps one to read into
		r.t.Errorf("%d pages in use", s.PagesInUse)
	}
}

// calls is how many calls the host has had so far, without those that wait.
func (r *rig) calls() (n int) {
	for op := hosttest.Watch; op <= hosttest.OpenGroup; op++ {
		if op != hosttest.Wait {
			n += r.host.Calls(op)
		}
	}
	return n
}

// settle lets the worker work at this point of time until there is nothing left to do.
func (r *rig) settle() {
	r.t.Helper()
	const limit, rest = 100000, 6 // the worker looks for events every few iterations only
	quiet := 0
	before := r.activity()
	for range limit {
		if r.crew != nil {
			r.step(0)
		} else {
			r.w.Step(0)
		}
		if now := r.activity(); now == before {
			if quiet++; quiet == rest {
				return
			}
		} else {
			before, quiet = now, 0
		}
	}
	r.t.Fatalf("the worker does not come to rest")
}

// activity is a number that grows with everything that the worker does.
func (r *rig) activity() uint64 {
	if r.crew != nil {
		return uint64(r.calls()) + r.crew.activity()
	}
	sent, refused := r.link.Sent()
	return uint64(r.calls()) + sent + refused + r.link.Received()
}

// run lets d nanoseconds pass. The worker may not need more than a few iterations for each millisecond.
func (r *rig) run(d int64) {
	r.t.Helper()
	if r.crew != nil {
		r.runCrew(d)
		return
	}
	end := r.host.Now() + d
	for limit := 1000 + 5*d/millisecond; r.host.Now() < end; limit-- {
		if limit == 0 {
			r.t.Fatalf("the worker spins")
		}
		r.w.Step(end - r.host.Now())
	}
}

// pump lets the worker work and gives what it sends to the guest's connections, until nobody has anything to say.
func (r *rig) pump() {
	r.t.Helper()
	for range 10000 {
		r.settle()
		frames := r.take()
		if len(frames) == 0 {
			return
		}
		for _, g := range frames {
			if c := r.conns[[2]netip.AddrPort{g.to, g.from}]; c != nil && g.tcp != nil {
				c.input(g)
			} else {
				r.other = append(r.other, g)
			}
		}
	}
	r.t.Fatalf("guest and worker do not come to rest")
}

// take decodes what was sent to the guest; each frame has to be right in itself.
func (r *rig) take() (all []got) {
	r.t.Helper()
	if r.crew != nil {
		return r.takeCrew()
	}
	for _, f := range r.link.Take() {
		all = append(all, r.decode(f))
	}
	return all
}

// only is the one frame that is sent to the guest when everything has settled.
func (r *rig) only() got {
	r.t.Helper()
	r.settle()
	all := r.take()
	if len(all) != 1 {
		r.t.Fatalf("%d frames for the guest, want one: %v", len(all), all)
	}
	return all[0]
}

// nothing checks that nothing is sent to the guest when everything has settled.
func (r *rig) nothing() {
	r.t.Helper()
	r.settle()
	if all := r.take(); len(all) != 0 {
		r.t.Fatalf("%d frames for the guest, want none: %v", len(all), all)
	}
}

// dropped checks how often a frame or flow was dropped for a reason.
func (r *rig) dropped(why stats.Reason, want uint64) {
	r.t.Helper()
	if got := r.stats.Drops[why]; got != want {
		r.t.Errorf("dropped as %v: %d, want %d (of %d in all)", why, got, want, r.stats.Dropped())
	}
}

// sockets are the sockets of a kind that are open.
func (r *rig) sockets(kind hosttest.Kind) (open []*hosttest.Socket) {
	for _, s := range r.host.Sockets() {
		if s.Kind == kind && !s.Closed() {
			open = append(open, s)
		}
	}
	return open
}

func (r *rig) inject(frame []byte) {
	if r.crew != nil {
		r.crew.inject(frame)
		return
	}
	r.link.Inject(packet.NetHdr{}, frame)
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// like is the guest's address of the family of a.
func like(a netip.Addr) netip.Addr {
	if a.Is4() {
		return guest4
	}
	return guest6
}
