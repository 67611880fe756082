package procfs

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseBusyTime(t *testing.T) {
	got, err := parseBusyTime([]byte("cpu  100 20 30 5000 600 7 8 90 11 12\ncpu0 1 2 3\n"))
	if want := 165 * tick; err != nil || got != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for _, in := range []string{"", "cpu0 1 2 3 4 5 6 7 8 9\n", "cpu 1 2 3\n", "cpu 1 2 3 4 5 6 x 8 9\n"} {
		if _, err := parseBusyTime([]byte(in)); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat([]byte("42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 1 0 5\n"))
	want := Process{PID: 42, PPID: 7, CPU: 2 * time.Second}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, in := range []string{
		"", "42 no name", "x (n) S 7", "42 (n) S 7 1 1",
		"42 (n) S p 42 42 0 -1 4194560 1 2 3 4 150 50", "42 (n) S 7 42 42 0 -1 4194560 1 2 3 4 150 x",
	} {
		if _, err := parseStat([]byte(in)); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}

func TestParsePSS(t *testing.T) {
	const rollup = "00400000-7fff r--p 00000000 00:00 0    [rollup]\nRss:   1900 kB\nPss:     950 kB\nPss_Dirty: 3 kB\n"
	if got, err := parsePSS([]byte(rollup)); err != nil || got != 950<<10 {
		t.Errorf("got %d, %v", got, err)
	}
	for _, in := range []string{"", "Rss: 1 kB\n", "Pss: many kB\n"} {
		if _, err := parsePSS([]byte(in)); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}

func TestTreeLeavesOutPrunedSubtrees(t *testing.T) {
	procs := map[int]Process{
		1: {PID: 1}, 2: {PID: 2, PPID: 1, Args: []string{"tool"}}, 3: {PID: 3, PPID: 2, Args: []string{"agent"}},
		4: {PID: 4, PPID: 3}, 5: {PID: 5, PPID: 2}, 6: {PID: 6, PPID: 1}, 7: {PID: 7, PPID: 5},
	}
	isAgent := func(p Process) bool { return slices.Equal(p.Args, []string{"agent"}) }
	var pids []int
	for _, p := range Tree(procs, 2, isAgent) {
		pids = append(pids, p.PID)
	}
	if want := []int{2, 5, 7}; !slices.Equal(pids, want) {
		t.Errorf("got %v, want %v", pids, want)
	}
	if got := Tree(procs, 99, isAgent); got != nil {
		t.Errorf("tree of a missing root: %v", got)
	}
}

func TestRealProcesses(t *testing.T) {
	sleep := exec.Command("sleep", "600")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = sleep.Process.Kill()
		_ = sleep.Wait()
	}()
	procs, err := Processes()
	if err != nil {
		t.Fatal(err)
	}
	tree := Tree(procs, os.Getpid(), func(Process) bool { return false })
	if !slices.ContainsFunc(tree, func(p Process) bool { return p.PID == sleep.Process.Pid }) {
		t.Errorf("child %d is not in the tree %v", sleep.Process.Pid, tree)
	}
	if pss, err := PSS(os.Getpid()); err != nil || pss < 100<<10 || pss > 1<<30 {
		t.Errorf("own Pss %d, %v", pss, err)
	}

	before, err := BusyTime()
	if err != nil {
		t.Fatal(err)
	}
	own := procs[os.Getpid()].CPU
	spin(t, 200*time.Millisecond)
	after, err := BusyTime()
	if err != nil {
		t.Fatal(err)
	}
	if grown := after - before; grown < 50*time.Millisecond {
		t.Errorf("the machine was busy for %v while this process used 200ms", grown)
	}
	if procs, err = Processes(); err != nil {
		t.Fatal(err)
	}
	if grown := procs[os.Getpid()].CPU - own; grown < 50*time.Millisecond {
		t.Errorf("this process used %v of 200ms", grown)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 1 0 5\n"))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := parseStat(data); err != nil && !cmp.Equal(p, Process{}) {
			t.Errorf("an error beside %+v", p)
		}
	})
}

// spin keeps this process busy until it has used as much processor time, however long that takes on a busy machine.
func spin(t *testing.T, used time.Duration) {
	t.Helper()
	now := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for start := now(); now()-start < used; {
	}
}
