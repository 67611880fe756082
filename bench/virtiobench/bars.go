package virtiobench

import (
	"fmt"
	"math"
	"slices"

	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/bench/internal/rounds"
	"github.com/vasta-net/vasta/packet"
)

// judge holds the results of the rows that were selected against their bars.
func judge(r *Results) (bars []command.Bar) {
	// add appends a bar about subjects of a row, unless the row was not selected; one of which too few rounds are valid is not measured.
	add := func(row, title, want string, subjects []string, f func() (float64, bool)) {
		of := r.row(row)
		if of == nil {
			return
		}
		b := command.Bar{Row: title, Want: want}
		for _, s := range subjects {
			if why := of.series(s).missing(of.Rounds); why != "" && b.Why == "" {
				b.Why = "not measured: " + s + ": " + why
			}
		}
		if b.Why == "" {
			v, met := f()
			if math.IsNaN(v) {
				b.Why = "not measured: too few rounds"
			} else {
				b.Measured, b.Met = &v, met
			}
		}
		bars = append(bars, b)
	}
	ratio := func(row, title, over, under string, least float64) {
		add(row, title, fmt.Sprintf("≥ %v", least), []string{over, under}, func() (float64, bool) {
			v := rounds.Median(r.row(row).values(over)) / rounds.Median(r.row(row).values(under))
			return v, v >= least
		})
	}
	extra := func(row, title, want, subject, name string, pick func([]float64) float64, met func(float64) bool) {
		add(row, title, want, []string{subject}, func() (float64, bool) {
			x := pick(r.row(row).extras(subject, name))
			return x, met(x)
		})
	}
	zero := func(x float64) bool { return x == 0 }
	for _, m := range []string{"small", "small-8", "mergeable", "mergeable-8"} {
		row := "pool-" + m
		add(row, m+": general arena / pool, ns each, lower end of the 95 % interval", "> 1.04", []string{"general arena", "pool"}, func() (float64, bool) {
			low := rounds.LowerEnd(r.row(row).pairs("general arena", "pool"))
			return low, low > 1.04
		})
		extra(row, m+": buffers recycled, of those that were given back", "≥ 0.999", "pool", "recycled", slices.Min, func(x float64) bool { return x >= 0.999 })
		extra(row, m+": slow allocations after the warm-up", "0", "pool", "slow", slices.Max, zero)
		extra(row, m+": heap allocations of the whole program", "0", "pool", "heap_allocations", slices.Max, zero)
		extra(row, m+": times that the arena was mapped", "1", "pool", "maps", slices.Max, func(x float64) bool { return x == 1 })
	}
	for _, m := range []string{"small", "mergeable"} {
		ratio("view-"+m, m+": view / pooled object, Mpps", "view", "pooled object", 1.3)
	}
	ratio("modes-steady", "mergeable / big, 1500 B, steady", "mergeable", "big", 1.3)
	extra("modes-burst", "bursts of 64: frames refused by big", "> 0", "big", "refused", slices.Min, func(x float64) bool { return x > 0 })
	extra("modes-burst", "bursts of 64: frames refused by mergeable", "0", "mergeable", "refused", slices.Max, zero)
	for _, h := range []struct {
		name string
		want float64
	}{{"big", 12}, {"big, indirect", 256}, {"mergeable", 256}, {"small", 256}} {
		add("modes-hold", h.name+": packets that a ring of 256 holds", fmt.Sprint(h.want), []string{h.name}, func() (float64, bool) {
			v := r.row("modes-hold").values(h.name)[0]
			return v, v == h.want
		})
	}
	for _, l := range []struct {
		name  string
		least float64
	}{{"63778 B", 0.97}, {"65550 B", 0.94}} {
		extra("long", l.name+": bytes used / bytes posted", fmt.Sprintf("≥ %v", l.least), l.name, "used_of_posted", slices.Min,
			func(x float64) bool { return x >= l.least })
	}
	for _, m := range integrityModes {
		want := fmt.Sprint(m.longest - packet.EtherLen + 1)
		add("integrity", m.name+": frame sizes, from 14 B, that come whole and in order", want, []string{m.name}, func() (float64, bool) {
			v := slices.Min(r.row("integrity").values(m.name))
			return v, fmt.Sprint(v) == want
		})
	}
	ratio("queues", "2 queues on two processors / 1 queue on one", "2 queues", "1 queue", 1.7)
	for _, f := range []string{"split", "packed"} {
		for _, way := range []string{"driver to device, copied out", "device to driver, dropped by the hook"} {
			ratio("ring-"+f, fmt.Sprintf("%s, %s / testpmd", f, way), way, testpmdName(way), 1)
		}
	}
	n := r.wrong()
	return append(bars, command.Bar{Row: "frames out of sequence or with other bytes, all rows", Want: "0", Measured: &n, Met: n == 0})
}

// testpmdName is the subject that dpdk-testpmd's pair is, in the same direction.
func testpmdName(way string) string { return "testpmd " + way[:len("driver to device")] }
