package worker_test

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"pgregory.net/rapid"
)

// crew is the workers of a rig that has several, each with a queue of its own, and the guest's side of the link, which chooses the queue of
// each frame as the kernel does: that which wrote to the flow last, else one by a hash.
type crew struct {
	group   *worker.Group
	members []*member
	learned map[[2]netip.AddrPort]int // by guest's and peer's end
	seed    maphash.Seed
	only    int // the one queue that is attached; -1 for all
	sent    uint64
}

// member is one worker and what is its alone.
type member struct {
	w     *worker.Worker
	link  *linktest.Queue
	view  *hosttest.View
	stats *stats.Worker
}

// receiver is the receiving side of a queue, which may be lent: the queue itself, under a number of its own.
type receiver struct {
	*linktest.Queue
	worker int
}

func (q receiver) Fd() int                 { return 100 + q.worker }
func (q receiver) Send(*link.Out) bool     { panic("sends through a receiver") }
func (q receiver) Counters() link.Counters { return link.Counters{} }
func (q receiver) Close() error            { return nil }

// makeCrew makes a rig with n workers.
func makeCrew(t TB, n int, edit func(*worker.Config)) *rig {
	t.Helper()
	r := &rig{t: t, host: hosttest.New(), conns: make(map[[2]netip.AddrPort]*guestConn), port: 20000}
	r.host.OnOpen = establish
	r.host.Advance(second)
	r.crew = &crew{learned: make(map[[2]netip.AddrPort]int), seed: maphash.MakeSeed(), only: -1}
	features := allFeatures
	features.Learns = true
	var links []*linktest.Queue
	var receivers []link.Queue
	for i := range n {
		links = append(links, linktest.New(features))
		receivers = append(receivers, receiver{links[i], i})
	}
	for i := range n {
		m := &member{link: links[i], view: r.host.View()}
		m.link.Notify = func() {
			m.view.Wake(linktest.Fd)
			r.crew.members[0].view.Wake(receivers[i].Fd())
		}
		c := config(t, m.link, m.view)
		c.Clock = r.host.Now
		if i == 0 {
			c.Receivers = receivers
		}
		edit(&c)
		if i == 0 {
			var err error
			if r.crew.group, err = worker.NewGroup(n, c.MaxFlows); err != nil {
				t.Fatalf("group: %v", err)
			}
		} else {
			c.Gateway = r.crew.members[0].w.Gateway.Sibling(c.Stats)
		}
		c.Group, c.ID = r.crew.group, i
		m.stats = c.Stats
		var err error
		if m.w, err = worker.New(c); err != nil {
			t.Fatalf("worker: %v", err)
		}
		r.crew.members = append(r.crew.members, m)
	}
	r.w, r.link, r.stats = r.crew.members[0].w, r.crew.members[0].link, r.crew.members[0].stats
	return r
}

// newCrew is makeCrew for a test, at whose end it is closed and checked.
func newCrew(t *testing.T, n int, edit ...func(*worker.Config)) *rig {
	t.Helper()
	r := makeCrew(t, n, func(c *worker.Config) {
		for _, f := range edit {
			f(c)
		}
	})
	t.Cleanup(r.close)
	return r
}

// inject gives a frame to the queue that the kernel would choose.
func (c *crew) inject(frame []byte) {
	var p packet.Packet
	q := 0
	if p.Parse(&packet.Frame{Bufs: [][]byte{frame}, Len: len(frame)}) == stats.None {
		flow := [2]netip.AddrPort{at(p.Src, p.SrcPort), at(p.Dst, p.DstPort)}
		learned, ok := c.learned[flow]
		if q = learned; !ok {
			q = int(maphash.Comparable(c.seed, flow) % uint64(len(c.members)))
		}
	}
	if c.only >= 0 {
		q = c.only
	}
	c.sent++
	c.members[q].link.Inject(packet.NetHdr{}, frame)
}

// forget ends what the link has learned, as three seconds without frames do, and changes the hash.
func (c *crew) forget() {
	clear(c.learned)
	c.seed = maphash.MakeSeed()
}

// takeCrew is take for several links, each of which remembers whose flows were written to it.
func (r *rig) takeCrew() (all []got) {
	r.t.Helper()
	for i, m := range r.crew.members {
		for _, f := range m.link.Take() {
			g := r.decode(f)
			if r.crew.only < 0 && !(g.tcp != nil && flags(g.tcp) == "S") { // which the guest has answered before the link learns from it
				r.crew.learned[[2]netip.AddrPort{g.to, g.from}] = i
			}
			if gateway.MAC(f.Data[:6]) != gwMAC { // else the guest's kernel drops it
				all = append(all, g)
			}
		}
	}
	return all
}

