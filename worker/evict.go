package worker

import (
	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/tcp"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/stats"
)

// Eviction: when something is short, the flow that was not used for the longest makes room, if it was not for as long as its kind may expect to
// live; otherwise the new flow is refused. So a crowd of forgotten flows keeps nobody out, and a flow in use is never ended.
//
// The flows of a kind are in a list by when they were last used. A flow moves to its end at most once a second, so that order costs
// nothing in traffic and is right to a second.

// EvictAges are the times in nanoseconds that a flow has to be unused before it may be ended for another one, by kind; 0 for never.
type EvictAges struct {
	Established int64 // TCP with both directions open
	Transitory  int64 // TCP that is being opened or ended
	Answered    int64 // UDP, and
	Unanswered  int64 // when nothing came back yet
	Echo        int64 // ICMP
}

// DefaultEvictAges are the least that RFC 5382 (REQ-5), RFC 4787 (REQ-5) and RFC 5508 (REQ-2) ask for; unanswered UDP, which they do not tell
// apart, may go when no resolver waits for its answer any more.
var DefaultEvictAges = EvictAges{
	Established: 7440 * second, Transitory: 240 * second, Answered: 120 * second, Unanswered: 10 * second, Echo: 60 * second,
}

const second = int64(1e9)

// Cap returns the ages, none of them longer than the given one.
func (a EvictAges) Cap(age int64) EvictAges {
	for _, p := range []*int64{&a.Established, &a.Transitory, &a.Answered, &a.Unanswered, &a.Echo} {
		*p = min(*p, age)
	}
	return a
}

const (
	// usedEvery is how often at most a flow in use moves in its list, and so by how much a list may be out of order.
	usedEvery = second
	// evictLooks bounds the flows looked at for one that has what is short.
	evictLooks = 64
	// evictMost bounds the flows that are ended for the sake of one.
	evictMost = 4
)

// ageClass is a kind of flow with an age of its own.
type ageClass uint8

const (
	transitory ageClass = iota
	established
	answered
	unanswered
	echo
	ageClasses
)

// ageLists are all flows, by class and by when they were last used.
type ageLists [ageClasses]flowList

func newAgeLists() (l ageLists) {
	for i := range l {
		l[i].kind = byAge
	}
	return l
}

// class is the class of f now.
func (f *flowSlot) class() ageClass {
	switch {
	case f.kind == icmpFlow:
		return echo
	case f.kind == udpFlow && f.answered:
		return answered
	case f.kind == udpFlow:
		return unanswered
	case f.kind == spliceFlow && f.spliced != nil && f.spliced.conn.Open():
		return established
	case f.kind == spliceFlow, f.conn.Transitory():
		return transitory
	}
	return established
}

// evictAge is how long a flow of a class has to be unused.
func (w *Worker) evictAge(c ageClass) int64 {
	a := &w.EvictAges
	return [ageClasses]int64{transitory: a.Transitory, established: a.Established, answered: a.Answered, unanswered: a.Unanswered, echo: a.Echo}[c]
}

// used notes that f carries something, or has changed its class.
func (w *Worker) used(f *flowSlot) {
	l := &w.ages[f.class()]
	if w.now-f.usedAt >= usedEvery || f.links[byAge].list != l {
		f.usedAt = w.now
		l.push(f)
	}
}

// evict ends the flow that was unused for the longest of those that may be ended and have what is short, and reports whether there was one.
func (w *Worker) evict(why stats.Shortage) bool {
	var oldest *flowSlot
	for c := range ageClasses {
		if f := w.candidate(c, why); f != nil && (oldest == nil || f.usedAt < oldest.usedAt) {
			oldest = f
		}
	}
	if oldest == nil {
		return false
	}
	w.Stats.Evictions[why]++
	w.end(oldest)
	return true
}

// candidate is the flow of a class that was unused for the longest and has what is short; nil if it was used too lately.
func (w *Worker) candidate(c ageClass, why stats.Shortage) *flowSlot {
	age := w.evictAge(c)
	if age == 0 {
		return nil
	}
	f := w.ages[c].head
	for range evictLooks {
		// The last use may be later than usedAt by usedEvery.
		if f == nil || w.now-f.usedAt < age+usedEvery {
			return nil
		}
		if f.has(why) {
			return f
		}
		f = f.links[byAge].next
	}
	return nil
}

// has reports whether the end of f would help.
func (f *flowSlot) has(what stats.Shortage) bool {
	switch what {
	case stats.OfDescriptors:
		return f.fd >= 0
	case stats.OfBudget:
		return f.kind == tcpFlow && f.conn.Promised() > 0
	case stats.OfSendMemory:
		return f.kind == tcpFlow && f.conn.SendMemory() > 0 || f.kind == spliceFlow && f.spliced.conn.HeldBytes() > 0
	}
	return true
}

// end ends a flow for the sake of another. It is gone when end returns, even if the link does not take the reset: the guest gets one for what it says
// next.
func (w *Worker) end(f *flowSlot) {
	switch f.kind {
	case tcpFlow:
	case spliceFlow:
		w.spliceAbort(f, whyEvicted)
		return
	default:
		w.closeDatagram(f, whyEvicted)
		return
	}
	f.conn.Evict(&w.env)
	if !w.tcpOutput(f) {
		w.tcpClose(f)
	}
}

// newFlow takes a slot for a flow with the given key, and enters it into the table, if need be in place of an idle one. nil says that there is no
// room, or that another worker was quicker.
func (w *Worker) newFlow(kind flowKind, key flow.Key) *flowSlot {
	f := w.takeSlot(kind, key)
	if f == nil && (w.Group == nil || w.Group.directory.Owner(&key) == flow.Nobody) && w.evict(stats.OfFlows) {
		f = w.takeSlot(kind, key)
	}
	return f
}

// admit reports whether another TCP flow fits the budget, if need be in place of idle ones.
func (w *Worker) admit() bool {
	for range evictMost {
		if w.env.Budget.Admit() || !w.evict(stats.OfBudget) {
			break
		}
	}
	return w.env.Budget.Admit()
}

// madeRoom reports whether what has failed with err is worth another attempt, because an idle flow has given its descriptor.
func (w *Worker) madeRoom(err hostsock.Errno) bool {
	if err == 0 {
		return false
	}
	switch openReason(err) {
	case stats.NoDescriptors, stats.NoBuffers:
		return w.evict(stats.OfDescriptors)
	}
	return false
}

// hears notes that the guest's segment in w.seg is use of f, unless it may be the answer to our own probe.
func (w *Worker) hears(f *flowSlot) {
	if !f.conn.Probed() || w.seg.Len > 0 || w.seg.Flags&(tcp.FIN|tcp.SYN|tcp.RST) != 0 {
		f.spoke = true
	}
}
