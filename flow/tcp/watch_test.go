package tcp

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// watch holds one connection to the rules, segment by segment, from what passes between it and its guest.
type watch struct {
	guestEnd  int64 // highest end of what the guest sent, FIN included
	guestEdge int64 // highest right edge that the guest told, for data
	sentEnd   int64 // highest end of what the connection sent, SYN and FIN included
	acked     int64 // what the connection acknowledged last
	maxEdge   int64 // highest right edge that it told
	scale     uint8 // of the connection's window fields
	again     bool  // the guest has sent again what was here, since the right edge was last told in full
}

// arrives takes note of a segment of the guest, before the connection sees it.
func (w *watch) arrives(s *subject, seg *Segment) {
	n := int64(0)
	for _, b := range seg.Payload {
		n += int64(len(b))
	}
	if seg.Flags&(SYN|FIN) != 0 {
		n++
	}
	begin := w.acked + int64(int32(seg.Seq-s.guest.iss-uint32(w.acked)))
	w.guestEnd = max(w.guestEnd, begin+n)
	w.again = w.again || begin < s.c.rcvNxt+int64(s.c.borrowLen)
	if seg.Flags&ACK == 0 {
		return
	}
	off := w.sentEnd + int64(int32(seg.Ack-s.c.config.ISS-uint32(w.sentEnd)))
	if off > w.sentEnd {
		return
	}
	shift := uint8(max(s.guest.scale, 0))
	if seg.Flags&SYN != 0 {
		shift = 0
	}
	w.guestEdge = max(w.guestEdge, off+int64(seg.Window)<<shift)
}

// leaves checks a segment of the connection.
func (w *watch) leaves(s *subject, m *wire) {
	t := s.w.t
	t.Helper()
	if m.flags&RST != 0 {
		if len(m.data) > 0 {
			t.Fatalf("a reset with data: %+v", m)
		}
		return
	}
	if len(m.options)%4 != 0 {
		t.Fatalf("options of %d bytes", len(m.options))
	}
	if m.flags&SYN != 0 {
		w.leavesSyn(s, m)
		return
	}
	w.checkAck(s, m)
	w.checkData(s, m)
	w.checkOptions(s, m)
}

func (w *watch) leavesSyn(s *subject, m *wire) {
	t := s.w.t
	if m.seq != s.c.config.ISS || len(m.data) > 0 {
		t.Fatalf("SYN with sequence number %#x and %d bytes", m.seq, len(m.data))
	}
	if o := header.ParseSynOptions(m.options, m.flags&ACK != 0); o.WS >= 0 && s.guest.scale >= 0 {
		w.scale = uint8(o.WS)
	}
	w.sentEnd = max(w.sentEnd, 1)
	w.acked, w.maxEdge = 1, 1+int64(m.window)
}

// checkAck: neither the acknowledgement nor the right edge ever moves back, but for less than a unit of the window toward a guest that sends again
// what is here; and nothing is promised beyond the target, but for what rounding up a window adds that was as wide before.
func (w *watch) checkAck(s *subject, m *wire) {
	t, c := s.w.t, &s.c
	t.Helper()
	if m.flags&ACK == 0 {
		t.Fatalf("a segment without ACK: %+v", m)
	}
	ack := w.acked + int64(int32(m.ack-s.guest.iss-uint32(w.acked)))
	if ack < w.acked {
		t.Fatalf("the acknowledgement moves back from %d to %d", w.acked, ack)
	}
	if ack > w.guestEnd {
		t.Fatalf("%d is acknowledged, the guest sent up to %d", ack, w.guestEnd)
	}
	unit := int64(1) << w.scale
	widest := (w.maxEdge - w.acked + unit - 1) &^ (unit - 1)
	w.acked = ack
	if c.finAt != 0 && ack > c.finAt {
		return // nothing may follow; the window has no meaning any more
	}
	edge := ack + int64(m.window)<<w.scale
	if edge < w.maxEdge && !(w.again && w.maxEdge-edge < unit) {
		t.Fatalf("the right edge moves left from %d to %d (acknowledged %d)", w.maxEdge, edge, ack)
	}
	if edge != c.edge && !(w.again && edge < c.edge && c.edge-edge < unit) {
		t.Fatalf("right edge %d on the wire, the connection takes it for %d", edge, c.edge)
	}
	w.again = w.again && edge < c.edge
	moved := edge > w.maxEdge // where it stays, the target may have become less since
	rounded := c.HeldBytes() == 0 && edge-w.maxEdge < unit && edge-ack <= widest
	w.maxEdge = max(w.maxEdge, edge)
	if limit := s.host.got + 1 + c.target + scaleSlack; moved && !rounded && edge > limit {
		t.Fatalf("right edge %d, %d beyond what may be promised", edge, edge-limit)
	}
}

