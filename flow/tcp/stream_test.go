package tcp

import (
	"bytes"
	"testing"

	"github.com/vasta-net/vasta/stats"
	"pgregory.net/rapid"
)

// A long transfer both ways at once over a link that loses nothing needs no retransmission, and not one byte is held for longer
// than the host is full.
func TestBothStreams(t *testing.T) {
	w := roomyWorld(t)
	s := w.openSending(3 << 20)
	s.host.total = 3 << 20
	s.finish()
	if w.stats.TCPRetransmits != 0 || w.stats.TCPHeldBytes != 0 || w.stats.Dropped() != 0 {
		t.Errorf("%d retransmissions, %d bytes held, %d drops", w.stats.TCPRetransmits, w.stats.TCPHeldBytes, w.stats.Dropped())
	}
}

// schedule is a random course of events for a few connections, and for a link that loses, repeats and reorders.
type schedule struct {
	t *rapid.T
	w *world
	// toConn is what is under way from each guest.
	toConn [][]Segment
}

// TestSchedules checks, over random courses of events, that both streams arrive as they were sent and all rules of watch and
// check are kept, and that afterwards everything comes to an end in order.
func TestSchedules(t *testing.T) {
	const rounds = 20 // a hundred schedules each
	for range rounds {
		rapid.Check(t, func(t *rapid.T) {
			r := newSchedule(t)
			for range rapid.IntRange(0, 200).Draw(t, "steps") {
				r.step()
			}
			r.end()
		})
	}
}

var sequences = []uint32{0, 1, 0xffffffff, 0xfffffff0, 0xffff8000, 0x7ffffff0, 0x80000000, 12345}

func newSchedule(t *rapid.T) *schedule {
	n := rapid.IntRange(1, 3).Draw(t, "connections")
	l := limits{
		budget:    rapid.SampledFrom([]int64{20 << 10, 50000, 150000, 1 << 20, 16 << 20}).Draw(t, "budget"),
		maxWindow: rapid.SampledFrom([]int64{1000, 16 << 10, 65535, 100000, 1 << 20, 4 << 20, 64 << 20, 1 << 30}).Draw(t, "maxWindow"),
		maxFlight: rapid.SampledFrom([]int64{700, 20000, 1 << 20}).Draw(t, "maxFlight"),
		conns:     n,
	}
	r := &schedule{t: t, w: newWorld(t, l), toConn: make([][]Segment, n)}
	for range n {
		if !r.w.budget.Admit() {
			break
		}
		r.connection(l)
	}
	return r
}

// connection adds one connection, which is not open yet.
func (r *schedule) connection(l limits) {
	t := r.t
	g := guest{
		iss:    rapid.SampledFrom(sequences).Draw(t, "guest's ISS"),
		mss:    rapid.SampledFrom([]uint16{0, 10, 100, 1460, 65480, 65535}).Draw(t, "guest's MSS"),
		scale:  int8(rapid.IntRange(-1, 14).Draw(t, "scale")),
		times:  rapid.Bool().Draw(t, "timestamps"),
		sack:   rapid.Bool().Draw(t, "SACK"),
		buffer: rapid.SampledFrom([]int64{1, 400, 5000, 65535, 1 << 20}).Draw(t, "buffer"),
	}
	cfg := Config{
		MSS:    rapid.SampledFrom([]int{1440, 8960, 65480}).Draw(t, "MSS"),
		MaxGSO: rapid.SampledFrom([]int{0, 65495}).Draw(t, "MaxGSO"),
		V6:     rapid.Bool().Draw(t, "V6"),
		ISS:    rapid.SampledFrom(sequences).Draw(t, "ISS"),
		TSBase: rapid.SampledFrom(sequences).Draw(t, "TSBase"),
	}
	g.chunk = 60000
	g.buffer = max(g.buffer, 1<<max(g.scale, 0)) // what is less than a unit of the window field could never be told
	g.total = rapid.Int64Range(0, min(200000, 100*l.maxWindow)).Draw(t, "guest's stream")
	var s *subject
	if rapid.Bool().Draw(t, "from the guest") {
		s = r.w.dial(cfg, g)
	} else {
		s = r.w.accept(cfg, g)
	}
	frame := int64(max(int(g.mss), 48))
	if cfg.MaxGSO > 0 {
		frame = 65495
	}
	most := min(200000, 200*g.buffer, 200*l.maxFlight, 300*frame)
	s.host.total = rapid.Int64Range(0, most).Draw(t, "host's stream")
	s.host.room = rapid.SampledFrom([]int{-1, 0, 10000}).Draw(t, "host's room")
}