// activity is a number that grows with what the workers achieve with links and with each other. What a full link refuses is offered again
// and again.
func (c *crew) activity() (n uint64) {
	for _, m := range c.members {
		sent, _ := m.link.Sent()
		n += sent + m.link.Received() + m.stats.HandedOver + m.stats.TakenOver + m.stats.TCPAccepted
	}
	return n
}

// discard gives the memory back after a failure.
func (c *crew) discard() {
	for _, m := range c.members {
		_ = m.w.Close()
	}
	_ = c.group.Close()
}

// workers is how many there are.
func (r *rig) workers() uint64 {
	if r.crew == nil {
		return 1
	}
	return uint64(len(r.crew.members))
}

// step has each worker do one iteration, and returns how long all of them would sleep then; 0 when one would not.
func (r *rig) step(limit int64) (sleep int64) {
	before := r.activity()
	sleep = limit
	for _, m := range r.crew.members {
		m.view.Wanted = 0
		m.w.Step(limit)
		if sleep = min(sleep, m.view.Wanted); m.view.Wanted < 0 {
			r.t.Errorf("a worker waits for ever")
		}
	}
	if r.activity() != before {
		return 0
	}
	return sleep
}

// runCrew lets d nanoseconds pass.
func (r *rig) runCrew(d int64) {
	r.t.Helper()
	end := r.host.Now() + d
	for busy := 0; r.host.Now() < end; {
		sleep := r.step(end - r.host.Now())
		if sleep > 0 {
			sleep, busy = r.step(end-r.host.Now()), 0 // one that slept may have been given something by one that came later
		}
		if sleep > 0 {
			r.host.Advance(sleep)
		} else if busy++; busy > 100000 {
			r.t.Fatalf("the workers spin")
		}
	}
}

// total is the counters of all workers together.
func (r *rig) total() (sum stats.Worker) {
	if r.crew == nil {
		return r.w.Snapshot()
	}
	for _, m := range r.crew.members {
		s := m.w.Snapshot()
		sum.Add(&s)
	}
	return sum
}

// checkCrew checks what is always true when all frames have arrived where they belong.
func (r *rig) checkCrew() {
	r.t.Helper()
	r.settle()
	s := r.total()
	if s.RxFrames != r.crew.sent {
		r.t.Errorf("%d frames were sent, %d received", r.crew.sent, s.RxFrames)
	}
	if s.HandedOver != s.TakenOver {
		r.t.Errorf("%d frames were handed over, %d taken over", s.HandedOver, s.TakenOver)
	}
	if n := r.crew.group.Flows(); uint64(n) != s.Flows {
		r.t.Errorf("%d flows in the directory, %d at the workers", n, s.Flows)
	}
}

// closeCrew ends the workers; see rig.close.
func (r *rig) closeCrew() {
	r.t.Helper()
	for _, m := range r.crew.members {
		if err := m.w.Close(); err != nil {
			r.t.Errorf("Close: %v", err)
		}
		m.link.Check(r.t)
	}
	if n := r.crew.group.Flows(); n != 0 {
		r.t.Errorf("%d flows left in the directory", n)
	}
	if err := r.crew.group.Close(); err != nil {
		r.t.Errorf("Close of the group: %v", err)
	}
	r.host.Check(r.t)
	if s := r.total(); s.Flows != 0 || s.TCPOpened+s.TCPAccepted != s.TCPClosed || s.UDPOpened != s.UDPClosed || s.ICMPOpened != s.ICMPClosed {
		r.t.Errorf("flows are left, or opened and closed differ: %+v", s)
	}
}

