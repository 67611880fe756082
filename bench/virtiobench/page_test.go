package virtiobench

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/bench/internal/page"
)

// TestPage: a page has each row in the section of its table, the subjects' medians, and of those that were not measured why.
func TestPage(t *testing.T) {
	met := 1.5
	r := &Results{
		Rows: []RowResult{
			{Name: "a", Table: "first", Title: "speeds", Unit: "Mpps", Rounds: 2, Series: []Series{
				{Subject: "quick", Samples: []Sample{{Round: 1, Value: 3, Extra: map[string]float64{"wrong": 0}}, {Round: 2, Value: 4}}},
				{Subject: "half", Samples: []Sample{{Value: 1.75}, {Value: 1.75}}, Invalid: []Sample{{Round: 1, Value: 9, Note: "the generator was away"}}},
				{Subject: "none", Failures: []string{"no such program"}},
			}},
			{Name: "b", Table: "first", Title: "more", Unit: "ns", Rounds: 1},
			{Name: "c", Table: "second", Title: "nothing", Unit: "ns", Rounds: 1, Series: []Series{{Subject: "zero", Samples: []Sample{{Value: 0}}}}},
		},
		Bars: []command.Bar{{Row: "speed", Want: "≥ 1", Measured: &met, Met: true}, {Row: "other", Want: "0", Why: "not measured: no such program"}},
	}
	p := newPage(r)
	want := []page.Section{
		{Title: "first", Charts: []page.Chart{
			{Title: "speeds", Unit: "Mpps", Notes: []string{"half: 1 invalid rounds are not counted (median 9): the generator was away"}, Lines: []page.Line{
				{Name: "quick", Value: 3.5, Low: 3, High: 4, Beside: "0 wrong"}, {Name: "half", Value: 1.75, Low: 1.75, High: 1.75}, {Name: "none", Missing: "no such program"},
			}},
			{Title: "more", Unit: "ns"},
		}},
		{Title: "second", Charts: []page.Chart{{Title: "nothing", Unit: "ns", Lines: []page.Line{{Name: "zero"}}}}},
	}
	if diff := cmp.Diff(want, p.Sections); diff != "" {
		t.Error(diff)
	}
	bars := []page.Bar{{What: "speed", Want: "≥ 1", Measured: &met, Met: true}, {What: "other", Want: "0", Why: "not measured: no such program"}}
	if diff := cmp.Diff(bars, p.Bars); diff != "" {
		t.Error(diff)
	}
}