// checkData: sequence numbers and bytes agree, and stay within the guest's window and the link's frames.
func (w *watch) checkData(s *subject, m *wire) {
	t, c := s.w.t, &s.c
	t.Helper()
	off := w.sentEnd + int64(int32(m.seq-c.config.ISS-uint32(w.sentEnd)))
	end := off + int64(len(m.data))
	if off > w.sentEnd || off < 0 {
		t.Fatalf("a segment at %d, sent so far is %d", off, w.sentEnd)
	}
	tail := s.host.said + 1
	if len(m.data) > 0 {
		if end > tail || !bytes.Equal(m.data, fromHost.at(off-1, len(m.data))) {
			t.Fatalf("wrong bytes in [%d, %d), the host said up to %d", off, end, tail)
		}
		if end > w.guestEdge {
			t.Fatalf("a segment up to %d, the guest's window ends at %d", end, w.guestEdge)
		}
		if (m.flags&PSH != 0) != (end == tail) {
			t.Fatalf("PSH is %t in [%d, %d), the host said up to %d", m.flags&PSH != 0, off, end, tail)
		}
		w.checkSize(s, m)
		w.checkWindow(s, m)
	}
	if m.flags&FIN != 0 {
		if !s.host.ended || end != tail {
			t.Fatalf("FIN at %d, the host said up to %d, end %t", end, tail, s.host.ended)
		}
		end++
	}
	w.sentEnd = max(w.sentEnd, end)
}

// checkSize: a frame is one segment, or a GSO frame that the link takes, of segments that the guest takes.
func (w *watch) checkSize(s *subject, m *wire) {
	t, c := s.w.t, &s.c
	t.Helper()
	mss := int(s.guest.mss)
	if mss == 0 {
		mss = 536
		if c.config.V6 {
			mss = 1220
		}
	}
	mss = max(min(mss, c.config.MSS), 48)
	if m.mss > mss-len(m.options) {
		t.Fatalf("segments of %d bytes with %d of options, the guest takes %d", m.mss, len(m.options), mss)
	}
	if n := len(m.data); n > m.mss && n+len(m.options) > c.config.MaxGSO {
		t.Fatalf("a frame of %d bytes with %d of options, the link takes %d", n, len(m.options), c.config.MaxGSO)
	}
}

func (w *watch) checkOptions(s *subject, m *wire) {
	t := s.w.t
	t.Helper()
	o := header.ParseTCPOptions(m.options)
	if o.TS != s.guest.times {
		t.Fatalf("timestamps %t, negotiated %t", o.TS, s.guest.times)
	}
	if len(o.SACKBlocks) > 0 && !s.guest.sack {
		t.Fatalf("SACK blocks, though not negotiated")
	}
	for i, b := range o.SACKBlocks {
		from := w.acked + int64(int32(uint32(b.Start)-s.guest.iss-uint32(w.acked)))
		to := w.acked + int64(int32(uint32(b.End)-s.guest.iss-uint32(w.acked)))
		if i == 0 && from > 0 && from < to && to <= w.acked {
			continue // a D-SACK
		}
		if from <= w.acked || to <= from || to > w.maxEdge || to > w.guestEnd {
			t.Fatalf("SACK block [%d, %d), acknowledged %d, right edge %d, sent %d", from, to, w.acked, w.maxEdge, w.guestEnd)
		}
	}
}

