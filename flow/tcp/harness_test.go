package tcp

import (
	"bytes"
	"testing"

	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// failer is what *testing.T and *rapid.T have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// pattern is a stream of bytes that tells where in it a byte belongs. Its period is a prime, so that no shift by a
// segment, fragment or page leaves it unchanged.
type pattern []byte

const patternPeriod = 65521

var fromGuest, fromHost = newPattern(0x9e3779b97f4a7c15), newPattern(0xc2b2ae3d27d4eb4f)

func newPattern(seed uint64) pattern {
	p := make(pattern, 3*patternPeriod)
	for i := range p {
		x := uint64(i%patternPeriod+1) * seed
		p[i] = byte(x>>56 ^ x>>32)
	}
	return p
}

// at is the n bytes of the stream from offset off on; n is at most 2*patternPeriod.
func (p pattern) at(off int64, n int) []byte {
	i := int(off % patternPeriod)
	return p[i : i+n]
}

// world is what the connections under test share, and the rules that hold for all of them.
type world struct {
	t       failer
	env     Env
	stats   stats.Worker
	budget  Budget
	ballast int64 // promised to connections that are not under test
	conns   []*subject
	frames  int // that the link still takes; negative: without limit
}

// limits of a world, in bytes.
type limits struct {
	budget, maxWindow, maxFlight int64
	conns                        int // how many connections the hold pool is laid out for
}

var roomy = limits{budget: 32 << 20, maxWindow: 4 << 20, maxFlight: 4 << 20, conns: 4}

func newWorld(t failer, l limits) *world {
	w := &world{t: t, budget: Budget{Limit: l.budget}, frames: -1}
	pool := func(bytes int64) *pagepool.Pool {
		p, err := pagepool.New(int(bytes) + pagepool.PageSize - 1)
		if err != nil {
			t.Fatalf("make a pool: %v", err)
		}
		fd := p.Fd()
		t.Cleanup(func() {
			if p.Size() > 0 { // the test failed: at least the descriptor does not stay
				_ = unix.Close(fd)
			}
		})
		return p
	}
	w.env = Env{
		Now:  1e9,
		Hold: pool(l.budget + int64(l.conns)*2*pagepool.FragSize), Send: pool(int64(l.conns) * (2*l.maxFlight + 4*pagepool.PageSize)),
		Budget: &w.budget, Stats: &w.stats,
		MaxWindow: l.maxWindow, NearWindow: l.maxWindow, MaxFlight: l.maxFlight, KeepIdle: 7200e9,
	}
	return w
}

// close checks that every connection gave everything back.
func (w *world) close() {
	w.t.Helper()
	for i, s := range w.conns {
		if s.c.State() != Closed {
			w.t.Fatalf("connection %d is in state %d at the end", i, s.c.State())
		}
	}
	if w.budget.Promised != w.ballast {
		w.t.Fatalf("%d bytes are promised at the end", w.budget.Promised-w.ballast)
	}
	if err := w.env.Hold.Close(); err != nil {
		w.t.Fatalf("hold: %v", err)
	}
	if err := w.env.Send.Close(); err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

// subject is one connection under test, between a guest and a host socket.
type subject struct {
	w *world
	c Conn

	guest guest
	host  hostSocket
	watch watch
	wires []wire // sent to the guest and not yet taken from here
	lent  [][]byte
	link  func() int // how many copies of the next segment arrive, either way; nil: 1
}

// hostSocket is the far end that a connection is joined to. What it is sent has to be the guest's stream; what it says is fromHost.
type hostSocket struct {
	room     int   // bytes that it still takes; negative: without limit
	writable bool  // the last send was not short
	got      int64 // bytes taken
	shut     bool  // the guest's stream was ended in order

	ready, said, total int64 // bytes that may be read, that were read, that there are in all
	ended              bool  // the end of the stream was read
}

// send takes the pieces as a socket does: as much as it has room for.
func (s *subject) send(bufs [][]byte) (n int) {
	h := &s.host
	if h.shut {
		s.w.t.Fatalf("bytes for the host behind the end of the stream")
	}
	want := 0
	for _, b := range bufs {
		want += len(b)
		if h.room >= 0 && len(b) > h.room-n {
			b = b[:h.room-n]
		}
		for len(b) > 0 {
			k := min(len(b), patternPeriod)
			if !bytes.Equal(b[:k], fromGuest.at(h.got, k)) {
				s.w.t.Fatalf("the host got wrong bytes at %d (piece of %d)", h.got, k)
			}
			h.got += int64(k)
			n += k
			b = b[k:]
		}
	}
	if h.room >= 0 {
		h.room -= n
	}
	if n < want {
		h.writable = false
	}
	return n
}

// grant lets the host socket take n more bytes, and gives it what is held. Negative: without limit.
func (s *subject) grant(n int) {
	if n < 0 {
		s.host.room = -1
	} else if s.host.room >= 0 {
		s.host.room += n
	}
	s.host.writable = true
	s.drain()
}

func (s *subject) drain() {
	var bufs [8][]byte
	for s.host.writable && s.c.HeldBytes() > 0 {
		b := s.c.Held(&s.w.env, bufs[:0], len(bufs))
		s.c.Drained(&s.w.env, s.send(b))
		s.check()
	}
}

// input gives the connection one segment, in the steps of a worker, but for the Output.
func (s *subject) input(seg *Segment) {
	s.borrow(seg)
	s.settle()
}

// borrow gives the connection one segment, whose payload stays lent until settle.
func (s *subject) borrow(seg *Segment) {
	for _, b := range seg.Payload {
		seg.Len += len(b)
	}
	if !seg.Plain() {
		s.settle()
	}
	s.watch.arrives(s, seg)
	s.lent = append(s.lent, seg.Payload...)
	s.c.Input(&s.w.env, seg)
	s.check()
}

// settle gives the host what is borrowed. The frames then go back to the link, which uses them again.
func (s *subject) settle() {
	taken := 0
	if b := s.c.Borrowed(); len(b) > 0 && s.host.writable {
		taken = s.send(b)
	}
	s.c.Settle(&s.w.env, taken)
	for _, b := range s.lent {
		clear(b[:cap(b)])
	}
	s.lent = s.lent[:0]
	if s.c.HeldBytes() > 0 {
		s.drain()
	}
	s.check()
}

// output lets the connection send, in the steps of a worker, and reports whether the link took everything.
func (s *subject) output() bool {
	ok := s.c.Output(&s.w.env, s)
	if s.c.ShutdownDue() {
		if s.host.shut {
			s.w.t.Fatalf("the host's stream is ended twice")
		}
		s.host.shut = true
		ok = s.c.Output(&s.w.env, s) && ok
	}
	s.check()
	return ok
}

// read moves what the host says to the connection, at most one frame, and reports whether there was anything. A page is
// used from paged bytes on.
func (s *subject) read(paged int) bool { return s.readFrames(paged, 1) }

// readFrames does so with several frames at once.
func (s *subject) readFrames(paged, frames int) bool {
	h, env := &s.host, &s.w.env
	want := int(min(int64(s.c.WantRead(env, frames)), h.ready, h.total-h.said))
	if want == 0 {
		if s.c.WantRead(env, frames) == 0 || h.said < h.total || h.ended {
			return false
		}
		h.ended = true
		s.c.HostEOF()
		return true
	}
	before := h.said
	for want > 0 {
		n := min(want, s.c.FrameLen())
		if page, ok := env.Send.Get(); ok && n >= paged {
			copy(env.Send.Bytes(page), fromHost.at(h.said, n))
			s.c.HostPage(page, 0, n)
		} else {
			if ok {
				env.Send.Put(page)
			}
			if n = s.c.HostBytes(env, fromHost.at(h.said, n)); n == 0 {
				break // no memory
			}
		}
		h.said += int64(n)
		h.ready -= int64(n)
		want -= n
		s.check()
	}
	return h.said > before
}

// wire is one segment that was sent to the guest.
type wire struct {
	seq, ack uint32
	flags    uint8
	window   uint16
	options  []byte
	data     []byte
	mss      int
}

// SendTCP implements Sender.
func (s *subject) SendTCP(c *Conn, o *Out) bool {
	if c != &s.c {
		s.w.t.Fatalf("a segment for another connection")
	}
	if s.w.frames == 0 {
		return false
	}
	if s.w.frames > 0 {
		s.w.frames--
	}
	m := wire{
		seq: o.Seq, ack: o.Ack, flags: o.Flags, window: o.Window, mss: o.MSS,
		options: bytes.Clone(o.Options[:o.OptLen]), data: bytes.Join(o.Payload, nil),
	}
	if len(m.data) != o.Len {
		s.w.t.Fatalf("a segment of %d bytes carries %d", o.Len, len(m.data))
	}
	s.watch.leaves(s, &m)
	s.wires = append(s.wires, m)
	return true
}

// take returns what was sent since the last take.
func (s *subject) take() []wire {
	m := s.wires
	s.wires = nil
	return m
}

// pass moves the clock to the connection's deadline and lets it act; it fails when no timer runs.
func (s *subject) pass() {
	s.w.t.Helper()
	at := s.c.Deadline(&s.w.env)
	if at == 0 {
		s.w.t.Fatalf("no timer runs in state %d", s.c.State())
	}
	s.w.env.Now = max(s.w.env.Now, at)
	s.expire()
}

// expire lets the connection act on the timers that have run out, and sees to it that none is left that has.
func (s *subject) expire() {
	s.w.t.Helper()
	s.c.Timeout(&s.w.env)
	s.check()
	s.output()
	if at := s.c.Deadline(&s.w.env); at != 0 && at <= s.w.env.Now && s.w.frames != 0 {
		s.w.t.Fatalf("the timer that ran out runs on, a worker would spin: now %d, deadline %d, retransmission %d, probe %d, state %d", s.w.env.Now, at, s.c.rtoAt, s.c.probeAt, s.c.state)
	}
}

// defaults of a connection under test: a large MTU with segmentation offload, and a guest with all options.
var (
	largeConfig = Config{MSS: 65480, MaxGSO: 65495, ISS: 0x1000, TSBase: 77}
	fullGuest   = guest{iss: 0x5000, mss: 65480, scale: 7, times: true, sack: true, buffer: 1 << 20, chunk: 60000}
)

// dial makes a connection that the guest opens: its SYN has arrived, the host's connect is pending.
func (w *world) dial(cfg Config, g guest) *subject {
	s := &subject{w: w, guest: g, host: hostSocket{room: -1, writable: true}}
	w.conns = append(w.conns, s)
	s.watch.guestEnd = 1
	syn := s.guest.syn(SYN)
	s.c.FromGuest(&w.env, cfg, &syn)
	s.check()
	return s
}

// accept makes a connection that a host peer opens: the guest has not yet got the SYN.
func (w *world) accept(cfg Config, g guest) *subject {
	s := &subject{w: w, guest: g, host: hostSocket{room: -1, writable: true}}
	w.conns = append(w.conns, s)
	s.c.FromHost(&w.env, cfg)
	s.check()
	return s
}

// openSending is open with large segments and a guest that has every option and so many bytes to say.
func (w *world) openSending(total int64) *subject {
	w.t.Helper()
	g := fullGuest
	g.total = total
	return w.open(largeConfig, g)
}

// open makes a connection that is Open, whose handshake is over and forgotten.
func (w *world) open(cfg Config, g guest) *subject {
	w.t.Helper()
	s := w.dial(cfg, g)
	s.c.Connected()
	s.output()
	s.deliver()
	s.answer()
	if s.c.State() != Open {
		w.t.Fatalf("the connection is in state %d after the handshake", s.c.State())
	}
	s.take()
	return s
}

// reset ends a connection that a test is done with.
func (s *subject) reset() {
	s.c.HostFailed(&s.w.env)
	s.output()
}

// in lets a segment of the guest arrive, bytes [off, off+n) of its stream, and the connection react.
func (s *subject) in(flags uint8, off int64, n int) {
	s.w.t.Helper()
	seg := s.guest.segment(flags, off, n)
	s.input(&seg)
	s.output()
}

// says lets the host say n more bytes, as far as the connection wants to read them, and the connection react.
func (s *subject) says(n int) {
	s.w.t.Helper()
	s.host.total += int64(n)
	s.host.ready = s.host.total
	for s.host.said < s.host.total && s.read(8192) {
		s.output()
	}
}

// fill has the guest send n bytes at a time to a host that takes nothing, until the window is closed.
func (s *subject) fill(n int) {
	s.w.t.Helper()
	s.host.room = 0
	for s.guest.nxt < s.guest.edge {
		s.transmit(n)
		s.deliver()
	}
}

// hangsUp ends the host's stream.
func (s *subject) hangsUp() {
	s.w.t.Helper()
	if !s.read(8192) {
		s.w.t.Fatalf("the end of the host's stream was not read")
	}
	s.output()
}

// want checks one segment to the guest: its flags but for PSH, and the offsets of [off, end) and of the acknowledgement.
func (s *subject) want(what string, m wire, flags uint8, off, end, ack int64) {
	s.w.t.Helper()
	cfg := s.c.config
	if m.flags&^PSH != flags || m.seq != cfg.ISS+uint32(off) || m.seq+uint32(len(m.data)) != cfg.ISS+uint32(end) || m.ack != s.guest.iss+uint32(ack) {
		s.w.t.Fatalf("%s: flags %#x at %d to %d acknowledging %d; want flags %#x at %d to %d acknowledging %d", what,
			m.flags, int32(m.seq-cfg.ISS), int32(m.seq-cfg.ISS)+int32(len(m.data)), int32(m.ack-s.guest.iss), flags, off, end, ack)
	}
}

// one returns the only segment that was sent since the last take.
func (s *subject) one(what string) wire {
	s.w.t.Helper()
	m := s.take()
	if len(m) != 1 {
		s.w.t.Fatalf("%s: %d segments were sent, want 1: %v", what, len(m), m)
	}
	return m[0]
}

// none checks that nothing was sent since the last take.
func (s *subject) none(what string) {
	s.w.t.Helper()
	if m := s.take(); len(m) > 0 {
		s.w.t.Fatalf("%s: %d segments were sent, want none: %v", what, len(m), m)
	}
}

// spendBudget has somebody else hold all that is left of the budget, until giveBudgetBack.
func (w *world) spendBudget() {
	w.ballast = w.budget.Limit - w.budget.Promised
	w.budget.Promised = w.budget.Limit
}

func (w *world) giveBudgetBack() {
	w.budget.Promised -= w.ballast
	w.ballast = 0
}

// roomyWorld is a world for a table test, closed with it.
func roomyWorld(t *testing.T) *world {
	w := newWorld(t, roomy)
	t.Cleanup(func() {
		if !t.Failed() {
			w.close()
		}
	})
	return w
}
