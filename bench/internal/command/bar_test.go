package command

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vasta-net/vasta/bench/internal/page"
)

func TestBars(t *testing.T) {
	half := 0.5
	bars := []Bar{{Row: "speed", Want: "≥ 1", Measured: &half}, {Row: "lost", Want: "0", Met: true}, {Row: "size", Want: "1", Why: "not measured: no device"}}
	for i, want := range []string{"MISSED", "met", "MISSED, not measured: no device"} {
		if got := bars[i].State(); got != want {
			t.Errorf("%s: %q, want %q", bars[i].Row, got, want)
		}
	}
	want := []page.Bar{{What: "speed", Want: "≥ 1", Measured: &half}, {What: "lost", Want: "0", Met: true}, {What: "size", Want: "1", Why: "not measured: no device"}}
	if diff := cmp.Diff(want, PageBars(bars)); diff != "" {
		t.Error(diff)
	}
}
