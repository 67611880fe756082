package worker

// flowLink is a flow's place in one flowList.
type flowLink struct {
	list       *flowList // nil: in none
	prev, next *flowSlot
}

// flowList is a list of flows that runs through their slots, so that it costs no memory of its own and a flow leaves it from any place. A
// flow is at most in one list of each kind.
type flowList struct {
	kind       listKind
	head, tail *flowSlot
	n          int
}

// listKind says which of a slot's links a list runs through.
type listKind uint8

const (
	byTurn listKind = iota // the flows that may be read from: fair.go
	byAge                  // all flows, by when they were last used: evict.go
	listKinds
)

// push puts f at the end of l, from wherever it was.
func (l *flowList) push(f *flowSlot) {
	f.leave(l.kind)
	f.links[l.kind] = flowLink{list: l, prev: l.tail}
	if l.tail != nil {
		l.tail.links[l.kind].next = f
	} else {
		l.head = f
	}
	l.tail = f
	l.n++
}

// leave takes f out of the list of a kind, if it is in one.
func (f *flowSlot) leave(kind listKind) {
	k := &f.links[kind]
	l := k.list
	if l == nil {
		return
	}
	if k.prev != nil {
		k.prev.links[kind].next = k.next
	} else {
		l.head = k.next
	}
	if k.next != nil {
		k.next.links[kind].prev = k.prev
	} else {
		l.tail = k.prev
	}
	l.n--
	*k = flowLink{}
}
