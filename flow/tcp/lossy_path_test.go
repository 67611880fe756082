package tcp

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// path joins two ends in virtual time. What one end sends arrives at the other, or does not, as the leg in that direction has it. All
// chance comes from one source, so that a seed repeats everything.
type path struct {
	now    int64 // nanoseconds
	random *rand.Rand
	legs   [2]leg // legs[i] carries what end i sends
	ends   [2]end
	sides  [2]side // what was seen of what end i sends
	model  *model
	queue  []arrival // a binary heap
	order  uint64
	trace  *strings.Builder // nil for none
}

// end is one TCP and its application, at one end of a path.
type end interface {
	// take is what arrives at one moment, in order. The frames are the end's from then on.
	take(frames [][]byte)
	// act does what is due now, of timers and of the application, and sends what follows.
	act()
	// next is when act is to be called again, 0 for never.
	next() int64
	// over tells whether the connection has ended, and how.
	over() (bool, Why)
}

// leg is one direction of a path. Probabilities are of 1.
type leg struct {
	loss, burst, reorder, dup, corrupt, hostile float64

	delay, jitter, late int64 // nanoseconds: always, up to so much more, up to so much more when it is reordered
	rate                int64 // bytes per second, 0: no limit
	limit               int64 // bytes that may wait for their turn at that rate
	deadFrom, deadTo    int64 // nothing passes meanwhile
	strip               [3]bool

	busy    int64 // when what waits has left
	last    int64 // when the newest arrives of what is not reordered
	badTo   int64 // when the burst of losses ends
	lost    int   // frames that did not arrive as they were sent
	carried int   // frames that did
	fails   int   // frames in succession that did not arrive
}

type arrival struct {
	at    int64
	order uint64
	to    int
	frame []byte
	whole bool // as it was sent
}

func (a *arrival) before(b *arrival) bool { return a.at < b.at || a.at == b.at && a.order < b.order }

func (p *path) push(a arrival) {
	a.order = p.order
	p.order++
	p.queue = append(p.queue, a)
	q := p.queue
	i := len(q) - 1
	for i > 0 && q[i].before(&q[(i-1)/2]) {
		q[i], q[(i-1)/2] = q[(i-1)/2], q[i]
		i = (i - 1) / 2
	}
}

func (p *path) pop() arrival {
	q := p.queue
	first := q[0]
	n := len(q) - 1
	q[0] = q[n]
	q[n] = arrival{}
	q = q[:n]
	for i := 0; ; {
		k := 2*i + 1
		if k+1 < n && q[k+1].before(&q[k]) {
			k++
		}
		if k >= n || !q[k].before(&q[i]) {
			break
		}
		q[i], q[k] = q[k], q[i]
		i = k
	}
	p.queue = q
	return first
}

func (p *path) chance(of float64) bool { return of > 0 && p.random.Float64() < of }

// send puts a frame of end i on its way. The path owns it from now on.
func (p *path) send(i int, frame []byte) {
	l := &p.legs[i]
	if t := wireTCP(frame); t.Flags()&header.TCPFlagSyn != 0 {
		l.stripOptions(frame)
	}
	p.model.leaves(i, frame)
	at := p.now
	fate := ""
	switch {
	case p.now >= l.deadFrom && p.now < l.deadTo:
		fate = "dead"
	case l.rate > 0:
		wait := max(l.busy-p.now, 0)
		if wait*l.rate/1e9+int64(len(frame)) > l.limit {
			fate = "queue full"
			break
		}
		l.busy = p.now + wait + int64(len(frame))*1e9/l.rate
		at = l.busy
	}
	if p.chance(l.burst) {
		l.badTo = p.now + 10e6
	}
	if fate == "" && (p.now < l.badTo && p.chance(0.7) || p.chance(l.loss)) {
		fate = "lost"
	}
	if fate == "" {
		switch {
		case p.chance(l.corrupt):
			fate = "corrupt"
		case p.chance(l.hostile):
			fate = "forged"
		case p.chance(l.dup):
			fate = "twice"
		}
	}
	if p.trace != nil {
		way := "A >"
		if i == 1 {
			way = "  < B"
		}
		p.note("%s %s %s", way, describe(frame, p.sides[i].iss, p.sides[1-i].iss), strings.ToUpper(fate))
	}
	copies, whole := 0, false
	switch fate {
	case "":
		copies, whole = 1, true
	case "twice":
		copies, whole = 2, true
	default:
		p.model.fails(i, frame)
	}
	switch fate {
	case "corrupt": // one flipped bit of an IP packet is found by a checksum, wherever it is
		copies = 1
		from := len(frame) - len(wireTCP(frame)) - 8 // the addresses, in both versions
		frame[from+p.random.IntN(len(frame)-from)] ^= 1 << p.random.IntN(8)
	case "forged":
		copies = 1
		p.forge(frame)
	}
	if whole {
		l.carried++
		l.fails = 0
	}
	for k := range copies {
		when := at + l.delay
		if l.jitter > 0 {
			when += p.random.Int64N(l.jitter)
		}
		if p.chance(l.reorder) || k > 0 && l.late > 0 {
			when += p.random.Int64N(l.late + 1)
		} else {
			when = max(when, l.last)
			l.last = when
		}
		a := arrival{at: when, to: 1 - i, frame: frame, whole: whole}
		if k > 0 {
			a.frame = append([]byte(nil), frame...) // an end may write to what it took
		}
		p.push(a)
	}
}

