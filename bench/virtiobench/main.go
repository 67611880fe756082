// Package virtiobench measures the virtio datapath, both ends of it in this process: the command "vasta bench virtio".
package virtiobench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/vasta-net/vasta/bench/internal/command"
)

const usage = `Usage: vasta bench virtio [options]

Measures the virtio datapath with driver and device in one process, each on a
processor of its own, beside the ways in which each part was done before, and
holds the results against the project's bars. Where dpdk-testpmd is installed
(Debian: dpdk-dev, librte-net-virtio23, librte-net-vhost23,
librte-mempool-ring23), its virtio_user and net_vhost are measured too.

  --quick              short rounds, at most 50 seconds in all
  --rounds N           rounds, in which all subjects of a row take turns (default 5)
  --seconds S          duration of each measurement (default 1)
  --only ROW,...       only the rows whose names begin so
  --json FILE          write the results to FILE as JSON
  --html FILE          write them to FILE as one page with charts, which needs no
                       network to be opened
  -q                   no progress on standard error
  --help               show this text

Rows: %s

Exit status: 0 when every bar is met, 1 when one is missed or not measured,
2 when the benchmark cannot run.
`

// Options are the choices of one run.
type Options struct {
	Rounds   int           `json:"rounds"`
	Duration time.Duration `json:"duration_ns"` // of each measurement
	Quick    bool          `json:"quick"`
	Only     []string      `json:"only,omitempty"`

	json  string
	html  string
	quiet bool
}

// Main is the command "vasta bench virtio"; args is what follows that. It returns the exit status.
func Main(args []string, stdout, stderr io.Writer) int {
	return command.Command[Options]{
		Name: commandName, Usage: func() string { return fmt.Sprintf(usage, rows()) }, Parse: parseOptions,
		Run: func(ctx context.Context, o Options, stdout, stderr io.Writer) (missed int, err error) {
			results, err := measure(ctx, o, stderr)
			if err != nil {
				return 0, err
			}
			if err := errors.Join(command.WriteJSON(o.json, results), command.WriteHTML(o.html, newPage(results))); err != nil {
				return 0, err
			}
			return report(stdout, results)
		},
	}.Main(args, stdout, stderr)
}

const commandName = "vasta bench virtio"

// parseOptions reads a command line; flag.ErrHelp asks for the usage text.
func parseOptions(args []string) (o Options, err error) {
	var seconds float64
	fs := command.NewFlags(commandName)
	fs.BoolVar(&o.Quick, "quick", false, "")
	fs.BoolVar(&o.quiet, "q", false, "")
	fs.IntVar(&o.Rounds, "rounds", 5, "")
	fs.Float64Var(&seconds, "seconds", 1, "")
	fs.StringVar(&o.json, "json", "", "")
	fs.StringVar(&o.html, "html", "", "")
	fs.List(&o.Only, "only")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	switch {
	case o.Rounds < 1:
		return o, fmt.Errorf("option --rounds: %d; at least 1", o.Rounds)
	case seconds < 0.05 || seconds > 3600:
		return o, fmt.Errorf("option --seconds: %v; 0.05 to 3600", seconds)
	}
	o.Duration = time.Duration(seconds * float64(time.Second))
	if o.Quick {
		o.Rounds, o.Duration = 3, 150*time.Millisecond
	}
	return o, rows().Check(o.Only)
}

// RowName implements what command.Rows asks for.
func (r row) RowName() string { return r.name }

// measure runs all rows, in rounds. Rows without a paired bar have one round when it has to be quick.
func measure(ctx context.Context, o Options, progress io.Writer) (*Results, error) {
	// The datapaths allocate nothing while they run; the collector is held off what is left of the ones before.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	// Two threads spin: without more Ps than that, whoever waits for the time or collects garbage would take one away from them.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 2))
	list := rows().Named(o.Only)
	results := newResults(o, list)
	repeats := results.planned() / 4 // the run may become longer by so much
	for round := range o.Rounds {
		for i, r := range list {
			turns := r.turnsIn(o)
			if round*turns >= results.Rows[i].Rounds {
				continue
			}
			if !o.quiet {
				fmt.Fprintf(progress, "round %d of %d: %s\n", round+1, o.Rounds, r.name)
			}
			for turn := round * turns; turn < (round+1)*turns; turn++ {
				for k := range r.subjects {
					k = (k + turn) % len(r.subjects) // nobody is always first
					results.Rows[i].Series[k].measure(ctx, r.subjects[k], o.Duration/time.Duration(turns), turn+1, &repeats)
					if ctx.Err() != nil {
						return nil, errors.New("interrupted")
					}
				}
			}
		}
	}
	results.Bars = judge(results)
	return results, nil
}

// attempts is how often a round is measured until it is valid.
const attempts = 3

// measure measures a subject for one round. A round that cannot be trusted is repeated, as long as there are repeats left for the run.
func (s *Series) measure(ctx context.Context, what subject, d time.Duration, round int, repeats *int) {
	for attempt := 1; ; attempt++ {
		x, err := what.run(ctx, d)
		if ctx.Err() != nil {
			return
		}
		x.Round = round
		switch {
		case err != nil:
			s.Failures = append(s.Failures, err.Error())
			return
		case x.Note == "":
			s.Samples = append(s.Samples, x)
			return
		}
		s.Invalid = append(s.Invalid, x)
		if attempt == attempts || *repeats == 0 {
			return
		}
		*repeats--
	}
}
