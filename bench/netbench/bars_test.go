package netbench

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/bench/baseline"
	"github.com/vasta-net/vasta/bench/internal/page"
)

func TestStatistics(t *testing.T) {
	odd, even := []float64{5, 1, 3}, []float64{4, 1, 3, 2}
	for _, test := range []struct {
		got, want float64
	}{
		{statBest.of(odd, false), 5}, {statBest.of(odd, true), 1},
		{statWorst.of(odd, false), 1}, {statWorst.of(odd, true), 5},
		{statMedian.of(even, true), 2.5},
	} {
		if test.got != test.want {
			t.Errorf("got %v, want %v", test.got, test.want)
		}
	}
}

// fake builds results with two pastas and slirp4netns, in which every series has
// the values that value returns.
func fake(value func(load, subject string) []float64) *Results {
	r := &Results{Subjects: []SubjectInfo{
		{Name: vastaName, Class: ClassVasta, PastaLike: true},
		{Name: pastaName, Class: ClassPeer, PastaLike: true},
		{Name: slirpName, Class: ClassPeer},
		{Name: "newpasta", Class: ClassPeer, PastaLike: true},
		{Name: vethName, Class: ClassYardstick},
		{Name: spliceName, Class: ClassYardstick},
		{Name: routedName, Class: ClassYardstick},
	}}
	for _, queues := range workerQueues {
		r.Subjects = append(r.Subjects, SubjectInfo{Name: queuesName(queues), Class: ClassVariant})
	}
	for _, name := range []string{dropName, rulesName, tapPath.name, vhostsWay.name, tapPath.dropping().name, vhostsWay.dropping().name, ladderName(baseline.Wait), ladderName(baseline.Asynchronous)} {
		r.Subjects = append(r.Subjects, SubjectInfo{Name: name, Class: ClassVariant})
	}
	for _, l := range loads {
		lr := LoadResult{Name: l.name, Title: l.title, Unit: l.unit, LowerIsBetter: l.lowerIsBetter}
		for _, s := range r.Subjects {
			series := Series{Subject: s.Name}
			for i, v := range value(l.name, s.Name) {
				series.Samples = append(series.Samples, Sample{Round: i + 1, Value: v, Extra: perfectExtras(s.Name)})
			}
			lr.Series = append(lr.Series, series)
		}
		r.Loads = append(r.Loads, lr)
	}
	return r
}

// perfectExtras are values beside a load's own that meet every bar.
func perfectExtras(subject string) map[string]float64 {
	cpu := 1.0
	if subject == vhostsWay.name {
		cpu = 0.5
	}
	return map[string]float64{
		extraToolCPU: cpu, extraKicks: 0, extraDescriptors: 1, extraCalls: 0,
		extraRetransmits: 0, extraCPU: 1, extraReordered: 0, extraResidence: 0, extraLost: 0, extraWrong: 0,
		extraGrowthMemory: 1, extraGrowthDescriptors: 1, extraGrowthGoroutines: 1, extraMemory: 1, extraPromised: 1, extraLeft: 0,
		extraUncounted: 0, extraGap: 0.5,
	}
}

// perfect lets vasta meet and reach everything.
func perfect(name, subject string) []float64 {
	i := slices.IndexFunc(loads, func(l load) bool { return l.name == name })
	v := []float64{10, 20, 30}
	if strings.HasPrefix(name, "workers-") || strings.HasPrefix(name, "policy-") || strings.HasPrefix(name, "overload-") {
		return v
	}
	if name == "churn" || name == "flows" || strings.HasPrefix(name, "soak") || strings.HasPrefix(name, "dns") {
		return []float64{0}
	}
	if (subject == vhostsWay.name || subject == ladderName(baseline.Asynchronous)) && strings.HasPrefix(name, "vhost-") {
		subject = vastaName
	}
	if subject == vastaName && !loads[i].lowerIsBetter || subject != vastaName && loads[i].lowerIsBetter {
		v = []float64{3000, 4000, 5000}
	}
	if subject == vastaName && loads[i].lowerIsBetter {
		v = []float64{1, 2, 3}
	}
	return v
}