func (r *schedule) intn(n int, what string) int { return rapid.IntRange(0, n-1).Draw(r.t, what) }

// size draws a number of bytes, often one of those where something ends.
func (r *schedule) size(limit int64, what string) int64 {
	n := rapid.OneOf(
		rapid.Int64Range(1, 65536),
		rapid.SampledFrom([]int64{1, 2, 127, 128, 1448, 4095, 4096, 4097, 16384, 65535, 65536}),
	).Draw(r.t, what)
	return max(min(n, limit), 0)
}

// step is one event.
func (r *schedule) step() {
	i := r.intn(len(r.w.conns), "connection")
	s := r.w.conns[i]
	if s.c.State() == Connecting && r.intn(3, "connected") == 0 {
		s.c.Connected()
	}
	switch r.intn(10, "event") {
	case 0, 1:
		r.guestSends(i, s)
	case 2:
		r.guestSpeaks(i, s)
	case 3, 4:
		r.linkToConn(i, s)
	case 5, 6:
		r.linkToGuest(s)
	case 7:
		s.grant(int(r.size(1<<20, "room")))
		s.host.ready += r.size(1<<20, "ready")
	case 8:
		s.readFrames(rapid.SampledFrom([]int{1, 3000, 8192, 1 << 20}).Draw(r.t, "paged"), 1+r.intn(3, "frames"))
		s.output()
	case 9:
		r.world(s)
	}
	if r.intn(3, "output") > 0 {
		s.output()
	}
}

// guestSends puts data of the guest on the link: what comes next, or any other range in and beyond its window.
func (r *schedule) guestSends(i int, s *subject) {
	g := &s.guest
	if g.una == 0 {
		return
	}
	off, end := g.nxt, g.total+1
	switch r.intn(4, "range") {
	case 0: // anything
		off = rapid.Int64Range(max(1, g.una-70000), max(min(end, g.edge+3000), 1)).Draw(r.t, "from")
	case 1: // from the start
		off = max(g.una, 1)
	}
	off = min(off, end)
	if s.c.finAt != 0 && r.intn(4, "behind") == 0 {
		end += 5000 // what lies behind the FIN is not of the stream
	}
	n := r.size(end-off, "bytes")
	flags := uint8(ACK)
	if off+n == g.total+1 && r.intn(3, "FIN") > 0 {
		flags |= FIN
	}
	seg := g.segment(flags, off, int(n))
	if off+n <= g.edge {
		g.nxt = max(g.nxt, min(off+n, g.total+1))
		if flags&FIN != 0 {
			g.nxt = g.total + 2
		}
	}
	r.toConn[i] = append(r.toConn[i], seg)
}

// guestSpeaks puts a segment without data on the link: an ACK, a probe, a closed window, a repeated SYN.
func (r *schedule) guestSpeaks(i int, s *subject) {
	g := &s.guest
	if g.una == 0 {
		switch {
		case s.c.config.ISS == g.connISS && g.synSeen:
			r.toConn[i] = append(r.toConn[i], g.syn(SYN|ACK))
		case !g.synSeen && s.c.State() != SynSent:
			r.toConn[i] = append(r.toConn[i], g.syn(SYN))
		}
		return
	}
	seg := g.ack()
	switch r.intn(4, "segment") {
	case 0:
		seg.Seq = g.iss + uint32(g.una) - 1
	case 1:
		seg.Window = uint16(r.intn(int(seg.Window)+1, "shrunk window"))
	}
	r.toConn[i] = append(r.toConn[i], seg)
}