// note puts a line into the trace.
func (p *path) note(format string, args ...any) {
	if p.trace != nil {
		fmt.Fprintf(p.trace, "%11.6f "+format+"\n", append([]any{float64(p.now) / 1e9}, args...)...)
	}
}

// stripOptions takes options off a SYN, as some middle boxes do: those that the leg does not know.
func (l *leg) stripOptions(frame []byte) {
	o := wireTCP(frame).Options()
	for len(o) > 1 && o[0] != header.TCPOptionEOL {
		if o[0] == header.TCPOptionNOP {
			o = o[1:]
			continue
		}
		n := int(o[1])
		if k, ok := map[byte]int{header.TCPOptionWS: 0, header.TCPOptionTS: 1, header.TCPOptionSACKPermitted: 2}[o[0]]; ok && l.strip[k] {
			for j := range n {
				o[j] = header.TCPOptionNOP
			}
		}
		o = o[n:]
	}
	seal(frame)
}

// forge changes a header as a hostile middle may, under a right checksum. It leaves bytes where they belong in the stream: against one
// who puts others there, TCP has nothing.
func (p *path) forge(frame []byte) {
	t := wireTCP(frame)
	near := func(v uint32) uint32 {
		if p.chance(0.5) {
			return v + uint32(p.random.IntN(2000)) - 1000
		}
		return p.random.Uint32()
	}
	switch p.random.IntN(5) {
	case 0:
		t.SetAckNumber(near(t.AckNumber()))
	case 1:
		t.SetWindowSize(uint16(p.random.Uint32()))
	case 2:
		if o := t.Options(); len(o) > 0 {
			o[p.random.IntN(len(o))] = byte(p.random.Uint32())
		}
	case 3:
		t.SetFlags(uint8(p.random.Uint32()))
	case 4:
		if len(t.Payload()) == 0 {
			t.SetSequenceNumber(near(t.SequenceNumber()))
		} else {
			t.SetFlags(uint8(t.Flags()) | RST)
		}
	}
	seal(frame)
}

// step goes on to the next moment at which something happens, and reports false when there is none.
func (p *path) step() bool {
	at := int64(0)
	if len(p.queue) > 0 {
		at = p.queue[0].at
	}
	for _, e := range p.ends {
		if t := e.next(); t != 0 && (at == 0 || t < at) {
			at = t
		}
	}
	if at == 0 {
		return false
	}
	p.now = max(p.now, at)
	var batch [2][][]byte
	for len(p.queue) > 0 && p.queue[0].at <= p.now {
		a := p.pop()
		if a.whole {
			p.model.arrives(1-a.to, a.frame)
		}
		batch[a.to] = append(batch[a.to], a.frame)
	}
	for i, e := range p.ends {
		if len(batch[i]) > 0 {
			e.take(batch[i])
		}
		if t := e.next(); t != 0 && t <= p.now {
			e.act()
		}
	}
	return true
}
