package dns

import "encoding/binary"

// take finds a free query and gives it an identifier that no other has.
func (f *Forwarder) take(now int64) int32 {
	if f.ids == nil {
		f.ids = make([]int32, 1<<16)
		f.sweepAt = now + sweeping
	}
	n := f.free
	if n == none {
		n = int32(len(f.queries))
		f.queries = append(f.queries, query{})
	} else {
		f.free = f.queries[n].next
	}
	q := &f.queries[n]
	*q = query{prev: none, next: none, msg: q.msg}
	for { // three of four are free at the worst
		var b [8]byte
		binary.NativeEndian.PutUint64(b[:], f.rand.Uint64())
		if q.id = binary.NativeEndian.Uint16(b[:]); f.ids[q.id] == 0 {
			break
		}
	}
	f.ids[q.id] = n + 1
	f.pending++
	return n
}

// release forgets a query.
func (f *Forwarder) release(n int32) {
	q := &f.queries[n]
	f.remove(n)
	f.asks(q, none)
	f.ids[q.id] = 0
	q.next, f.free = f.free, n
	f.pending--
}

// append puts a query, which is in no list, to the end of the list for when it is due. Waiting times are the same for all of a list, which
// keeps it in order.
func (f *Forwarder) append(n int32, due int64) {
	q := &f.queries[n]
	q.due, q.list = due, 0
	if q.asked == f.all() && q.asked != 0 {
		q.list = 1
	}
	l := &f.lists[q.list]
	q.prev, q.next = l.tail, none
	if l.tail == none {
		l.head = n
	} else {
		f.queries[l.tail].next = n
	}
	l.tail = n
}

// remove takes a query out of its list.
func (f *Forwarder) remove(n int32) {
	q := &f.queries[n]
	l := &f.lists[q.list]
	if q.prev == none {
		l.head = q.next
	} else {
		f.queries[q.prev].next = q.next
	}
	if q.next == none {
		l.tail = q.prev
	} else {
		f.queries[q.next].prev = q.prev
	}
}

// asks notes that a query waits for resolver i now, or for none.
func (f *Forwarder) asks(q *query, i int) {
	if q.sent > 0 && q.server >= 0 {
		f.servers[q.server].waits--
	}
	if i >= 0 {
		f.servers[i].waits++
	}
	q.server = int8(i)
}

// each calls do for the queries that are under way now. It may move them, and end the one that it is called for.
func (f *Forwarder) each(do func(n int32)) {
	for n := range int32(len(f.queries)) {
		if q := &f.queries[n]; f.ids[q.id] == n+1 {
			do(n)
		}
	}
}
