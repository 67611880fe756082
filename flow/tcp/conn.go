// Package tcp is the TCP that a guest talks to: one Conn for each connection between a guest and a host socket.
//
// A Conn makes no system call and knows no clock (DESIGN.md, decision 5). The worker feeds it segments, results of host
// calls and expired timers, and asks it what to do next:
//
//	segments from the guest  Input, then Borrowed → host Send → Settle, once for a batch
//	host socket writable     Held → host Send → Drained, until the socket is full or nothing is held
//	host socket readable     WantRead → host Recv → HostPage or HostBytes; HostEOF at the end
//	connect finished         Connected, or Refuse
//	timer expired            Timeout
//	after any of these       Output, ShutdownDue, State, Deadline
//
// # Stream offsets
//
// Sequence numbers are unwrapped to 64-bit stream offsets on arrival: offset 0 is the SYN, data begins at 1, the FIN
// takes the offset behind the last byte. In the guest's stream
//
//	hostNxt ≤ rcvNxt ≤ edge
//
// hostNxt is the next byte for the host socket, rcvNxt the next byte expected from the guest, edge the advertised right
// edge. Bytes in [hostNxt, rcvNxt) are held. In the stream toward the guest
//
//	una ≤ nxt ≤ guestEdge (except for FIN and probes)
//
// una is the first byte that is not acknowledged, nxt the next that was never sent. The scoreboard tells what is known of each between them.
//
// # States
//
//	Connecting   the guest's SYN arrived, the host's connect is pending
//	SynReceived  the host is connected, SYN/ACK is sent
//	SynSent      a host peer was accepted, SYN is sent to the guest
//	Open         both sides are connected; each direction ends on its own
//	Closed       over; Why tells how
//
// A Conn belongs to one worker and is not safe for concurrent use.
package tcp

import (
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
)

// State of a connection; see the package documentation.
type State uint8

// The states.
const (
	Closed State = iota
	Connecting
	SynReceived
	SynSent
	Open
)

// Why says how a connection ended.
type Why uint8

// The ends of a connection.
const (
	NotOver     Why = iota
	Finished        // both directions ended in order
	GuestReset      // the guest sent a reset: the host's peer has to see one
	HostReset       // the host side failed or was reset: the guest has seen a reset
	GuestSilent     // the guest did not answer any more: the host's peer has to see a reset
	Evicted         // its room was needed: both ends have to see a reset
)

// Env is what a worker lends to all its connections. Now is the clock of the batch.
type Env struct {
	Now    int64          // nanoseconds, monotonic
	Hold   *pagepool.Pool // for bytes that host sockets do not take yet
	Send   *pagepool.Pool // for bytes that the guest has not acknowledged
	Budget *Budget
	Stats  *stats.Worker

	MaxWindow  int64 // cap of the receive window of one connection, bytes
	NearWindow int64 // the same while its round trip is short (see rightsize.go), bytes
	MaxFlight  int64 // cap of what one connection keeps for retransmission, bytes
	KeepIdle   int64 // nanoseconds without a segment before the guest is probed
	IdleLimit  int64 // nanoseconds without data, either way, before a connection is given up; 0 for never
	GapACKs    int   // duplicate ACKs for the first segment behind a gap: 3 where the link keeps the order of frames, else 1 (see gap.go)

	// Lazy has Output leave out an ACK that carries no data, as long as the guest has a quarter of its window left or more. The
	// worker sets it while there is reason to think that data to carry it, or more to acknowledge, comes soon; it calls Output
	// without it before it sleeps.
	Lazy bool

	rings ringCache
	out   Out
	iov   [maxPieces][]byte
}

// maxPieces bounds the payload pieces of one segment.
const maxPieces = 32

// Config is what a connection needs to know of its link and its flow.
type Config struct {
	MSS    int    // largest payload of one segment that we can take, and largest we send, without options
	MaxGSO int    // largest payload of one GSO frame, 0: the link has no TSO
	V6     bool   // for the default MSS
	ISS    uint32 // initial sequence number
	TSBase uint32 // added to the timestamp clock
}

