// Package worker is the event loop of vasta: one Worker owns one queue pair of a link, a set of host sockets, the flows
// between them, and a timer wheel. It carries out what the flows ask for; the flows themselves make no system call.
//
// One iteration takes the events that wait, then the frames of the link, then the host sockets that may be read, then the
// timers, and flushes what the flows have to say in between. Each source has a budget, so that none starves the others.
//
// Everyone else talks to a running worker through Do only; but the workers of one Group give each other what is another's.
package worker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/flow/fragment"
	"github.com/vasta-net/vasta/flow/policy"
	"github.com/vasta-net/vasta/flow/tcp"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/timer"
)

// Direction of a frame, for Config.Capture.
type Direction uint8

// The directions.
const (
	FromGuest Direction = iota
	ToGuest
)

// Config is what a worker is made of. The worker owns Queue, Host and the pools from New on and gives them back
// with Close.
type Config struct {
	Queue   link.Queue
	Host    hostsock.Host
	Gateway *gateway.Gateway
	Map     *forward.Map
	Hold    *pagepool.Pool // what host sockets do not take yet
	Send    *pagepool.Pool // what the guest has not acknowledged
	Stats   *stats.Worker

	Receivers []link.Queue // of the first worker of a group: the receiving sides of the others' queues (link.Shared), by their numbers; nil for none. It closes them
	Group     *Group       // of the workers of this network; nil for one that is alone
	ID        int          // its number in Group, from 0

	MTU         int
	MaxFlows    int
	SourceFlows int   // that each address of the guest may have begun; 0 for as many as there may be
	Budget      int64 // bytes that TCP flows may promise to guests; at most the size of Hold less 8 KiB a flow
	MaxWindow   int64 // bytes, cap of one TCP flow's receive window
	NearWindow  int64 // bytes, the same while the round trip to the guest is short
	MaxFlight   int64 // bytes, cap of one TCP flow's retransmission memory

	KeepIdle  int64 // nanoseconds of silence before a TCP guest is probed
	IdleLimit int64 // nanoseconds without data after which a TCP flow is given up; 0 for never
	UDPIdle   int64 // nanoseconds after which a UDP flow that was answered ends
	UDPFirst  int64 // the same for one that was not answered
	ICMPIdle  int64 // the same for an echo flow

	Overload  Overload  // what becomes of datagrams for which there is no room
	EvictAges EvictAges // how long flows have to be unused before they make room for others

	Policy policy.Judge // decides which flows there may be; nil: all. The workers of a group share it

	NoTCP, NoUDP, NoICMP bool
	// Multicast are the UDP ports at which the guest hears the groups that it has joined; with any, it may send to groups and broadcast addresses. Both
	// are by the host's interface of index MulticastDevice, 0 for that of the routes.
	Multicast           []uint16
	MulticastDevice     int
	EndpointIndependent bool               // a UDP port of the guest has one host socket for all its peers
	Origin              [2]hostsock.Origin // of outbound sockets, by forward.V4 and V6

	// Intercept may answer a connection of the guest's in place of a host peer: with a connected stream socket, which is the worker's from then on, or an error.
	// It is asked once for each new connection and must not wait; nil for none.
	Intercept func(guest, to netip.AddrPort) (fd int, err hostsock.Errno, ok bool)

	WakeFd  int                                                  // an eventfd that Do writes to; -1: the caller of Step sees to it
	Clock   func() int64                                         // monotonic, nanoseconds
	Seed    uint64                                               // secret of initial sequence numbers
	Capture func(d Direction, hdr *packet.NetHdr, bufs [][]byte) // sees every frame; nil for none
	Hook    packet.Hook                                          // judges the guest's frames before anything is made of them; nil for none
	// Redirect takes a frame that Hook redirects, borrowed until it returns, in the worker's goroutine, and does not wait: Deliver of another worker may be called. False, and
	// nil, say that it is lost, which is counted.
	Redirect func(target int, f *packet.Frame) bool
	Spin     int64 // nanoseconds to look for events before sleeping, where that has been worth it; 0 for never
	// Spinners is how many workers of the group may do so at the same time: those that began last. At least 1.
	Spinners int
	// Yield lets other threads run first when the worker has slept, nil for no such courtesy. With more workers than processors, each
	// finds more to do at once when it comes last.
	Yield func()
	Idle  func()           // called a second after the last event of a load, in the worker's goroutine; nil for none
	Ended func(e *FlowEnd) // is told of each flow at its end, in the worker's goroutine, and keeps nothing of it; nil for none
	Log   *slog.Logger     // nil for none
}

