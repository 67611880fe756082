package allbench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vasta-net/vasta/bench/internal/command"
)

// endLimit is how long a benchmark that is told to end may take to clean up.
const endLimit = 20 * time.Second

// leastTakes is about how long a part takes in the least form.
const leastTakes = 3 * time.Second

// duration is about how long a part takes.
func (p part) duration(f form) time.Duration {
	switch {
	case f != least:
		return p.takes[f].Round(time.Second)
	case p.least != nil:
		return leastTakes
	}
	return 0
}

// takes is about how long a section takes.
func (s section) takes(f form) (sum time.Duration) {
	for _, p := range s.parts {
		sum += p.duration(f)
	}
	return sum
}

// args is the command line of a part after "bench", without the file for the results; nil when the form leaves it out.
func (p part) args(f form, vasta string) []string {
	more := [...][]string{nil, p.quick, p.least}[f]
	if f == least && more == nil {
		return nil
	}
	args := strings.Fields(p.command)
	if p.only != "" && !slices.Contains(more, "--only") {
		args = append(args, "--only", p.only)
	}
	if p.vasta && vasta != "" {
		args = append(args, "--vasta", vasta)
	}
	return append(args, more...)
}

// run runs sections one after the other, each of their benchmarks in a process of its own: none can take another with it.
func run(ctx context.Context, program string, o options, chosen []section, progress io.Writer) (*Results, error) {
	dir, err := os.MkdirTemp("", "vasta-bench-all-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	r := &Results{Machine: command.ThisMachine(), Began: time.Now().UTC(), Form: o.form.String()}
	var left time.Duration
	for _, s := range chosen {
		left += s.takes(o.form)
	}
	for i, s := range chosen {
		fmt.Fprintf(progress, "%s (%d of %d) %s: about %v, and %v until the end\n", s.name, i+1, len(chosen), s.title, s.takes(o.form), left)
		one := SectionResult{Name: s.name, Title: s.title, About: s.about, Source: s.source}
		for _, p := range s.parts {
			x := p.run(ctx, program, o, filepath.Join(dir, "results.json"), &prefixed{out: progress, prefix: s.name + ": "})
			if ctx.Err() != nil {
				return nil, errors.New("interrupted")
			}
			if x.Failure != "" {
				fmt.Fprintf(progress, "%s: %s: %s\n", s.name, x.Command, x.Failure)
			}
			one.Parts = append(one.Parts, x)
		}
		left -= s.takes(o.form)
		r.Sections = append(r.Sections, one)
	}
	r.Elapsed = time.Since(r.Began)
	return r, nil
}

// run runs a part. What goes wrong is in the result.
func (p part) run(ctx context.Context, program string, o options, file string, progress io.Writer) (x PartResult) {
	began := time.Now()
	args := p.args(o.form, o.vasta)
	x.Command = "vasta bench " + strings.Join(args, " ")
	if args == nil {
		x.Command = "vasta bench " + strings.Join(p.args(full, o.vasta), " ")
		x.Failure = "not in the " + o.form.String() + " form"
		return x
	}
	var stdout, said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, slices.Concat([]string{"bench"}, args, []string{"--json", file})...)
	cmd.Stdout, cmd.Stderr = &stdout, io.MultiWriter(&said, progress)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endLimit
	err := cmd.Run()
	x.Elapsed = time.Since(began)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == command.Missed {
		err = nil
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		x.Failure = strings.TrimSuffix(err.Error()+": "+lines[len(lines)-1], ": ")
		return x
	}
	x.text = stdout.String()
	if x.Results, err = os.ReadFile(file); err == nil {
		err = os.Remove(file)
	}
	if err == nil {
		x.shown, err = p.show(x.Results)
	}
	if err != nil {
		x.Failure = "its results: " + err.Error()
	}
	return x
}

// prefixed writes whole lines with a prefix.
type prefixed struct {
	out    io.Writer
	prefix string
	line   []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		if p.line = append(p.line, line...); !bytes.HasSuffix(line, []byte("\n")) {
			continue
		}
		if _, err := fmt.Fprintf(p.out, "%s%s", p.prefix, p.line); err != nil {
			return 0, err
		}
		p.line = p.line[:0]
	}
	return len(b), nil
}
