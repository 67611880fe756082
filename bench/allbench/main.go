// Package allbench runs the benchmarks of all rows that the project implements, each beside what its source has measured, and writes one report: the command
// "vasta bench all".
package allbench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/bench/internal/page"
)

const usage = `Usage: vasta bench all [options]

Runs the benchmarks of the rows that vasta implements, one after the other, and
writes one report, in which each row stands beside its source's own figures.
What cannot run, for want of a tool, a right or a device, is reported in its
place, and the others run.

  --quick              smaller loads, some 10 minutes in all
  --least              as little of each as there can be, in seconds, and nothing
                       in the guest machine: shows that it runs, not how fast
  --only ROW,...       only these rows
  --vasta FILE         measure this vasta (default: the one that is run)
  --html FILE          write the report to FILE as one page with charts, which
                       needs no network to be opened
  --json FILE          write it to FILE as JSON
  -q                   no progress on standard error
  --help               show this text

Rows:
%s
Exit status: 0 when every bar is met, 1 when one is missed or not measured,
2 when the benchmark cannot run.
`

// form is how much of everything is measured.
type form int

const (
	full form = iota
	quick
	least
)

func (f form) String() string { return [...]string{"full", "quick", "least"}[f] }

// options are the choices of one run.
type options struct {
	form       form
	only       []string
	vasta      string // the program to measure, "" for this one
	json, html string
	quiet      bool
}

// Results are all that was measured.
type Results struct {
	command.Machine
	Began    time.Time       `json:"began"`
	Elapsed  time.Duration   `json:"elapsed_ns"`
	Form     string          `json:"form"` // full, quick, least
	Sections []SectionResult `json:"sections"`
}

// SectionResult is what became of a row.
type SectionResult struct {
	Name   string        `json:"name"`
	Title  string        `json:"title"`
	About  string        `json:"about"`
	Source []page.Figure `json:"source"` // the source's own figures
	Parts  []PartResult  `json:"parts"`
}

// PartResult is what became of one of its benchmarks.
type PartResult struct {
	Command string          `json:"command"`
	Elapsed time.Duration   `json:"elapsed_ns"`
	Failure string          `json:"failure,omitempty"` // why there are no results
	Results json.RawMessage `json:"results,omitempty"` // as the benchmark has written them

	text  string       // as it has shown them
	shown page.Section // its bars and charts
}

// Main is the command "vasta bench all"; args is what follows that. It returns the exit status.
func Main(args []string, stdout, stderr io.Writer) int {
	return command.Command[options]{
		Name: commandName, Usage: func() string { return fmt.Sprintf(usage, list(sections())) }, Parse: parseOptions, Run: measure,
	}.Main(args, stdout, stderr)
}

const commandName = "vasta bench all"

// measure runs the sections that were chosen and reports them.
func measure(ctx context.Context, o options, stdout, stderr io.Writer) (missed int, err error) {
	program, err := command.Program("") // the benchmarks are in this one, whatever they measure
	if err != nil {
		return 0, err
	}
	if o.quiet {
		stderr = io.Discard
	}
	r, err := run(ctx, program, o, command.Rows[section](sections()).Named(o.only), stderr)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(command.WriteJSON(o.json, r), command.WriteHTML(o.html, newPage(r))); err != nil {
		return 0, err
	}
	return report(stdout, r)
}

// list has a line for each section.
func list(sections []section) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range sections {
		fmt.Fprintf(t, "  %s\t%s\tabout %v, with --quick %v\n", s.name, s.title, s.takes(full), s.takes(quick))
	}
	_ = t.Flush() // into memory
	return b.String()
}

// parseOptions reads a command line; flag.ErrHelp asks for the usage text.
func parseOptions(args []string) (o options, err error) {
	fs := command.NewFlags(commandName)
	isQuick, isLeast := fs.Bool("quick", false, ""), fs.Bool("least", false, "")
	fs.BoolVar(&o.quiet, "q", false, "")
	fs.StringVar(&o.vasta, "vasta", "", "")
	fs.StringVar(&o.json, "json", "", "")
	fs.StringVar(&o.html, "html", "", "")
	fs.List(&o.only, "only")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	switch {
	case *isQuick && *isLeast:
		return o, errors.New("options --quick and --least: one of them; leave the other out")
	case *isQuick:
		o.form = quick
	case *isLeast:
		o.form = least
	}
	return o, command.Rows[section](sections()).Check(o.only)
}
