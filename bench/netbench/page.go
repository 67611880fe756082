package netbench

import (
	"slices"

	"github.com/vasta-net/vasta/bench/internal/page"
	"github.com/vasta-net/vasta/bench/internal/rounds"
)

// PageAbout are the lines that say what was measured, on what and how.
func (r *Results) PageAbout() []string { return preamble(r) }

// PageBars are the bars as a page shows them.
func (r *Results) PageBars() (bars []page.Bar) {
	for _, v := range r.Bars {
		bars = append(bars, page.Bar{What: v.Row, Want: v.Bar, Measured: v.Measured, Met: v.Met, Why: v.Why})
	}
	return bars
}

// PageCharts are the loads as a page shows them. Whoever takes no part in a load is not in its chart.
func (r *Results) PageCharts() (charts []page.Chart) {
	for i := range r.Loads {
		l := &r.Loads[i]
		c := page.Chart{Title: l.Title, Unit: l.Unit}
		for k := range l.Series {
			s := &l.Series[k]
			line := page.Line{Name: s.Subject}
			switch {
			case len(s.Samples) > 0:
				v := s.values("")
				line.Value, line.Low, line.High, line.Beside = rounds.Median(v), slices.Min(v), slices.Max(v), extras(s)
			case len(s.Failures) > 0:
				line.Missing = s.Failures[len(s.Failures)-1]
			default:
				line.Missing = "it has not come to its turn"
			}
			c.Lines = append(c.Lines, line)
		}
		charts = append(charts, c)
	}
	return charts
}
