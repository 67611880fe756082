package netbench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/internal/lab/machine"
)

// labMemory is the machine's memory, in MiB: windows and queues of 64 streams through a delay, twice.
const labMemory = 3072

// LabInfo describes the run inside the virtual machine, when it is a part of the results.
type LabInfo struct {
	Machine Machine       `json:"machine"`
	Rounds  int           `json:"rounds"`
	Seconds float64       `json:"secondsPerLoad"`
	Elapsed time.Duration `json:"elapsedNanoseconds"`
}

// labLoads are the names of the loads that o asks for and that need the virtual machine.
func labLoads(o Options) []string {
	o.Here = true
	var names []string
	for _, l := range selectLoads(o) {
		if l.needsNetem() {
			names = append(names, l.name)
		}
	}
	return names
}

// measureInLab boots a machine whose kernel has netem, runs this program in it, and returns what it measured there.
func measureInLab(ctx context.Context, o Options, progress io.Writer) (r *Results, err error) {
	if o.Quiet {
		progress = io.Discard
	}
	fmt.Fprintln(progress, "lab: booting")
	m, err := machine.Boot(ctx, machine.Config{Memory: labMemory, Log: progress})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	result := filepath.Join(m.Dir(), "result.json")
	args := []string{
		machine.Self, "bench", "net", "--here", "--only", strings.Join(labLoads(o), ","), "--json", result,
		"--rounds", strconv.Itoa(o.LabRounds), "--seconds", strconv.Itoa(int(o.LabDuration / time.Second)), "--soak", o.Soak.String(), "--rate", strconv.Itoa(o.Rate),
	}
	if o.Vasta != "" {
		vasta := filepath.Join(m.Dir(), "vasta")
		if err := copyExecutable(o.Vasta, vasta); err != nil {
			return nil, fmt.Errorf("option --vasta: %w", err)
		}
		args = append(args, "--vasta", vasta)
	}
	cmd := m.Command(args...)
	said := &tail{}
	cmd.Stderr = io.MultiWriter(said, &prefixed{out: progress, prefix: "lab: "})
	err = cmd.Run(ctx)
	var exit *machine.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.Status == command.Missed) {
		return nil, fmt.Errorf("in the lab: %w: %s", err, said)
	}
	data, err := os.ReadFile(result)
	if err != nil {
		return nil, fmt.Errorf("in the lab: %w", err)
	}
	r = new(Results)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("in the lab: results: %w", err)
	}
	return r, nil
}

// notInLab is what a lab that failed has measured of all that take part: nothing.
func notInLab(o Options, why error) (*Results, error) {
	dir, err := os.MkdirTemp("", "vasta-bench-net-")
	if err != nil {
		return nil, errors.Join(why, err)
	}
	defer os.RemoveAll(dir)
	subjects, err := newSubjects(o, dir)
	if err != nil {
		return nil, errors.Join(why, err)
	}
	r := &Results{Started: time.Now().UTC(), Rounds: o.LabRounds, Seconds: o.LabDuration.Seconds(), NetemRate: o.Rate}
	names := labLoads(o)
	taken := make(map[*subject]bool)
	for _, l := range loads {
		if !slices.Contains(names, l.name) {
			continue
		}
		lr := l.result()
		for _, s := range subjects {
			if l.takesPart(s, false) {
				taken[s] = true
				lr.Series = append(lr.Series, Series{Subject: s.Name, Failures: []string{command.OneLine(why)}})
			}
		}
		r.Loads = append(r.Loads, lr)
	}
	for _, s := range subjects {
		if taken[s] {
			s.Absent = command.OneLine(why)
			r.Subjects = append(r.Subjects, s.SubjectInfo)
		}
	}
	return r, nil
}

// join adds what was measured in the lab to what was measured on the machine itself.
func (r *Results) join(inLab *Results) {
	r.Loads = append(r.Loads, inLab.Loads...)
	for _, s := range inLab.Subjects {
		if !slices.ContainsFunc(r.Subjects, func(have SubjectInfo) bool { return have.Name == s.Name }) {
			r.Subjects = append(r.Subjects, s)
		}
	}
	r.Lab = &LabInfo{Machine: inLab.Machine, Rounds: inLab.Rounds, Seconds: inLab.Seconds, Elapsed: inLab.Elapsed}
	r.Elapsed += inLab.Elapsed
	r.Bars = judge(r)
}

// prefixed writes whole lines with a prefix.
type prefixed struct {
	out    io.Writer
	prefix string

	mu   sync.Mutex
	line []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range b {
		p.line = append(p.line, c)
		if c == '\n' {
			if _, err := fmt.Fprintf(p.out, "%s%s", p.prefix, p.line); err != nil {
				return 0, err
			}
			p.line = p.line[:0]
		}
	}
	return len(b), nil
}
