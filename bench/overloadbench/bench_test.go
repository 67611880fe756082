package overloadbench

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/bench/internal/command"
)

// TestRealRun: every row runs for a moment; what does not depend on speed has to be right.
func TestRealRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.json")
	var out, progress strings.Builder
	program := filepath.Join(t.TempDir(), "vasta")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/vasta").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if status := Main([]string{"--count", "20000", "--vasta", program, "--json", file}, &out, &progress); status == command.Failed {
		t.Fatal(progress.String())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r Results
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != len(rows()) || !strings.Contains(progress.String(), "row 1 of 11") || !strings.Contains(out.String(), "bars met") {
		t.Errorf("%d rows; progress %q", len(r.Rows), progress.String())
	}
	for _, row := range r.Rows {
		if row.Failure != "" {
			t.Errorf("%s: %s", row.Name, row.Failure)
		}
		for _, s := range row.Samples {
			if s.Wrong != 0 || s.Delivered == 0 || s.Transmitted != s.Delivered+s.Lost {
				t.Errorf("%s: %+v", row.Name, s)
			}
		}
	}
	for _, b := range r.Bars {
		if strings.HasPrefix(b.Row, "vasta") { // on a machine that has others to serve, what is on its way may not arrive in time
			continue
		}
		if exact := strings.Contains(b.Row, "backpressure") && strings.Contains(b.Row, "lost") || strings.Contains(b.Row, "damaged") || strings.Contains(b.Row, "nobody"); exact && !b.Met {
			t.Errorf("%s: %v, want %s: %s", b.Row, b.Measured, b.Want, b.Why)
		}
	}
}

func TestOptions(t *testing.T) {
	for line, want := range map[string]string{"--count 5": "at least 1000", "x": "unexpected argument", "--only nosuch": "no row is named"} {
		var errs strings.Builder
		if status := Main(strings.Fields(line), &strings.Builder{}, &errs); status != command.Failed || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: %d, %s", line, status, errs.String())
		}
	}
	var out strings.Builder
	if status := Main([]string{"--help"}, &out, &out); status != command.Met || !strings.Contains(out.String(), "Rows: ring-1") {
		t.Errorf("help: %s", out.String())
	}
}

// TestPage: a page has what each mode has delivered, beside it what was lost, and why a row has nothing.
func TestPage(t *testing.T) {
	r := Results{Rows: []RowResult{
		{Name: "ring-1", Title: "a ring", Samples: []Sample{{Mode: "drop", PerSecond: 2e6, Transmitted: 10, Delivered: 7, Lost: 3, Counted: 3}}},
		{Name: "tap-1", Title: "a TAP", Failure: "no device"},
	}}
	r.Bars = judge(&r)
	charts := r.PageCharts()
	if len(charts) != 2 || len(charts[0].Lines) != 1 || len(charts[1].Lines) != 1 {
		t.Fatalf("%+v", charts)
	}
	if l := charts[0].Lines[0]; l.Name != "drop" || l.Value != 2 || !strings.Contains(l.Beside, "7 of 10 delivered, 3 lost") {
		t.Errorf("%+v", l)
	}
	if l := charts[1].Lines[0]; l.Missing != "no device" {
		t.Errorf("%+v", l)
	}
	if b := r.PageBars(); len(b) != len(r.Bars) || b[len(b)-1].Why != "not measured: no device" {
		t.Errorf("%+v", b)
	}
}

// TestMissed: what is lost, or not measured, misses its bar.
func TestMissed(t *testing.T) {
	good := []Sample{{Mode: "drop", Lost: 5, Counted: 5, PerSecond: 100}, {Mode: "backpressure", PerSecond: 98, Wakes: 2.0 / ringSize}}
	bad := []Sample{{Mode: "drop", Lost: 5, Counted: 4, PerSecond: 100}, {Mode: "backpressure", PerSecond: 96, Wakes: 2.1 / ringSize, Lost: 1, Wrong: 1, Overdue: 1}}
	for _, c := range []struct {
		name    string
		samples []Sample
		missed  int
	}{{"ring-1", good, 0}, {"ring-1", bad, 5}, {"link-4", nil, 5}, {"tap-1", good, 0}, {"tap-1", bad, 1}, {"bursts", nil, 3}, {"vasta", nil, 3}} {
		r := Results{Rows: []RowResult{{Name: c.name, Samples: c.samples}}}
		r.Bars = judge(&r)
		var out strings.Builder
		missed, err := report(&out, &r)
		if err != nil || missed != c.missed {
			t.Errorf("%s: %d missed, want %d: %v\n%s", c.name, missed, c.missed, err, out.String())
		}
	}
}