// Worker is one event loop. Run it in one goroutine; only Do, Stop and Deliver may be called from others.
type Worker struct {
	Config
	now   int64
	env   tcp.Env
	table *flow.Table
	wheel *timer.Wheel
	feat  link.Features
	rings link.Sleeper // the queue, if it is looked at rather than told of; or nil

	flows   []*flowSlot // by flow number; nil or free ones are listed in free
	free    []int32
	waits   timeWaits
	turns   turns // flows whose host socket may be read
	ages    ageLists
	senders senders
	dirty   []int32 // flows that have something to say to the guest
	late    []int32 // flows whose ACK was put off
	lateAge int     // looks at the events since the first of them was
	lenders []int32 // flows that borrow payload from the link's batch

	dns   dnsState
	judge judge

	inbox *inbox // where other workers put what is ours; nil without a group
	parcelState

	deliveries atomic.Pointer[deliveries] // where others put frames for the guest; nil until the first one comes
	delivery   []byte                     // of those, the one that the link had no room for

	events [eventBatch]hostsock.Event
	frames [frameBatch]packet.Frame
	batch  int // of frames, how many are asked for next
	hooked hookState
	pkt    packet.Packet
	seg    tcp.Segment
	iov    [][]byte
	pages  []pagepool.Page // that host data is read into
	tx     txState
	udp    udpSend
	holds  holds
	recv   udpReceive
	parts  fragment.Table
	echo   [1]hostsock.Datagram // of an echo socket
	reply  waitingReply
	errs   errorState

	fragmentID uint32 // of the packet that was cut last

	emit  func(frame []byte) // emitWhole; made once, because a method value is an allocation
	talks bool               // flows are logged

	idleSince int64 // when the last event came; 0 once the memory of the load before was given back

	loans        loans
	lent         bool // the queue is lent
	linkReadable bool // frames may wait
	linkFull     bool // the link refused a frame
	noMemory     bool // there was no page to read into
	gone         error
	closing      bool
	ending       FlowEnd // that is told of
	sinceWait    int
	heard        int64 // before the link was last found empty
	timersWait   int   // iterations since then
	spent        int   // work done so far; see frameWork
	lookedAt     int   // the same when the events were last looked at
	inside       residence
	spinner      spinner

	listeners     []listener
	groups        groups
	endpoints     *flow.Table // by endpointKey, the listener's number
	sources       sources
	freeListeners []int32 // places of ports that are not forwarded any more
	waiting       []int32 // forwarded ports at which something may wait
	acceptAt      int64   // when they are looked at again after descriptors or memory ran out; 0 for at once
	held          []int32 // forwarded ports at which connections wait because the guest is behind
	heldUntil     int64   // when they are looked at again; 0: there are none
	halfOpen      *halfOpen
	pingRefused   *atomic.Bool                   // and one of the group said so
	dials         map[int32]func(hostsock.Errno) // of flows with dialed set

	mu       sync.Mutex
	commands []func()
	stopped  bool
}

// Batch sizes. Long frames are taken few at a time, because one is up to 64 KiB: it should still be in the cache when it is sent on. Short ones are
// taken many at a time: datagrams that are taken together leave together, and what a batch costs is shared.
const (
	eventBatch = 64
	frameBatch = link.MaxBatch
	longBatch  = 8
	// shortFrame is up to which mean length in bytes the frames of a batch are short.
	shortFrame = 2 << 10
	// spins bounds the iterations without a look at the events while there is other work.
	spins = 4
	// keepSlots is how many flow slots stay when there are no flows.
	keepSlots = 256
	// trimAfter is how long nothing may happen before the memory of the load before goes back to the system.
	trimAfter = int64(1e9)
	// timerSteps bounds the iterations for which timers wait for the link to be empty: two full queues of a TAP.
	timerSteps = 64
	// retryFull is how long the worker leaves a full link, or a full pool, alone, in nanoseconds.
	retryFull = int64(1e6)
	// retryAccept is how long connections wait that could not be accepted for want of descriptors or memory.
	retryAccept = int64(100e6)
)

// Kinds of event tokens, in the topmost byte.
const (
	tokenLink = iota
	tokenWake
	tokenFlow
	tokenListener
	tokenLoan
	tokenSplice // the outer socket of a spliced flow
)

func token(kind int, gen uint32, index int32) uint64 {
	return uint64(kind)<<56 | uint64(gen&0xffffff)<<32 | uint64(uint32(index))
}

