// Package rounds is what several rounds of a measurement come to.
package rounds

import (
	"math"
	"slices"
)

// Median is the middle of v, or the mean of the two in the middle; NaN of none. v stays as it is.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(v))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

// students are the two-sided 95 % quantiles of Student's t, by degrees of freedom.
var students = []float64{0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
	2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042}

// LowerEnd is the lower end of the 95 % interval of the geometric mean of the quotients of rounds that were measured in pairs; NaN of fewer than two. In
// logarithms a round that was slow for one of two says as much as one that was slow for the other.
func LowerEnd(a, b []float64) float64 {
	n := min(len(a), len(b))
	if n < 2 {
		return math.NaN()
	}
	sum, squares := 0.0, 0.0
	for i := range n {
		sum += math.Log(a[i] / b[i])
	}
	mean := sum / float64(n)
	for i := range n {
		d := math.Log(a[i]/b[i]) - mean
		squares += d * d
	}
	t := students[min(n, len(students))-1] // of more, a little too wide
	return math.Exp(mean - t*math.Sqrt(squares/float64(n-1)/float64(n)))
}
