package stats

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestBuckets checks that the buckets follow each other without a gap, and how wide they are.
func TestBuckets(t *testing.T) {
	for i := range buckets - 1 {
		last := upper(i)
		if bucket(last) != i || bucket(last+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, but %d is in %d and %d in %d", i, last, last, bucket(last), last+1, bucket(last+1))
		}
		if width := upper(i+1) - last; last >= subs && float64(width) > 0.25*float64(last+1) {
			t.Errorf("bucket %d begins at %d and is %d wide", i+1, last+1, width)
		}
	}
	if b := bucket(math.MaxInt64); b != buckets-1 {
		t.Errorf("the longest duration is in bucket %d", b)
	}
}

// TestHistogram holds the histogram against a sorted list.
func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, 1<<rapid.IntRange(1, 32).Draw(t, "bits")), 1, 50).Draw(t, "durations")
		var h, other Histogram
		for i, ns := range all {
			if i%2 == 0 {
				h.Add(ns, 1)
			} else {
				other.Add(ns, 1)
			}
		}
		h.Merge(&other)
		slices.Sort(all)
		if n := len(all); h.Count() != uint64(n) || h.Max() != all[n-1] {
			t.Fatalf("%d durations up to %d, want %d up to %d", h.Count(), h.Max(), n, all[n-1])
		}
		for _, q := range []float64{0.01, 0.5, 0.99, 1} {
			exact := all[max(int(math.Ceil(q*float64(len(all)))), 1)-1]
			if got := h.Quantile(q); got < exact || float64(got) > 1.25*float64(exact) {
				t.Fatalf("quantile %v is %d, exactly %d", q, got, exact)
			}
		}
	})
}

// TestHistogramEdges covers what cannot be counted exactly.
func TestHistogramEdges(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 || h.Max() != 0 || h.Count() != 0 {
		t.Errorf("an empty histogram: %v", h.summary())
	}
	h.Add(5, 0)
	h.Add(-7, 1)
	if h.Quantile(1) != 0 || h.Count() != 1 {
		t.Errorf("a clock that went back: %v", h.summary())
	}
	h.Add(math.MaxInt64, 3)
	if h.Quantile(0.99) > h.Max() || h.Max() != math.MaxInt64 || h.Count() != 4 {
		t.Errorf("a very long time: %v", h.summary())
	}
}

// TestSumOfResidence: the sum over workers counts the frames of all.
func TestSumOfResidence(t *testing.T) {
	var a, b Worker
	a.Residence.FromGuest.Add(10, 1)
	b.Residence.FromGuest.Add(20, 2)
	b.Residence.ToGuest.Add(30, 4)
	a.Add(&b)
	if r := &a.Residence; r.FromGuest.Count() != 3 || r.FromGuest.Max() != 20 || r.ToGuest.Count() != 4 {
		t.Errorf("%v from the guest, %v to it", r.FromGuest.summary(), r.ToGuest.summary())
	}
}
