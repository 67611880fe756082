package netbench

import (
	"fmt"
	"slices"
)

// Subjects that bars speak of. The last two stand for several: of those, the best
// counts.
const (
	vastaName    = "vasta"
	vethName     = "veth"
	loopbackName = "loopback"
	routedName   = "routed"
	spliceName   = "splice"
	pastaName    = "pasta"
	slirpName    = "slirp4netns"

	anyPeer  = "every peer"
	anyPasta = "every pasta" // the pasta found and all given with --peer
)

// quantity is a number taken from the results: a statistic over all rounds of one
// or several loads. When who stands for several subjects, it is the best of their
// numbers, and all of them must have been measured.
type quantity struct {
	loads []string
	who   string
	stat  stat
	extra string // a value measured beside the load's own, "" for its own
}

// limit is a condition on a quantity or, when per is set, on the quotient of two. What is at most something is better when
// lower, and the other way round.
type limit struct {
	of      quantity
	per     *quantity
	some    bool // of the loads, those count that were selected, if only some
	each    bool // the quotient is taken for each load of both, and the worst counts
	atLeast bool // otherwise at most
	value   float64
	unit    string // for print
}

// bar is one row of the table: what must be shown, and what to reach for.
type bar struct {
	row   string
	must  limit
	reach *limit
}

func of(who string, s stat, loads ...string) quantity {
	return quantity{loads: loads, who: who, stat: s}
}

func atLeast(value float64, unit string, q quantity, per *quantity) limit {
	return limit{of: q, per: per, atLeast: true, value: value, unit: unit}
}

func atMost(value float64, unit string, q quantity, per *quantity) limit {
	return limit{of: q, per: per, value: value, unit: unit}
}

// with is the quantity of a value measured beside the load's own.
func (q quantity) with(extra string) quantity {
	q.extra = extra
	return q
}

// bars are the tables "What must be shown" of issues A, B and C, row by row. What is shown there by tests is not part of them.
var bars = slices.Concat(streamBars(), workerBars(), latencyBars(), crowdBars(), udpBars(), dnsBars(), policyBars(), overloadBars(), netemBars(), soakBars(), vhostBars())

// barList is a table of bars as it is written.
type barList []bar

func (b *barList) add(row string, must limit, reach *limit) { *b = append(*b, bar{row, must, reach}) }

