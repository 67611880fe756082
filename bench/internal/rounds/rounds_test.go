package rounds

import (
	"math"
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	odd := []float64{5, 1, 3}
	for _, c := range []struct {
		of   []float64
		want float64
	}{{odd, 3}, {[]float64{4, 1, 3, 2}, 2.5}, {[]float64{7}, 7}} {
		if got := Median(c.of); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.of, got, c.want)
		}
	}
	if !slices.Equal(odd, []float64{5, 1, 3}) {
		t.Errorf("its argument became %v", odd)
	}
	if got := Median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing: %v", got)
	}
}

func TestLowerEnd(t *testing.T) {
	// In logarithms: mean 0.2, deviation 0.1, t = 4.303 over the root of 3: exp(-0.0484).
	if low := LowerEnd([]float64{10 * math.Exp(0.1), 10 * math.Exp(0.2), 10 * math.Exp(0.3)}, []float64{10, 10, 10}); !(low > 0.9526 && low < 0.9529) {
		t.Errorf("lower end %v", low)
	}
	if low := LowerEnd([]float64{1}, []float64{1}); !math.IsNaN(low) {
		t.Error("one round has an interval")
	}
}
