package pktgen

import (
	"fmt"
	"io"
	"time"
)

// Result is what came of a run; its JSON form is an interface to other programs.
type Result struct {
	Traffic  *Description `json:"traffic,omitempty"`
	Sent     *Sent        `json:"sent,omitempty"`
	Sink     *Sunk        `json:"sink,omitempty"`
	Received *Received    `json:"received,omitempty"`
}

// Description is the traffic that was asked for.
type Description struct {
	Size    int     `json:"size"`
	Burst   int     `json:"burst"`
	Flows   int     `json:"flows"`
	Threads int     `json:"threads"`
	Rate    float64 `json:"rate,omitempty"`
	Count   uint64  `json:"count,omitempty"`
	Drop    bool    `json:"drop"`
}

func describe(s settings) *Description {
	return &Description{Size: s.Size, Burst: s.Burst, Flows: s.Flows, Threads: s.threads, Rate: s.Rate, Count: s.Count, Drop: s.Drop}
}

// Received is a ledger at its end.
type Received struct {
	Frames     uint64 `json:"frames"` // duplicates among them
	Bytes      uint64 `json:"bytes"`
	Lost       uint64 `json:"lost"` // where the generator is known, what has not come of what the port took; else the numbers that are missing
	Reordered  uint64 `json:"reordered"`
	Duplicated uint64 `json:"duplicated"`
	Damaged    uint64 `json:"damaged"`
	Foreign    uint64 `json:"foreign"` // frames of others
	Unread     uint64 `json:"unread"`  // that the sink's own socket had no room for; they are among those lost

	Latency struct {
		P50  int64 `json:"p50_ns"`
		P90  int64 `json:"p90_ns"`
		P99  int64 `json:"p99_ns"`
		P999 int64 `json:"p999_ns"`
		Max  int64 `json:"max_ns"`
	} `json:"latency"`
}

// Receive makes a result of a ledger; sent is nil where the generator is not known.
func Receive(l *Ledger, sent *Sent) *Received {
	r := &Received{
		Frames: l.Received, Bytes: l.Bytes, Lost: l.Missing, Reordered: l.Reordered, Duplicated: l.Duplicated, Damaged: l.Damaged, Foreign: l.Foreign,
	}
	if sent != nil {
		r.Lost = sent.Frames - min(sent.Frames, l.Distinct()+l.Damaged)
	}
	t := &r.Latency
	t.P50, t.P90, t.P99, t.P999, t.Max = l.Latency.Quantile(0.5), l.Latency.Quantile(0.9), l.Latency.Quantile(0.99), l.Latency.Quantile(0.999), l.Latency.Max()
	return r
}

func (r *Result) receive(l *Ledger) { r.Received = Receive(l, r.Sent) }

// report writes a result for people; the last line is the summary.
func (r *Result) report(w io.Writer) {
	if s := r.Sent; s != nil {
		fmt.Fprintf(w, "sent        %d frames of %d bytes in %v: %.0f/s; %d refused, %d waits; the generator has used %.0f %% of a processor, %d context switches\n",
			s.Frames, r.Traffic.Size, s.Elapsed.Round(time.Millisecond), rate(s.Frames, s.Elapsed), s.Refused, s.Waits, 100*share(s.Busy, s.Elapsed), s.Switches)
	}
	if r.Received == nil {
		fmt.Fprintf(w, "%d sent, %d refused\n", r.Sent.Frames, r.Sent.Refused)
		return
	}
	x, k := r.Received, r.Sink
	fmt.Fprintf(w, "received    %d frames, %d bytes: %.0f/s; the sink has used %.0f %% of a processor, %d context switches; %d frames of others\n",
		x.Frames, x.Bytes, rate(x.Frames, k.Elapsed), 100*share(k.Busy, k.Elapsed), k.Switches, x.Foreign)
	t := x.Latency
	fmt.Fprintf(w, "latency     p50 %v, p90 %v, p99 %v, p99.9 %v, max %v\n", short(t.P50), short(t.P90), short(t.P99), short(t.P999), short(t.Max))
	fmt.Fprintf(w, "%d received, %d lost, %d reordered, %d duplicated, %d damaged\n", x.Frames, x.Lost, x.Reordered, x.Duplicated, x.Damaged)
}

func rate(n uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

func share(part, whole time.Duration) float64 {
	if whole <= 0 {
		return 0
	}
	return part.Seconds() / whole.Seconds()
}

func short(ns int64) time.Duration {
	d := time.Duration(ns)
	switch {
	case d > 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	case d > 10*time.Microsecond:
		return d.Round(100 * time.Nanosecond)
	}
	return d
}
