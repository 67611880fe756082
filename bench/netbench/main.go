package netbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/vasta-net/vasta/bench/internal/command"
)

// Main is the command "vasta bench net"; args is what follows that. It returns the exit status.
func Main(args []string, stdout, stderr io.Writer) int {
	return command.Command[Options]{
		Name: commandName, Usage: func() string { return fmt.Sprintf(usage, strings.Join(loadNames(), ", ")) }, Parse: parseOptions,
		Run: func(ctx context.Context, o Options, stdout, stderr io.Writer) (missed int, err error) {
			results, err := measureAll(ctx, o, stderr)
			if err != nil {
				return 0, err
			}
			if err := errors.Join(command.WriteJSON(o.JSON, results), writeMarkdown(o.Markdown, results)); err != nil {
				return 0, err
			}
			_, err = io.WriteString(stdout, plain(results))
			return tally(results.Bars).missed, err
		},
	}.Main(args, stdout, stderr)
}

const commandName = "vasta bench net"

// writeMarkdown writes the tables to the file that option --markdown names; "" is none.
func writeMarkdown(file string, r *Results) error {
	if file == "" {
		return nil
	}
	if err := os.WriteFile(file, []byte(markdown(r)), 0o644); err != nil {
		return fmt.Errorf("option --markdown: %w", err)
	}
	return nil
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
