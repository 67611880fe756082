package worker

import (
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/tcp"
)

// flowSlot is one flow of any protocol.
type flowSlot struct {
	kind     flowKind
	gen      uint32 // tells events of an earlier flow in this slot
	index    int32
	key      flow.Key
	fd       int
	readable bool
	writable bool
	ended    bool // the host peer has ended its stream, or sent urgent data: a short read does not say that nothing is left
	eof      bool // the end of the host peer's stream was read
	failed   bool // an event told of an error of the host socket, and nobody has asked which
	peeked   bool // the host socket was looked at: bytes wait
	lent     int  // pieces that the flow borrows from the link's batch
	bulk     bool // the last read filled a whole frame
	inLate   bool
	inDirty  bool
	counted  bool // in Worker.sources
	answered bool
	half     bool  // an accepted connection that the guest has not answered yet
	weighs   bool  // in the worker's weight in its group
	failures uint8 // UDP, ICMP: how often in succession reading has failed

	fromGuest Tally
	conn      tcp.Conn
	head      header
	peer      netip.AddrPort // UDP through a listener: the host peer
	local     netip.Addr     // UDP through a listener: the address of this machine that the peer asked
	owner     int32          // UDP through a listener: the listener's number, else -1
	inbound   bool           // begun from outside
	why       string         // it has ended, where the connection does not know
	began     int64          // when
	rule      int32          // of the policy that let it begin; 0 for none
	tries     uint8          // TCP to the forwarder of DNS: how many resolvers were tried
	answers   *stream        // TCP to the forwarder of DNS: what the policy has not been told of yet
	told      fragmenting    // UDP, ICMP: what the host socket was told last
	service   uint8          // TCP: the service byte, without ECN, that the host socket sends with
	single    bool           // UDP: the host socket takes no message that stands for several datagrams
	size      int            // UDP: the longest message of those received last
	held      held           // UDP: what the host socket does not take now
	last      int64          // when it was last used (UDP, ICMP)

	links      [listKinds]flowLink
	readySince int64  // since when the host socket may be read, 0: it may not
	deficit    int    // work that it may do in this turn
	greedy     bool   // it moved a whole frame in its last one
	sentIn     uint32 // see senders
	spoke      bool   // the guest has used the flow in this batch
	dialed     bool   // somebody waits in Worker.dials to hear whether the guest accepts
	across     bool   // UDP: from the namespace's loopback to the host's (splice_udp.go)
	spliced    *spliced
	usedAt     int64 // when it was last used, see usedEvery
}

type flowKind uint8

const (
	freeSlot flowKind = iota
	tcpFlow
	udpFlow
	icmpFlow
	dnsFlow    // a socket toward a resolver, or the timer of the forwarder
	spliceFlow // a TCP connection from the namespace's loopback to the host's
)

// takeSlot takes a slot for a flow with the given key, and enters it into the table. nil says that there is no room.
func (w *Worker) takeSlot(kind flowKind, key flow.Key) *flowSlot {
	if !w.claim(&key) {
		return nil
	}
	var f *flowSlot
	if n := len(w.free); n > 0 {
		f = w.flows[w.free[n-1]]
		if !w.table.Put(key, f.index) {
			w.unclaim(&key)
			return nil
		}
		w.free = w.free[:n-1]
	} else {
		f = &flowSlot{index: int32(len(w.flows))}
		if !w.table.Put(key, f.index) {
			w.unclaim(&key)
			return nil
		}
		w.flows = append(w.flows, f)
	}
	*f = flowSlot{kind: kind, gen: f.gen + 1, index: f.index, key: key, fd: -1, owner: -1, rule: w.judge.rule, began: w.now, inDirty: f.inDirty, inLate: f.inLate}
	w.used(f)
	w.levels(kind, 1)
	if kind == tcpFlow || kind == spliceFlow {
		w.weigh(f)
	}
	if w.talks {
		w.logOpened(f)
	}
	return f
}

// dropFlow forgets a flow; its socket is closed already.
func (w *Worker) dropFlow(f *flowSlot) {
	if w.talks {
		w.logEnded(f)
	}
	if f.dialed {
		w.dialOver(f)
	}
	w.tellEnd(f)
	w.lighten(f)
	w.levels(f.kind, -1)
	if f.counted {
		w.sources.remove(&f.key)
	}
	w.table.Delete(&f.key)
	w.unclaim(&f.key)
	w.wheel.Stop(f.index)
	f.leave(byTurn)
	f.leave(byAge)
	f.kind, f.fd, f.lent = freeSlot, -1, 0
	f.readable, f.readySince = false, 0
	w.free = append(w.free, f.index)
}

func (w *Worker) levels(kind flowKind, n int) {
	s := w.Stats
	d := uint64(n)
	s.Flows += d
	s.PeakFlows = max(s.PeakFlows, s.Flows)
	switch kind {
	case tcpFlow, spliceFlow:
		s.TCPFlows += d
	case udpFlow:
		s.UDPFlows += d
	case icmpFlow:
		s.ICMPFlows += d
	case dnsFlow:
		s.DNSFlows += d
	}
}
