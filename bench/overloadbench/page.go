package overloadbench

import (
	"fmt"

	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/bench/internal/page"
)

// PageBars are the bars as a page shows them.
func (r *Results) PageBars() []page.Bar { return command.PageBars(r.Bars) }

// PageCharts are the rows as a page shows them: what was delivered in each mode, and beside it what was lost and what it cost.
func (r *Results) PageCharts() (charts []page.Chart) {
	for _, row := range r.Rows {
		c := page.Chart{Title: row.Title, Unit: "million frames/s delivered"}
		for _, s := range row.Samples {
			v := s.PerSecond / 1e6
			c.Lines = append(c.Lines, page.Line{Name: s.Mode, Value: v, Low: v, High: v, Beside: fmt.Sprintf(
				"%d of %d delivered, %d lost (%s k/s), %d counted, generator %s %%, %s switches, %s system calls and %s wakes for each million of frames",
				s.Delivered, s.Transmitted, s.Lost, page.Show(s.LostSecond/1e3), s.Counted, page.Show(100*s.Generator), page.Show(s.Switches), page.Show(1e6*s.Calls), page.Show(1e6*s.Wakes))})
		}
		if row.Failure != "" {
			c.Lines = append(c.Lines, page.Line{Name: row.Name, Missing: row.Failure})
		}
		charts = append(charts, c)
	}
	return charts
}
