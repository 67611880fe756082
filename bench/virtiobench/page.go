package virtiobench

import (
	"fmt"
	"slices"

	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/bench/internal/page"
	"github.com/vasta-net/vasta/bench/internal/rounds"
)

// newPage is what option --html writes.
func newPage(r *Results) *page.Page {
	return &page.Page{
		Title: "vasta bench virtio",
		About: []string{
			fmt.Sprintf("Linux %s, %d processors, %s %s; %d rounds of %v. Bars are medians; the line on each goes from the lowest round to the highest. "+
				"Both ends are in one process, each on a processor of its own.",
				r.Machine.Kernel, r.Machine.Processors, r.Machine.Go, r.Machine.Arch, r.Options.Rounds, r.Options.Duration),
		},
		Bars: r.PageBars(), Sections: r.PageSections(),
	}
}

// PageBars are the bars as a page shows them.
func (r *Results) PageBars() []page.Bar { return command.PageBars(r.Bars) }

// PageSections are the tables as charts, each a section.
func (r *Results) PageSections() (sections []page.Section) {
	for i := range r.Rows {
		row := &r.Rows[i]
		if n := len(sections); n == 0 || sections[n-1].Title != row.Table {
			sections = append(sections, page.Section{Title: row.Table})
		}
		s := &sections[len(sections)-1]
		s.Charts = append(s.Charts, newChart(row))
	}
	return sections
}

// newChart shows a row.
func newChart(row *RowResult) page.Chart {
	c := page.Chart{Title: row.Title, Unit: row.Unit}
	for i := range row.Series {
		s := &row.Series[i]
		l := page.Line{Name: s.Subject, Missing: s.missing(row.Rounds)}
		if l.Missing == "" {
			v := row.values(s.Subject)
			l.Value, l.Low, l.High, l.Beside = rounds.Median(v), slices.Min(v), slices.Max(v), beside(row, s.Subject)
		}
		c.Lines = append(c.Lines, l)
		if n := len(s.Invalid); n > 0 {
			c.Notes = append(c.Notes, fmt.Sprintf("%s: %d invalid rounds are not counted (median %s): %s", s.Subject, n, page.Show(rounds.Median(s.invalidValues())), s.Invalid[n-1].Note))
		}
	}
	return c
}