// check compares the connection's books with each other and with the world's, after every step.
func (s *subject) check() {
	t, c, env := s.w.t, &s.c, &s.w.env
	t.Helper()
	if c.hostNxt != s.host.got+1 {
		t.Fatalf("the host got %d bytes, the connection counts %d", s.host.got, c.hostNxt-1)
	}
	fin := int64(0)
	if c.has(finRcvd) {
		fin = 1
	}
	if c.hostNxt > c.rcvNxt-fin || c.rcvNxt-fin > c.edge {
		t.Fatalf("next for the host %d, next expected %d, right edge %d, FIN %d", c.hostNxt, c.rcvNxt, c.edge, c.finAt)
	}
	if !(c.una <= c.nxt && c.nxt <= c.q.tail+1) {
		t.Fatalf("unacknowledged %d, next %d, end %d", c.una, c.nxt, c.q.tail)
	}
	at := c.rcvNxt
	for _, r := range c.ooo {
		if r.from <= at || r.to <= r.from || r.to > c.edge {
			t.Fatalf("out of order %v, next expected %d, right edge %d", c.ooo, c.rcvNxt, c.edge)
		}
		at = r.to
	}
	if len(c.ooo) > maxOOO {
		t.Fatalf("%d holes", len(c.ooo))
	}
	held, frags, promised := 0, 0, s.w.ballast
	for _, other := range s.w.conns {
		o := &other.c
		for _, f := range o.hold.ring {
			if f != 0 {
				held++
			}
		}
		frags += o.hold.n
		promised += o.promise
		if o.state == Closed && (o.promise != 0 || o.hold.n != 0 || o.q.n != 0 || o.HeldBytes() != 0) {
			t.Fatalf("a closed connection holds %d promised bytes, %d fragments, %d chunks", o.promise, o.hold.n, o.q.n)
		}
		if o.state != Closed && !o.has(finRcvd) && o.promise < max(o.edge-o.hostNxt, o.floor) {
			t.Fatalf("%d bytes are promised, %d reserved", o.edge-o.hostNxt, o.promise)
		}
	}
	if held != frags || held != env.Hold.FragsInUse() {
		t.Fatalf("%d fragments in rings, %d counted, %d taken from the pool", held, frags, env.Hold.FragsInUse())
	}
	if promised != env.Budget.Promised || promised > env.Budget.Limit {
		t.Fatalf("%d bytes promised, %d in the budget of %d", promised, env.Budget.Promised, env.Budget.Limit)
	}
	s.checkQueue()
	s.checkScoreboard()
}

// checkScoreboard: the records cover what is outstanding, and the sums are those of the records.
func (s *subject) checkScoreboard() {
	t, c := s.w.t, &s.c
	t.Helper()
	if c.state == Closed {
		return
	}
	b, at := &c.sb, c.una
	var sums [3]int64
	for i := range b.n {
		r := b.at(i)
		if r.from != at || r.to <= r.from || r.sentAt > s.w.env.Now {
			t.Fatalf("record %d of %d is %+v, the one before it ends at %d, it is %d", i, b.n, *r, at, s.w.env.Now)
		}
		sums[r.fate] += r.to - r.from
		at = r.to
	}
	if at != c.nxt || sums != [3]int64{b.flying, b.lost, b.sacked} {
		t.Fatalf("records up to %d, next %d; flying, lost, sacked: %v, counted %d %d %d", at, c.nxt, sums, b.flying, b.lost, b.sacked)
	}
	if b.n > maxRecords+maxFrames {
		t.Fatalf("%d records", b.n)
	}
}

// checkWindow: nothing is sent beyond the congestion window, but for one segment when nothing flies, and for a tail loss probe.
func (w *watch) checkWindow(s *subject, m *wire) {
	c := &s.c
	pipe, n := c.pipe(), int64(len(m.data))
	if pipe+n > c.cc.cwnd && !(pipe == 0 && n <= int64(c.mss)) && !(c.has(tailDue) && n <= int64(c.mss)) {
		s.w.t.Fatalf("%d bytes are sent while %d fly, the window is %d", n, pipe, c.cc.cwnd)
	}
}

func (s *subject) checkQueue() {
	q := &s.c.q
	n := int64(0)
	for i := range q.n {
		n += int64(q.at(i).len)
	}
	if n != q.tail-q.base {
		s.w.t.Fatalf("%d bytes queued, [%d, %d) counted", n, q.base, q.tail)
	}
	if s.c.state != Closed && q.base != min(max(s.c.una, 1), q.tail) {
		s.w.t.Fatalf("queue from %d on, unacknowledged %d", q.base, s.c.una)
	}
}