// New makes a worker. It registers the queue with the host's event set.
func New(c Config) (*Worker, error) {
	w := &Worker{
		Config:    c,
		table:     flow.NewTable(c.MaxFlows),
		endpoints: flow.NewTable(c.MaxFlows),
		feat:      c.Queue.Features(),
		now:       c.Clock(),
		iov:       make([][]byte, 0, 64),
	}
	if w.feat.Again {
		w.rings, _ = c.Queue.(link.Sleeper)
	}
	w.sources.table = flow.NewTable(c.MaxFlows)
	w.wheel = timer.New(w.now)
	w.ages = newAgeLists()
	w.inside.looked, w.inside.link = w.now, w.now
	w.emit = w.emitWhole
	if w.Log == nil {
		w.Log = slog.New(slog.DiscardHandler)
	}
	w.talks = talks(w.Log)
	if l, ok := c.Policy.(learner); ok && l.Names() {
		w.judge.names = l
	}
	w.env = tcp.Env{
		Hold: c.Hold, Send: c.Send, Budget: &tcp.Budget{Limit: c.Budget}, Stats: c.Stats,
		MaxWindow: c.MaxWindow, NearWindow: c.NearWindow, MaxFlight: c.MaxFlight, Lazy: true, KeepIdle: c.KeepIdle, IdleLimit: c.IdleLimit, Now: w.now,
		GapACKs: 3,
	}
	if c.Group != nil {
		w.env.GapACKs = 1 // frames of a flow come by way of another worker for a moment, and so in another order
	}
	c.Stats.Budget = uint64(c.Budget)
	w.pingRefused, w.halfOpen = new(atomic.Bool), new(halfOpen)
	if c.Group != nil {
		w.pingRefused, w.halfOpen = &c.Group.pingRefused, &c.Group.halfOpen
		w.inbox = &c.Group.inboxes[c.ID]
		w.inbox.wakeFd = c.WakeFd
	}
	if b, ok := c.Queue.(link.Borrower); ok {
		if err := b.Borrow(c.Send); err != nil {
			return nil, fmt.Errorf("worker: the link: %w", err)
		}
	}
	w.linkReadable, w.batch = true, longBatch
	w.newLoans()
	if err := w.Host.Watch(c.Queue.Fd(), token(tokenLink, 0, 0)); err != 0 {
		return nil, fmt.Errorf("worker: cannot watch the link: %w", err)
	}
	if c.WakeFd >= 0 {
		if err := w.Host.Watch(c.WakeFd, token(tokenWake, 0, 0)); err != 0 {
			return nil, fmt.Errorf("worker: cannot watch the wake-up descriptor: %w", err)
		}
	}
	return w, nil
}

// Run works until Stop is called or the link is gone, and returns link.ErrGone then. The caller has locked the
// goroutine to its thread when it cares about latency.
func (w *Worker) Run() error {
	defer w.closeDeliveries()
	for w.gone == nil {
		if w.takeCommands() {
			return nil
		}
		w.Step(-1)
	}
	return w.gone
}

// Step does one iteration. It waits for events at most limit nanoseconds, without limit when that is negative, and
// not at all while there is work left.
func (w *Worker) Step(limit int64) {
	if w.sinceWait >= spins || w.spent-w.lookedAt >= lookWork || !w.busy() {
		w.sinceWait, w.lookedAt = 0, w.spent
		w.wait(limit)
	}
	w.sinceWait++
	if at, ok := w.wheel.Next(); ok && at <= w.now {
		w.linkReadable = true // what the guest has said by now is heard before a timer tells that it has said nothing
	}
	if w.rings != nil && w.rings.Ready() {
		w.linkReadable = true
	}
	w.serveInbox()
	w.serveLink()
	w.serveDeliveries()
	w.serveLoans() // after the link: the end of one connection is known before the next one begins
	if w.resumeEcho() {
		w.resumeUDP()
	}
	w.serveListeners()
	w.serveReady()
	w.serveTimers()
	w.flush()
	w.Queue.Flush()
	w.mark(w.inside.looked)
	w.tickIfNoted()
}

// busy reports whether there is work that no event will announce.
func (w *Worker) busy() bool {
	if (w.linkReadable || w.loans.readable > 0) && !w.linkStopped() || w.hasMail() {
		return true
	}
	waits := w.turns.waiting() != nil || (len(w.waiting) > 0 && w.acceptAt == 0)
	return waits && !w.linkFull && !w.noMemory
}

