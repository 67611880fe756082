package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit statuses of Main.
const (
	Met    = 0
	Missed = 1 // a bar was missed, or not measured
	Failed = 2 // the benchmark could not run
)

// Command is a command of vasta's that measures something. O are its options.
type Command[O any] struct {
	Name  string                         // as a user writes it, "vasta bench all"
	Usage func() string                  // the text that --help shows
	Parse func(args []string) (O, error) // reads a command line; flag.ErrHelp asks for the usage text
	// Run measures, and writes the results where o says and a report to stdout; how it goes on is told to stderr. It ends early when ctx does, and returns how many bars were
	// missed or not measured.
	Run func(ctx context.Context, o O, stdout, stderr io.Writer) (missed int, err error)
}

// Main runs the command; args is what follows its name. A signal ends it, and what goes wrong is one line on stderr. It returns the exit status.
func (c Command[O]) Main(args []string, stdout, stderr io.Writer) int {
	o, err := c.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, c.Usage())
		return Met
	}
	missed := 0
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		missed, err = c.Run(ctx, o, stdout, stderr)
	}
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "%s: %s\n", c.Name, OneLine(err))
		return Failed
	case missed > 0:
		return Missed
	}
	return Met
}

// OneLine is what an error says, on one line: errors that were joined have one each.
func OneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// Program is the vasta to measure: path, which option --vasta names, or the one that runs when that is "".
func Program(path string) (string, error) {
	if path != "" {
		return path, nil
	}
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("vasta's own binary: %w; give its path with --vasta", err)
	}
	return path, nil
}
