package stats

import "math/bits"

const (
	subBits = 2 // log2 of the buckets in each power of two
	subs    = 1 << subBits
	buckets = 128
)

// Histogram counts durations in nanoseconds by their logarithm, four buckets to each power of two up to 2^33: what it
// answers is too large by a quarter at most, and never too small. The zero Histogram is empty. It belongs to whoever owns the block it
// is in: there are no locks.
type Histogram struct {
	buckets [buckets]uint64
	longest int64
}

// Add counts n durations of ns nanoseconds.
func (h *Histogram) Add(ns int64, n uint64) {
	if n == 0 {
		return
	}
	ns = max(ns, 0)
	h.buckets[bucket(ns)] += n
	h.longest = max(h.longest, ns)
}

// Merge adds what o has counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.longest = max(h.longest, o.longest)
}

// Count is how many durations were counted.
func (h *Histogram) Count() (n uint64) {
	for _, b := range h.buckets {
		n += b
	}
	return n
}

// Max is the longest duration in nanoseconds, exactly.
func (h *Histogram) Max() int64 { return h.longest }

// Quantile is a duration in nanoseconds that a share q of all does not exceed: the upper end of the bucket where that is reached, and at most
// Max. It is 0 when nothing was counted.
func (h *Histogram) Quantile(q float64) int64 {
	total := h.Count()
	var seen uint64
	for i, n := range h.buckets[:buckets-1] {
		if seen += n; n > 0 && float64(seen) >= q*float64(total) {
			return min(upper(i), h.longest)
		}
	}
	return h.longest // the last bucket has no end
}

// bucket is where a duration is counted: one by one below 4, then by the leading bit and the two that follow it.
func bucket(ns int64) int {
	if ns < subs {
		return int(ns)
	}
	e := bits.Len64(uint64(ns)) - 1
	return min((e-1)*subs+int(ns>>(e-subBits))&(subs-1), buckets-1)
}

// upper is the longest duration of a bucket.
func upper(i int) int64 {
	if i < subs {
		return int64(i)
	}
	e := i/subs + 1
	return int64(subs+i%subs+1)<<(e-subBits) - 1
}

// summary is the histogram in the JSON output.
func (h *Histogram) summary() map[string]uint64 {
	return map[string]uint64{
		"frames": h.Count(), "p50_ns": uint64(h.Quantile(0.5)), "p99_ns": uint64(h.Quantile(0.99)), "max_ns": uint64(h.longest),
	}
}
