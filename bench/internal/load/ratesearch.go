package load

import (
	"math"
	"net/netip"
	"time"
)

const (
	// tolerated is the share of datagrams that a rate may lose.
	tolerated = 0.001
	// lateLimit is how long after the last was sent the last may come: what is slower has filled queues that a longer stream would
	// overflow.
	lateLimit = 100 * time.Millisecond
	// searchSteps is how many rates are tried, and searchTries how often one that fails: a processor that somebody else had for
	// a moment makes a low rate fail too.
	searchSteps = 8
	searchTries = 2
	// searchFloor is the lowest rate that is looked for, in proportion to what is received under a flood.
	searchFloor = 1.0 / 64
	// searchFloods is how many floods come first: one of which the sender was kept from its processor shows too little.
	searchFloods = 3
)

// Search is a search for the highest rate of a stream of datagrams that is carried.
type Search struct {
	Server   netip.Addr
	Stream   Stream // its Rate is not looked at; its Duration is that of each probe
	Download bool
}

// Found is what a search has found.
type Found struct {
	Flood  Probe   // as many as the sender can; of several the one of which most came
	Best   Probe   // the highest rate that was carried; of no datagrams when none was
	Probes []Probe // all of them
}

// Carried says whether the stream came: no more was lost than is tolerated, and nothing wrong.
func (p Probe) Carried() bool {
	return p.Sent.Datagrams > 0 && p.Arrivals.Wrong == 0 && p.Late() <= lateLimit &&
		float64(p.Lost()) <= tolerated*float64(p.Sent.Datagrams)
}

// Run searches: floods tell in which region, then the region is halved again and again, in proportion.
func (s Search) Run() (Found, error) {
	var f Found
	high := 0.0
	for range searchFloods {
		p, err := s.probe(&f, 0)
		if err != nil {
			return Found{}, err
		}
		if p.Received() > f.Flood.Received() {
			f.Flood = p
		}
		if !p.Carried() {
			high = max(high, p.Offered())
		}
	}
	low := f.Best.Offered()
	if low == 0 {
		low = max(f.Flood.Received()*searchFloor, 1/s.Stream.Duration.Seconds())
	}
	if high > 0 {
		high = max(high, 2*low) // a flood may have failed at a lower rate than another, for want of a processor
	}
	for step := 0; step < searchSteps && low < high; step++ {
		rate := math.Sqrt(low * high)
		carried := false
		for try := 0; try < searchTries && !carried; try++ {
			p, err := s.probe(&f, rate)
			if err != nil {
				return Found{}, err
			}
			carried = p.Carried()
		}
		if carried {
			low = rate
		} else {
			high = rate
		}
	}
	return f, nil
}

// probe has one stream at a rate, and notes what became of it.
func (s Search) probe(f *Found, rate float64) (Probe, error) {
	stream := s.Stream
	stream.Rate = rate
	p, err := Datagrams(s.Server, stream, s.Download)
	if err != nil {
		return Probe{}, err
	}
	f.Probes = append(f.Probes, p)
	if p.Carried() && p.Offered() > f.Best.Offered() {
		f.Best = p
	}
	return p, nil
}
