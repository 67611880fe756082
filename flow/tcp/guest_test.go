package tcp

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// guest is a small TCP of its own, which shares no code with Conn. Offsets are as Conn counts them: 0 is the SYN, data begins at
// 1, the FIN takes the offset behind the last byte.
type guest struct {
	// What kind of guest it is.
	iss    uint32
	mss    uint16 // 0: not named
	scale  int8   // -1: no window scaling
	times  bool
	sack   bool
	buffer int64 // receive buffer, bytes
	total  int64 // length of its stream, bytes
	chunk  int   // largest frame that it sends in finish, bytes

	// Toward the host. una ≤ nxt ≤ edge, but for the FIN.
	una, nxt, edge int64
	connScale      uint8
	clock          uint32

	// From the host. seen[i] tells that byte i+1 has arrived.
	connISS  uint32
	synSeen  bool
	seen     []bool
	rcvNxt   int64
	used     int64 // bytes that the application has taken
	told     int64 // highest right edge told
	finAt    int64
	tsRecent uint32
	ackDue   bool
	reset    bool
	newest   int64    // where the segment began that arrived last
	twice    interval // what arrived twice with it, to be reported once
}

// syn is the guest's SYN, or with SYN|ACK its answer to one.
func (g *guest) syn(flags uint8) Segment {
	if g.nxt == 0 {
		g.nxt = 1
	}
	g.told = g.rcvNxt + min(g.buffer, 65535)
	s := Segment{Seq: g.iss, Flags: flags, Window: uint16(min(g.buffer, 65535)), MSS: g.mss, Scale: g.scale, SACKOK: g.sack}
	if flags&ACK != 0 {
		s.Ack = g.connISS + 1
		g.ackDue = false
	}
	g.stamp(&s)
	return s
}

func (g *guest) stamp(s *Segment) {
	if g.times {
		g.clock++
		s.HasTimes, s.TSVal, s.TSEcr = true, g.clock, g.tsRecent
	}
}

// segment is the guest's bytes [off, off+n) of its stream, with its present acknowledgement and window. Bytes behind the end of
// the stream are made up.
func (g *guest) segment(flags uint8, off int64, n int) Segment {
	s := Segment{Seq: g.iss + uint32(off), Ack: g.connISS + uint32(g.rcvNxt), Flags: flags, Window: g.window(), Scale: -1}
	if n > 0 {
		b := bytes.Clone(fromGuest.at(off-1, n))
		if behind := off + int64(n) - (g.total + 1); behind > 0 {
			clear(b[max(0, int64(n)-behind):])
		}
		s.Payload = [][]byte{b}
	}
	g.stamp(&s)
	g.addBlocks(&s)
	g.ackDue = false
	return s
}

// addBlocks adds the SACK blocks of RFC 2018: the one that arrived last first; before it what arrived twice (RFC 2883).
func (g *guest) addBlocks(s *Segment) {
	if !g.sack || !g.synSeen {
		return
	}
	add := func(b interval) {
		if limit := 4; s.SACKCount < limit && (!g.times || s.SACKCount < limit-1) {
			s.SACK[s.SACKCount] = [2]uint32{g.connISS + uint32(b.from), g.connISS + uint32(b.to)}
			s.SACKCount++
		}
	}
	if g.twice.to > g.twice.from {
		add(g.twice)
		g.twice = interval{}
	}
	var holes []interval
	for at := g.rcvNxt; at <= int64(len(g.seen)); at++ {
		if !g.seen[at-1] {
			continue
		}
		from := at
		for at <= int64(len(g.seen)) && g.seen[at-1] {
			at++
		}
		if b := (interval{from, at}); from <= g.newest && g.newest < at {
			add(b)
		} else {
			holes = append(holes, b)
		}
	}
	for _, b := range holes {
		add(b)
	}
}

// ack is a segment without data.
func (g *guest) ack() Segment { return g.segment(ACK, g.nxt, 0) }

// window is the window field; the right edge it tells stands.
func (g *guest) window() uint16 {
	shift := max(g.scale, 0)
	n := min(max(g.used+1+g.buffer, g.told)-g.rcvNxt, 65535<<shift) >> shift
	g.told = max(g.told, g.rcvNxt+n<<shift)
	return uint16(n)
}

// receive takes one segment from the connection.
func (g *guest) receive(t failer, m *wire) {
	t.Helper()
	if m.flags&RST != 0 {
		g.reset = true
		return
	}
	if m.flags&SYN != 0 {
		g.receiveSyn(t, m)
		return
	}
	if !g.synSeen {
		t.Fatalf("a segment before the SYN: %+v", m)
	}
	o := header.ParseTCPOptions(m.options)
	if o.TS {
		g.tsRecent = o.TSVal
	}
	if off := g.una + int64(int32(m.ack-g.iss-uint32(g.una))); off >= g.una {
		g.una = off
		g.nxt = max(g.nxt, off)
		g.edge = max(g.edge, off+int64(m.window)<<g.connScale)
	}
	off := g.rcvNxt + int64(int32(m.seq-g.connISS-uint32(g.rcvNxt)))
	end := off + int64(len(m.data))
	if off != g.rcvNxt || end > off || m.flags&FIN != 0 {
		g.ackDue = true
	}
	if m.flags&FIN != 0 {
		g.finAt = end
	}
	g.newest = off
	for i := max(off, 1); i < min(end, int64(len(g.seen))+1); i++ {
		if g.seen[i-1] {
			if g.twice.to < i {
				g.twice.from = i
			}
			g.twice.to = i + 1
		}
	}
	for i := max(off, 1); i < min(end, g.told); i++ {
		for int64(len(g.seen)) < i {
			g.seen = append(g.seen, false)
		}
		g.seen[i-1] = true
	}
	for int64(len(g.seen)) >= g.rcvNxt && g.seen[g.rcvNxt-1] {
		g.rcvNxt++
	}
	if g.finAt != 0 && g.rcvNxt == g.finAt {
		g.rcvNxt++
	}
}