func (w *Worker) wait(limit int64) {
	w.minded()
	timeout := limit
	if w.busy() {
		timeout = 0
	} else {
		if at, ok := w.wheel.Next(); ok {
			timeout = shorter(timeout, max(0, at-w.Clock()))
		}
		if w.linkFull || w.noMemory {
			timeout = shorter(timeout, retryFull)
		}
		for _, at := range [...]int64{w.acceptAt, w.heldUntil} {
			if at != 0 {
				timeout = shorter(timeout, max(0, at-w.Clock()))
			}
		}
		if w.linkStopped() {
			timeout = shorter(timeout, max(0, w.holds.since+stopLimit-w.Clock()))
		}
		if w.idleSince != 0 {
			timeout = shorter(timeout, trimAfter)
		}
		if at := w.waits.next(); at != 0 {
			timeout = shorter(timeout, max(0, at-w.Clock()))
		}
	}
	n := 0
	if w.lateAge++; len(w.late) == 0 || w.lateAge > lateRounds {
		w.flushLate()
	}
	if timeout != 0 && w.spinning() {
		w.Queue.Flush()
		n = w.spin()
	}
	if n == 0 {
		if timeout != 0 {
			w.flushLate()
			w.lend()
			if w.busy() || !w.mayWait() || !w.askLink() {
				timeout = 0
			}
		}
		w.Queue.Flush() // what was put off, and what commands have said
		w.Stats.SysWait++
		n = w.Host.Wait(w.events[:], timeout)
	}
	w.awake()
	if timeout != 0 && w.Yield != nil {
		w.Yield()
	}
	w.tick()
	w.inside.looked = w.now
	w.linkFull, w.noMemory = false, false
	w.trim(n)
	for i := range w.events[:n] {
		w.event(&w.events[i])
	}
	w.endStops()
}

// askLink has the link tell of the next frame, and reports false when there is one already. A link that is stopped is left alone.
func (w *Worker) askLink() bool {
	if w.rings == nil || w.linkStopped() || w.rings.Sleep() {
		return true
	}
	w.linkReadable = true
	return false
}

// trim gives memory back to the system when nothing has happened for a while: events is how many there are now.
func (w *Worker) trim(events int) {
	if events > 0 {
		w.idleSince = w.now
		return
	}
	if w.idleSince == 0 || w.now-w.idleSince < trimAfter {
		return
	}
	w.idleSince = 0
	w.keepPages(0)
	w.parts.Trim()
	w.Hold.Trim()
	w.Send.Trim()
	if w.inbox != nil {
		w.inbox.trim()
	}
	if w.Stats.Flows == 0 && len(w.flows) > keepSlots {
		w.flows, w.free, w.dirty, w.late, w.lenders = nil, nil, nil, nil, nil
		w.wheel = timer.New(w.now)
	}
	if w.Idle != nil {
		w.Idle()
	}
}

// shorter is the shorter of two timeouts, of which a may be negative for none.
func shorter(a, b int64) int64 {
	if a < 0 {
		return b
	}
	return min(a, b)
}

func (w *Worker) event(e *hostsock.Event) {
	index := int32(uint32(e.Token))
	switch e.Token >> 56 {
	case tokenLink:
		if !w.linkReadable {
			w.linkReadable, w.inside.link = true, w.now
		}
	case tokenWake:
		w.takeCommands() // the eventfd is not read: every write to it is an edge
	case tokenLoan:
		w.loanReadable(int(index))
	case tokenListener:
		if gen := uint32(e.Token>>32) & 0xffffff; w.makeWaiting(index, gen) && e.Out && w.listeners[index].unsent.first != 0 {
			w.udpResume(&w.listeners[index].unsent, w.listeners[index].fd, index)
		}
	case tokenFlow, tokenSplice:
		if int(index) >= len(w.flows) {
			return
		}
		f := w.flows[index]
		if f.kind == freeSlot || uint32(e.Token>>32)&0xffffff != f.gen&0xffffff {
			return
		}
		if f.kind == spliceFlow {
			w.spliceEvent(f, e)
			return
		}
		f.readable = f.readable || e.In || e.Hangup || e.Error
		f.ended = f.ended || e.End || e.Hangup || e.Error || e.Urgent
		f.failed = f.failed || e.Error
		f.peeked = f.peeked && !e.End && !e.Hangup
		f.writable = f.writable || e.Out || e.Hangup || e.Error
		switch f.kind {
		case tcpFlow:
			w.tcpEvent(f)
		case udpFlow, icmpFlow, dnsFlow:
			if e.Out && f.held.first != 0 {
				w.udpResume(&f.held, f.fd, -1)
			}
			w.makeReady(f)
		}
	}
}

