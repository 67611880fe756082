package netbench

import (
	"errors"
	"testing"
)

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

func TestWhatIsNotThereNeedsNoClearing(t *testing.T) {
	for text, want := range map[string]bool{
		`tc qdisc del dev eth0 root: exit status 2: Error: Cannot delete qdisc with handle of zero.`: true,
		`ip link del ifb-shape: exit status 1: Cannot find device "ifb-shape"`:                       true,
		`tc qdisc del dev eth0 root: exit status 2: RTNETLINK answers: Operation not permitted`:      false,
	} {
		if got := absent(errors.New(text)); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}
