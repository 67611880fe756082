package netbench

import "testing"

func TestGrowth(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		// What the first quarter and a single look do is not growth.
		{[]float64{900, 1, 10, 10, 10, 10, 50, 99, 10, 10, 10, 900}, 1},
		{[]float64{1, 1, 10, 10, 1, 1, 20, 20}, 2},
		{[]float64{1, 4, 9, 2}, 0.5},
	} {
		if got, err := growth(test.values); err != nil || got != test.want {
			t.Errorf("%v: %v, %v; want %v", test.values, got, err, test.want)
		}
	}
	for _, bad := range [][]float64{nil, {1, 2, 3}, {0, 0, 0, 5}} {
		if got, err := growth(bad); err == nil {
			t.Errorf("%v: %v", bad, got)
		}
	}
}
