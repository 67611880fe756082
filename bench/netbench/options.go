package netbench

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/vasta-net/vasta/bench/internal/command"
)

// Options are the choices of one run.
type Options struct {
	Quick    bool
	Rounds   int
	Duration time.Duration // of each timed load; whole seconds
	Only     []string      // names or beginnings of names of loads; empty for all
	JSON     string        // file for the results, "" for none
	Markdown string        // file for the tables, "" for none
	Vasta    string        // path of the binary under test, "" for the running one
	Peers    []Peer
	Quiet    bool
	Lab      bool          // also measure what needs netem, in the guest machine
	Here     bool          // also measure what needs netem, on this machine
	Cells    int           // of each netem, so many are measured
	Rate     int           // that each direction of a netem carries at most, in Mbit/s; 0 for no limit
	Soak     time.Duration // of soak and soak-netem
	// LabRounds and LabDuration are what Rounds and Duration are in the guest machine.
	LabRounds   int
	LabDuration time.Duration
}

// Peer is another program with pasta's command line.
type Peer struct {
	Name string
	Argv []string
}

const usage = `Usage: vasta bench net [options]

Measures vasta, its peers (pasta, slirp4netns), plain veth and a splice(2) relay
side by side in a lab of two network namespaces, and holds the results against
the project's bars. Needs root and iperf3.

  --quick              one short round, at most 50 seconds in all; of workers,
                       latency, flows, churn, UDP rates, DNS, policy, inbound and overload
                       only what --only names, smaller
  --rounds N           interleaved rounds (default 5)
  --seconds N          duration of each timed load (default 2)
  --only LOAD,...      only the loads whose names begin so
  --lab                also measure what needs netem, in a virtual machine that
                       has it: netem and tbf, 3 rounds of 8 s without --rounds
                       and --seconds; with --quick 1 round of 1 s and 1 cell,
                       beyond its 50 seconds
  --here               measure that on this machine, whose kernel has netem
  --cells N            of each netem, only the first N of 12 cells
  --rate MBIT          what each direction of a netem carries at most, 0 for no
                       limit (default 50): the network and not the emulated
                       processors shall set the speed
  --soak DURATION      how long soak and soak-netem last, which are measured only
                       when --only names them (default 1h)
  --json FILE          write the results to FILE as JSON
  --markdown FILE      write the tables to FILE as Markdown
  --vasta PATH         measure this binary instead of the running one
  --peer NAME=CMDLINE  also measure another binary with pasta's command line
  -q                   no progress on standard error
  --help               show this text

Loads: %s

Exit status: 0 when every bar is met, 1 when one is missed or not measured,
2 when the benchmark cannot run.
`

// What the issue asks for in the lab; in seconds.
const (
	labRounds   = 3
	labDuration = 8
)

// netemRate is what vasta and the kernel both carry easily under emulation. Without a limit, and without any netem, vasta moves there
// 0.24 to 0.42 of what veth does, because everything is as fast as the emulated processors.
const netemRate = 50

// minSoak has a few looks in each quarter.
const minSoak = 10 * time.Second

// parseOptions reads a command line. Its errors are one line; flag.ErrHelp asks for the usage text.
func parseOptions(args []string) (Options, error) {
	var o Options
	var seconds int
	fs := command.NewFlags(commandName)
	fs.BoolVar(&o.Quick, "quick", false, "")
	fs.BoolVar(&o.Quiet, "q", false, "")
	fs.IntVar(&o.Rounds, "rounds", 5, "")
	fs.IntVar(&seconds, "seconds", 2, "")
	fs.BoolVar(&o.Lab, "lab", false, "")
	fs.BoolVar(&o.Here, "here", false, "")
	fs.IntVar(&o.Cells, "cells", len(cells), "")
	fs.IntVar(&o.Rate, "rate", netemRate, "")
	fs.DurationVar(&o.Soak, "soak", time.Hour, "")
	fs.StringVar(&o.JSON, "json", "", "")
	fs.StringVar(&o.Markdown, "markdown", "", "")
	fs.StringVar(&o.Vasta, "vasta", "", "")
	fs.List(&o.Only, "only")
	fs.Func("peer", "", func(s string) error {
		name, cmdline, ok := strings.Cut(s, "=")
		argv := strings.Fields(cmdline)
		if !ok || name == "" || len(argv) == 0 {
			return errors.New("want NAME=CMDLINE")
		}
		o.Peers = append(o.Peers, Peer{Name: name, Argv: argv})
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return Options{}, err
	}
	set := make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
	switch {
	case o.Rounds < 1:
		return Options{}, fmt.Errorf("option --rounds: %d is not a number of rounds; give 1 or more", o.Rounds)
	case seconds < 1:
		return Options{}, fmt.Errorf("option --seconds: %d is not a duration; give 1 or more", seconds)
	case o.Cells < 1 || o.Cells > len(cells):
		return Options{}, fmt.Errorf("option --cells: %d is not a number of cells; give 1 to %d", o.Cells, len(cells))
	case o.Soak < minSoak:
		return Options{}, fmt.Errorf("option --soak: %v is too short; give %v or more", o.Soak, minSoak)
	case o.Rate < 0:
		return Options{}, fmt.Errorf("option --rate: %d is not a speed; give Mbit/s, or 0", o.Rate)
	case o.Lab && o.Here:
		return Options{}, errors.New("options --lab and --here: netem is either in the virtual machine or here; leave one out")
	case o.Quick && (set["rounds"] || set["seconds"]):
		return Options{}, errors.New("option --quick: it sets --rounds and --seconds itself; leave them out")
	}
	labSeconds := seconds
	if o.LabRounds = o.Rounds; !set["rounds"] {
		o.LabRounds = labRounds
	}
	if !set["seconds"] {
		labSeconds = labDuration
	}
	if o.Quick {
		o.Rounds, seconds, o.LabRounds, labSeconds = 1, 1, 1, 1
		if !set["cells"] {
			o.Cells = 1
		}
	}
	o.Duration, o.LabDuration = time.Duration(seconds)*time.Second, time.Duration(labSeconds)*time.Second
	for _, name := range o.Only {
		named := Options{Only: []string{name}, Cells: o.Cells}
		if len(selectLoads(named)) > 0 {
			continue
		}
		named.Here = true
		if len(selectLoads(named)) == 0 {
			return Options{}, fmt.Errorf("option --only: no load is named %q; the loads are %s", name, strings.Join(loadNames(), ", "))
		}
		if !o.Lab && !o.Here {
			return Options{}, fmt.Errorf("option --only: %q needs netem; add --lab, or --here on a machine that has it", name)
		}
	}
	return o, nil
}