func TestPerfectResultsMeetEveryBar(t *testing.T) {
	verdicts := judge(fake(perfect))
	if len(verdicts) != len(bars) || len(streamBars()) != 30 {
		t.Errorf("%d rows of %d, of issue A %d, want 30", len(verdicts), len(bars), len(streamBars()))
	}
	for _, v := range verdicts {
		if !v.Met || v.Why != "" || v.Measured == nil {
			t.Errorf("%s %s: %+v", v.Row, v.Bar, v)
		}
		if v.Reach != "" && !v.Reached {
			t.Errorf("%s: reach %s was not reached: %v", v.Row, v.Reach, *v.ReachMeasured)
		}
	}
	if c := tally(verdicts); c != (counts{met: len(bars)}) {
		t.Errorf("%+v", c)
	}
}

func TestBarsAreTheIssuesNumbers(t *testing.T) {
	var got []string
	for _, b := range bars {
		line := b.row + " " + b.must.String()
		if b.reach != nil {
			line += "; " + b.reach.String()
		}
		got = append(got, line)
	}
	for _, want := range []string{
		"TCP 1 stream 65520 ns→host ≥ 0.25 of veth; ≥ 0.5 of veth",
		"TCP 1 stream 65520 host→ns ≥ 0.28 of veth; ≥ 0.5 of veth",
		"TCP 1 stream 65520 ns→host ≥ 1.3 x splice relay",
		"TCP 1 stream 65520 host→ns ≥ 1 x every peer's best round",
		"TCP 1 stream 65520 ns→host, slowest round ≥ 0.6 of the median",
		"TCP 1 stream 1500 ns→host ≥ 0.22 of veth 65520; ≥ 0.5 of veth 65520",
		"TCP 1 stream 1500 host→ns ≥ 0.25 of veth 65520; ≥ 0.5 of veth 65520",
		"TCP 1 stream 1500 host→ns ≥ 3 x every peer's best round",
		"TCP 8 streams 1500 host→ns ≥ 0.85 of 1 stream",
		"TCP 8 streams 65520 ns→host ≥ 1 x every peer's best round",
		"retransmits inside the namespace, ns→host, worst round of all the above ≤ 0 segments",
		"TCP_RR p50 ≤ 1.05 x pasta; ≤ 1.3 x veth",
		"UDP_RR p50 ≤ 1.05 x pasta; ≤ 1.3 x veth",
		"TCP_CRR per second ≥ 1.2 x pasta; ≥ 0.7 of veth",
		"CPU seconds per GiB, whole machine, ns→host ≤ 1 x every peer; ≤ 2 x veth",
		"start-up: -- true ≤ 1 x pasta; ≤ 25 ms",
		"memory idle, before load ≤ 24 MiB; ≤ 16 MiB",
		"memory idle, 10 s after load ≤ 24 MiB; ≤ 16 MiB",
		"memory per open idle connection ≤ 4 KiB",
		"2 workers, 8 streams, ns→host ≥ 1 x 1 worker",
		"2 workers, 8 streams, host→ns, CPU seconds per GiB ≤ 1.1 x 1 worker",
		"2 workers, 8 streams, host→ns, out of order within a flow ≤ 0 segments",
		"16 workers, 64 streams, ns→host ≥ 0.8 x 2 workers",
		"policy with 1000 rules, TCP_CRR per second ≥ 0.97 of the same without",
		"policy with 1000 rules, TCP 1 stream host→ns ≥ 0.97 of the same without",
		"inbound connections per second through -t ≥ 1.2 x pasta",
		"ping beside 8 bulk streams ns→host, p99 ≤ 2 x veth",
		"ping beside 8 bulk streams host→ns, p99 ≤ 0.5 x pasta",
		"frame residence inside vasta beside it, p99, ns→host ≤ 1 ms",
		"10,000 flows, each active both ways at 1 kbit/s, lost or wrong ≤ 0 messages",
		"10,000 flows, each active both ways at 1 kbit/s, CPU of the tool ≤ 1 CPU second per second",
		"10,000 flows, each active both ways at 1 kbit/s, memory ≤ 256 MiB",
		"100,000 short connections on 64 clients, failed ≤ 0 connections",
		"100,000 short connections on 64 clients, left behind ≤ 0 things",
		"netem 1 % loss, guest leg, worst cell ≥ 0.8 of veth",
		"netem 20 ms, host leg, worst cell, wrong bytes ≤ 0 streams",
		"100 Mbit/s, 50 ms, 100 packets, 1 x TCP, IPv4, MTU 1500, host→ns ≥ 0.8 of veth",
		"100 Mbit/s, 50 ms, 100 packets, 8 x TCP, IPv4, MTU 1500, ns→host, retransmits ≤ 1.5 x veth",
		"UDP 64 B, ns→host, highest rate with ≤ 0.1 % loss ≥ 1.2 x pasta",
		"UDP 64 B, ns→host, received under a flood ≥ 1 x pasta",
		"UDP 64 B, ns→host, under a flood, lost without a reason ≤ 0 datagrams",
		"UDP 1472 B, ns→host, highest rate with ≤ 0.1 % loss ≥ 2 x pasta",
		"UDP 1472 B, host→ns, highest rate with ≤ 0.1 % loss ≥ 2 x pasta",
		"UDP 65,507 B, request and response ≥ 200 right answers",
		"UDP 1200 B, 1 flow, 40 at a time (UDP_SEGMENT), ns→host, highest rate with ≤ 0.1 % loss ≥ 4 x pasta",
		"UDP_RR p50 ≤ 1 x pasta",
		"DNS, 10,000 queries/s through the forwarder, first resolver's port closed, lost ≤ 0 queries",
		"DNS, 10,000 queries/s through the forwarder, first resolver silent, failover ≤ 1 s",
		"soak, wrong bytes ≤ 0 streams, connections or datagrams",
		"soak-netem, descriptors in the last quarter, median ≤ 1.05 x second quarter",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no bar says %q", want)
		}
	}
}

