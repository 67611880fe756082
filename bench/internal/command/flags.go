package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// Flags are the options of a command that takes nothing else.
type Flags struct {
	*flag.FlagSet
}

// NewFlags has none yet; command is the name that a user writes.
func NewFlags(command string) Flags {
	fs := flag.NewFlagSet(command, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return Flags{fs}
}

// List adds an option that names several things, separated by commas. The last one counts.
func (f Flags) List(list *[]string, name string) {
	f.Func(name, "", func(s string) error {
		*list = strings.Split(s, ",")
		return nil
	})
}

// Parse reads a command line. Its errors say where the options are explained; flag.ErrHelp asks for that.
func (f Flags) Parse(args []string) error {
	err := f.FlagSet.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return fmt.Errorf("%w; see %s --help", err, f.Name())
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q; see %s --help", f.Arg(0), f.Name())
	}
	return nil
}
