// Command vasta gives a command in a Linux namespace a network without privileges.
//
// This package only decides what is asked for: the name it was called by, the command line (package options), and the
// exit status. What is asked for is done elsewhere.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/vasta-net/vasta/bench"
	"github.com/vasta-net/vasta/bench/pktgen"
	"github.com/vasta-net/vasta/internal/app"
	"github.com/vasta-net/vasta/internal/options"
	"github.com/vasta-net/vasta/netns"
)

// Exit statuses of vasta's own; every other is that of the command it ran.
const (
	exitOK      = 0
	exitFailure = 1
)

func main() {
	// The helper process inside a namespace is this program too, and must do nothing before it knows that.
	if netns.StageMain() {
		return
	}
	// So is the first process of the guest machine that benchmarks run in.
	if bench.GuestMain() {
		return
	}
	if status, ok := app.DemoInside(os.Stdout, os.Stderr); ok {
		os.Exit(status)
	}
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run does what argv, a whole command line with the program's name, asks for and gives the exit status.
func run(argv []string, stdout, stderr io.Writer) int {
	if len(argv) == 0 {
		argv = []string{"vasta"}
	}
	if name := foreignName(argv[0]); name != "" {
		return fail(stderr, exitFailure, fmt.Errorf("called as %q: vasta does not stand in for %s yet; call it vasta, or install %s itself", filepath.Base(argv[0]), name, name))
	}
	opts, err := options.Parse(argv[1:])
	if err != nil {
		return fail(stderr, exitFailure, err)
	}
	status := exitOK
	switch opts.Command {
	case options.Run:
		status, err = app.Run(&opts)
	case options.Attach:
		status, err = app.Attach(&opts)
	case options.Demo:
		status, err = app.Demo(&opts)
	case options.Bench:
		status = bench.Main(opts.Args, stdout, stderr)
	case options.Pktgen:
		status = pktgen.Main(opts.Args, stdout, stderr)
	case options.Doctor:
		err = writeDiagnosis(stdout, opts.JSON)
	case options.Help:
		err = options.WriteHelp(stdout)
	case options.Man:
		err = options.WriteMan(stdout, version)
	case options.Completion:
		err = options.WriteCompletion(stdout, opts.Shell)
	case options.Version:
		err = writeVersion(stdout)
	default:
		err = fmt.Errorf("%s is not built yet; docs/progress.md says what is", opts.Command)
	}
	if err != nil {
		return fail(stderr, status, err)
	}
	return status
}

// foreignName gives the program of the passt family that the base of path names, by the rule that passt has for its own
// names; empty for any other.
func foreignName(path string) string {
	base := filepath.Base(path)
	for _, name := range []string{"pasta", "passt", "pesto"} {
		if strings.Contains(base, name) {
			return name
		}
	}
	return ""
}

// fail reports an error, each part of it in one line, and gives the exit status: one that says what failed is kept.
func fail(stderr io.Writer, status int, err error) int {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "vasta: %s\n", strings.TrimRight(line, "\n"))
	}
	if status == exitOK {
		return exitFailure
	}
	return status
}
