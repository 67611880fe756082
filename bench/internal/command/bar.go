package command

import (
	"strings"

	"github.com/vasta-net/vasta/bench/internal/page"
)

// Bar is a row of an issue's "What must be shown", held against the results.
type Bar struct {
	Row      string   `json:"row"`
	Want     string   `json:"want"`
	Measured *float64 `json:"measured"` // nil: not measured
	Met      bool     `json:"met"`
	Why      string   `json:"why,omitempty"` // it was not measured
}

// State is how a bar came out, as a table says it.
func (b *Bar) State() string {
	if b.Met {
		return "met"
	}
	return strings.TrimSuffix("MISSED, "+b.Why, ", ")
}

// PageBars are bars as a page shows them.
func PageBars(bars []Bar) (shown []page.Bar) {
	for _, b := range bars {
		shown = append(shown, page.Bar{What: b.Row, Want: b.Want, Measured: b.Measured, Met: b.Met, Why: b.Why})
	}
	return shown
}