// streamBars are those of issue A.
func streamBars() barList {
	ptr := func(q quantity) *quantity { return &q }
	reach := func(l limit) *limit { return &l }
	var b barList
	add := b.add

	for _, d := range []struct {
		dir, title   string
		veth, veth15 float64
	}{{"up", "ns→host", 0.25, 0.22}, {"down", "host→ns", 0.28, 0.25}} {
		big, small := "tcp-1-65520-"+d.dir, "tcp-1-1500-"+d.dir
		row := "TCP 1 stream 65520 " + d.title
		vasta, veth := of(vastaName, statMedian, big), ptr(of(vethName, statMedian, big))
		add(row, atLeast(d.veth, "of veth", vasta, veth), reach(atLeast(0.5, "of veth", vasta, veth)))
		add(row, atLeast(1.3, "x splice relay", vasta, ptr(of(spliceName, statMedian, big))), nil)
		add(row, atLeast(1, "x every peer's best round", vasta, ptr(of(anyPeer, statBest, big))), nil)
		add(row+", slowest round", atLeast(0.6, "of the median", of(vastaName, statWorst, big), ptr(vasta)), nil)

		row = "TCP 1 stream 1500 " + d.title
		vasta = of(vastaName, statMedian, small)
		add(row, atLeast(d.veth15, "of veth 65520", vasta, veth), reach(atLeast(0.5, "of veth 65520", vasta, veth)))
		add(row, atLeast(3, "x every peer's best round", vasta, ptr(of(anyPeer, statBest, small))), nil)

		for _, mtu := range []string{"65520", "1500"} {
			one, eight := "tcp-1-"+mtu+"-"+d.dir, "tcp-8-"+mtu+"-"+d.dir
			row = "TCP 8 streams " + mtu + " " + d.title
			vasta = of(vastaName, statMedian, eight)
			add(row, atLeast(0.85, "of 1 stream", vasta, ptr(of(vastaName, statMedian, one))), nil)
			add(row, atLeast(1, "x every peer's best round", vasta, ptr(of(anyPeer, statBest, eight))), nil)
		}
	}

	retransmits := of(vastaName, statWorst, "tcp-1-65520-up", "tcp-1-1500-up", "tcp-8-65520-up", "tcp-8-1500-up")
	retransmits.extra = extraRetransmits
	add("retransmits inside the namespace, ns→host, worst round of all the above", atMost(0, "segments", retransmits, nil), nil)

	for _, l := range []struct{ name, title string }{{"tcp-rr", "TCP_RR p50"}, {"udp-rr", "UDP_RR p50"}} {
		vasta := of(vastaName, statMedian, l.name)
		add(l.title, atMost(1.05, "x pasta", vasta, ptr(of(anyPasta, statMedian, l.name))),
			reach(atMost(1.3, "x veth", vasta, ptr(of(vethName, statMedian, l.name)))))
	}
	crr := of(vastaName, statMedian, "tcp-crr")
	add("TCP_CRR per second", atLeast(1.2, "x pasta", crr, ptr(of(anyPasta, statMedian, "tcp-crr"))),
		reach(atLeast(0.7, "of veth", crr, ptr(of(vethName, statMedian, "tcp-crr")))))

	for _, d := range []struct{ load, title string }{{"cpu-up", "ns→host"}, {"cpu-down", "host→ns"}} {
		vasta := of(vastaName, statMedian, d.load)
		add("CPU seconds per GiB, whole machine, "+d.title,
			atMost(1, "x every peer", vasta, ptr(of(anyPeer, statMedian, d.load))),
			reach(atMost(2, "x veth", vasta, ptr(of(vethName, statMedian, d.load)))))
	}

	startup := of(vastaName, statMedian, "startup")
	add("start-up: -- true", atMost(1, "x pasta", startup, ptr(of(anyPasta, statMedian, "startup"))),
		reach(atMost(25, "ms", startup, nil)))

	idle := of(vastaName, statMedian, "mem-idle")
	add("memory idle, before load", atMost(24, "MiB", idle, nil), reach(atMost(16, "MiB", idle, nil)))
	after := of(vastaName, statMedian, "mem-after")
	add("memory idle, 10 s after load", atMost(24, "MiB", after, nil), reach(atMost(16, "MiB", after, nil)))
	add("memory per open idle connection", atMost(4, "KiB", of(vastaName, statMedian, "mem-conn"), nil), nil)
	return b
}

// Verdict is a bar held against the results.
type Verdict struct {
	Row      string   `json:"row"`
	Measured *float64 `json:"measured,omitempty"` // in the unit of Bar
	Bar      string   `json:"bar"`
	Met      bool     `json:"met"`
	// Why says why it could not be measured; it then counts as missed.
	Why string `json:"notMeasured,omitempty"`
	// The same for what to reach for; Reach is "" when there is nothing beyond the bar.
	Reach         string   `json:"reach,omitempty"`
	ReachMeasured *float64 `json:"reachMeasured,omitempty"`
	Reached       bool     `json:"reached,omitempty"`
}

