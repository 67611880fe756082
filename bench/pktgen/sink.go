package pktgen

import (
	"context"
	"time"
)

// sinkWait is how long a sink waits for frames before it looks whether it is to end.
const sinkWait = 20 * time.Millisecond

// Sink is how frames are received.
type Sink struct {
	Rate  float64       // frames a second at most, to play a consumer that is too slow; 0: as many as come
	Quiet time.Duration // the sink goes on after the context ends until nothing has come for so long
}

// Sunk is what a sink has used.
type Sunk struct {
	Elapsed  time.Duration `json:"elapsed_ns"` // from the first frame of ours to the last
	Busy     time.Duration `json:"busy_ns"`
	Switches uint64        `json:"switches"`
	Batches  uint64        `json:"batches"`      // that frames have come in
	Calls    uint64        `json:"system_calls"` // of the port
}

// Run receives from the port into the ledger, which is its own until it returns. The calling goroutine should have been locked to its thread. p is kept up to date; nil for nobody who looks.
func (s Sink) Run(ctx context.Context, port Port, l *Ledger, p *Progress) (used Sunk, err error) {
	if p == nil {
		p = &Progress{}
	}
	before, calls := usage(), port.Calls()
	var first, last time.Time
	quiet, due := time.Now(), time.Now()
	for {
		frames, err := port.Receive(sinkWait)
		if err != nil {
			return used, err
		}
		if n := len(frames); n > 0 {
			ours := l.Received
			at, moment := now(), time.Now()
			for _, f := range frames {
				l.Add(f, at)
			}
			used.Batches++
			p.Received.Store(l.Received)
			p.Missing.Store(l.Missing)
			if l.Received > ours {
				if last, quiet = moment, moment; first.IsZero() {
					first = moment
				}
			}
			if s.Rate > 0 {
				if late := time.Since(due); late > behind {
					due = due.Add(late - behind)
				}
				due = due.Add(time.Duration(float64(n) / s.Rate * float64(time.Second)))
				await(due)
			}
		}
		if ctx.Err() != nil && time.Since(quiet) >= s.Quiet {
			break
		}
	}
	after := usage()
	used.Calls = port.Calls() - calls
	used.Busy, used.Switches, used.Elapsed = after.busy-before.busy, after.switches-before.switches, last.Sub(first)
	return used, nil
}