// Conn is one TCP connection. The zero Conn is Closed.
type Conn struct {
	state  State
	why    Why
	flags  flag
	config Config

	// Guest → host.
	irs       uint32
	hostNxt   int64
	rcvNxt    int64
	edge      int64
	acked     int64 // rcvNxt as last told to the guest
	finAt     int64 // offset of the guest's FIN, 0: not seen
	promise   int64 // what the budget holds for this connection
	floor     int64 // window that the budget always grants
	target    int64 // window to keep open while the host takes what comes
	grown     int64 // rcvNxt when target was last doubled
	sizing    rightSize
	rcvScale  uint8
	hold      hold
	ooo       []interval // arrived beyond rcvNxt, ascending, disjoint
	lastOOO   int64      // where the newest of them begins
	gapAt     int64      // where the gap begins for which duplicate ACKs were last due
	gapACKs   int        // how many of them are still to be sent
	twice     interval   // what has arrived twice, to be told once
	borrow    [][]byte
	borrowLen int

	// Host → guest.
	una, nxt  int64
	guestEdge int64
	maxWindow int64 // the widest window that the guest has told
	wl1, wl2  int64
	sndScale  uint8
	mss       int
	frameLen  int // largest payload of one frame
	q         sendQueue
	sb        scoreboard
	rack      rack
	cc        congestion
	recovery  recovery
	recover   int64 // offset at which recovery ends
	dupAcks   int   // without SACK: segments that have arrived beyond una
	undo      undo
	sentAt    int64  // when data was last sent
	resent    uint64 // segments sent again
	pace      pacing

	// Timestamps (RFC 7323).
	tsRecent uint32
	tsAt     int64 // when tsRecent was taken

	// Timers, all in nanoseconds.
	srtt, rttvar int64
	rto          int64
	rtoAt        int64 // retransmission; 0: not running, as with the others
	tailAt       int64 // tail loss probe
	reorderAt    int64 // end of the reordering window
	probeAt      int64
	heard        int64 // when the guest was last heard
	probedAt     int64 // when the last keepalive probe was sent
	carried      int64 // when data was last carried, either way
	retries      uint8 // retransmission timeouts since the last progress
	persists     uint8 // probes of a closed window since it was open
	probes       uint8 // keepalive probes since the guest was last heard
	challenges   uint8 // ACKs in answer to what may be forged, since challengedAt
	challengedAt int64
	stray        uint32 // what an unacceptable answer to our SYN acknowledged
}

type flag uint16

const (
	ackNow     flag = 1 << iota
	ackSoon         // data arrived; an ACK is due at the end of the batch
	useTimes        // timestamps negotiated
	useSACK         // SACK negotiated
	finRcvd         // the guest's FIN is in order
	shutDone        // the host was told
	hostEOF         // the host's stream ended
	rstDue          // a reset goes to the guest
	synRefused      // ... in answer to its SYN
	synDue          // the SYN goes to the guest again
	tailDue         // a tail loss probe goes to the guest
	probeDue        // a probe goes to the guest
	useScale        // window scaling negotiated
	finFirst        // our FIN was sent before the guest's arrived
	strayDue        // a reset at sequence number stray goes to the guest, in answer to our SYN's unacceptable answer
	askedAgain      // the guest sent again what is here: it is to be acknowledged to the last byte
)

func (c *Conn) has(f flag) bool { return c.flags&f != 0 }
func (c *Conn) set(f flag)      { c.flags |= f }
func (c *Conn) unset(f flag)    { c.flags &^= f }

// FromGuest starts a connection from the guest's SYN s; it is Connecting from then on. The caller has asked
// Budget.Admit.
func (c *Conn) FromGuest(env *Env, cfg Config, s *Segment) {
	c.start(env, cfg, Connecting)
	c.takeSyn(env, s)
}

// FromHost starts a connection for an accepted host peer; it is SynSent from then on.
func (c *Conn) FromHost(env *Env, cfg Config) {
	c.start(env, cfg, SynSent)
}

func (c *Conn) start(env *Env, cfg Config, s State) {
	*c = Conn{state: s, config: cfg, rto: initialRTO, heard: env.Now, carried: env.Now, q: sendQueue{base: 1, tail: 1}}
	c.hostNxt, c.rcvNxt = 1, 1
	for c.rcvScale < 14 && startWindow<<c.rcvScale < env.MaxWindow {
		c.rcvScale++
	}
	c.target = min(env.Budget.first(), env.MaxWindow)
	c.floor = min(floorWindow, env.MaxWindow)
	c.edge = 1 + c.target&^(1<<c.rcvScale-1) // whole units, as nextWindow needs them
	c.settlePromise(env)
}

