// Package fragment puts together what a guest has cut: IPv4 and IPv6 packets from their fragments (RFC 791, 3.2; RFC 8200, 4.5).
//
// Memory is bounded: at most MaxPackets packets are incomplete at a time, the one begun longest ago gives way, and one that does
// not become whole in Lifetime is given up. Fragments that overlap are never right: the packet is dropped whole, and what is left of it is
// too (RFC 5722 for IPv6; for IPv4 no sender makes them either). A fragment that comes twice is taken once.
//
// It makes no system call and knows no clock. A Table belongs to one worker and is not safe for concurrent use.
package fragment

import (
	"math/bits"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

const (
	// MaxPackets is how many packets may be incomplete at a time.
	MaxPackets = 32
	// Lifetime is how long a packet may be incomplete, in nanoseconds (RFC 1122, 3.3.2 and RFC 8200, 4.5 ask for 60 s; nothing
	// is lost between the guest and us, so that what is missing after a second does not come).
	Lifetime = int64(30e9)

	unit    = 8 // bytes: offsets of fragments count in them
	maxData = 65535
)

// key names a packet: all its fragments agree in these.
type key struct {
	src, dst [16]byte
	id       uint32
	proto    uint8
	v6       bool
}

// partial is one incomplete packet.
type partial struct {
	key   key
	begun int64
	spent bool // fragments overlapped: what else comes of it is dropped
	total int  // bytes of data, 0: the last fragment has not come
	have  int  // units that have come
	head  [packet.EtherLen + maxHeader]byte
	headN int                              // of head that is in use; 0: the first fragment has not come
	seen  [(maxData/unit + 64) / 64]uint64 // units that have come
	data  [maxData + unit]byte
	bufs  [2][]byte
	frame packet.Frame
}

// maxHeader is the longest IP header that is kept: IPv4 with options.
const maxHeader = 60

// Table is the incomplete packets of one worker.
type Table struct {
	active []*partial // in the order in which they were begun
	spare  []*partial
	whole  []*partial // what Add has returned since Release
}

// Add takes the fragment in p, for which packet.Parse answered stats.Fragment, at the time now. When it makes its packet whole, the
// answer is that packet's frame, without fragmentation in its header, and borrowed until Release. Otherwise reason says why the
// fragment was dropped, None if it is kept.
func (t *Table) Add(now int64, p *packet.Packet) (whole *packet.Frame, reason stats.Reason) {
	t.expire(now)
	off, n := p.FragOffset, p.L4Len
	end := off + n
	switch {
	case n == 0 || p.FragMore && n%unit != 0:
		return nil, stats.BadFragment
	case end > maxData || !p.V6 && end > maxData-(p.L4-packet.EtherLen): // IPv4's total length counts the header
		return nil, stats.BadFragment
	}
	f := t.find(now, p)
	if f.spent {
		return nil, stats.BadFragment
	}
	if !p.FragMore && f.total != 0 && f.total != end || f.total != 0 && end > f.total || !p.FragMore && f.beyond(end) {
		return nil, f.spend()
	}
	switch have := f.count(off, end); {
	case have == (end-off+unit-1)/unit:
		return nil, stats.Fragment // it has come before
	case have > 0:
		return nil, f.spend()
	}
	p.Frame.CopyAt(f.data[off:end], p.L4)
	f.mark(off, end)
	if !p.FragMore {
		f.total = end
	}
	if off == 0 {
		f.keepHeader(p)
	}
	if f.total == 0 || f.headN == 0 || f.have < (f.total+unit-1)/unit {
		return nil, stats.None
	}
	return t.finish(f), stats.None
}

// find is the packet that the fragment in p belongs to, which may begin with it.
func (t *Table) find(now int64, p *packet.Packet) *partial {
	k := key{src: p.Src.As16(), dst: p.Dst.As16(), id: p.FragID, proto: p.Proto, v6: p.V6}
	if p.V6 {
		k.proto = 0 // RFC 8200: the fragments' next headers may differ, the first one's counts
	}
	for _, f := range t.active {
		if f.key == k {
			return f
		}
	}
	if len(t.active) == MaxPackets {
		t.remove(0)
	}
	var f *partial
	if n := len(t.spare); n > 0 {
		f = t.spare[n-1]
		t.spare = t.spare[:n-1]
		clear(f.seen[:])
		f.spent, f.total, f.have, f.headN = false, 0, 0, 0
	} else {
		f = new(partial)
	}
	f.key, f.begun = k, now
	t.active = append(t.active, f)
	return f
}

// expire gives up what has been incomplete for too long.
func (t *Table) expire(now int64) {
	for len(t.active) > 0 && now-t.active[0].begun > Lifetime {
		t.remove(0)
	}
}

func (t *Table) remove(i int) {
	t.spare = append(t.spare, t.active[i])
	t.active = append(t.active[:i], t.active[i+1:]...)
}

// Release takes back the packets that Add has returned.
func (t *Table) Release() {
	t.spare = append(t.spare, t.whole...)
	t.whole = t.whole[:0]
}

// Len is how many packets are incomplete.
func (t *Table) Len() int { return len(t.active) }

// Trim gives up every packet, and all memory. Nothing is borrowed.
func (t *Table) Trim() { *t = Table{} }

// beyond reports whether anything has come behind the unit that ends with end.
func (f *partial) beyond(end int) bool { return f.count((end+unit-1)&^(unit-1), maxData) > 0 }

// count is how many units of [off, end) have come.
func (f *partial) count(off, end int) (n int) {
	f.words(off, end, func(word *uint64, mask uint64) { n += bits.OnesCount64(*word & mask) })
	return n
}

// mark notes that [off, end) has come.
func (f *partial) mark(off, end int) {
	f.words(off, end, func(word *uint64, mask uint64) { *word |= mask })
	f.have += (end - off + unit - 1) / unit
}

// words calls do with each word of seen that has units of [off, end), and the mask of these. off is that of a unit.
func (f *partial) words(off, end int, do func(word *uint64, mask uint64)) {
	for from, to := off/unit, (end+unit-1)/unit; from < to; {
		n := min(64-from%64, to-from)
		do(&f.seen[from/64], (^uint64(0)>>(64-n))<<(from%64))
		from += n
	}
}

// spend has everything of the packet dropped from now on.
func (f *partial) spend() stats.Reason {
	f.spent = true
	return stats.BadFragment
}

// keepHeader keeps the header of the first fragment as that of the whole packet: extension headers before the fragment header are left out.
func (f *partial) keepHeader(p *packet.Packet) {
	ip := p.L3()
	n := p.L4 - packet.EtherLen
	if p.V6 {
		n = packet.IPv6Len
	}
	p.Frame.CopyAt(f.head[:packet.EtherLen], 0)
	copy(f.head[packet.EtherLen:], ip[:n])
	if p.V6 {
		f.head[packet.EtherLen+6] = p.Proto
	}
	f.headN = packet.EtherLen + n
}

// finish takes a whole packet out of the table and makes its frame.
func (t *Table) finish(f *partial) *packet.Frame {
	for i, a := range t.active {
		if a == f {
			t.active = append(t.active[:i], t.active[i+1:]...)
			break
		}
	}
	t.whole = append(t.whole, f)
	packet.Unfragmented(f.head[packet.EtherLen:f.headN], f.total)
	f.bufs = [2][]byte{f.head[:f.headN], f.data[:f.total]}
	f.frame = packet.Frame{Bufs: f.bufs[:], Len: f.headN + f.total}
	return &f.frame
}