// judge holds every bar whose loads were selected against the results.
func judge(r *Results) []Verdict {
	var verdicts []Verdict
	for _, b := range bars {
		b.must = b.must.among(r)
		if !b.must.selected(r) {
			continue
		}
		v := Verdict{Row: b.row, Bar: b.must.String()}
		if x, err := b.must.measure(r); err != nil {
			v.Why = err.Error()
		} else {
			v.Measured, v.Met = &x, b.must.holds(x)
		}
		if b.reach != nil {
			v.Reach = b.reach.String()
			if x, err := b.reach.measure(r); err == nil {
				v.ReachMeasured, v.Reached = &x, b.reach.holds(x)
			}
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// String returns the condition as the tables show it: "≥ 1.3 x splice relay".
func (l limit) String() string {
	sign := "≤"
	if l.atLeast {
		sign = "≥"
	}
	return fmt.Sprintf("%s %g %s", sign, l.value, l.unit)
}

func (l limit) holds(x float64) bool {
	if l.atLeast {
		return x >= l.value
	}
	return x <= l.value
}

// among returns the limit for the loads that were selected, when it is content with some.
func (l limit) among(r *Results) limit {
	if !l.some {
		return l
	}
	among := func(q quantity) quantity {
		q.loads = slices.DeleteFunc(slices.Clone(q.loads), func(name string) bool { return r.load(name) == nil })
		return q
	}
	l.of = among(l.of)
	if l.per != nil {
		per := among(*l.per)
		l.per = &per
	}
	return l
}

func (l limit) selected(r *Results) bool {
	if len(l.of.loads) == 0 {
		return false
	}
	names := l.of.loads
	if l.per != nil {
		names = append(names[:len(names):len(names)], l.per.loads...)
	}
	for _, name := range names {
		if r.load(name) == nil {
			return false
		}
	}
	return true
}

func (l limit) measure(r *Results) (float64, error) {
	if !l.each {
		return l.quotient(r, l.of, l.per)
	}
	var worst []float64
	for i, name := range l.of.loads {
		of, per := l.of, *l.per
		of.loads, per.loads = []string{name}, l.per.loads[i:i+1]
		x, err := l.quotient(r, of, &per)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		worst = append(worst, x)
	}
	return statWorst.of(worst, !l.atLeast), nil
}

func (l limit) quotient(r *Results, of quantity, per *quantity) (float64, error) {
	x, err := of.measure(r, !l.atLeast)
	if err != nil || per == nil {
		return x, err
	}
	y, err := per.measure(r, !l.atLeast)
	if err != nil {
		return 0, err
	}
	if y == 0 && !l.atLeast {
		y = 1 // what is counted is compared with one, when there was none
	}
	if y == 0 {
		return 0, fmt.Errorf("%s measured nothing to compare with", per.who)
	}
	return x / y, nil
}

func (q quantity) measure(r *Results, lowerIsBetter bool) (float64, error) {
	subjects := q.subjects(r)
	if len(subjects) == 0 {
		return 0, fmt.Errorf("%s: no such subject", q.who)
	}
	var each []float64
	for _, s := range subjects {
		x, err := q.ofSubject(r, s, lowerIsBetter)
		if err != nil {
			return 0, err
		}
		each = append(each, x)
	}
	return statBest.of(each, lowerIsBetter), nil
}

// subjects returns whom q is about.
func (q quantity) subjects(r *Results) []string {
	var names []string
	for _, s := range r.Subjects {
		if q.who == s.Name || q.who == anyPeer && s.Class == ClassPeer || q.who == anyPasta && s.PastaLike && s.Class == ClassPeer {
			names = append(names, s.Name)
		}
	}
	return names
}

func (q quantity) ofSubject(r *Results, subject string, lowerIsBetter bool) (float64, error) {
	var values []float64
	for _, name := range q.loads {
		l := r.load(name)
		if l == nil {
			return 0, fmt.Errorf("load %s was not selected", name)
		}
		s := l.series(subject)
		if s == nil || len(s.Samples) == 0 {
			return 0, notMeasured(subject, name, s)
		}
		// A round that failed is worse than any that was measured: medians and
		// worst rounds without it would flatter.
		if isVasta(r, subject) && len(s.Failures) > 0 {
			return 0, notMeasured(subject, name, s)
		}
		values = append(values, s.values(q.extra)...)
	}
	if len(values) == 0 {
		return 0, fmt.Errorf("%s has no %s", subject, q.extra)
	}
	return q.stat.of(values, lowerIsBetter), nil
}

func isVasta(r *Results, subject string) bool {
	return slices.ContainsFunc(r.Subjects, func(s SubjectInfo) bool {
		return s.Name == subject && (s.Class == ClassVasta || s.Class == ClassVariant)
	})
}

func notMeasured(subject, load string, s *Series) error {
	if s == nil || len(s.Failures) == 0 {
		return fmt.Errorf("%s takes no part in %s", subject, load)
	}
	return fmt.Errorf("%s: %s", subject, s.Failures[0])
}
