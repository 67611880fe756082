package tcp

import (
	"encoding/binary"
	"testing"

	"github.com/vasta-net/vasta/stats"
)

// script reads choices off fuzzed bytes; at their end every choice is 0.
type script []byte

func (b *script) byte() uint8 {
	if len(*b) == 0 {
		return 0
	}
	v := (*b)[0]
	*b = (*b)[1:]
	return v
}

func (b *script) uint16() uint16 { return uint16(b.byte())<<8 | uint16(b.byte()) }

// near is an offset by one of the marks, or far from all of them.
func (b *script) near(marks ...int64) int64 {
	how := b.byte()
	at := marks[int(how&0x1f)%len(marks)]
	switch how >> 5 {
	case 0, 1, 2, 3:
		return at
	case 4:
		return at + int64(int8(b.byte()))
	case 5, 6:
		return at + int64(int16(b.uint16()))
	default:
		return at + int64(int16(b.uint16()))<<16
	}
}

// FuzzConn plays a script of segments with any header fields, and of what host, link and clock do meanwhile, and holds the
// connection to all rules of watch and check. Whatever the guest says, the bytes at an offset are those of its stream, so that
// every byte that reaches the host can be checked.
func FuzzConn(f *testing.F) {
	for _, seed := range fuzzSeeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		play(t, b)
	})
}

// The operations of a script.
const (
	opSegment = iota
	opOutput
	opConnected
	opGrant
	opRead
	opEnd
	opTime
	opSettle
	opFrames
	opBallast
	opFail
	numOps
)

// fuzzSeeds are an upload, a download with loss, and a refusal.
var fuzzSeeds = [][]byte{
	{0x0a, 0x07, opConnected, opOutput, opSegment, ACK, 0, 1, 0xff, 0xff, 0, 0, opSegment, ACK | PSH, 0, 0, 0xff, 0xff, 0x20, 0, opSettle,
		opSegment, ACK, 0x81, 5, 0, 0xff, 0xff, 1, 0, opGrant, 0x40, opOutput, opSegment, ACK | FIN, 0, 0, 0xff, 0xff, 0, 0, opOutput},
	{0x1a, 0x37, opConnected, opOutput, opSegment, ACK, 0, 1, 0xff, 0xff, 0, 0, opRead, 0xff, opOutput, opTime, 0x80, opRead, 0x80,
		opSegment, ACK, 0, 0, 0xff, 0xff, 0, 0, opSegment, ACK, 0, 0, 0xff, 0xff, 0, 0, opSegment, ACK, 0, 0, 0xff, 0xff, 0, 0, opEnd,
		opOutput, opSegment, ACK, 0, 1, 0, 0, 0, 0, opTime, 0xff, opOutput, opSegment, RST, 0, 0, 0, 0, 0, 0},
	{0x04, 0, opOutput, opSegment, SYN | ACK, 0, 1, 0xff, 0xff, 0, 0, opOutput, opFail, 1, opOutput},
}

func play(t failer, b script) {
	kind := b.byte()
	l := limits{budget: 1 << 20, maxWindow: []int64{4 << 20, 20000, 65535, 1 << 30}[kind>>5&3], maxFlight: 200000, conns: 1}
	w := newWorld(t, l)
	sizes := b.byte()
	g := guest{
		iss: sequences[kind>>3&7], scale: int8(sizes%16) - 1, mss: []uint16{1460, 0, 10, 65480}[sizes>>4&3],
		times: kind&1 != 0, sack: kind&2 != 0, buffer: 65535, total: 1 << 40,
	}
	if sizes&0x80 != 0 {
		w.env.GapACKs, w.env.NearWindow = 3, 30000
	}
	cfg := Config{MSS: 1440, ISS: sequences[kind>>2&7], V6: kind&0x80 != 0}
	if sizes&0x40 != 0 {
		cfg.MSS, cfg.MaxGSO = 65480, 65495
	}
	var s *subject
	if kind&8 != 0 {
		s = w.dial(cfg, g)
	} else {
		s = w.accept(cfg, g)
	}
	s.host.room = 1000
	s.host.total = 1 << 40
	for len(b) > 0 {
		s.act(&b)
		s.check()
	}
	w.frames = -1
	s.settle()
	s.output()
	s.reset()
	if _, _, ok := s.c.TimeWait(); ok && s.c.Why() != Finished {
		t.Fatalf("TIME-WAIT after an end of %d", s.c.Why())
	}
	if n := w.stats.Drops[stats.NoBuffers]; n > 0 {
		t.Fatalf("%d segments found no memory, though what is promised is reserved", n)
	}
	w.close()
}

