package rawfork

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// start starts spec on a thread that lasts as long as the process, and returns its status and what it wrote to out.
func start(t *testing.T, spec Spec) (int, error) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := Start(spec)
	if err != nil {
		return 0, err
	}
	var ws syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(pid, &ws, 0, nil); !errors.Is(err, syscall.EINTR) {
			return ws.ExitStatus(), err
		}
	}
}

func TestStart(t *testing.T) {
	// What this process has inherited itself without the mark is not the package's business.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	code, err := start(t, Spec{
		Path:  "/bin/sh",
		Argv:  []string{"name", "-c", `echo "$0 $X $1"; ls /proc/self/fd; grep ^Sig[BI] /proc/self/status; exit 5`, "zero", "one"},
		Env:   []string{"X=y", "PATH=/bin:/usr/bin"},
		Files: []int{int(in.Fd()), int(w.Fd()), int(w.Fd())},
	})
	w.Close()
	if err != nil || code != 5 {
		t.Fatalf("status %d, %v, want 5", code, err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := "zero y one\n0\n1\n2\n3\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"; ignoredByLibc(string(out)) != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

// TestFilesOverlap passes descriptors whose numbers are those of other targets.
func TestFilesOverlap(t *testing.T) {
	var pipes [3][2]*os.File
	for i := range pipes {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		pipes[i] = [2]*os.File{r, w}
	}
	script := "for fd in 3 4 5 6 7 8 9; do echo $fd >&$fd; done"
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	files := []int{int(null.Fd()), 1, 2}
	for fd := 3; fd <= 9; fd++ { // in turns, so that sources and targets cross
		files = append(files, int(pipes[fd%3][1].Fd()))
	}
	if code, err := start(t, Spec{Path: "/bin/sh", Argv: []string{"sh", "-c", script}, Files: files}); err != nil || code != 0 {
		t.Fatalf("status %d, %v", code, err)
	}
	for i, want := range []string{"3\n6\n9\n", "4\n7\n", "5\n8\n"} {
		pipes[i][1].Close()
		got, err := io.ReadAll(pipes[i][0])
		if err != nil || string(got) != want {
			t.Errorf("pipe %d: %q, %v, want %q", i, got, err, want)
		}
	}
}

func TestErrors(t *testing.T) {
	ok := Spec{Path: "/bin/true", Argv: []string{"true"}}
	const closedFD = 1 << 20
	for name, test := range map[string]struct {
		change func(*Spec)
		step   Step
		errno  syscall.Errno
		text   string
	}{
		"no program":       {func(s *Spec) { s.Path = "/no/such/program" }, StepExec, unix.ENOENT, "execve"},
		"no permission":    {func(s *Spec) { s.Path = "/etc" }, StepExec, unix.EACCES, "execve"},
		"no descriptor":    {func(s *Spec) { s.Files = []int{closedFD} }, StepFiles, unix.EBADF, "dup3"},
		"no namespace":     {func(s *Spec) { s.Join = []int{closedFD} }, StepJoin, unix.EBADF, "setns of namespace 0"},
		"no such capacity": {func(s *Spec) { s.AmbientCaps = []int{63} }, StepCapabilities, unix.EINVAL, "capabilities"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := ok
			test.change(&spec)
			_, err := start(t, spec)
			var child *ChildError
			if !errors.As(err, &child) || child.Step != test.step || !errors.Is(err, test.errno) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want step %d, %v", err, test.step, test.errno)
			}
		})
	}
	for name, spec := range map[string]Spec{
		"path":        {Path: "a\x00b"},
		"argument":    {Path: "/bin/true", Argv: []string{"a\x00b"}},
		"environment": {Path: "/bin/true", Env: []string{"a\x00b"}},
	} {
		if _, err := start(t, spec); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("NUL in %s: %v", name, err)
		}
	}
}

// TestBusyRuntime forks while other threads allocate and collect garbage, whose locks the child finds in any state.
func TestBusyRuntime(t *testing.T) {
	stop := make(chan struct{})
	var busy, forks sync.WaitGroup
	for range 4 {
		busy.Go(func() {
			var keep [][]byte
			for {
				select {
				case <-stop:
					return
				default:
					if keep = append(keep, make([]byte, 10_000)); len(keep) > 1000 {
						keep = nil
						runtime.GC()
					}
				}
			}
		})
	}
	for range 4 {
		forks.Go(func() {
			for range 25 {
				if code, err := start(t, Spec{Path: "/bin/true", Argv: []string{"true"}}); err != nil || code != 0 {
					t.Errorf("status %d, %v", code, err)
				}
			}
		})
	}
	forks.Wait()
	close(stop)
	busy.Wait()
}

// ignoredByLibc leaves out of a SigIgn line the signals 32 and 33, which glibc keeps for itself: its posix_spawn, with which
// make starts what it runs, ignores them.
func ignoredByLibc(status string) string {
	return regexp.MustCompile(`SigIgn:\t[0-9a-f]+`).ReplaceAllStringFunc(status, func(line string) string {
		var mask uint64
		fmt.Sscanf(line, "SigIgn:\t%x", &mask)
		return fmt.Sprintf("SigIgn:\t%016x", mask&^(3<<31))
	})
}
