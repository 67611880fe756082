package overloadbench

import (
	"strings"

	"github.com/vasta-net/vasta/bench/internal/command"
)

// source are the figures of the source (S4: tun/tap ring with queue stop and wake, 2026), for comparison.
var source = []string{
	"TAP + vhost-net, pktgen, 1 thread, pinned: 452 → 454 Kpps, lost 1154 Kpps → 0; 4 threads: 71 → 79 Kpps each, lost 1527 Kpps each → 0",
	"unpinned: TAP 196 → 185 Kpps, lost 1618 Kpps → 0; TAP + vhost-net 577 → 578 Kpps, lost 1170 Kpps → 0",
	"TCP, 8 threads: 13.5 → 9.1 Gbit/s with the first version, which was reverted",
}

// judge holds the rows that were measured against their bars.
func judge(r *Results) (bars []command.Bar) {
	add := func(row *RowResult, what, want, mode string, f func(s, drop *Sample) (float64, bool)) {
		b := command.Bar{Row: row.Name + ": " + what, Want: want}
		s, drop := row.sample(mode), row.sample("drop")
		if s == nil {
			b.Why = "not measured: " + row.Failure
		} else {
			v, met := f(s, drop)
			b.Measured, b.Met = &v, met
		}
		bars = append(bars, b)
	}
	zero := func(n uint64) (float64, bool) { return float64(n), n == 0 }
	for i := range r.Rows {
		row := &r.Rows[i]
		switch kind, _, _ := strings.Cut(row.Name, "-"); kind {
		case "ring", "link":
			add(row, "lost, backpressure", "0", "backpressure", func(s, _ *Sample) (float64, bool) { return zero(s.Lost) })
			add(row, "reordered, duplicated, damaged", "0", "backpressure", func(s, _ *Sample) (float64, bool) { return zero(s.Wrong) })
			add(row, "delivered, backpressure / drop", "≥ 0.97", "backpressure", func(s, drop *Sample) (float64, bool) {
				v := s.PerSecond / drop.PerSecond
				return v, v >= 0.97
			})
			add(row, "wakes for each frame x ring", "≤ 2", "backpressure", func(s, _ *Sample) (float64, bool) {
				v := s.Wakes * ringSize
				return v, v <= 2
			})
			add(row, "wakes by the watchdog", "0", "backpressure", func(s, _ *Sample) (float64, bool) { return zero(s.Overdue) })
		case "tap":
			add(row, "lost and counted by nobody", "0", "drop", func(s, _ *Sample) (float64, bool) { return zero(s.Lost - min(s.Lost, s.Counted)) })
		case "bursts", "vasta":
			add(row, "lost with the queue that vasta sizes", "0", "sized queue", func(s, _ *Sample) (float64, bool) { return zero(s.Lost) })
			add(row, "lost with the kernel's own", "> 0", "kernel's queue", func(s, _ *Sample) (float64, bool) { return float64(s.Lost), s.Lost > 0 })
			add(row, "lost there and counted by nobody", "0", "kernel's queue", func(s, _ *Sample) (float64, bool) { return zero(s.Lost - min(s.Lost, s.Counted)) })
		}
	}
	return bars
}

// sample is that of a mode, nil when there is none.
func (r *RowResult) sample(mode string) *Sample {
	for i := range r.Samples {
		if r.Samples[i].Mode == mode {
			return &r.Samples[i]
		}
	}
	return nil
}