// act does the next step of the script.
func (s *subject) act(b *script) {
	c, w := &s.c, s.w
	switch b.byte() % numOps {
	case opSegment:
		s.anySegment(b)
	case opOutput:
		s.output()
	case opConnected:
		c.Connected()
	case opGrant:
		s.grant(int(b.byte()) << 8)
	case opRead:
		s.host.ready = int64(b.byte()) << 9
		s.readFrames(2048, 2)
	case opEnd:
		if !s.host.ended && c.WantRead(&w.env, 1) > 0 {
			s.host.total = s.host.said
			s.readFrames(0, 1)
		}
	case opTime:
		if n := b.byte(); n < 0x80 {
			w.env.Now += int64(n) * 50e6
		} else if at := c.Deadline(&w.env); at != 0 {
			w.env.Now = max(w.env.Now, at)
		}
		s.expire()
	case opSettle:
		s.settle()
	case opFrames:
		w.frames = int(b.byte()%4) - 1
		w.env.Lazy = !w.env.Lazy
	case opBallast:
		own := w.budget.Promised - w.ballast
		w.ballast = (w.budget.Limit - own) / 255 * int64(b.byte())
		w.budget.Promised = own + w.ballast
	case opFail:
		switch b.byte() % 8 {
		case 0:
			c.HostFailed(&w.env)
		case 1:
			if c.State() == Connecting {
				c.Refuse(&w.env, b.byte()&1 != 0)
			}
		}
	}
}

// anySegment lets a segment with any header fields arrive.
func (s *subject) anySegment(b *script) {
	c, g := &s.c, &s.guest
	flags := b.byte()
	off := b.near(c.rcvNxt, c.edge, c.acked, c.rcvNxt+int64(c.borrowLen), c.finAt, 0)
	ack := b.near(c.una, c.nxt, c.nxt, c.q.tail, 0)
	window := b.uint16()
	n := int(b.uint16())
	if c.State() == SynSent || off < 0 {
		off = 0 // what the guest names is its initial sequence number
	}
	if n > 4096 && n&1 != 0 {
		n &= 0xfff
	}
	seg := Segment{
		Seq: g.iss + uint32(off), Ack: c.config.ISS + uint32(ack), Flags: flags, Window: window,
		MSS: g.mss, Scale: g.scale, SACKOK: g.sack,
	}
	if g.times {
		g.clock++
		seg.HasTimes, seg.TSVal = true, g.clock
		seg.TSEcr = c.clock(s.w.env.Now)
		if back := b.byte(); back > 0xf0 {
			seg.TSVal -= uint32(back)
		} else {
			seg.TSEcr -= uint32(back)
		}
	}
	if flags&URG != 0 { // stands for SACK blocks
		seg.SACKCount = 1 + int(window)%len(seg.SACK)
		for i := range seg.SACKCount {
			for k := range seg.SACK[i] {
				seg.SACK[i][k] = c.config.ISS + uint32(b.near(c.una, c.nxt, c.rack.fack, (c.una+c.nxt)/2))
			}
		}
	}
	if n > 0 {
		data := make([]byte, n)
		if off > 0 {
			copy(data, fromGuest.at(off-1, n))
		} else {
			copy(data[min(n, 1):], fromGuest.at(0, n)) // behind the SYN's own number
		}
		seg.Payload = [][]byte{data[:n/3], data[n/3:]}
	}
	s.borrow(&seg)
	if binary.BigEndian.Uint16([]byte{flags, uint8(n)})&1 == 0 {
		s.settle()
	}
}
