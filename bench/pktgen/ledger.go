package pktgen

import "github.com/vasta-net/vasta/stats"

// window is for how many of a flow's last frames the ledger knows which have come. One from before those counts as late, though it may have come twice.
const window = 4096

// Ledger accounts for the frames that a sink receives. It belongs to one goroutine.
type Ledger struct {
	Received   uint64 // whole frames of ours, duplicates among them
	Bytes      uint64 // of those
	Missing    uint64 // numbers that were passed over and have not come since
	Reordered  uint64 // frames that came after one of a higher number
	Duplicated uint64
	Damaged    uint64
	Foreign    uint64

	Latency stats.Histogram

	flows map[uint16]*flowLedger
}

// flowLedger is what is known of a flow.
type flowLedger struct {
	next uint64 // number behind the highest that has come
	seen [window / 64]uint64
}

// NewLedger makes an empty ledger.
func NewLedger() *Ledger { return &Ledger{flows: map[uint16]*flowLedger{}} }

// Add accounts for a frame that came at the given time.
func (l *Ledger) Add(f []byte, at uint64) {
	m, k := Read(f)
	l.add(m, k, len(f), at)
}

// AddPayload accounts for what came to a socket, now.
func (l *Ledger) AddPayload(data []byte) {
	m, k := ReadPayload(data)
	l.add(m, k, len(data), now())
}

// add accounts for a frame of n bytes.
func (l *Ledger) add(m Mark, k Kind, n int, at uint64) {
	switch k {
	case Foreign:
		l.Foreign++
		return
	case Damaged:
		l.Damaged++
		return
	}
	l.Received++
	l.Bytes += uint64(n)
	const clock = 1<<48 - 1
	if took := (at - m.Sent) & clock; took < 1<<47 { // else the clock has been read in another order
		l.Latency.Add(int64(took), 1)
	}
	w := l.flows[m.Flow]
	if w == nil {
		w = &flowLedger{}
		l.flows[m.Flow] = w
	}
	number := w.next + uint64(int64(int32(m.Number-uint32(w.next))))
	switch {
	case int64(number) >= int64(w.next):
		l.Missing += number - w.next
		for i := max(w.next, number-min(number, window)); i < number; i++ {
			w.seen[i%window/64] &^= 1 << (i % 64)
		}
		w.next = number + 1
	case w.next-number <= window && w.seen[number%window/64]&(1<<(number%64)) != 0:
		l.Duplicated++
		return
	default:
		l.Reordered++
		l.Missing -= min(l.Missing, 1)
	}
	w.seen[number%window/64] |= 1 << (number % 64)
}

// Distinct is how many different frames have come.
func (l *Ledger) Distinct() uint64 { return l.Received - l.Duplicated }
