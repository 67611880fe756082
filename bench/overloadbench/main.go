// Package overloadbench measures what is lost when producers are faster than their consumer, and what it costs to lose nothing: the command
// "vasta bench overload".
package overloadbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/bench/internal/command"
)

const usage = `Usage: vasta bench overload [options]

Has 1, 4 and 8 producers send to a consumer that takes a quarter of what they
can make, in both modes (drop, backpressure), through the ring, through a link
in this process and out of a TAP; sends bursts out of a TAP, and through vasta;
and holds what was delivered, what was lost and what it cost against the
project's bars. TCP in both modes, with 1, 4 and 8 streams: vasta bench net
--only overload.

  --lab                instead, the kernel's packet generator through vasta with
                       and without vhost-net, in a virtual machine; see --lab --help

  --quick              200,000 frames in each cell, at most 50 seconds in all
  --count N            frames in each cell (default 10000000)
  --vasta FILE         measure this vasta (default: the one that is run)
  --only ROW,...       only the rows whose names begin so
  --json FILE          write the results to FILE as JSON
  -q                   no progress on standard error
  --help               show this text

Rows: %s

The TAP is made in a network namespace of the benchmark's own, which takes root
or a user namespace. Exit status: 0 when every bar is met, 1 when one is missed
or not measured, 2 when the benchmark cannot run.
`

// Options are the choices of one run.
type Options struct {
	Count uint64   `json:"count"`
	Quick bool     `json:"quick"`
	Only  []string `json:"only,omitempty"`

	Vasta string `json:"-"` // the program

	json  string
	quiet bool
}

// Results are all that was measured.
type Results struct {
	Machine command.Machine `json:"machine"`
	Options Options         `json:"options"`
	Rows    []RowResult     `json:"rows"`
	Bars    []command.Bar   `json:"bars"`
	Source  []string        `json:"source"` // the source's own figures
}

// RowResult is what a row came to.
type RowResult struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Samples []Sample `json:"samples"`
	Failure string   `json:"failure,omitempty"`
}

// Main is the command "vasta bench overload"; args is what follows that. It returns the exit status.
func Main(args []string, stdout, stderr io.Writer) int {
	return command.Command[Options]{
		Name: commandName, Usage: func() string { return fmt.Sprintf(usage, rows()) }, Parse: parseOptions,
		Run: func(ctx context.Context, o Options, stdout, stderr io.Writer) (missed int, err error) {
			results, err := measure(ctx, o, stderr)
			if err != nil {
				return 0, err
			}
			if err := command.WriteJSON(o.json, results); err != nil {
				return 0, err
			}
			return report(stdout, results)
		},
	}.Main(args, stdout, stderr)
}

const commandName = "vasta bench overload"

// parseOptions reads a command line; flag.ErrHelp asks for the usage text.
func parseOptions(args []string) (o Options, err error) {
	fs := command.NewFlags(commandName)
	fs.BoolVar(&o.Quick, "quick", false, "")
	fs.BoolVar(&o.quiet, "q", false, "")
	fs.Uint64Var(&o.Count, "count", 10_000_000, "")
	fs.StringVar(&o.Vasta, "vasta", "", "")
	fs.StringVar(&o.json, "json", "", "")
	fs.List(&o.Only, "only")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.Count < 1000 {
		return o, fmt.Errorf("option --count: %d; at least 1000", o.Count)
	}
	if o.Vasta, err = command.Program(o.Vasta); err != nil {
		return o, err
	}
	if o.Quick {
		o.Count = 200_000
	}
	return o, rows().Check(o.Only)
}

// RowName implements what command.Rows asks for.
func (r row) RowName() string { return r.name }

// measure runs all rows.
func measure(ctx context.Context, o Options, progress io.Writer) (*Results, error) {
	r := &Results{Machine: command.ThisMachine(), Options: o, Source: source}
	// Producers and consumers are threads that hardly ever wait in the kernel: without a P for each, and some, they would wait for each other's.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(12))
	list := rows().Named(o.Only)
	for i, x := range list {
		if !o.quiet {
			fmt.Fprintf(progress, "row %d of %d: %s\n", i+1, len(list), x.title)
		}
		one := RowResult{Name: x.name, Title: x.title}
		var err error
		if one.Samples, err = inNamespace(func() ([]Sample, error) { return x.run(ctx, &o) }); err != nil {
			one.Failure = err.Error()
		}
		if ctx.Err() != nil {
			return nil, errors.New("interrupted")
		}
		r.Rows = append(r.Rows, one)
	}
	r.Bars = judge(r)
	return r, nil
}

// inNamespace runs f in a thread that has a network namespace of its own, where that is to be had, and ends with it.
func inNamespace(f func() ([]Sample, error)) (s []Sample, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and not unlocked: the thread ends here
		failed := unix.Unshare(unix.CLONE_NEWNET)
		if s, err = f(); err != nil && failed != nil {
			err = fmt.Errorf("%w (in the caller's network namespace: one of its own cannot be made: %w; run it as root, or as vasta -- vasta bench overload)", err, failed)
		}
	}()
	<-done
	return s, err
}

// report writes the tables, and the summary as the last line. It returns how many bars were missed.
func report(w io.Writer, r *Results) (missed int, err error) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range r.Rows {
		fmt.Fprintf(t, "\n%s: %s\n", row.Name, row.Title)
		if row.Failure != "" {
			fmt.Fprintf(t, "not measured: %s\n", row.Failure)
		}
		if len(row.Samples) > 0 {
			fmt.Fprint(t, "mode\ttransmitted\tdelivered\tdelivered/s\tlost\tlost/s\tcounted\tgenerator %\tswitches/M\tcalls/frame\twakes/frame\tp50 µs\tp99 µs\n")
		}
		for _, s := range row.Samples {
			fmt.Fprintf(t, "%s\t%d\t%d\t%.0f\t%d\t%.0f\t%d\t%.0f\t%.0f\t%.3f\t%.6f\t%.0f\t%.0f\n", s.Mode, s.Transmitted, s.Delivered, s.PerSecond, s.Lost, s.LostSecond, s.Counted,
				100*s.Generator, s.Switches, s.Calls, s.Wakes, float64(s.P50)/1e3, float64(s.P99)/1e3)
		}
	}
	fmt.Fprint(t, "\nThe source's own figures:\n")
	for _, line := range r.Source {
		fmt.Fprintf(t, "  %s\n", line)
	}
	fmt.Fprint(t, "\nbar\tmeasured\twant\t\n")
	for i := range r.Bars {
		b := &r.Bars[i]
		measured := "–"
		if b.Measured != nil {
			measured = fmt.Sprintf("%.4g", *b.Measured)
		}
		if !b.Met {
			missed++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", b.Row, measured, b.Want, b.State())
	}
	if err := t.Flush(); err != nil {
		return 0, err
	}
	_, err = fmt.Fprintf(w, "\n%d of %d bars met, %d missed\n", len(r.Bars)-missed, len(r.Bars), missed)
	return missed, err
}