func (g *guest) receiveSyn(t failer, m *wire) {
	o := header.ParseSynOptions(m.options, m.flags&ACK != 0)
	g.ackDue = true
	if g.synSeen {
		return
	}
	g.synSeen, g.connISS, g.rcvNxt, g.tsRecent = true, m.seq, 1, o.TSVal
	if m.flags&ACK != 0 {
		if m.ack != g.iss+1 {
			t.Fatalf("SYN/ACK acknowledges %#x, want %#x", m.ack, g.iss+1)
		}
		g.una = 1
	}
	g.scale = min(g.scale, 14)
	if o.WS < 0 {
		g.scale = -1
	} else if g.scale >= 0 {
		g.connScale = uint8(o.WS)
	}
	g.times = g.times && o.TS
	g.sack = g.sack && o.SACKPermitted
	g.edge = 1 + int64(m.window)
}

// readAll lets the application take everything that is in order.
func (g *guest) readAll() {
	end := g.rcvNxt - 1
	if g.finAt != 0 && g.rcvNxt > g.finAt {
		end--
	}
	g.used = end
}

// deliver gives the guest what was sent to it, but for what the link loses.
func (s *subject) deliver() {
	for _, m := range s.take() {
		for range s.copies() {
			s.guest.receive(s.w.t, &m)
		}
	}
}

// copies is how many of a segment arrive.
func (s *subject) copies() int {
	if s.link == nil {
		return 1
	}
	return s.link()
}

// cross lets a segment of the guest cross the link, and the connection react.
func (s *subject) cross(seg *Segment) {
	for range s.copies() {
		again := *seg
		again.Payload = nil
		for _, b := range seg.Payload {
			again.Payload = append(again.Payload, bytes.Clone(b))
		}
		s.input(&again)
		s.output()
	}
}

// answer sends the ACK that the guest owes.
func (s *subject) answer() {
	g := &s.guest
	if !g.ackDue || g.reset {
		return
	}
	seg := g.ack()
	if g.una == 0 {
		seg = g.syn(SYN | ACK)
	}
	s.cross(&seg)
}

// transmit sends the guest's stream from its nxt on, as far as its window goes, in segments of at most chunk bytes, and the FIN at
// its end. It reports whether anything was sent.
func (s *subject) transmit(chunk int) (sent bool) {
	g := &s.guest
	for !g.reset && g.una > 0 && s.c.State() == Open && g.nxt <= g.total+1 {
		n := min(int64(chunk), g.total+1-g.nxt, g.edge-g.nxt)
		if n <= 0 && g.nxt <= g.total {
			break
		}
		flags := uint8(ACK)
		if g.nxt+n == g.total+1 {
			flags |= FIN
		}
		seg := g.segment(flags, g.nxt, int(n))
		g.nxt += n
		if flags&FIN != 0 {
			g.nxt++
		}
		s.cross(&seg)
		sent = true
	}
	return sent
}

// finish carries both streams to their ends, and checks that the connection ends in order.
func (s *subject) finish() {
	s.w.t.Helper()
	g, h := &s.guest, &s.host
	s.settle()
	h.ready = h.total
	s.grant(-1)
	s.output()
	for round := 0; s.c.State() != Closed; round++ {
		if round > 4000 {
			s.w.t.Fatalf("no end: guest una %d, nxt %d, total %d, edge %d; host got %d, said %d of %d; guest expects %d; connection una %d, nxt %d, max %d, edge %d",
				g.una, g.nxt, g.total, g.edge, h.got, h.said, h.total, g.rcvNxt, s.c.una, s.c.nxt, s.c.nxt, s.c.guestEdge)
		}
		s.deliver()
		g.readAll()
		moved := g.ackDue
		s.answer()
		moved = s.transmit(max(g.chunk, 1)) || moved
		moved = s.read(8192) || moved
		s.output()
		if moved || len(s.wires) > 0 {
			continue
		}
		g.nxt = max(g.una, 1) // the guest's retransmission timer
		if g.synSeen && g.una == 0 {
			g.ackDue = true // its SYN/ACK is sent again
		}
		if g.una > 0 && g.nxt <= g.total && g.edge <= g.nxt {
			seg := g.segment(ACK, g.una-1, 0) // its probe of a closed window
			s.input(&seg)
		}
		if s.c.State() != Closed && s.c.Deadline(&s.w.env) != 0 {
			s.pass()
		}
	}
	s.deliver()
	if s.c.Why() != Finished {
		s.w.t.Fatalf("the connection ended as %d, want Finished", s.c.Why())
	}
	if h.got != g.total || !h.shut {
		s.w.t.Fatalf("the host got %d bytes of %d, end %t", h.got, g.total, h.shut)
	}
	if g.rcvNxt != h.total+2 {
		s.w.t.Fatalf("the guest got up to %d, want %d", g.rcvNxt, h.total+2)
	}
}
