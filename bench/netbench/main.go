package netbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/vasta-net/vasta/bench/internal/command"
)

// Exit statuses of Main.
const (
	exitMet    = 0
	exitMissed = 1 // a bar was missed, or not measured
	exitFailed = 2 // the benchmark could not run
)

// Main is the command "vasta bench net". It returns the exit status.
func Main(args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args)
	if errors.Is(err, errHelp) {
		fmt.Fprintf(stdout, usage, strings.Join(loadNames(), ", "))
		return exitMet
	}
	if err != nil {
		return fail(stderr, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	results, err := measureAll(ctx, o, stderr)
	if err != nil {
		return fail(stderr, err)
	}
	if err := command.WriteJSON(o.JSON, results); err != nil {
		return fail(stderr, err)
	}
	if o.Markdown != "" {
		if err := os.WriteFile(o.Markdown, []byte(markdown(results)), 0o644); err != nil {
			return fail(stderr, fmt.Errorf("option --markdown: %w", err))
		}
	}
	if _, err := io.WriteString(stdout, plain(results)); err != nil {
		return fail(stderr, err)
	}
	if tally(results.Bars).missed > 0 {
		return exitMissed
	}
	return exitMet
}

// measureAll measures on this machine and in the lab, whatever o asks for.
func measureAll(ctx context.Context, o Options, progress io.Writer) (results *Results, err error) {
	if len(selectLoads(o)) > 0 {
		if results, err = measure(ctx, o, progress); err != nil {
			return nil, err
		}
	}
	if !o.Lab || len(labLoads(o)) == 0 {
		return results, nil
	}
	inLab, err := measureInLab(ctx, o, progress)
	if ctx.Err() != nil {
		return nil, errInterrupted
	}
	if err != nil {
		// What else was measured is not lost for it.
		if inLab, err = notInLab(o, err); err != nil {
			return nil, err
		}
	}
	if results == nil {
		inLab.Bars = judge(inLab)
		return inLab, nil
	}
	results.join(inLab)
	return results, nil
}

// fail reports err on one line.
func fail(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "vasta bench net: %s\n", oneLine(err))
	return exitFailed
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
