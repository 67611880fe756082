package netbench

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vasta-net/vasta/bench/internal/rounds"
)

// table is one table of the report.
type table struct {
	title  string
	header []string
	rows   [][]string
	notes  []string
}

// tables returns the report's tables: one for each load, then the bars.
func tables(r *Results) []table {
	var all []table
	for i := 0; i < len(r.Loads); {
		n := 1
		for r.Loads[i].Table != "" && i+n < len(r.Loads) && r.Loads[i+n].Table == r.Loads[i].Table {
			n++
		}
		if r.Loads[i].Table == "" {
			all = append(all, loadTable(r, &r.Loads[i]))
		} else {
			all = append(all, groupTable(r.Loads[i:i+n]))
		}
		i += n
	}
	return append(all, barTable(r))
}

// loadTable shows every subject under one load.
func loadTable(r *Results, l *LoadResult) table {
	t := table{
		title:  l.Title + ", " + l.Unit,
		header: []string{"", "median", "slowest", "best", "of veth", "of splice relay", "of best peer", "beside it (worst round)"},
	}
	peer := bestPeer(r, l)
	for i := range l.Series {
		s := &l.Series[i]
		row := []string{s.Subject}
		v := s.values("")
		if len(v) == 0 {
			row = append(row, "not measured", "", "", "", "", "", "")
		} else {
			m := rounds.Median(v)
			row = append(row, number(m), number(statWorst.of(v, l.LowerIsBetter)), number(statBest.of(v, l.LowerIsBetter)),
				ratio(m, l, vethName), ratio(m, l, spliceName), ratio(m, l, peer), extras(s))
		}
		t.rows = append(t.rows, row)
		t.notes = append(t.notes, remarks(s.Subject, s)...)
	}
	if peer != "" {
		t.notes = append(t.notes, "best peer: "+peer)
	}
	return t
}

