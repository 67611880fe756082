// Command lab makes the images of the guest machine, and runs one command in it.
//
//	lab image                                     makes the images of all kernels
//	lab run [-kernel K] [-uid N] COMMAND [ARG...]  runs a command in a machine, with the exit status
//
// "lab run" fits the option -exec of go test. The command sees the folder of the working directory's module (or that directory) under the
// same path, read-only, and runs in the same working directory. Variables of the environment that begin with VASTA_ are passed on. A
// command whose path is a file outside of that folder is copied in.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/internal/lab"
	"github.com/vasta-net/vasta/internal/lab/image"
	"github.com/vasta-net/vasta/internal/lab/machine"
)

func main() {
	if machine.GuestMain() {
		return
	}
	os.Exit(status(command(os.Args[1:])))
}

// command does what the command line asks for.
func command(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	switch {
	case len(args) == 1 && args[0] == "image":
		return makeImages(ctx)
	case len(args) > 1 && args[0] == "run":
		return run(ctx, args[1:])
	}
	return errors.New("usage: lab image, or lab run [-kernel K] [-uid N] COMMAND [ARG...]")
}

// status is the exit status: that of the command in the machine when it is all that went wrong, which the command has told itself.
func status(err error) int {
	var exit *machine.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Signal == 0:
		return exit.Status
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	return 1
}

func makeImages(ctx context.Context) error {
	for _, kernel := range image.Kernels {
		img, err := image.Get(ctx, kernel, os.Stdout)
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, kernel, img.Release, img.Kernel)
	}
	return nil
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("lab run", flag.ContinueOnError)
	kernel := flags.String("kernel", "6.12", "one of "+strings.Join(image.Kernels, ", "))
	uid := flags.Uint("uid", 0, "user of the command: 0, or 1000 for an ordinary one")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("no command")
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	source := moduleRoot(dir)
	m, err := machine.Boot(ctx, machine.Config{Kernel: *kernel, Source: source, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()

	argv := flags.Args()
	if argv[0], err = share(m, source, argv[0]); err != nil {
		return err
	}
	c := m.Command(argv...)
	c.Dir, c.User = dir, lab.User{UID: uint32(*uid), GID: uint32(*uid)}
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "VASTA_") {
			c.Env = append(c.Env, variable)
		}
	}
	return c.Run(ctx)
}

// moduleRoot is the folder of the Go module that dir is in, or dir.
func moduleRoot(dir string) string {
	for up := dir; up != "/"; up = filepath.Dir(up) {
		if _, err := os.Stat(filepath.Join(up, "go.mod")); err == nil {
			return up
		}
	}
	return dir
}

// share returns the path of a program in the guest. A file that the guest does not see is copied.
func share(m *machine.Machine, source, program string) (string, error) {
	if !strings.Contains(program, "/") || strings.HasPrefix(program, source+"/") {
		return program, nil
	}
	in, err := os.Open(program)
	if errors.Is(err, os.ErrNotExist) {
		return program, nil // a path of the guest's own
	}
	if err != nil {
		return "", err
	}
	defer in.Close()
	return m.Install(filepath.Base(program), in)
}