func TestJudge(t *testing.T) {
	const up = "tcp-1-65520-up"
	veth, peers, slowest := "TCP 1 stream 65520 ns→host ≥ 0.25 of veth", "TCP 1 stream 65520 ns→host ≥ 1 x every peer's best round",
		"TCP 1 stream 65520 ns→host, slowest round ≥ 0.6 of the median"
	rr, retransmits := "TCP_RR p50 ≤ 1.05 x pasta", "retransmits inside the namespace, ns→host, worst round of all the above ≤ 0 segments"
	for _, test := range []struct {
		name   string
		spoil  func(*Results)
		missed []string
		why    string // of all of them; "" when they were measured
	}{
		{"slower than veth allows", func(r *Results) {
			set(r, up, vethName, 16001) // 4000 is just under a quarter
		}, []string{veth}, ""},
		{"exactly a quarter of veth", func(r *Results) { set(r, up, vethName, 16000) }, nil, ""},
		{"one peer has one better round", func(r *Results) {
			set(r, up, slirpName, 1, 2, 4001)
		}, []string{peers}, ""},
		{"one slow round", func(r *Results) {
			set(r, up, vastaName, 2399, 4000, 4000)
		}, []string{slowest}, ""},
		{"the better pasta counts", func(r *Results) {
			set(r, "tcp-rr", "newpasta", 1.9) // vasta's median is 2
		}, []string{rr}, ""},
		{"one retransmit in one round", func(r *Results) {
			r.load("tcp-8-1500-up").series(vastaName).Samples[1].Extra[extraRetransmits] = 1
		}, []string{retransmits}, ""},
		{"a peer that had none", func(r *Results) {
			// 1.5 times none would be none: what is counted is compared with one.
			name := "tbf-" + throttled[0].name()
			for who, n := range map[string]float64{vastaName: 2, vethName: 0, routedName: 2} {
				for _, sample := range r.load(name).series(who).Samples {
					sample.Extra[extraRetransmits] = n
				}
			}
		}, []string{"100 Mbit/s, 50 ms, 100 packets, " + throttled[0].title() + ", retransmits ≤ 1.5 x veth"}, ""},
		{"retransmits the other way", func(r *Results) {
			r.load("tcp-8-1500-down").series(vastaName).Samples[1].Extra[extraRetransmits] = 9
		}, nil, ""},
		{"a peer is missing", func(r *Results) {
			*r.load(up).series(slirpName) = Series{Subject: slirpName, Failures: []string{"round 1: slirp4netns is not installed"}}
		}, []string{peers}, "slirp4netns is not installed"},
		{"a round of vasta failed", func(r *Results) {
			s := r.load("tcp-rr").series(vastaName)
			s.Failures = append(s.Failures, "round 4: the session has ended")
		}, []string{rr}, "round 4: the session has ended"},
		{"a round of a peer failed", func(r *Results) {
			s := r.load("tcp-rr").series(pastaName)
			s.Failures = append(s.Failures, "round 4: the session has ended")
		}, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := fake(perfect)
			test.spoil(r)
			var missed []string
			for _, v := range judge(r) {
				if v.Met {
					continue
				}
				missed = append(missed, v.Row+" "+v.Bar)
				if (test.why == "") != (v.Measured != nil) || !strings.Contains(v.Why, test.why) {
					t.Errorf("measured %v, why %q", v.Measured, v.Why)
				}
			}
			if !slices.Equal(missed, test.missed) {
				t.Errorf("missed %q, want %q", missed, test.missed)
			}
		})
	}
}

