package virtiobench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRealRun: every kind of row runs for a moment, moves frames, and none is out of sequence. How fast is not judged here.
func TestRealRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.json")
	var out, progress strings.Builder
	status := Main([]string{"--rounds", "1", "--seconds", "0.1", "--only", "pool-small,view-m,modes,long,ring-packed-in,break-64,queues", "--json", file}, &out, &progress)
	if status == exitFailed {
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
	for _, row := range r.Rows {
		for _, s := range row.Series {
			if len(s.Samples) != 1 || s.Samples[0].Value <= 0 {
				t.Errorf("%s, %s: %+v %v", row.Name, s.Subject, s.Samples, s.Failures)
			}
		}
	}
	for _, b := range r.Bars {
		// What does not depend on speed has to be met.
		if exact := strings.Contains(b.Row, "holds") || strings.Contains(b.Row, "posted") || strings.Contains(b.Row, "mapped") ||
			strings.Contains(b.Row, "sequence") || strings.Contains(b.Row, "refused"); exact && !b.Met {
			t.Errorf("%s: measured %v, want %s", b.Row, b.Measured, b.Want)
		}
	}
	if !strings.Contains(progress.String(), "round 1 of 1: queues") || !strings.Contains(out.String(), "bars met") {
		t.Errorf("progress %q", progress.String())
	}
}

func TestLowerEnd(t *testing.T) {
	low, ok := lowerEnd([]float64{11, 12, 13}, []float64{10, 10, 10})
	// Mean 1.2, deviation 0.1, t = 4.303 over the root of 3.
	if !ok || low < 0.9515 || low > 0.9517 {
		t.Errorf("lower end %v, %v", low, ok)
	}
	if _, ok := lowerEnd([]float64{1}, []float64{1}); ok {
		t.Error("one round has an interval")
	}
}
