package tcp

import (
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// guestEnd is an end that is a guest with what it lacks for a path that loses: timers, a congestion window, and retransmission after
// three duplicate ACKs, by SACK blocks where it has them. It is as plain as it can be.
type guestEnd struct {
	p      *path
	i      int
	v6     bool
	opens  bool // it sends the SYN
	g      guest
	reads  int64 // nanoseconds between the application's reads, 0: at once
	readAt int64
	mss    int64
	rto    int64
	wait   int64 // rto, doubled for each time that it ran out
	rtoAt  int64
	cwnd   int64
	dups   int
	until  int64    // offset at which recovery ends
	resend int64    // below it nothing is sent again in this recovery
	sacked []extent // of what it sent: what has arrived beyond una
	begun  bool
	wake   int64
	pkt    packet.Packet
}

func (e *guestEnd) take(frames [][]byte) {
	for _, b := range frames {
		f := packet.Frame{Bufs: [][]byte{b}, Len: len(b)}
		if e.pkt.Parse(&f) == stats.None && e.pkt.Proto == packet.ProtoTCP {
			e.segment(wireTCP(b))
		}
	}
	e.wake = e.p.now
}

func (e *guestEnd) segment(t header.TCP) {
	g := &e.g
	m := wire{
		seq: t.SequenceNumber(), ack: t.AckNumber(), flags: uint8(t.Flags()), window: t.WindowSize(), data: t.Payload(), options: t.Options(),
	}
	if m.flags&SYN == 0 && !g.synSeen || m.flags&SYN != 0 && e.opens != (m.flags&ACK != 0) {
		return // out of place, and of no use
	}
	if m.flags&(SYN|ACK) == SYN|ACK && m.ack != g.iss+1 {
		return // forged
	}
	finished, _ := e.over()
	if m.flags&RST != 0 && (finished || m.seq != g.connISS+uint32(g.rcvNxt)) {
		return
	}
	una, edge := g.una, g.edge
	g.receive(e, &m)
	if g.una > una {
		e.progress()
	} else if m.flags&(SYN|FIN) == 0 && len(m.data) == 0 && g.edge == edge && una > 0 && g.nxt > una {
		if e.dups++; e.dups == 3 && una >= e.until {
			e.until, e.resend = g.nxt, una
			e.cwnd = max(e.cwnd/2, 2*e.mss)
			e.repeat()
		}
	}
	e.sacks(t)
	if e.until > g.una && len(e.sacked) > 0 {
		e.repeat()
	}
}

// Helper, Fatalf and Cleanup make it a failer, for the guest.
func (e *guestEnd) Helper()                           {}
func (e *guestEnd) Fatalf(format string, args ...any) { e.p.model.failf(format, args...) }
func (e *guestEnd) Cleanup(func())                    {}

func (e *guestEnd) progress() {
	e.dups, e.wait, e.rtoAt = 0, e.rto, 0
	if e.g.nxt > e.g.una {
		e.rtoAt = e.p.now + e.wait
	}
	e.cwnd += e.mss
	for len(e.sacked) > 0 && e.sacked[0].from <= e.g.una {
		e.sacked = e.sacked[1:]
	}
	if e.g.una < e.until && e.resend < e.g.una {
		e.resend = e.g.una
		e.repeat()
	}
}

func (e *guestEnd) sacks(t header.TCP) {
	for _, b := range t.ParsedOptions().SACKBlocks {
		from, to := e.unwrap(uint32(b.Start)), e.unwrap(uint32(b.End))
		if !e.g.sack || from <= e.g.una || to <= from || to > e.g.nxt {
			continue // D-SACK, or nonsense
		}
		s := side{got: e.sacked}
		s.add(from, to)
		e.sacked = s.got
	}
}

func (e *guestEnd) unwrap(seq uint32) int64 {
	return e.g.una + int64(int32(seq-e.g.iss-uint32(e.g.una)))
}

// repeat sends the next segment again that is known to be missing and was not sent again in this recovery.
func (e *guestEnd) repeat() {
	off := max(e.resend, e.g.una)
	for _, s := range e.sacked {
		if off < s.from {
			break
		}
		off = max(off, s.to)
	}
	if off >= e.until || len(e.sacked) > 0 && off > e.sacked[len(e.sacked)-1].from {
		return
	}
	e.resend = off + e.data(off)
}

// data sends one segment from off on, with the FIN if it gets that far, and returns how much of the stream that was.
func (e *guestEnd) data(off int64) int64 {
	g := &e.g
	n := max(min(e.mss, g.total+1-off, g.edge-off), 0)
	flags := uint8(ACK)
	if off+n == g.total+1 {
		flags |= FIN | PSH
	}
	seg := g.segment(flags, off, int(n))
	e.send(&seg)
	if flags&FIN != 0 {
		n++
	}
	g.nxt = max(g.nxt, off+n)
	if e.rtoAt == 0 {
		e.rtoAt = e.p.now + e.wait
	}
	return n
}

func (e *guestEnd) send(s *Segment) {
	n := 0
	for _, b := range s.Payload {
		n += len(b)
	}
	f := header.TCPFields{SeqNum: s.Seq, AckNum: s.Ack, Flags: header.TCPFlags(s.Flags), WindowSize: s.Window}
	b := wireFrame(e.v6, e.i, f, segmentOptions(s), n)
	at := b[len(b)-n:]
	for _, p := range s.Payload {
		at = at[copy(at, p):]
	}
	seal(b)
	e.p.send(e.i, b)
}

func (e *guestEnd) act() {
	g := &e.g
	e.wake = 0
	if e.opens && !e.begun {
		e.begun = true
		e.syn()
		return
	}
	if g.reset || !g.synSeen && !e.opens {
		return
	}
	late := e.rtoAt != 0 && e.rtoAt <= e.p.now
	if late {
		e.p.model.costs += e.wait // its recovery is not what is tested
		e.rtoAt, e.wait = 0, min(2*e.wait, maxRTO)
	}
	if g.una == 0 || !g.synSeen {
		if late || g.ackDue {
			e.syn()
		}
		return
	}
	if e.reads == 0 || e.readAt <= e.p.now {
		told := g.told
		g.readAll()
		e.readAt = e.p.now + e.reads
		if room := g.used + 1 + g.buffer; room-told >= min(g.buffer/2, 2*e.mss) {
			g.ackDue = g.ackDue || g.rcvNxt > 1
		}
	}
	if late {
		if g.edge <= g.una && g.una <= g.total { // a probe of the closed window
			seg := g.segment(ACK, g.una-1, 0)
			e.send(&seg)
			e.rtoAt = e.p.now + e.wait
		} else {
			g.nxt, e.cwnd, e.until, e.sacked = g.una, e.mss, 0, nil
		}
	}
	e.stream()
	if g.ackDue {
		seg := g.ack()
		e.send(&seg)
	}
}

// stream sends what the windows allow.
func (e *guestEnd) stream() {
	g := &e.g
	for g.nxt <= g.total+1 && g.nxt-g.una < e.cwnd {
		if g.nxt <= g.total && g.edge <= g.nxt {
			if g.una == g.nxt && e.rtoAt == 0 {
				e.rtoAt = e.p.now + e.wait // to probe
			}
			return
		}
		if n := e.data(g.nxt); n == 0 {
			return
		}
	}
}

func (e *guestEnd) syn() {
	flags := uint8(SYN)
	if !e.opens {
		flags |= ACK
	}
	seg := e.g.syn(flags)
	e.send(&seg)
	if e.rtoAt == 0 {
		e.rtoAt = e.p.now + max(e.wait, 1e9)
	}
}

func (e *guestEnd) next() int64 {
	at := e.wake
	if e.opens && !e.begun {
		return e.p.now
	}
	if e.g.reset {
		return 0
	}
	if e.rtoAt != 0 && (e.g.una < e.g.total+2) && (at == 0 || e.rtoAt < at) {
		at = e.rtoAt
	}
	if e.reads > 0 && e.g.used < e.g.rcvNxt-1 && (e.g.finAt == 0 || e.g.used < e.g.finAt-1) && (at == 0 || e.readAt < at) {
		at = max(e.readAt, e.p.now)
	}
	return at
}

func (e *guestEnd) over() (bool, Why) {
	g := &e.g
	switch {
	case g.una == g.total+2 && g.finAt != 0 && g.rcvNxt > g.finAt:
		return true, Finished
	case g.reset:
		return true, HostReset
	}
	return false, NotOver
}
