package tcp

import (
	"bytes"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// application is what uses one end of a connection: it says one stream and hears the other, both as fast as it likes. An amount of 0
// for a chunk is no limit.
type application struct {
	p            *path
	says, hears  pattern
	total, want  int64 // lengths of the two streams
	sayChunk     int64 // bytes that become ready at a time
	sayEvery     int64 // nanoseconds
	hearChunk    int64
	hearEvery    int64
	sayAt        int64 // when more becomes ready, 0: all is
	hearAt       int64 // when there is room for more, 0: always
	ready, said  int64
	room, got    int64 // room < 0: without limit
	ended, heard bool  // the stream that it says has ended; that it hears has
}

func (a *application) start() {
	a.ready, a.room = a.total, -1
	if a.sayChunk > 0 {
		a.ready, a.sayAt = 0, a.p.now+a.sayEvery
	}
	if a.hearChunk > 0 {
		a.room, a.hearAt = 0, a.p.now+a.hearEvery
	}
}

// act lets time do its work, and reports whether there is room for more.
func (a *application) act() (roomier bool) {
	if a.sayAt != 0 && a.sayAt <= a.p.now {
		a.ready = min(a.ready+a.sayChunk, a.total)
		if a.sayAt += a.sayEvery; a.ready == a.total {
			a.sayAt = 0
		}
	}
	if a.hearAt != 0 && a.hearAt <= a.p.now {
		roomier = true
		if a.hearAt += a.hearEvery; a.got == a.want {
			a.hearAt = 0
			a.room = -1
		} else {
			a.room = min(a.room+a.hearChunk, 8*a.hearChunk)
		}
	}
	return roomier
}

// hear takes the next bytes, as many as it has room for, and checks them.
func (a *application) hear(b []byte) (n int) {
	if a.room >= 0 && int64(len(b)) > a.room {
		b = b[:a.room]
	}
	for len(b) > 0 {
		k := min(len(b), patternPeriod)
		if a.heard || a.got+int64(k) > a.want || !bytes.Equal(b[:k], a.hears.at(a.got, k)) {
			a.p.model.failf("wrong bytes within [%d, %d) of the stream of %d, its end %t", a.got, a.got+int64(k), a.want, a.heard)
		}
		a.got += int64(k)
		n += k
		b = b[k:]
	}
	if a.room >= 0 {
		a.room -= int64(n)
	}
	return n
}

// hearEnd takes the end of the stream.
func (a *application) hearEnd() {
	if a.heard || a.got != a.want && !a.p.model.hostile {
		a.p.model.failf("the end of the stream after %d bytes of %d, heard before: %t", a.got, a.want, a.heard)
	}
	a.heard = true
}

// connEnd is an end that is a Conn, in the steps of a worker, and the application behind its host socket.
type connEnd struct {
	p       *path
	i       int
	env     *Env
	c       Conn
	app     application
	v6      bool
	split   bool    // GSO frames leave as segments
	eager   bool    // ACKs are never put off
	full    float64 // how often the link refuses a frame
	fullAt  int64   // when the link has room again, 0: it has
	connect int64   // how long the host's connect takes
	connAt  int64   // when it is done, 0: it is
	abortAt int64   // when the host socket fails, 0: never
	wake    int64   // when act is to be called again for what an event has left
	begun   bool    // the guest's SYN has arrived
	wait    TimeWait
	waits   bool  // the connection is in TIME-WAIT
	waitsTo int64 // until then
	expired bool  // it was
	config  Config

	pkt      packet.Packet
	seg      Segment
	lent     [][]byte
	writable bool
}

func (e *connEnd) take(frames [][]byte) {
	e.env.Now = e.p.now
	for _, b := range frames {
		f := packet.Frame{Bufs: [][]byte{b}, Len: len(b)}
		if e.pkt.Parse(&f) != stats.None || e.pkt.Proto != packet.ProtoTCP || e.seg.Parse(&e.pkt) != stats.None {
			continue
		}
		e.segment()
		e.lent = append(e.lent, b)
	}
	e.settle()
	e.wake = e.p.now
}

func (e *connEnd) segment() {
	s := &e.seg
	switch {
	case e.c.State() != Closed:
		if !s.Plain() && len(e.c.Borrowed()) > 0 {
			e.settle()
		}
		e.c.Input(e.env, s)
	case !e.begun && s.Flags&(SYN|ACK|RST|FIN) == SYN:
		e.begun = true
		e.c.FromGuest(e.env, e.config, s)
		e.connAt = e.p.now + e.connect
	case e.waits && e.p.now < e.waitsTo:
		e.linger()
	case s.Flags&RST == 0 && !e.c.has(rstDue):
		e.expired = e.expired || e.waits
		e.resetUnknown()
	}
}

// linger takes a segment after the end of a connection that is in TIME-WAIT.
func (e *connEnd) linger() {
	switch e.wait.Input(e.env, &e.seg, &e.env.out) {
	case Answer:
		e.SendTCP(&e.c, &e.env.out)
	case Forget:
		e.waits = false
	case Reopen:
		e.p.model.failf("end %d takes a segment for the SYN of another connection", e.i)
	}
}

// resetUnknown answers what belongs to no connection.
func (e *connEnd) resetUnknown() {
	s := &e.seg
	f := header.TCPFields{SeqNum: s.Ack, Flags: header.TCPFlagRst}
	if s.Flags&ACK == 0 {
		f.SeqNum, f.AckNum, f.Flags = 0, s.Seq+uint32(s.Len), header.TCPFlagRst|header.TCPFlagAck
		if s.Flags&(SYN|FIN) != 0 {
			f.AckNum++
		}
	}
	b := wireFrame(e.v6, e.i, f, nil, 0)
	seal(b)
	e.p.send(e.i, b)
}

// settle gives the application what is borrowed. The frames are used again afterwards.
func (e *connEnd) settle() {
	taken := 0
	if b := e.c.Borrowed(); len(b) > 0 && e.writable {
		taken = e.hear(b)
	}
	e.c.Settle(e.env, taken)
	for _, b := range e.lent {
		clear(b)
	}
	e.lent = e.lent[:0]
	e.drain()
}

func (e *connEnd) hear(bufs [][]byte) (taken int) {
	for _, b := range bufs {
		n := e.app.hear(b)
		taken += n
		if n < len(b) {
			e.writable = false
			break
		}
	}
	return taken
}

func (e *connEnd) drain() {
	for e.writable && e.c.HeldBytes() > 0 {
		e.c.Drained(e.env, e.hear(e.c.Held(e.env, nil, 4)))
	}
}

func (e *connEnd) act() {
	e.wake = 0
	e.env.Now = e.p.now
	if e.fullAt != 0 && e.fullAt <= e.p.now {
		e.fullAt = 0
	}
	if e.c.State() == Closed && !e.c.has(rstDue) {
		return
	}
	defer e.finish()
	if e.connAt != 0 && e.connAt <= e.p.now {
		e.connAt = 0
		e.c.Connected()
	}
	if e.abortAt != 0 && e.abortAt <= e.p.now {
		e.abortAt = 0
		e.c.HostFailed(e.env)
	}
	if at := e.c.Deadline(e.env); at != 0 && at <= e.p.now {
		e.c.Timeout(e.env)
	}
	if e.app.act() {
		e.writable = true
		e.drain()
	}
	e.env.Lazy = !e.eager
	e.output()
	for e.read() {
		e.output()
	}
	e.env.Lazy = false // nothing else happens now: what was put off is due
	if e.c.AckPending() {
		e.output()
	}
	e.env.Lazy = true
}

// finish notes that the connection has ended and is in TIME-WAIT.
func (e *connEnd) finish() {
	if t, life, ok := e.c.TimeWait(); ok {
		e.wait, e.waits, e.waitsTo = t, true, e.p.now+life
	}
}

// read moves what the application says to the connection, at most one frame.
func (e *connEnd) read() bool {
	a, c := &e.app, &e.c
	want := int(min(int64(c.WantRead(e.env, 1)), a.ready-a.said))
	if want == 0 {
		if a.said < a.total || a.ended || c.WantRead(e.env, 1) == 0 {
			return false
		}
		a.ended = true
		c.HostEOF()
		return true
	}
	if page, ok := e.env.Send.Get(); ok && want > 4096 {
		copy(e.env.Send.Bytes(page), a.says.at(a.said, want))
		c.HostPage(page, 0, want)
	} else {
		if ok {
			e.env.Send.Put(page)
		}
		if want = c.HostBytes(e.env, a.says.at(a.said, want)); want == 0 {
			e.p.model.failf("end %d has no memory to read into", e.i)
		}
	}
	a.said += int64(want)
	return true
}

func (e *connEnd) output() {
	ok := e.c.Output(e.env, e)
	if e.c.ShutdownDue() {
		e.app.hearEnd()
		ok = e.c.Output(e.env, e) && ok
	}
	if !ok && e.fullAt == 0 {
		e.p.model.failf("end %d says that the link is full, which it is not", e.i)
	}
}

// SendTCP implements Sender.
func (e *connEnd) SendTCP(_ *Conn, o *Out) bool {
	if e.fullAt == 0 && e.p.chance(e.full) {
		e.fullAt = e.p.now + 1e6
		e.p.note("end %d: the link is full", e.i)
	}
	if e.fullAt != 0 {
		return false
	}
	data := bytes.Join(o.Payload, nil)
	if len(data) != o.Len {
		e.p.model.failf("a segment of %d bytes carries %d", o.Len, len(data))
	}
	f := header.TCPFields{SeqNum: o.Seq, AckNum: o.Ack, Flags: header.TCPFlags(o.Flags), WindowSize: o.Window}
	for first := true; first || len(data) > 0; first = false {
		n := len(data)
		if e.split && o.MSS > 0 && n > o.MSS {
			n = o.MSS
		}
		f.Flags = header.TCPFlags(o.Flags)
		if n < len(data) {
			f.Flags &^= FIN | PSH
		}
		b := wireFrame(e.v6, e.i, f, o.Options[:o.OptLen], n)
		copy(b[len(b)-n:], data[:n])
		seal(b)
		e.p.send(e.i, b)
		f.SeqNum += uint32(n)
		data = data[n:]
	}
	return true
}

func (e *connEnd) next() int64 {
	at := e.wake
	sooner := func(t int64) {
		if t != 0 && (at == 0 || t < at) {
			at = t
		}
	}
	sooner(e.fullAt)
	if e.c.State() == Closed {
		return at
	}
	sooner(e.connAt)
	sooner(e.abortAt)
	sooner(e.c.Deadline(e.env))
	sooner(e.app.sayAt)
	sooner(e.app.hearAt)
	return at
}

func (e *connEnd) over() (bool, Why) {
	return e.c.State() == Closed && !e.c.has(rstDue), e.c.Why()
}
