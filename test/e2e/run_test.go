package e2e_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// runLimit is how long a command of runVasta may take.
const runLimit = 20 * time.Second

// runVasta runs vasta to its end as an ordinary user in l's host, and returns what was written to standard output. It
// fails the test when the exit status is another.
func runVasta(t *testing.T, l *lab.Lab, status int, args ...string) string {
	t.Helper()
	stdout, _ := runBoth(t, l, status, args...)
	return stdout
}

// vastaFails runs vasta and wants one line on standard error, which begins with prefix.
func vastaFails(t *testing.T, l *lab.Lab, status int, prefix string, args ...string) {
	t.Helper()
	_, stderr := runBoth(t, l, status, args...)
	if !strings.HasPrefix(stderr, prefix) || strings.Count(stderr, "\n") != 1 {
		t.Errorf("vasta %q says %q, want one line that begins %q", args, stderr, prefix)
	}
}

func runBoth(t *testing.T, l *lab.Lab, status int, args ...string) (stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	c := l.Host.CommandContext(ctx, lab.Ordinary, append([]string{vastaPath}, args...)...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	if got := c.ProcessState.ExitCode(); got != status {
		t.Fatalf("vasta %q: status %d (%v), want %d: %s%s", args, got, err, status, &out, &errs)
	}
	return out.String(), errs.String()
}
