package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

type options struct {
	only  []string
	count int
}

func parse(args []string) (o options, err error) {
	fs := NewFlags("vasta bench cats")
	fs.IntVar(&o.count, "count", 1, "")
	fs.List(&o.only, "only")
	return o, fs.Parse(args)
}

// TestMainStatus holds what each end of a command looks like from outside.
func TestMainStatus(t *testing.T) {
	for _, test := range []struct {
		args           string
		missed         int
		err            error
		status         int
		stdout, stderr string
	}{
		{args: "", status: Met, stdout: "1 []\n"},
		{args: "--count 5 --only a --only b,c", status: Met, stdout: "5 [b c]\n"},
		{args: "", missed: 3, status: Missed, stdout: "1 []\n"},
		{args: "", missed: 3, err: errors.New("no such cat"), status: Failed, stdout: "1 []\n", stderr: "vasta bench cats: no such cat\n"},
		{args: "", err: errors.Join(errors.New("a cat"), errors.New("a mouse")), status: Failed, stdout: "1 []\n", stderr: "vasta bench cats: a cat; a mouse\n"},
		{args: "--help", status: Met, stdout: "Usage: cats\n"},
		{args: "--count 5 -h", status: Met, stdout: "Usage: cats\n"},
		{args: "now", status: Failed, stderr: "vasta bench cats: unexpected argument \"now\"; see vasta bench cats --help\n"},
		{args: "--dogs", status: Failed, stderr: "vasta bench cats: flag provided but not defined: -dogs; see vasta bench cats --help\n"},
	} {
		c := Command[options]{
			Name: "vasta bench cats", Usage: func() string { return "Usage: cats\n" }, Parse: parse,
			Run: func(_ context.Context, o options, stdout, _ io.Writer) (int, error) {
				fmt.Fprintln(stdout, o.count, o.only)
				return test.missed, test.err
			},
		}
		var stdout, stderr strings.Builder
		if status := c.Main(strings.Fields(test.args), &stdout, &stderr); status != test.status || stdout.String() != test.stdout || stderr.String() != test.stderr {
			t.Errorf("%q: %d, %q, %q", test.args, status, stdout.String(), stderr.String())
		}
	}
}

// TestInterrupt: a signal ends the context of a command and not the program.
func TestInterrupt(t *testing.T) {
	c := Command[options]{
		Parse: parse,
		Run: func(ctx context.Context, _ options, _, _ io.Writer) (int, error) {
			if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
				return 0, err
			}
			<-ctx.Done()
			return 0, errors.New("interrupted")
		},
	}
	var stderr strings.Builder
	if status := c.Main(nil, io.Discard, &stderr); status != Failed || !strings.Contains(stderr.String(), "interrupted") {
		t.Errorf("%d, %q", status, stderr.String())
	}
}

func TestFlags(t *testing.T) {
	o, err := parse([]string{"--only=a,b"})
	if err != nil || !slices.Equal(o.only, []string{"a", "b"}) {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := parse([]string{"--count=few"}); err == nil || errors.Is(err, flag.ErrHelp) || !strings.HasSuffix(err.Error(), "; see vasta bench cats --help") {
		t.Error(err)
	}
}

func TestProgram(t *testing.T) {
	if p, err := Program("./v"); p != "./v" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	self, err := os.Executable()
	if p, e := Program(""); err != nil || e != nil || p != self {
		t.Errorf("%q, %v, %v", p, err, e)
	}
}