// takeSyn takes the guest's options from its SYN or SYN/ACK.
func (c *Conn) takeSyn(env *Env, s *Segment) {
	c.irs = s.Seq
	peer := int(s.MSS)
	if peer == 0 {
		peer = defaultMSS4
		if c.config.V6 {
			peer = defaultMSS6
		}
	}
	c.mss = max(min(peer, c.config.MSS), 48)
	if s.HasTimes {
		c.set(useTimes)
		c.tsRecent, c.tsAt = s.TSVal, env.Now
		c.mss -= timesLen
	}
	if s.SACKOK {
		c.set(useSACK)
	}
	if s.Scale >= 0 {
		c.set(useScale)
		c.sndScale = uint8(s.Scale)
	} else {
		c.rcvScale = 0
	}
	c.setMSS(c.mss)
	c.guestEdge = int64(s.Window) // not scaled in a SYN; counted from una == 0, behind the SYN
	if s.Flags&ACK != 0 {
		c.guestEdge++
	}
	c.maxWindow = int64(s.Window)
	c.heard = env.Now
}

// State of the connection.
func (c *Conn) State() State { return c.state }

// Why the connection ended; NotOver before.
func (c *Conn) Why() Why { return c.why }

// Connected tells that the host socket is connected: the guest gets its SYN/ACK with the next Output.
func (c *Conn) Connected() {
	if c.state == Connecting {
		c.state = SynReceived
	}
}

// Refuse ends a connection whose host connect failed. With reset set the guest gets a reset in answer to its SYN with the next
// Output; without, the caller sends an ICMP error instead.
func (c *Conn) Refuse(env *Env, reset bool) {
	if c.state == Closed {
		return
	}
	c.end(env, HostReset)
	if reset {
		c.set(rstDue | synRefused)
	}
}

// GuestUnreachable tells that the guest, or a filter on its side, does not want the segment that began at sequence number seq. It ends a connection
// whose SYN that was, and says so; an open one goes on (RFC 5927, 5).
func (c *Conn) GuestUnreachable(env *Env, seq uint32) bool {
	if c.state != SynSent || seq != c.config.ISS {
		return false
	}
	c.end(env, GuestReset)
	return true
}

// HostFailed ends the connection because the host socket was reset or failed: the guest gets a reset with the
// next Output.
func (c *Conn) HostFailed(env *Env) {
	if c.state != Closed {
		c.end(env, HostReset)
		c.set(rstDue)
	}
}

// end gives back everything the connection holds and closes it. It is not Closed yet.
func (c *Conn) end(env *Env, why Why) {
	c.state, c.why = Closed, why
	c.hold.clear(env)
	c.ooo = nil
	c.giveBack()
	c.q.clear(env.Send)
	c.sb.clear()
	c.setPromise(env, 0)
}

func (c *Conn) setPromise(env *Env, n int64) {
	env.Budget.Promised += n - c.promise
	env.Budget.Peak = max(env.Budget.Peak, env.Budget.Promised)
	c.promise = n
}

// HeldBytes is how many accepted bytes wait for the host socket; none once the connection is over.
func (c *Conn) HeldBytes() int64 {
	if c.state == Closed {
		return 0
	}
	n := c.rcvNxt - c.hostNxt
	if c.has(finRcvd) {
		n--
	}
	return n
}

func (c *Conn) guestSeq(off int64) uint32 { return c.irs + uint32(off) }
func (c *Conn) ourSeq(off int64) uint32   { return c.config.ISS + uint32(off) }

// guestOff unwraps a sequence number of the guest around rcvNxt.
func (c *Conn) guestOff(seq uint32) int64 {
	return c.rcvNxt + int64(int32(seq-c.guestSeq(c.rcvNxt)))
}

// ourOff unwraps an acknowledgement number around una.
func (c *Conn) ourOff(ack uint32) int64 {
	return c.una + int64(int32(ack-c.ourSeq(c.una)))
}

// InitialSequence is the sequence number of the guest's SYN.
func (c *Conn) InitialSequence() uint32 { return c.irs }

// Carried is how many bytes of the guest's stream have arrived in order, and how many of the host's the guest has acknowledged. It may be asked at the end, too.
func (c *Conn) Carried() (fromGuest, toGuest int64) {
	fromGuest = c.rcvNxt - 1
	if c.has(finRcvd) {
		fromGuest--
	}
	return fromGuest, max(min(c.una, c.q.tail)-1, 0) // behind the tail is the FIN
}

// Retransmits is how many segments were sent to the guest again.
func (c *Conn) Retransmits() uint64 { return c.resent }