// A bar on every cell holds the worst of them, and only those that were selected.
func TestJudgeCells(t *testing.T) {
	name := func(k int) string { return "netem-host-dup-" + cells[k].name() }
	row := "netem 1 % duplicated, host leg, worst cell"
	verdict := func(r *Results) Verdict {
		for _, v := range judge(r) {
			if v.Row == row {
				return v
			}
		}
		return Verdict{Why: "no such row"}
	}
	r := fake(perfect)
	for k := range cells {
		set(r, name(k), vastaName, 90)
		set(r, name(k), vethName, 100)
	}
	if v := verdict(r); !v.Met || *v.Measured != 0.9 {
		t.Errorf("all alike: %+v", v)
	}
	set(r, name(7), vastaName, 600) // in proportion, the worst of all
	set(r, name(7), vethName, 1000)
	if v := verdict(r); v.Met || *v.Measured != 0.6 {
		t.Errorf("one slow cell: %+v", v)
	}
	r.load(name(3)).series(vethName).Samples = nil
	r.load(name(3)).series(vethName).Failures = []string{"round 1: no netem"}
	if v := verdict(r); v.Met || v.Measured != nil || !strings.Contains(v.Why, "no netem") {
		t.Errorf("one cell not measured: %+v", v)
	}
	r.Loads = []LoadResult{*r.load(name(0)), *r.load(name(1))}
	if v := verdict(r); !v.Met || *v.Measured != 0.9 {
		t.Errorf("two cells selected: %+v", v)
	}
	r.Loads = r.Loads[:0]
	if v := verdict(r); v.Why != "no such row" {
		t.Errorf("no cell selected: %+v", v)
	}
}

func set(r *Results, load, subject string, values ...float64) {
	s := r.load(load).series(subject)
	s.Samples = nil
	for i, v := range values {
		s.Samples = append(s.Samples, Sample{Round: i + 1, Value: v, Extra: map[string]float64{extraRetransmits: 0}})
	}
}

func TestUnselectedLoadsAreNotJudged(t *testing.T) {
	r := fake(perfect)
	r.Loads = []LoadResult{*r.load("tcp-1-65520-up"), *r.load("startup")}
	var rows []string
	for _, v := range judge(r) {
		rows = append(rows, v.Row)
	}
	want := []string{
		"TCP 1 stream 65520 ns→host", "TCP 1 stream 65520 ns→host", "TCP 1 stream 65520 ns→host",
		"TCP 1 stream 65520 ns→host, slowest round", "start-up: -- true",
	}
	if !slices.Equal(rows, want) {
		t.Errorf("got %q, want %q", rows, want)
	}
}