// TestCrewModel is TestModel with several workers, while the link changes its mind about who gets which frame.
func TestCrewModel(t *testing.T) {
	for _, n := range []int{2, 3} {
		t.Run(fmt.Sprint(n), rapid.MakeCheck(func(t *rapid.T) {
			m := newCrewModel(t, n)
			defer m.discard()
			actions := m.actions()
			actions["steering forgets"] = func(*rapid.T) { m.crew.forget() }
			actions["queues are detached, or attached"] = func(t *rapid.T) { m.crew.only = rapid.IntRange(-1, n-1).Draw(t, "only") }
			actions["frame on a wrong queue"] = func(t *rapid.T) {
				c := m.some(t, func(c *modelConn) bool { return c.opened && !c.over() })
				m.crew.learned[[2]netip.AddrPort{c.local, c.remote}] = rapid.IntRange(0, n-1).Draw(t, "queue")
				c.ack()
			}
			check := actions[""]
			actions[""] = func(t *rapid.T) { check(t); m.checkCrew() }
			t.Repeat(actions)
			m.finish()
			m.close()
		}))
	}
}

// TestHandOver: frames of one flow on the queue of another worker reach its owner, whole and in order, and what they lead to is the
// same. The owner's frames go to its own queue.
func TestHandOver(t *testing.T) {
	for _, remote := range []netip.AddrPort{at(server4, 80), at(server6, 80)} {
		r := newCrew(t, 2)
		r.crew.only = 0
		c := r.connect(remote)
		s := r.host.Last()
		r.crew.only = 1
		const n = 300000
		for sent := 0; sent < n; {
			sent += c.write(n-sent, 50000)
			r.pump()
		}
		if got := len(s.TakeSent()); got != n || c.una != c.nxt {
			t.Errorf("%d bytes arrived, acknowledged to %d of %d", got, c.una, c.nxt)
		}
		c.end()
		s.End()
		r.pump()
		r.run(second)
		a, b, all := r.crew.members[0].stats, r.crew.members[1].stats, r.total()
		if a.TakenOver < n/50000 || a.HandedOver != 0 || b.HandedOver != a.TakenOver || b.TxFrames != 0 || b.TCPOpened != 0 || all.Dropped() != 0 {
			t.Errorf("handed over %d, taken over %d; the other worker sent %d frames and opened %d flows; drops %v",
				b.HandedOver, a.TakenOver, b.TxFrames, b.TCPOpened, all.Drops)
		}
		r.idle()
	}
}

// TestHandOverOfDatagrams: UDP and echo flows have one owner, too.
func TestHandOverOfDatagrams(t *testing.T) {
	r := newCrew(t, 2)
	for i := range 6 {
		r.crew.only = i % 2
		r.inject(udpFrame(at(guest4, 4000), at(server4, 53), []byte{byte(i)}))
		r.inject(echoFrame(guest6, server6, 7, uint16(i), nil))
		r.settle()
	}
	if udp, ping := len(r.sockets(hosttest.UDP)), len(r.sockets(hosttest.Ping)); udp != 1 || ping != 1 {
		t.Errorf("%d UDP and %d echo sockets, want one of each", udp, ping)
	}
	if s := r.total(); s.HandedOver != 6 || s.UDPOpened != 1 || s.ICMPOpened != 1 {
		t.Errorf("%d frames handed over, %d UDP and %d echo flows", s.HandedOver, s.UDPOpened, s.ICMPOpened)
	}
}

// TestStrays: a frame of no flow is answered by whoever gets it, and no frame goes round.
func TestStrays(t *testing.T) {
	r := newCrew(t, 3)
	c := r.conn(at(guest4, 4000), at(server4, 80))
	c.nxt, c.rcvNxt = 1, 1
	for q := range 3 {
		r.crew.only = q
		c.ack()
		r.settle()
	}
	if s := r.total(); s.Drops[stats.TCPNoFlow] != 3 || s.HandedOver != 0 || s.TxFrames != 3 {
		t.Errorf("%d of no flow, %d handed over, %d answers; want 3, 0, 3", s.Drops[stats.TCPNoFlow], s.HandedOver, s.TxFrames)
	}
}

// TestAcceptedAreDealtOut: connections accepted by one worker belong to all of them in equal numbers, those that end are made up for, and their
// frames come on the owner's queue from the first answer on.
func TestAcceptedAreDealtOut(t *testing.T) {
	const workers, each = 4, 8
	r := newCrew(t, workers)
	l := r.forward(at(netip.IPv6Unspecified(), 8000), 5000, false)
	var peers []*hosttest.Socket
	open := func() {
		peer := at(server4, 1000+uint16(len(peers)))
		r.conn(at(guest4, 5000), peer)
		peers = append(peers, l.Inbound(peer, at(guest4, 8000)))
	}
	even := func() {
		t.Helper()
		r.pump()
		for i, m := range r.crew.members {
			if m.stats.TCPFlows != each {
				t.Errorf("worker %d has %d flows, want %d", i, m.stats.TCPFlows, each)
			}
		}
		r.checkCrew()
	}
	for range workers * each {
		open()
	}
	even()
	if n := r.total().HandedOver; n != 0 {
		t.Errorf("%d frames came on the queue of another worker", n)
	}
	for i, s := range peers { // all of one worker, by the look of it
		if i%3 == 0 {
			s.Reset(0)
		}
	}
	r.run(second)
	for n := uint64(workers*each) - r.total().TCPFlows; n > 0; n-- {
		open()
		r.pump()
	}
	even()
}