// serveLink takes frames from the link and gives them to the flows.
func (w *Worker) serveLink() {
	for end := w.spent + linkWork; w.spent < end && w.linkReadable && !w.linkStopped(); {
		began := w.now
		bytes := w.Stats.RxBytes
		n, err := w.Queue.Receive(w.frames[:w.batch])
		if err != nil {
			w.gone = err
			w.linkReadable = false
			return
		}
		if n == 0 || n < w.batch && !w.feat.Again {
			w.linkReadable = false
			w.heard = began
		}
		if n == 0 {
			return
		}
		w.received(n)
		if w.batch = longBatch; w.Stats.RxBytes-bytes <= uint64(n)*shortFrame {
			w.batch = frameBatch
		}
		w.settleAll()
		w.flush()
		w.mark(w.inside.link)
		w.tick()
		w.nextSenders()
		w.Stats.Residence.FromGuest.Add(w.now-w.inside.link, uint64(n))
		w.inside.link = began
	}
}

// received gives the first n frames to whom they belong.
func (w *Worker) received(n int) {
	if w.Hook != nil {
		n = w.runHook(n)
	}
	for i := range w.frames[:n] {
		w.frame(&w.frames[i])
	}
}

// frame gives one frame to whom it belongs. A bad one is counted and dropped, alone.
func (w *Worker) frame(f *packet.Frame) {
	w.Stats.RxFrames++
	w.Stats.RxBytes += uint64(f.Len)
	w.spent += f.Len + frameWork
	if w.Capture != nil {
		w.Capture(FromGuest, &f.Hdr, f.Bufs)
	}
	r := w.pkt.Parse(f)
	if r == stats.Fragment {
		whole, why := w.parts.Add(w.now, &w.pkt)
		if r = why; whole != nil {
			r = w.pkt.Parse(whole)
			w.pkt.DF = false // the guest has cut it, and so may others
		} else if r == stats.None {
			return // more of it has to come
		}
	}
	if r != stats.None {
		w.Stats.Drop(r)
		return
	}
	if len(w.Multicast) > 0 && w.groupReport() || w.Gateway.Input(&w.pkt, w.emit) {
		return
	}
	if !forward.Source(w.pkt.Src) {
		w.Stats.Drop(stats.BadSource)
		return
	}
	w.Gateway.Seen(w.pkt.SrcMAC)
	w.dispatch()
}

// dispatch gives the packet in w.pkt to its flow.
func (w *Worker) dispatch() {
	switch w.pkt.Proto {
	case packet.ProtoTCP:
		w.tcpInput()
	case packet.ProtoUDP:
		w.udpInput()
	case packet.ProtoIGMP:
		w.Stats.Drop(stats.UnknownProtocol)
	default:
		w.icmpInput()
	}
}

func (w *Worker) makeDirty(f *flowSlot) {
	if !f.inDirty {
		f.inDirty = true
		w.dirty = append(w.dirty, f.index)
	}
}

// flush lets the flows that took part in the batch say what they have to say.
func (w *Worker) flush() {
	kept := 0
	for k := 0; k < len(w.dirty); k++ { // a flow whose host socket fails meanwhile is appended once more
		i := w.dirty[k]
		f := w.flows[i]
		f.inDirty = false
		if f.kind == tcpFlow && (w.linkFull || !w.tcpOutput(f)) && !f.inDirty {
			f.inDirty = true
			w.dirty[kept] = i
			kept++
		}
	}
	w.dirty = w.dirty[:kept]
}

// serveTimers acts on the timers that had run out when the link was last found empty: after a time without the processor, a guest's
// acknowledgements must not be overtaken by the timer that misses them. A link that is never empty holds them up for so many iterations.
func (w *Worker) serveTimers() {
	now := w.heard
	if w.timersWait++; !w.linkReadable {
		w.timersWait = 0
	} else if w.timersWait > timerSteps {
		w.timersWait, now = 0, w.now
	}
	w.waits.expire(w.now)
	w.wheel.Advance(now)
	for {
		id, ok := w.wheel.Pop()
		if !ok {
			return
		}
		f := w.flows[id]
		switch f.kind {
		case tcpFlow:
			f.conn.Timeout(&w.env)
			w.makeDirty(f)
		case udpFlow, icmpFlow, spliceFlow:
			w.idleTimeout(f)
		case dnsFlow:
			w.dnsTimeout()
		}
	}
}
