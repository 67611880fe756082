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
	// searchRoom is how much more than is received under a flood may be carried without loss.
	searchRoom = 2.0
)

// Search is a search for the highest rate of a stream of datagrams that is carried.
type Search struct {
	Server   netip.Addr
	Stream   Stream // its Rate is not looked at; its Duration is that of each probe
	Download bool
}

// Found is what a search has found.
type Found struct {
	Flood  Probe   // as many as the sender can
	Best   Probe   // the highest rate that was carried; of no datagrams when none was
	Probes []Probe // all of them
}

// Carried says whether the stream came: no more was lost than is tolerated, and nothing wrong.
func (p Probe) Carried() bool {
	return p.Sent.Datagrams > 0 && p.Arrivals.Wrong == 0 && p.Late() <= lateLimit &&
		float64(p.Lost()) <= tolerated*float64(p.Sent.Datagrams)
}

// Run searches: a flood tells in which region, then the region is halved again and again, in proportion.
func (s Search) Run() (Found, error) {
	var f Found
	probe := func(rate float64) (Probe, error) {
		stream := s.Stream
		stream.Rate = rate
		p, err := Datagrams(s.Server, stream, s.Download)
		f.Probes = append(f.Probes, p)
		return p, err
	}
	flood, err := probe(0)
	if err != nil {
		return Found{}, err
	}
	f.Flood = flood
	if flood.Carried() {
		f.Best = flood
		return f, nil
	}
	low := max(flood.Received()*searchFloor, 1/s.Stream.Duration.Seconds())
	high := max(min(flood.Received()*searchRoom, flood.Offered()), low)
	for range searchSteps {
		rate := math.Sqrt(low * high)
		carried := false
		for range searchTries {
			p, err := probe(rate)
			if err != nil {
				return Found{}, err
			}
			if carried = p.Carried(); carried {
				if p.Offered() > f.Best.Offered() {
					f.Best = p
				}
				break
			}
		}
		if carried {
			low = rate
		} else {
			high = rate
		}
	}
	return f, nil
}