// TestGroupLimits: the limit of flows is that of all workers together.
func TestGroupLimits(t *testing.T) {
	r := makeCrew(t, 2, func(c *worker.Config) { c.MaxFlows = 5 })
	t.Cleanup(r.close)
	opened := 0
	for i := range 10 {
		r.crew.only = i % 2
		c := r.dial(at(server4, 80))
		r.pump()
		if c.opened {
			opened++
		}
	}
	if opened != 5 || r.total().Drops[stats.FlowTableFull] != 5 {
		t.Errorf("%d flows of at most 5, %d refused", opened, r.total().Drops[stats.FlowTableFull])
	}
}

// TestInboxFull: a worker that is far behind loses frames, which are counted, and nothing else.
func TestInboxFull(t *testing.T) {
	r := newCrew(t, 2)
	r.crew.only = 0
	c := r.connect(at(server4, 80))
	s := r.host.Last()
	r.crew.only = 1
	const frames = 3000 // more than an inbox has room for
	for range frames {
		c.ack()
	}
	other := r.crew.members[1]
	for other.stats.HandedOver+other.stats.Drops[stats.HandoverFull] < frames {
		other.w.Step(0)
	}
	if lost := other.stats.Drops[stats.HandoverFull]; lost == 0 || lost == frames {
		t.Errorf("%d of %d frames lost", lost, frames)
	}
	c.write(1000, 1000)
	r.pump()
	if c.write(1000, 1000); c.una != c.nxt { // the first may have found the inbox full
		c.send(layers.TCP{}, c.una, pattern(make([]byte, c.nxt-c.una), c.flow, c.una))
	}
	r.pump()
	if n := len(s.TakeSent()); n != 2000 || c.una != c.nxt {
		t.Errorf("%d bytes arrived, acknowledged to %d of %d", n, c.una, c.nxt)
	}
	r.checkCrew()
}

// TestCloseWithMail: a connection that was accepted for a worker which ends before it takes it is reset.
func TestCloseWithMail(t *testing.T) {
	r := makeCrew(t, 2, func(*worker.Config) {})
	l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, false)
	var peers []*hosttest.Socket
	for i := range 4 {
		peers = append(peers, l.Inbound(at(server4, 1000+uint16(i)), at(guest4, 8000)))
	}
	for range 10 {
		r.crew.members[0].w.Step(0)
	}
	if n := r.crew.members[0].stats.TCPAccepted; n != 2 {
		t.Fatalf("the first worker has taken %d connections, want 2 of 4", n)
	}
	r.close()
	for i, p := range peers {
		if !p.Aborted() {
			t.Errorf("connection %d was not reset", i)
		}
	}
}

// TestGuestMoves: all workers send to the address that one of them has seen last.
func TestGuestMoves(t *testing.T) {
	r := newCrew(t, 2)
	r.crew.only = 1
	frame := arpFrame(gw4)
	moved := frame[6:12]
	moved[5]++
	copy(frame[22:28], moved)
	r.inject(frame)
	r.settle()
	if got := r.crew.members[0].w.Gateway.GuestMAC(); string(got[:]) != string(moved) {
		t.Errorf("the other worker sends to %x, the guest is at %x", got, moved)
	}
}

// TestGroupSize: a group has a bound.
func TestGroupSize(t *testing.T) {
	for _, n := range []int{0, 300} {
		if _, err := worker.NewGroup(n, 10); err == nil {
			t.Errorf("a group of %d workers", n)
		}
	}
}

// newCrewModel is newModel with so many workers.
func newCrewModel(t *rapid.T, n int) *model {
	r := makeCrew(t, n, modelLimits)
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	for _, m := range r.crew.members {
		m.link.Split(rng, 70)
	}
	return newModelOn(r)
}