// groupTable shows loads of one table, each as a row, for vasta and for the kernel's own TCP over veth, plain or routed.
func groupTable(loads []LoadResult) table {
	t := table{
		title:  loads[0].Table + ", " + loads[0].Unit,
		header: []string{"", "vasta", "slowest", "beside vasta (worst round)"},
	}
	var yardsticks []string
	for _, s := range loads[0].Series {
		if s.Subject != vastaName {
			yardsticks = append(yardsticks, s.Subject)
			t.header = append(t.header, s.Subject, "of "+s.Subject, "beside "+s.Subject+" (worst round)")
		}
	}
	for i := range loads {
		l := &loads[i]
		row := []string{l.Title, "not measured", "", ""}
		own := l.series(vastaName)
		v := own.values("")
		if len(v) > 0 {
			row[1], row[2], row[3] = number(rounds.Median(v)), number(statWorst.of(v, l.LowerIsBetter)), extras(own)
		}
		t.notes = append(t.notes, remarks(l.Title+", "+vastaName, own)...)
		for _, name := range yardsticks {
			s := l.series(name)
			cells := []string{"not measured", "", ""}
			if than := s.values(""); len(than) > 0 {
				cells[0], cells[2] = number(rounds.Median(than)), extras(s)
				if len(v) > 0 {
					cells[1] = ratio(rounds.Median(v), l, name)
				}
			}
			row = append(row, cells...)
			t.notes = append(t.notes, remarks(l.Title+", "+name, s)...)
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// remarks says in words what could not be measured, and what was wrong.
func remarks(who string, s *Series) []string {
	var all []string
	for _, f := range s.Failures {
		all = append(all, who+" not measured: "+f)
	}
	for _, sample := range s.Samples {
		if sample.Note != "" {
			all = append(all, fmt.Sprintf("%s, round %d: %s", who, sample.Round, sample.Note))
		}
	}
	return all
}

// bestPeer returns the peer with the best median, "" when none was measured.
func bestPeer(r *Results, l *LoadResult) string {
	name, best := "", 0.0
	for _, info := range r.Subjects {
		s := l.series(info.Name)
		if info.Class != ClassPeer || s == nil || len(s.Samples) == 0 {
			continue
		}
		if m := rounds.Median(s.values("")); name == "" || m < best == l.LowerIsBetter {
			name, best = info.Name, m
		}
	}
	return name
}

// ratio shows m in proportion to the subject's median.
func ratio(m float64, l *LoadResult, subject string) string {
	s := l.series(subject)
	if s == nil || len(s.Samples) == 0 {
		return ""
	}
	per := rounds.Median(s.values(""))
	if per == 0 {
		return ""
	}
	return number(m / per)
}

// extras shows the highest of each value measured beside the load's own.
func extras(s *Series) string {
	worst := make(map[string]float64)
	for _, sample := range s.Samples {
		for name, x := range sample.Extra {
			worst[name] = max(worst[name], x)
		}
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(worst)) {
		parts = append(parts, number(worst[name])+" "+name)
	}
	return strings.Join(parts, ", ")
}

// barTable shows what must be shown, and whether it was.
func barTable(r *Results) table {
	t := table{
		title:  "What must be shown",
		header: []string{"", "measured", "bar", "", "reach for", "reached"},
	}
	unmeasured := make(map[string]int)
	for _, v := range r.Bars {
		row := []string{v.Row, "–", v.Bar, "MISSED", v.Reach, ""}
		switch {
		case v.Measured == nil:
			row[3] = "MISSED: not measured"
			unmeasured[v.Why]++
		case v.Met:
			row[3] = "met"
		}
		if v.Measured != nil {
			row[1] = number(*v.Measured)
		}
		if v.ReachMeasured != nil {
			row[5] = number(*v.ReachMeasured)
			if v.Reached {
				row[5] += ", reached"
			}
		}
		t.rows = append(t.rows, row)
	}
	for _, why := range slices.Sorted(maps.Keys(unmeasured)) {
		t.notes = append(t.notes, fmt.Sprintf("not measured (rows: %d): %s", unmeasured[why], why))
	}
	return t
}

// counts says how many bars came out how.
type counts struct {
	met, missed, notMeasured int // missed includes notMeasured
}

func tally(bars []Verdict) counts {
	var c counts
	for _, v := range bars {
		switch {
		case v.Met:
			c.met++
		case v.Measured == nil:
			c.notMeasured++
			c.missed++
		default:
			c.missed++
		}
	}
	return c
}

// quiet is how many processors may be busy before a run without harm to it.
const quiet = 0.2

// preamble returns the lines that say what was measured, on what and how.
func preamble(r *Results) []string {
	m := r.Machine
	lines := []string{
		fmt.Sprintf("Machine: %d x %s, %d MiB, kernel %s", m.Processors, m.CPU, m.MemoryMiB, m.Kernel),
		fmt.Sprintf("Method: %d interleaved rounds of %g s a load, begun %s; client, server and tool share the processors",
			r.Rounds, r.Seconds, r.Started.Format(time.RFC3339)),
		fmt.Sprintf("Congestion control: %s at both ends (%s)", m.Congestion, m.Iperf),
	}
	if l := r.Lab; l != nil {
		lines = append(lines, fmt.Sprintf("Lab, for netem and the slow link: %d x %s under emulation, %d MiB, kernel %s; %d interleaved rounds of %g s a load; only ratios mean anything",
			l.Machine.Processors, l.Machine.CPU, l.Machine.MemoryMiB, l.Machine.Kernel, l.Rounds, l.Seconds))
	}
	if slices.ContainsFunc(r.Loads, func(l LoadResult) bool { return strings.HasPrefix(l.Name, "netem-") }) && r.NetemRate > 0 {
		lines = append(lines, fmt.Sprintf("netem: each direction carries at most %d Mbit/s, the same for vasta and for veth, which is the kernel's own TCP", r.NetemRate))
	}
	if m.Background > quiet {
		lines = append(lines, fmt.Sprintf("Warning: other work kept %.1f processors busy before the run; do not trust these figures", m.Background))
	}
	for _, s := range r.Subjects {
		line := s.Name + ": " + cmp.Or(s.Version, string(s.Class))
		if s.Command != "" {
			line += "; " + s.Command
		}
		if s.Congestion != "" {
			line += "; its default congestion control: " + s.Congestion
		}
		if s.Absent != "" {
			line = s.Name + ": not measured: " + s.Absent
		}
		lines = append(lines, line)
	}
	return lines
}

// summary is the last line of the report.
func summary(r *Results) string {
	c := tally(r.Bars)
	return fmt.Sprintf("bench net: %d of %d bars met, %d missed (%d of them not measured), %d rounds, %.0f s",
		c.met, len(r.Bars), c.missed, c.notMeasured, r.Rounds, r.Elapsed.Seconds())
}

// plain returns the report for a terminal.
func plain(r *Results) string {
	var b strings.Builder
	for _, line := range preamble(r) {
		fmt.Fprintln(&b, line)
	}
	for _, t := range tables(r) {
		fmt.Fprintf(&b, "\n%s\n", t.title)
		rows := append([][]string{t.header}, t.rows...)
		width := make([]int, len(t.header))
		for _, row := range rows {
			for i, cell := range row {
				width[i] = max(width[i], utf8.RuneCountInString(cell))
			}
		}
		for _, row := range rows {
			var line strings.Builder
			for i, cell := range row {
				line.WriteString("  " + cell + strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)))
			}
			fmt.Fprintln(&b, strings.TrimRight(line.String(), " "))
		}
		for _, note := range t.notes {
			fmt.Fprintf(&b, "  (%s)\n", note)
		}
	}
	fmt.Fprintf(&b, "\n%s\n", summary(r))
	return b.String()
}

// markdown returns the report for a page of the documentation.
func markdown(r *Results) string {
	var b strings.Builder
	for _, line := range preamble(r) {
		fmt.Fprintf(&b, "- %s\n", escape(line))
	}
	for _, t := range tables(r) {
		fmt.Fprintf(&b, "\n### %s\n\n", escape(t.title))
		writeRow(&b, t.header)
		b.WriteString(strings.Repeat("|---", len(t.header)) + "|\n")
		for _, row := range t.rows {
			writeRow(&b, row)
		}
		for i, note := range t.notes {
			if i == 0 {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "- %s\n", escape(note))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", escape(summary(r)))
	return b.String()
}

func writeRow(b *strings.Builder, cells []string) {
	for _, cell := range cells {
		b.WriteString("| " + escape(cell) + " ")
	}
	b.WriteString("|\n")
}

// escape keeps text from being taken for Markdown.
func escape(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "*", `\*`).Replace(s)
}

// number shows three significant digits, and integers in full.
func number(x float64) string {
	switch a := math.Abs(x); {
	case x == math.Trunc(x) && a < 1e9:
		return fmt.Sprintf("%.0f", x)
	case a >= 100:
		return fmt.Sprintf("%.0f", x)
	case a >= 10:
		return fmt.Sprintf("%.1f", x)
	case a >= 1:
		return fmt.Sprintf("%.2f", x)
	default:
		return fmt.Sprintf("%.3f", x)
	}
}
