package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// idleMemory is what vasta's processes may use in all without load, in bytes; connectionMemory is what an idle connection may.
const (
	idleMemory       = 16 << 20
	connectionMemory = 4 << 10
)

// memory is the proportional set size of vasta and of its namespace's first process, in bytes.
func (r *rig) memory() (total int64) {
	r.t.Helper()
	pid := r.cmd.Process.Pid
	for _, pid := range append(children(r.t, pid), pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			r.t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), "\nPss:")
		var kib int64
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			r.t.Fatalf("smaps_rollup of %d: %v: %s", pid, err, b)
		}
		total += kib << 10
	}
	return total
}

// TestMemory checks that vasta is small before a load, and again soon after it.
func TestMemory(t *testing.T) {
	t.Parallel()
	const size = 128 << 20
	r := start(t)
	if m := r.memory(); m > idleMemory {
		t.Errorf("%d KiB before any load", m>>10)
	}
	for _, f := range families {
		far, near := serve(t, r.Inet, f.far, source(size)), serve(t, r.Host, f.loopback, sink(size))
		parallel(t, 8, func(i int) error {
			if i%2 == 0 {
				return download(r.Guest, f.far, far, size)
			}
			return upload(r.Guest, f.gateway, near, size)
		})
	}
	t.Logf("%d KiB at the end of the load", r.memory()>>10)
	for deadline := time.Now().Add(10 * time.Second); r.memory() > idleMemory; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d KiB 10 s after the load", r.memory()>>10)
		}
	}
	t.Logf("%d KiB afterwards", r.memory()>>10)
}
