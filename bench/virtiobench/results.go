package virtiobench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/bench/internal/page"
	"github.com/vasta-net/vasta/bench/internal/rounds"
)

// Results are all that was measured.
type Results struct {
	Machine command.Machine `json:"machine"`
	Options Options         `json:"options"`
	Rows    []RowResult     `json:"rows"`
	Bars    []command.Bar   `json:"bars"`
}

// RowResult are the series of a row.
type RowResult struct {
	Name   string   `json:"name"`
	Table  string   `json:"table"`
	Title  string   `json:"title"`
	Unit   string   `json:"unit"`
	Rounds int      `json:"rounds"`
	Series []Series `json:"series"`
}

// Series are the samples of a subject, in order of rounds. Medians and bars are made of Samples alone.
type Series struct {
	Subject  string   `json:"subject"`
	Samples  []Sample `json:"samples"`
	Invalid  []Sample `json:"invalid,omitempty"` // those with a note, which were measured again
	Failures []string `json:"failures,omitempty"`
}

// missing says why there is no median of a subject; it is empty when there is one. More than half of the rounds have to be valid.
func (s *Series) missing(rounds int) string {
	switch {
	case len(s.Samples) > rounds/2:
		return ""
	case len(s.Invalid) > 0:
		return fmt.Sprintf("%d of %d rounds are valid: %s", len(s.Samples), rounds, s.Invalid[len(s.Invalid)-1].Note)
	case len(s.Failures) > 0:
		return s.Failures[len(s.Failures)-1]
	}
	return fmt.Sprintf("%d of %d rounds were measured", len(s.Samples), rounds)
}

func newResults(o Options, list []row) *Results {
	r := &Results{Machine: command.ThisMachine(), Options: o}
	for _, x := range list {
		one := RowResult{Name: x.name, Table: x.table, Title: x.title, Unit: x.unit, Rounds: o.Rounds * x.turnsIn(o)}
		if x.once || o.Quick && !x.paired {
			one.Rounds = 1
		}
		for _, s := range x.subjects {
			one.Series = append(one.Series, Series{Subject: s.name})
		}
		r.Rows = append(r.Rows, one)
	}
	return r
}

// turnsIn is how many turns a round of the row has.
func (r *row) turnsIn(o Options) int {
	if o.Quick {
		return 1
	}
	return max(1, r.turns)
}

func (r *Results) row(name string) *RowResult {
	for i := range r.Rows {
		if r.Rows[i].Name == name {
			return &r.Rows[i]
		}
	}
	return nil
}

// invalidValues are those that nothing is concluded from.
func (s *Series) invalidValues() (v []float64) {
	for _, x := range s.Invalid {
		v = append(v, x.Value)
	}
	return v
}

// planned is how many samples there are to be.
func (r *Results) planned() (n int) {
	for _, row := range r.Rows {
		n += row.Rounds * len(row.Series)
	}
	return n
}

// wrong is how many frames came out of sequence or with other bytes, in rounds that are not valid too.
func (r *Results) wrong() (n float64) {
	for _, row := range r.Rows {
		for _, s := range row.Series {
			for _, x := range slices.Concat(s.Samples, s.Invalid) {
				n += x.Extra["wrong"]
			}
		}
	}
	return n
}

// series is that of a subject, or an empty one.
func (r *RowResult) series(subject string) *Series {
	for i := range r.Series {
		if r.Series[i].Subject == subject {
			return &r.Series[i]
		}
	}
	return &Series{Subject: subject}
}

// values are those of a subject.
func (r *RowResult) values(subject string) (v []float64) {
	for _, x := range r.series(subject).Samples {
		v = append(v, x.Value)
	}
	return v
}

// pairs are the values of two subjects in the rounds that are valid for both.
func (r *RowResult) pairs(a, b string) (va, vb []float64) {
	others := r.series(b).Samples
	for _, x := range r.series(a).Samples {
		for _, y := range others {
			if x.Round == y.Round {
				va, vb = append(va, x.Value), append(vb, y.Value)
			}
		}
	}
	return va, vb
}

// extras are the values measured beside a subject's own.
func (r *RowResult) extras(subject, name string) (v []float64) {
	for _, x := range r.series(subject).Samples {
		if e, ok := x.Extra[name]; ok {
			v = append(v, e)
		}
	}
	return v
}

// report prints the tables, and a last line that sums up; it answers how many bars were missed.
func report(w io.Writer, r *Results) (missed int, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "vasta bench virtio: Linux %s, %d processors, %s %s; %d rounds of %v\n",
		r.Machine.Kernel, r.Machine.Processors, r.Machine.Go, r.Machine.Arch, r.Options.Rounds, r.Options.Duration)
	table := ""
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Table != table {
			table = row.Table
			heading(&b, table)
		}
		fmt.Fprintf(&b, "\n%s, %s\n", row.Title, row.Unit)
		t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "  \tmedian\tlowest\thighest\tof the first\tbeside it (median)")
		for k := range row.Series {
			s := &row.Series[k]
			if why := s.missing(row.Rounds); why != "" {
				fmt.Fprintf(t, "  %s\tnot measured: %s\n", s.Subject, why)
				continue
			}
			v := row.values(s.Subject)
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\n", s.Subject, page.Show(rounds.Median(v)), page.Show(slices.Min(v)), page.Show(slices.Max(v)),
				page.Show(rounds.Median(v)/rounds.Median(row.values(row.Series[0].Subject))), beside(row, s.Subject))
		}
		if err := t.Flush(); err != nil {
			return 0, err
		}
		for _, s := range row.Series {
			if n := len(s.Invalid); n > 0 {
				fmt.Fprintf(&b, "  INVALID %s: %d not counted, median %s, the last in round %d: %s\n",
					s.Subject, n, page.Show(rounds.Median(s.invalidValues())), s.Invalid[n-1].Round, s.Invalid[n-1].Note)
			}
		}
	}
	heading(&b, "What must be shown")
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	unmeasured := 0
	for _, bar := range r.Bars {
		measured := "–"
		if bar.Measured != nil {
			measured = page.Show(*bar.Measured)
		} else {
			unmeasured++
		}
		if !bar.Met {
			missed++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", bar.Row, measured, bar.Want, bar.State())
	}
	if err := t.Flush(); err != nil {
		return 0, err
	}
	fmt.Fprintf(&b, "\n%d of %d bars met, %d missed (%d of them not measured)\n", len(r.Bars)-missed, len(r.Bars), missed, unmeasured)
	_, err = io.WriteString(w, b.String())
	return missed, err
}

func heading(b *strings.Builder, s string) {
	fmt.Fprintf(b, "\n%s\n%s\n", s, strings.Repeat("=", utf8.RuneCountInString(s)))
}

// beside lists the medians of what was measured beside a subject's own value.
func beside(row *RowResult, subject string) string {
	names := map[string]bool{}
	for _, x := range row.series(subject).Samples {
		for n := range x.Extra {
			names[n] = true
		}
	}
	var parts []string
	for _, n := range slices.SortedFunc(maps.Keys(names), cmp.Compare[string]) {
		parts = append(parts, page.Show(rounds.Median(row.extras(subject, n)))+" "+n)
	}
	return strings.Join(parts, ", ")
}