// linkToConn delivers, repeats or loses something of what the guest sent, mostly the first.
func (r *schedule) linkToConn(i int, s *subject) {
	q := r.toConn[i]
	if len(q) == 0 {
		return
	}
	k := r.pick(len(q))
	fate := r.intn(6, "fate")
	if fate > 0 {
		seg := q[k]
		if len(seg.Payload) > 0 {
			b := bytes.Clone(seg.Payload[0])
			cut := r.intn(len(b)+1, "cut")
			seg.Payload = [][]byte{b[:cut:cut], b[cut:]}
		}
		s.borrow(&seg)
		if r.intn(3, "settle") > 0 {
			s.settle()
		}
	}
	if fate != 1 {
		r.toConn[i] = append(q[:k:k], q[k+1:]...)
	}
}

// linkToGuest does the same in the other direction.
func (r *schedule) linkToGuest(s *subject) {
	if len(s.wires) == 0 {
		return
	}
	k := r.pick(len(s.wires))
	fate := r.intn(6, "fate")
	if fate > 0 {
		s.guest.receive(r.t, &s.wires[k])
	}
	if fate != 1 {
		s.wires = append(s.wires[:k:k], s.wires[k+1:]...)
	}
	if r.intn(2, "application") == 0 {
		s.guest.readAll()
	}
	if s.guest.ackDue && s.guest.una > 0 && r.intn(3, "ack") > 0 {
		seg := s.guest.ack()
		s.input(&seg)
	}
}

func (r *schedule) pick(n int) int {
	if r.intn(3, "in order") > 0 {
		return 0
	}
	return r.intn(n, "which")
}

// world changes what all connections share: the clock, the link, and what is left of the budget.
func (r *schedule) world(s *subject) {
	w := r.w
	switch r.intn(5, "change") {
	case 4:
		w.env.Lazy = !w.env.Lazy
	case 0:
		w.frames = r.intn(4, "frames") - 1
	case 1:
		w.env.Now += rapid.Int64Range(1, 300e6).Draw(r.t, "nanoseconds")
		for _, s := range w.conns {
			s.expire()
		}
	case 2:
		if s.c.Deadline(&w.env) != 0 {
			s.pass()
		}
	case 3:
		own := w.budget.Promised - w.ballast
		w.ballast = rapid.Int64Range(0, max(w.budget.Limit-own, 0)).Draw(r.t, "promised to others")
		w.budget.Promised = own + w.ballast
	}
}

// end brings every connection to its end: mostly in order, sometimes by a reset from either side.
func (r *schedule) end() {
	r.w.frames, r.w.env.Lazy = -1, false
	for _, s := range r.w.conns {
		s.c.retries = 0 // what the schedule has lost is forgiven
		switch r.intn(6, "end") {
		case 0:
			s.reset()
		case 1:
			seg := s.guest.segment(RST, max(s.watch.acked, 1), 0)
			if s.c.State() == SynSent {
				s.output() // the SYN, if it was not sent yet
				seg.Flags |= ACK
				seg.Ack = s.c.config.ISS + 1
			}
			s.input(&seg)
			if s.c.has(finRcvd) && s.c.finAcked() { // what is held still goes to the host
				s.finish()
			}
		default:
			if s.c.State() == Connecting {
				s.c.Connected()
			}
			if s.c.Why() != GuestSilent {
				s.finish()
			}
		}
	}
	if n := r.w.stats.Drops[stats.NoBuffers]; n > 0 {
		r.t.Fatalf("%d segments found no memory, though what is promised is reserved", n)
	}
	r.w.close()
}
