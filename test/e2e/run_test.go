package e2e_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// runVasta runs vasta to its end as an ordinary user in l's host, and returns what its command wrote to standard
// output. It fails the test when the exit status is another.
func runVasta(t *testing.T, l *lab.Lab, status int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c := l.Host.CommandContext(ctx, lab.Ordinary, append([]string{vastaPath}, args...)...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	if got := c.ProcessState.ExitCode(); got != status {
		t.Fatalf("vasta %q: status %d (%v), want %d: %s%s", args, got, err, status, &stdout, &stderr)
	}
	return stdout.String()
}
