package tcp

// scoreboard is what the sender knows of everything between una and nxt: one record for each frame that was sent, in order and
// without gaps. A frame of 64 KiB is one record until the guest SACKs a part of it, or a part of it is sent again: then it is
// split there, so that only what is missing is sent again.
type scoreboard struct {
	ring    []record // length is a power of two, or 0
	head, n int

	// Sums over the records, in sequence space (a FIN counts as one byte).
	flying, lost, sacked int64
}

// record is a range of the stream toward the guest that was last sent with one frame.
type record struct {
	from, to int64 // stream offsets; a SYN and a FIN take one each
	sentAt   int64 // when it was last sent, nanoseconds
	fate     fate
	resent   bool // sent more than once: an acknowledgement does not tell which of them arrived
}

// fate is what is known of a record.
type fate uint8

const (
	flying fate = iota // on its way, as far as is known
	lost               // to be sent again
	sacked             // arrived, says the guest
)

const (
	// maxFrames bounds the frames between una and nxt. It is more than what 4 MiB take in segments of the smallest MTU of IPv6, so
	// that it limits none but floods of tiny writes.
	maxFrames = 4096
	// maxRecords bounds what a guest's SACK blocks can split them into. A block that would go beyond it counts only for whole records.
	maxRecords = 2 * maxFrames
	// keepRecords is how large a ring an idle connection keeps.
	keepRecords = 64
)

func (b *scoreboard) at(i int) *record { return &b.ring[(b.head+i)&(len(b.ring)-1)] }

func (b *scoreboard) last() *record { return b.at(b.n - 1) }

// sum is the counter that a record of this fate is counted in.
func (b *scoreboard) sum(f fate) *int64 {
	switch f {
	case flying:
		return &b.flying
	case lost:
		return &b.lost
	}
	return &b.sacked
}

func (b *scoreboard) move(r *record, to fate) {
	n := r.to - r.from
	*b.sum(r.fate) -= n
	*b.sum(to) += n
	r.fate = to
}

// push appends the record of a frame that was just sent.
func (b *scoreboard) push(from, to, now int64) {
	b.insert(b.n)
	*b.last() = record{from: from, to: to, sentAt: now}
	b.flying += to - from
}

// insert makes room for a record at index i.
func (b *scoreboard) insert(i int) {
	if b.n == len(b.ring) {
		grown := make([]record, max(8, 2*b.n))
		for k := range b.n {
			grown[k] = *b.at(k)
		}
		b.ring, b.head = grown, 0
	}
	b.n++
	for k := b.n - 1; k > i; k-- {
		*b.at(k) = *b.at(k - 1)
	}
}

// remove takes out the n records from index i on.
func (b *scoreboard) remove(i, n int) {
	if n == 0 {
		return
	}
	for k := i; k+n < b.n; k++ {
		*b.at(k) = *b.at(k + n)
	}
	b.n -= n
}

// split divides record i at offset off, which lies within it.
func (b *scoreboard) split(i int, off int64) {
	b.insert(i + 1)
	left, right := b.at(i), b.at(i+1)
	*right = *left
	left.to, right.from = off, off
}

// cut takes the part below off from the first record, or all of it, and gives the ring back when that was the last of many.
func (b *scoreboard) cut(off int64) {
	r := b.at(0)
	if off < r.to {
		*b.sum(r.fate) -= off - r.from
		r.from = off
		return
	}
	*b.sum(r.fate) -= r.to - r.from
	b.head = (b.head + 1) & (len(b.ring) - 1)
	if b.n--; b.n == 0 && len(b.ring) > keepRecords {
		b.ring, b.head = nil, 0
	}
}

// find is the index of the record that holds offset off, which lies between the first and the last.
func (b *scoreboard) find(off int64) int {
	lo, hi := 0, b.n-1
	for lo < hi {
		mid := (lo + hi) / 2
		if b.at(mid).to <= off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// within isolates [from, to), which lies between the first record and the last: afterwards the records [lo:hi] are those that lie wholly
// in it. Without room to split, a record at its ends stays whole and outside. What is sacked already is not split.
func (b *scoreboard) within(from, to int64) (lo, hi int) {
	lo = b.find(from)
	if r := b.at(lo); r.from < from && r.fate != sacked {
		if b.n < maxRecords {
			b.split(lo, from)
		}
		lo++
	}
	if lo == b.n || b.at(lo).from >= to {
		return lo, lo
	}
	hi = b.find(to - 1)
	if r := b.at(hi); r.to > to && r.fate != sacked {
		if b.n == maxRecords {
			return lo, max(lo, hi)
		}
		b.split(hi, to)
	}
	return lo, hi + 1
}

// join makes one record of the sacked ones among [lo:hi] and those beside it: what has arrived needs no more than its extent.
func (b *scoreboard) join(lo, hi int) {
	for lo > 0 && b.at(lo-1).fate == sacked {
		lo--
	}
	for hi < b.n && b.at(hi).fate == sacked {
		hi++
	}
	if hi-lo > 1 {
		b.at(lo).to = b.at(hi - 1).to
		b.remove(lo+1, hi-lo-1)
	}
}

// firstLost is the index of the lowest record that is to be sent again; there is one.
func (b *scoreboard) firstLost() int {
	i := 0
	for b.at(i).fate != lost {
		i++
	}
	return i
}

// merge joins lost record i with the lost ones behind it, as long as they fit into one frame of limit bytes: what left in small frames is
// sent again in large ones.
func (b *scoreboard) merge(i int, limit int64) {
	r, n := b.at(i), 1
	for ; i+n < b.n; n++ {
		next := b.at(i + n)
		if next.fate != lost || next.to-r.from > limit {
			break
		}
		r.to = next.to
		r.resent = r.resent || next.resent
	}
	b.remove(i+1, n-1)
}

// resend notes that record i was sent again up to offset end, which may be short of all of it.
func (b *scoreboard) resend(i int, end, now int64) {
	if end < b.at(i).to {
		b.split(i, end)
	}
	r := b.at(i)
	b.move(r, flying)
	r.sentAt, r.resent = now, true
}

// loseAll has everything sent again that the guest has not SACKed. A guest whose SACK began where its acknowledgement ends has taken
// back what it said (RFC 2018, 8): then none of it counts any more.
func (b *scoreboard) loseAll() {
	reneged := b.n > 0 && b.at(0).fate == sacked
	for i := range b.n {
		if r := b.at(i); r.fate != sacked || reneged {
			b.move(r, lost)
		}
	}
}

// findAll takes back that records are lost: they have only been late.
func (b *scoreboard) findAll() {
	for i := 0; b.lost > 0; i++ {
		if r := b.at(i); r.fate == lost {
			b.move(r, flying)
		}
	}
}

// clear forgets everything.
func (b *scoreboard) clear() { *b = scoreboard{} }
