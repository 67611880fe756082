package virtiobench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"show": show}).Parse(pageText))

// Places in a chart, in its own units: the names of the subjects are left of the bars, the values right of them.
const (
	chartWidth  = 900
	chartLeft   = 300
	chartRight  = 760
	chartLine   = 26 // from one bar to the next
	chartMargin = 6
)

// page is what the template shows.
type page struct {
	*Results
	Met    int
	Tables []pageTable
}

// pageTable are the charts of one source.
type pageTable struct {
	Title  string
	Charts []chart
}

// chart shows the subjects of a row as bars: medians, with a line from the lowest to the highest.
type chart struct {
	Title, Unit   string
	Width, Height int
	Lines         []chartBar
	Notes         []string
}

// chartBar is a subject. X and Y are those of its bar, Low and High the ends of the line.
type chartBar struct {
	Subject, Value, Beside string
	Missing                string // why there is no bar
	X, Y, Width, Height    int
	TextY, MiddleY, ValueX int
	Low, High              int
}

// writePage writes the results as one page of HTML with its charts inside: no script, and nothing that is fetched.
func writePage(w io.Writer, r *Results) error {
	p := page{Results: r}
	for _, b := range r.Bars {
		if b.Met {
			p.Met++
		}
	}
	for i := range r.Rows {
		row := &r.Rows[i]
		if n := len(p.Tables); n == 0 || p.Tables[n-1].Title != row.Table {
			p.Tables = append(p.Tables, pageTable{Title: row.Table})
		}
		t := &p.Tables[len(p.Tables)-1]
		t.Charts = append(t.Charts, newChart(row))
	}
	return pageTemplate.Execute(w, p)
}

// newChart lays out a row.
func newChart(row *RowResult) chart {
	c := chart{Title: row.Title, Unit: row.Unit, Width: chartWidth, Height: len(row.Series)*chartLine + 2*chartMargin}
	most := 0.0
	for i := range row.Series {
		for _, v := range row.values(row.Series[i].Subject) {
			most = max(most, v)
		}
	}
	at := func(v float64) int {
		if most == 0 {
			return chartLeft
		}
		return chartLeft + int(v/most*(chartRight-chartLeft))
	}
	for i := range row.Series {
		s := &row.Series[i]
		y := chartMargin + i*chartLine
		b := chartBar{Subject: s.Subject, X: chartLeft, Y: y, Height: chartLine - 8, TextY: y + chartLine/2 + 1, MiddleY: y + (chartLine-8)/2, ValueX: chartLeft + 6}
		if b.Missing = s.missing(row.Rounds); b.Missing == "" {
			v := row.values(s.Subject)
			m := median(v)
			b.Value, b.Beside, b.Width, b.Low, b.High = show(m), beside(row, s.Subject), at(m)-chartLeft, at(slices.Min(v)), at(slices.Max(v))
			b.ValueX = b.High + 8
		}
		c.Lines = append(c.Lines, b)
		if n := len(s.Invalid); n > 0 {
			c.Notes = append(c.Notes, fmt.Sprintf("%s: %d invalid rounds are not counted (median %s): %s", s.Subject, n, show(median(s.invalidValues())), s.Invalid[n-1].Note))
		}
	}
	return c
}
