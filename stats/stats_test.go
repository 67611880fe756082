package stats_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/vasta-net/vasta/stats"
)

// TestAdd: the sum of two workers' counters is the sum in every field, and in every number of the JSON output.
func TestAdd(t *testing.T) {
	fill := func(base uint64) (w stats.Worker) {
		v := reflect.ValueOf(&w).Elem()
		for i := range v.NumField() {
			if f := v.Field(i); f.Kind() == reflect.Uint64 {
				f.SetUint(base + uint64(i))
			}
		}
		for r := range w.Drops {
			w.Drops[r] = base * uint64(r)
		}
		w.Residence.FromGuest.Add(int64(base), 1)
		w.Residence.ToGuest.Add(int64(base), 2)
		return w
	}
	a, b := fill(1000), fill(5)
	sum := a
	sum.Add(&b)
	v, va, vb := reflect.ValueOf(sum), reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Uint64 && v.Field(i).Uint() != va.Field(i).Uint()+vb.Field(i).Uint() {
			t.Errorf("%s is %d, want %d + %d", v.Type().Field(i).Name, v.Field(i).Uint(), va.Field(i).Uint(), vb.Field(i).Uint())
		}
	}
	for r := range sum.Drops {
		if sum.Drops[r] != 1005*uint64(r) {
			t.Errorf("dropped as %v: %d", stats.Reason(r), sum.Drops[r])
		}
	}
	if f, g := sum.Residence.FromGuest.Count(), sum.Residence.ToGuest.Count(); f != 2 || g != 4 {
		t.Errorf("residence of %d and %d frames", f, g)
	}
	text, err := json.Marshal(sum)
	if err != nil {
		t.Fatal(err)
	}
	var out struct{ Handover struct{ Out, In uint64 } }
	if err := json.Unmarshal(text, &out); err != nil || out.Handover.Out != sum.HandedOver || out.Handover.In != sum.TakenOver {
		t.Errorf("in the output: %+v, %v", out, err)
	}
}

// TestReasons: each reason has a name of its own.
func TestReasons(t *testing.T) {
	seen := make(map[string]stats.Reason)
	for r := range stats.Reason(stats.NumReasons) {
		if other, taken := seen[r.String()]; taken || r.String() == "" {
			t.Errorf("reasons %d and %d are both called %q", r, other, r)
		}
		seen[r.String()] = r
	}
}