// Every subject that a bar speaks of takes part in the load that it speaks of,
// with --quick too.
func TestEveryBarCanBeMeasured(t *testing.T) {
	subjects, err := newSubjects(Options{Vasta: "/bin/true", Peers: []Peer{{"newpasta", []string{"true"}}}}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, quick := range []bool{false, true} {
		r := &Results{}
		for _, s := range subjects {
			r.Subjects = append(r.Subjects, s.SubjectInfo)
		}
		for _, l := range loads {
			lr := LoadResult{Name: l.name, LowerIsBetter: l.lowerIsBetter}
			for _, s := range subjects {
				if l.takesPart(s, quick) {
					lr.Series = append(lr.Series, Series{Subject: s.Name, Samples: []Sample{{Value: 1, Extra: perfectExtras(s.Name)}}})
				}
			}
			r.Loads = append(r.Loads, lr)
		}
		for _, v := range judge(r) {
			if v.Measured == nil || v.Reach != "" && v.ReachMeasured == nil {
				t.Errorf("quick %t: %s %s, reach %s: %s", quick, v.Row, v.Bar, v.Reach, v.Why)
			}
		}
	}
}

func TestPeerNamesAreUnique(t *testing.T) {
	for _, name := range []string{vastaName, pastaName, vethName, spliceName, routedName} {
		o := Options{Vasta: "/bin/true", Peers: []Peer{{name, []string{"true"}}}}
		if _, err := newSubjects(o, t.TempDir()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReport(t *testing.T) {
	r := fake(perfect)
	r.Machine = Machine{Kernel: "6.18 x86_64", CPU: "A|B", Processors: 2, Congestion: congestion, Background: 0.87}
	r.Rounds = 3
	set(r, "tcp-1-65520-up", vastaName, 20, 24, 30)
	set(r, "tcp-1-65520-up", vethName, 48)
	set(r, "tcp-1-65520-up", spliceName, 12)
	set(r, "tcp-1-65520-up", pastaName, 6, 8, 7)
	set(r, "tcp-1-65520-up", "newpasta", 9)
	*r.load("tcp-1-65520-up").series(slirpName) = Series{Subject: slirpName, Failures: []string{"round 1: not there"}}
	r.load("tcp-1-65520-up").series(vastaName).Samples[1].Extra[extraRetransmits] = 4
	r.load("churn").series(vastaName).Samples[0].Note = "connection 5: refused"
	r.Bars = judge(r)

	text := plain(r)
	for _, want := range []string{
		"Warning: other work kept 0.9 processors busy",
		"TCP 1 stream, MTU 65520, ns→host, Gbit/s\n",
		fmt.Sprintf("  %-18s%-14s%-9s%-6s%-9s%-17s%-14s%s\n", "vasta", "24", "20", "30", "0.500", "2", "2.67", "4 retransmits"),
		"  (slirp4netns not measured: round 1: not there)\n",
		"  (best peer: newpasta)\n",
		"  (vasta, round 1: connection 5: refused)\n",
		"MISSED: not measured",
		"(not measured (rows: 1): slirp4netns: round 1: not there)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last, want := lines[len(lines)-1], fmt.Sprintf("bench net: %d of %d bars met, 2 missed (1 of them not measured), 3 rounds, 0 s",
		len(bars)-2, len(bars)); last != want {
		t.Errorf("last line %q, want %q", last, want)
	}

	charts := r.PageCharts()
	chart := charts[slices.IndexFunc(r.Loads, func(l LoadResult) bool { return l.Name == "tcp-1-65520-up" })]
	line := func(subject string) page.Line {
		return chart.Lines[slices.IndexFunc(chart.Lines, func(l page.Line) bool { return l.Name == subject })]
	}
	if v := line(vastaName); chart.Unit != "Gbit/s" || v.Value != 24 || v.Low != 20 || v.High != 30 || !strings.Contains(v.Beside, "4 retransmits") {
		t.Errorf("%s: %+v", chart.Title, v)
	}
	if v := line(slirpName); v.Missing != "round 1: not there" {
		t.Errorf("not measured: %+v", v)
	}
	if b := r.PageBars(); len(b) != len(r.Bars) || b[0].What != r.Bars[0].Row || b[0].Met != r.Bars[0].Met || b[0].Why != r.Bars[0].Why {
		t.Errorf("bars of a page: %+v", b[0])
	}

	md := markdown(r)
	for _, want := range []string{
		`A\|B`, "### TCP 1 stream, MTU 65520, ns→host, Gbit/s\n\n|  | median |",
		"| vasta | 24 | 20 | 30 | 0.500 | 2 | 2.67 | 4 retransmits |\n", "- best peer: newpasta\n",
		fmt.Sprintf("\nbench net: %d of %d bars met", len(bars)-2, len(bars)),
	} {
		if !strings.Contains(md, want) {
			t.Errorf("no %q in\n%s", want, md)
		}
	}
}

func TestNumber(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 7: "7", 12748: "12748", 0.12345: "0.123", 1.2345: "1.23", 12.345: "12.3", 1234.5: "1234", -0.5: "-0.500",
	} {
		if got := number(x); got != want {
			t.Errorf("%v: got %s, want %s", x, got, want)
		}
	}
}
