package virtiobench

import (
	"fmt"
	"math"
	"slices"
)

// Bar is one row of "What must be shown" in issue D, held against the results.
type Bar struct {
	Row      string   `json:"row"`
	Want     string   `json:"want"`
	Measured *float64 `json:"measured"` // nil: not measured
	Met      bool     `json:"met"`
	Why      string   `json:"why,omitempty"` // it was not measured
}

// judge holds the results of the rows that were selected against their bars.
func judge(r *Results) (bars []Bar) {
	add := func(name, title, want string, rows []string, f func() (float64, bool, bool)) {
		for _, n := range rows {
			if r.row(n) == nil {
				return
			}
		}
		b := Bar{Row: title, Want: want}
		if v, met, ok := f(); ok {
			b.Measured, b.Met = &v, met
		} else {
			b.Why = "not measured: " + name
		}
		bars = append(bars, b)
	}
	ratio := func(row, over, under string, least float64) func() (float64, bool, bool) {
		return func() (float64, bool, bool) {
			a, b := r.row(row).values(over), r.row(row).values(under)
			if len(a) == 0 || len(b) == 0 {
				return 0, false, false
			}
			v := median(a) / median(b)
			return v, v >= least, true
		}
	}
	extra := func(row, subject, name string, pick func([]float64) float64, met func(float64) bool) func() (float64, bool, bool) {
		return func() (float64, bool, bool) {
			v := r.row(row).extras(subject, name)
			if len(v) == 0 {
				return 0, false, false
			}
			x := pick(v)
			return x, met(x), true
		}
	}
	for _, m := range []string{"small", "mergeable"} {
		row := "pool-" + m
		add(row, m+": general arena / pool, ns each, lower end of the 95 % interval", "> 1.04", []string{row}, func() (float64, bool, bool) {
			low, ok := lowerEnd(r.row(row).values("general arena"), r.row(row).values("pool"))
			return low, low > 1.04, ok
		})
		add(row, m+": pages recycled of those handed out", "≥ 0.999", []string{row}, extra(row, "pool", "recycled", slices.Min, func(x float64) bool { return x >= 0.999 }))
		add(row, m+": slow allocations after the warm-up", "0", []string{row}, extra(row, "pool", "slow", slices.Max, func(x float64) bool { return x == 0 }))
		add(row, m+": times that the arena was mapped", "1", []string{row}, extra(row, "pool", "maps", slices.Max, func(x float64) bool { return x == 1 }))
	}
	for _, m := range []string{"small", "mergeable"} {
		add("view-"+m, m+": view / pooled object, Mpps", "≥ 1.3", []string{"view-" + m}, ratio("view-"+m, "view", "pooled object", 1.3))
	}
	add("modes-steady", "mergeable / big, 1500 B, steady", "≥ 1.3", []string{"modes-steady"}, ratio("modes-steady", "mergeable", "big", 1.3))
	add("modes-burst", "bursts of 64: frames refused by big", "> 0", []string{"modes-burst"},
		extra("modes-burst", "big", "refused", slices.Min, func(x float64) bool { return x > 0 }))
	add("modes-burst", "bursts of 64: frames refused by mergeable", "0", []string{"modes-burst"},
		extra("modes-burst", "mergeable", "refused", slices.Max, func(x float64) bool { return x == 0 }))
	for _, h := range []struct {
		name string
		want float64
	}{{"big", 12}, {"big, indirect", 256}, {"mergeable", 256}, {"small", 256}} {
		add("modes-hold", h.name+": packets that a ring of 256 holds", fmt.Sprint(h.want), []string{"modes-hold"}, func() (float64, bool, bool) {
			v := r.row("modes-hold").values(h.name)
			if len(v) == 0 {
				return 0, false, false
			}
			return v[0], v[0] == h.want, true
		})
	}
	for _, l := range []struct {
		name  string
		least float64
	}{{"63778 B", 0.97}, {"65550 B", 0.94}} {
		add("long", l.name+": bytes used / bytes posted", fmt.Sprintf("≥ %v", l.least), []string{"long"},
			extra("long", l.name, "used_of_posted", slices.Min, func(x float64) bool { return x >= l.least }))
	}
	add("queues", "2 queues on two processors / 1 queue on one", "≥ 1.7", []string{"queues"}, ratio("queues", "2 queues", "1 queue", 1.7))
	for _, f := range []string{"split", "packed"} {
		for _, way := range []string{"driver to device, copied out", "device to driver, dropped by the hook"} {
			add("ring-"+f, fmt.Sprintf("%s, %s / testpmd", f, way), "≥ 1", []string{"ring-" + f}, ratio("ring-"+f, way, testpmdName(way), 1))
		}
	}
	add("", "frames out of sequence or with other bytes, all rows", "0", nil, func() (float64, bool, bool) {
		n := r.wrong()
		return n, n == 0, true
	})
	return bars
}

// testpmdName is the subject that dpdk-testpmd's pair is, in the same direction.
func testpmdName(way string) string { return "testpmd " + way[:len("driver to device")] }

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// students are the two-sided 95 % quantiles of Student's t, by degrees of freedom.
var students = []float64{0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228}

// lowerEnd is the lower end of the 95 % interval of the mean quotient of rounds that were measured in pairs.
func lowerEnd(a, b []float64) (float64, bool) {
	n := min(len(a), len(b))
	if n < 2 {
		return 0, false
	}
	sum, squares := 0.0, 0.0
	for i := range n {
		sum += a[i] / b[i]
	}
	mean := sum / float64(n)
	for i := range n {
		d := a[i]/b[i] - mean
		squares += d * d
	}
	t := 1.96
	if n-1 < len(students) {
		t = students[n-1]
	}
	low := mean - t*math.Sqrt(squares/float64(n-1)/float64(n))
	return low, !math.IsNaN(low)
}
