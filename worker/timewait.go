package worker

import (
	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/tcp"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// timeWaits are the connections in TIME-WAIT: what is left of them once their host sockets are closed and their flows are gone, in the order
// in which they ended. They hold no socket, no promise, and no place that a flow could have: they are apart from the table of flows,
// and when there are too many the oldest goes.
type timeWaits struct {
	table *flow.Table // the number of each, counted from the beginning
	ring  []timeWait  // number k is at k modulo the length, a power of two
	first uint32      // number of the oldest
	n     uint32
}

// timeWait is one of them.
type timeWait struct {
	key   flow.Key
	rest  tcp.TimeWait
	until int64 // 0: it has ended before its time
}

const (
	// maxTimeWaits is more than end in a second and a half at the rate that a worker manages.
	maxTimeWaits = 1 << 14
	// timeWaitStep rounds the times at which they end, so that an idle worker is not woken for each.
	timeWaitStep = int64(250e6)
)

func (t *timeWaits) at(k uint32) *timeWait { return &t.ring[k&uint32(len(t.ring)-1)] }

// add puts what is left of a connection at the end.
func (t *timeWaits) add(key flow.Key, rest tcp.TimeWait, until int64) {
	if t.table == nil {
		t.table = flow.NewTable(maxTimeWaits)
	}
	if e := t.find(&key); e != nil { // the connection after it was another worker's
		t.forget(e)
	}
	if t.n == maxTimeWaits {
		t.drop()
	}
	if int(t.n) == len(t.ring) {
		grown := timeWaits{ring: make([]timeWait, max(64, 2*len(t.ring)))}
		for k := t.first; k != t.first+t.n; k++ {
			*grown.at(k) = *t.at(k)
		}
		t.ring = grown.ring
	}
	k := t.first + t.n
	*t.at(k) = timeWait{key, rest, (until + timeWaitStep - 1) / timeWaitStep * timeWaitStep}
	t.n++
	t.table.Put(key, int32(k)) // as many as there may be fit
}

// find returns the one between the ends of key, nil for none.
func (t *timeWaits) find(key *flow.Key) *timeWait {
	if t.n == 0 {
		return nil
	}
	k, ok := t.table.Get(key)
	if !ok {
		return nil
	}
	return t.at(uint32(k))
}

// forget ends one before its time.
func (t *timeWaits) forget(e *timeWait) {
	t.table.Delete(&e.key)
	e.until = 0
}

// drop ends the oldest.
func (t *timeWaits) drop() {
	if e := t.at(t.first); e.until != 0 {
		t.forget(e)
	}
	t.first++
	if t.n--; t.n == 0 && len(t.ring) > keepSlots {
		t.ring, t.table = nil, nil
	}
}

// expire ends those whose time has come. One behind a longer one has to wait for that.
func (t *timeWaits) expire(now int64) {
	for t.n > 0 && t.at(t.first).until <= now {
		t.drop()
	}
}

// next is when expire has something to do, 0 for never.
func (t *timeWaits) next() int64 {
	for t.n > 0 {
		if at := t.at(t.first).until; at != 0 {
			return at
		}
		t.drop()
	}
	return 0
}

// lingers gives the segment in w.seg to the connection in TIME-WAIT that it belongs to, and reports false if there is none, or if it
// opens the next one.
func (w *Worker) lingers(key *flow.Key) bool {
	e := w.waits.find(key)
	if e == nil {
		return false
	}
	var out tcp.Out
	switch e.rest.Input(&w.env, &w.seg, &out) {
	case tcp.Answer:
		w.tx.spare = makeHeader(w.pkt.Dst, w.pkt.Src, packet.ProtoTCP, 0, hopLimit)
		w.tx.cur = &w.tx.spare
		w.tx.ports = [2]uint16{key.PeerPort, key.GuestPort}
		if !w.SendTCP(nil, &out) {
			w.Stats.Drop(stats.LinkFull)
		}
	case tcp.Forget:
		w.waits.forget(e)
	case tcp.Reopen:
		w.waits.forget(e)
		return false
	}
	return true
}
