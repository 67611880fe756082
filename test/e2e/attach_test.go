package e2e_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestAttachKilled checks that a killed vasta takes its interface along and leaves the namespace, to which another one can be
// attached at once.
func TestAttachKilled(t *testing.T) {
	l := newLab(t)
	cmd, _ := target(t, l)
	ns, err := l.Open("guest", fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		vasta := l.Host.Command(lab.Ordinary, vastaPath, "attach", "-q", "--ready-fd", "3", fmt.Sprint(cmd.Process.Pid))
		if err := runUntilReady(vasta); err != nil {
			t.Fatal(err)
		}
		f := families[0]
		if err := download(ns, f.far, serve(t, l.Inet, f.far, source(1000)), 1000); err != nil {
			t.Error(err)
		}
		if err := vasta.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = vasta.Wait() // killed
		eventually(t, "an interface inside", func() bool {
			return ns.Do(func() error { _, err := netlink.LinkByName(lab.LinkName); return err }) != nil
		})
	}
	if err := unix.Kill(cmd.Process.Pid, 0); err != nil {
		t.Errorf("the target: %v", err)
	}
}

// TestFirstProcessKilled checks that vasta ends, and says why, when somebody kills the first process of its namespace.
func TestFirstProcessKilled(t *testing.T) {
	r := start(t)
	if err := unix.Kill(children(t, r.cmd.Process.Pid)[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.stopped = true
	ended := make(chan error, 1)
	go func() { ended <- r.cmd.Wait() }()
	select {
	case err := <-ended:
		if code := r.cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("status %d (%v), want 1", code, err)
		}
	case <-time.After(stopLimit):
		r.cmd.Kill()
		t.Fatalf("vasta did not end: %v", <-ended)
	}
	if n := len(linesWith(r.log.String(), "vasta: ")); n != 1 {
		t.Errorf("vasta says %q, want one line", r.log)
	}
}
