package tcp

import "math"

// cubic is the growth of the window in congestion avoidance (RFC 9438): a cubic function of the time since the last loss, around the
// window at which that happened; and at least what Reno would reach. All windows are in bytes. The zero cubic has seen no loss.
type cubic struct {
	wMax int64 // window at the last loss, less some when that was below the one before
	k    int64 // milliseconds from the beginning of the epoch until wMax is reached
	at   int64 // when the window last grew, 0: the next growth begins an epoch
	age  int64 // nanoseconds of the epoch, without those in which the window was not used up
	est  int64 // W_est: the window that Reno would have
	top  int64 // cwnd_prior: above it W_est grows as fast as Reno

	frac, estFrac int64 // what is left over of growth: in bytes times cwnd
}

// blindGrowth is by which part of itself the window grows at least in a round trip while no loss has been seen: the cubic function begins
// flat, but around a window that nothing but the end of slow start has chosen. Linux has the same 5 %.
const blindGrowth = 20

// reduce notes a loss at window w and returns β of it, 0.7.
func (q *cubic) reduce(w int64) int64 {
	q.top = w
	if w < q.wMax { // fast convergence: others want more of the path
		w = w * 17 / 20
	}
	q.wMax = w
	q.at = 0
	return q.top * 7 / 10
}

// pause lets time pass without growth.
func (q *cubic) pause(now int64) {
	if q.at != 0 {
		q.at = now
	}
}

// grow is the window after acked bytes were acknowledged at time now.
func (q *cubic) grow(now, cwnd, mss, acked, srtt int64) int64 {
	if q.at == 0 {
		q.age, q.est, q.frac, q.estFrac = 0, cwnd, 0, 0
		if cwnd < q.wMax {
			// K = cbrt((wMax - cwnd) / C) seconds, C = 0.4 segments. Once for an epoch: floating point does no harm.
			q.k = int64(1000 * math.Cbrt(float64(q.wMax-cwnd)/(0.4*float64(mss))))
		} else {
			q.k, q.wMax = 0, cwnd
		}
	} else {
		q.age += now - q.at
	}
	q.at = now

	// α = 3(1-β)/(1+β) = 9/17, so that the average is Reno's with its β of 0.5.
	gain := acked * mss
	if q.est < q.top {
		gain = gain * 9 / 17
	}
	q.estFrac += gain
	q.est += q.estFrac / cwnd
	q.estFrac %= cwnd
	least := cwnd
	if q.top == 0 {
		least += acked / blindGrowth
	}
	if q.window(q.age, mss) < q.est {
		return max(least, q.est)
	}
	target := min(max(q.window(q.age+srtt, mss), cwnd), cwnd+cwnd/2)
	q.frac += (target - cwnd) * acked
	grown := q.frac / cwnd
	q.frac %= cwnd
	return max(least, cwnd+grown)
}

// window is W_cubic: 0.4 (t - K)³ segments beyond wMax, t in nanoseconds.
func (q *cubic) window(t, mss int64) int64 {
	const far = 60000 // milliseconds: there the cube is beyond any window, and below what overflows
	d := min(max(t/millisecond-q.k, -far), far)
	return q.wMax + d*d*d/1000*mss/1000*2/5/1000
}
