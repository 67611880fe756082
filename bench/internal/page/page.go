// Package page draws the results of benchmarks as one page of HTML with its charts inside: no script, and nothing that is fetched.
package page

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
)

//go:embed page.html
var text string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"draw": draw, "verdicts": verdictsOf, "show": Show}).Parse(text))

// Page is what a benchmark has to show. All of it is shown as text, whatever is in it.
type Page struct {
	Title    string
	About    []string // paragraphs: the machine, the method
	Bars     []Bar    // of all sections, where they have none of their own
	Sections []Section
}

// Section is a part of a page under a heading.
type Section struct {
	Title   string
	About   string   // what it is about, "" for nothing
	Source  []Figure // what others have measured, shown beside it
	Missing []string // what could not be measured, and why
	Bars    []Bar
	Charts  []Chart
}

// Figure is what others have measured of something.
type Figure struct {
	What   string `json:"what"`
	Before string `json:"before,omitempty"`
	After  string `json:"after"`
}

// Bar is what was to be shown, held against what was measured.
type Bar struct {
	What     string   `json:"what"`
	Want     string   `json:"want"`
	Measured *float64 `json:"measured"` // nil: not measured
	Met      bool     `json:"met"`
	Why      string   `json:"why,omitempty"` // it was not measured, or what else there is to say
}

// Chart shows some subjects as bars, one below the other.
type Chart struct {
	Title, Unit string
	Lines       []Line
	Notes       []string
}

// Line is a subject of a chart: a median, and the lowest and the highest round.
type Line struct {
	Name             string
	Value, Low, High float64
	Beside           string // what else was measured
	Missing          string // why nothing was; the values mean nothing then
}

// Write writes the page.
func (p *Page) Write(w io.Writer) error { return pageTemplate.Execute(w, p) }

// verdicts are the bars of a page or a section, and how many of them are met.
type verdicts struct {
	Met  int
	Bars []Bar
}

func verdictsOf(bars []Bar) verdicts {
	v := verdicts{Bars: bars}
	for _, b := range bars {
		if b.Met {
			v.Met++
		}
	}
	return v
}

// Places in a chart, in its own units: the names of the subjects are left of the bars, the values right of them.
const (
	chartWidth  = 900
	chartLeft   = 300
	chartRight  = 760
	chartLine   = 26 // from one bar to the next
	chartMargin = 6
)

// drawn is a chart with everything at its place.
type drawn struct {
	Chart
	Width, Height int
	Rows          []drawnLine
}

// drawnLine is a subject. X and Y are those of its bar, Left and Right the ends of the line from the lowest to the highest round.
type drawnLine struct {
	Line
	X, Y, Width, Height    int
	TextY, MiddleY, ValueX int
	Left, Right            int
}

// draw lays out a chart.
func draw(c Chart) drawn {
	d := drawn{Chart: c, Width: chartWidth, Height: len(c.Lines)*chartLine + 2*chartMargin}
	most := 0.0
	for _, l := range c.Lines {
		if l.Missing == "" {
			most = max(most, l.High)
		}
	}
	at := func(v float64) int {
		if most == 0 {
			return chartLeft
		}
		return chartLeft + int(v/most*(chartRight-chartLeft))
	}
	for i, l := range c.Lines {
		y := chartMargin + i*chartLine
		b := drawnLine{Line: l, X: chartLeft, Y: y, Height: chartLine - 8, TextY: y + chartLine/2 + 1, MiddleY: y + (chartLine-8)/2, ValueX: chartLeft + 6}
		if l.Missing == "" {
			b.Width, b.Left, b.Right = at(l.Value)-chartLeft, at(l.Low), at(l.High)
			b.ValueX = b.Right + 8
		}
		d.Rows = append(d.Rows, b)
	}
	return d
}

// Show prints a number with three digits or all of its integer part; "–" for one that is not a number.
func Show(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x):
		return "–"
	case x == math.Trunc(x) && a < 1e6:
		return fmt.Sprintf("%.0f", x)
	case a >= 100:
		return fmt.Sprintf("%.0f", x)
	case a >= 10:
		return fmt.Sprintf("%.1f", x)
	case a >= 0.9 && a < 1:
		return fmt.Sprintf("%.4f", x)
	}
	return fmt.Sprintf("%.2f", x)
}
