package netbench

import (
	"slices"
	"time"

	"github.com/vasta-net/vasta/bench/internal/rounds"
)

// Sample is what one round of one load measured for one subject.
type Sample struct {
	Round int     `json:"round"` // from 1
	Value float64 `json:"value"` // in the load's unit
	// Extra holds what was measured beside it, by name.
	Extra map[string]float64 `json:"extra,omitempty"`
	// Note says in words what a number does not.
	Note string `json:"note,omitempty"`
}

// Names of the values in Sample.Extra.
const (
	extraRetransmits = "retransmits" // TCP segments sent again by the sender
	extraP99         = "p99 µs"      // of the exchange times
	extraRate        = "per second"  // exchanges
	extraLost        = "lost"        // datagrams without an answer
	extraToolCPU     = "tool s/GiB"  // processor time of the tool's own processes
	extraTotal       = "total MiB"   // memory of the tool with all connections open
	extraGbit        = "Gbit/s"      // speed of a transfer measured for something else
	extraP50         = "p50 µs"
	extraCPU         = "s/GiB"        // processor time of the whole machine
	extraReordered   = "out of order" // segments within a flow, at the receiver
	extraResidence   = "residence p99 ms"
	extraStarved     = "% of its time without a processor" // of the time that threads of the tool could have run
	extraWrong       = "wrong"                             // flows or connections that carried wrong bytes
	extraPromised    = "promised MiB"                      // windows that guests are told of
	extraMemory      = "memory MiB"                        // of the tool, under the load
	extraBusy        = "processors busy"
	extraCut         = "cut"   // streams whose last bytes were not waited for
	extraStuck       = "stuck" // of them, those of which nothing had come for long
	extraTried       = "tried" // connections
	extraLeft        = "left"  // flows, descriptors, goroutines, pages and promises that the load has left behind
)

// Series is everything measured for one subject under one load.
type Series struct {
	Subject string   `json:"subject"`
	Samples []Sample `json:"samples,omitempty"`
	// Failures says, one line each, which rounds could not be measured and why.
	Failures []string `json:"failures,omitempty"`
}

// LoadResult is everything measured under one load.
type LoadResult struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Table is the heading that the load shares with others, of which each is a row then; "" for a table of its own.
	Table         string   `json:"table,omitempty"`
	Unit          string   `json:"unit"`
	LowerIsBetter bool     `json:"lowerIsBetter,omitempty"`
	Series        []Series `json:"series"` // in the order of the subjects
}

// SubjectInfo describes one subject of a run.
type SubjectInfo struct {
	Name       string `json:"name"`
	Class      Class  `json:"class"`
	PastaLike  bool   `json:"pastaLike,omitempty"`
	Version    string `json:"version,omitempty"`
	Command    string `json:"command,omitempty"`
	Congestion string `json:"congestion,omitempty"` // default where its load is made
	Absent     string `json:"absent,omitempty"`     // why it was not measured
}

// Results is everything that a run measured.
type Results struct {
	Machine  Machine       `json:"machine"`
	Started  time.Time     `json:"started"`
	Elapsed  time.Duration `json:"elapsedNanoseconds"`
	Rounds   int           `json:"rounds"`
	Quick    bool          `json:"quick,omitempty"`
	Seconds  float64       `json:"secondsPerLoad"`
	Subjects []SubjectInfo `json:"subjects"`
	Loads    []LoadResult  `json:"loads"`
	Bars     []Verdict     `json:"bars"`
	// NetemRate is what each direction of a netem carried at most, in Mbit/s; 0 for no limit.
	NetemRate int      `json:"netemMbit,omitempty"`
	Lab       *LabInfo `json:"lab,omitempty"` // nil when all was measured on one machine
}

// load returns the results of the named load, nil when it was not selected.
func (r *Results) load(name string) *LoadResult {
	i := slices.IndexFunc(r.Loads, func(l LoadResult) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Loads[i]
}

// series returns the subject's series, nil when it has none.
func (l *LoadResult) series(subject string) *Series {
	i := slices.IndexFunc(l.Series, func(s Series) bool { return s.Subject == subject })
	if i < 0 {
		return nil
	}
	return &l.Series[i]
}

// values returns the samples' values, or their extra values of that name.
func (s *Series) values(extra string) []float64 {
	var v []float64
	for _, sample := range s.Samples {
		if extra == "" {
			v = append(v, sample.Value)
		} else if x, ok := sample.Extra[extra]; ok {
			v = append(v, x)
		}
	}
	return v
}

// stat is a way to make one number of several rounds.
type stat int

const (
	statMedian stat = iota
	statBest
	statWorst
)

// of applies the statistic to v, which is not empty.
func (s stat) of(v []float64, lowerIsBetter bool) float64 {
	switch {
	case s == statMedian:
		return rounds.Median(v)
	case (s == statBest) == lowerIsBetter:
		return slices.Min(v)
	default:
		return slices.Max(v)
	}
}
