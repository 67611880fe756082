package virtiobench

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/bench/internal/command"
)

// TestRealRun: every kind of row runs for a moment, moves frames, and none is out of sequence. How fast is not judged here.
func TestRealRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.json")
	var out, progress strings.Builder
	status := Main([]string{"--rounds", "1", "--seconds", "0.1", "--only", "pool-small,tcp-small-1,tcp-mergeable-8,view-m,modes,long,integrity,ring-packed-in,break-64,producers,queues", "--json", file, "--html", file + ".html"}, &out, &progress)
	if status == command.Failed {
		t.Fatal(progress.String())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if page, err := os.ReadFile(file + ".html"); err != nil || !strings.Contains(string(page), "</html>") {
		t.Errorf("the page: %v", err)
	}
	var r Results
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	for _, row := range r.Rows {
		for _, s := range row.Series {
			// On a machine that has others to serve, no round may be valid.
			all := slices.Concat(s.Samples, s.Invalid)
			if len(all) == 0 || all[0].Value <= 0 || len(s.Failures) > 0 {
				t.Errorf("%s, %s: %+v %v", row.Name, s.Subject, all, s.Failures)
			}
		}
	}
	for _, b := range r.Bars {
		// What does not depend on speed has to be met.
		if exact := strings.Contains(b.Row, "holds") || strings.Contains(b.Row, "posted") || strings.Contains(b.Row, "mapped") ||
			strings.Contains(b.Row, "sequence") || strings.Contains(b.Row, "refused") || strings.Contains(b.Row, "come whole"); exact && !b.Met && !strings.Contains(b.Why, "rounds are valid") {
			t.Errorf("%s: want %s: %s", b.Row, b.Want, b.Why)
			if b.Measured != nil {
				t.Errorf("measured %v", *b.Measured)
			}
		}
	}
	if !strings.Contains(progress.String(), "round 1 of 1: queues") || !strings.Contains(out.String(), "bars met") {
		t.Errorf("progress %q", progress.String())
	}
}

// TestInvalidRounds: a round that cannot be trusted is measured again, and is in no median and no bar.
func TestInvalidRounds(t *testing.T) {
	const rounds = 5
	// badUntil is a subject whose first measurements are invalid, and too good to be true.
	badUntil := func(name string, bad int) subject {
		calls := 0
		return subject{name, func(context.Context, time.Duration) (Sample, error) {
			if calls++; calls <= bad {
				return Sample{Value: 1000, Note: "the generator was away", Extra: map[string]float64{"wrong": 1}}, nil
			}
			return Sample{Value: 2}, nil
		}}
	}
	for _, c := range []struct {
		bad, repeats   int
		valid, invalid int
		why            string
	}{
		{bad: 0, repeats: 10, valid: 5},
		{bad: 2, repeats: 10, valid: 5, invalid: 2},
		{bad: 4, repeats: 10, valid: 4, invalid: 4},
		{bad: 2, repeats: 1, valid: 4, invalid: 2},
		{bad: 100, repeats: 3, invalid: 8, why: "not measured: 1 queue: 0 of 5 rounds are valid: the generator was away"},
	} {
		list := []row{{name: "queues", subjects: []subject{badUntil("1 queue", c.bad), badUntil("2 queues", 0)}}}
		r := newResults(Options{Rounds: rounds}, list)
		repeats := c.repeats
		for round := range rounds {
			for k, s := range list[0].subjects {
				r.Rows[0].Series[k].measure(t.Context(), s, time.Second, round+1, &repeats)
			}
		}
		s := &r.Rows[0].Series[0]
		if len(s.Samples) != c.valid || len(s.Invalid) != c.invalid {
			t.Errorf("%+v: %d valid, %d invalid", c, len(s.Samples), len(s.Invalid))
		}
		if a, b := r.Rows[0].pairs("1 queue", "2 queues"); len(a) != c.valid || len(b) != c.valid {
			t.Errorf("%+v: %d pairs", c, len(a))
		}
		bars := judge(r)
		b := bars[0]
		if measured := b.Measured != nil && *b.Measured == 1; measured != (c.why == "") || b.Why != c.why {
			t.Errorf("%+v: %+v", c, b)
		}
		if wrong := bars[len(bars)-1]; *wrong.Measured != float64(c.invalid) {
			t.Errorf("%+v: %v frames are wrong", c, *wrong.Measured)
		}
		var out strings.Builder
		if _, err := report(&out, r); err != nil || strings.Contains(out.String(), "  1000") || strings.Contains(out.String(), "INVALID 1 queue") != (c.invalid > 0) {
			t.Errorf("%+v: %v in\n%s", c, err, &out)
		}
	}
}
