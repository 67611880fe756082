package netns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "exit 12\n", 0o644)
	script := write("script", "test \"$1\" = arg && exit 13\n", 0o755)
	broken := write("broken", "#!/no/such/interpreter\n", 0o755)
	env := []string{"PATH=" + dir + ":" + os.Getenv("PATH")}

	for _, test := range []struct {
		name string
		argv []string
		want int
		err  string // of Start
	}{
		{"success", []string{"true"}, 0, ""},
		{"status", []string{"sh", "-c", "exit 77"}, 77, ""},
		{"killed", []string{"sh", "-c", "kill -KILL $$"}, 137, ""},
		{"terminated", []string{"sh", "-c", "kill -TERM $$"}, 143, ""},
		{"script without #!", []string{script, "arg"}, 13, ""},
		{"not found", []string{"no-such-command"}, 127, "no-such-command: command not found"},
		{"path not found", []string{"/no/such/path"}, 127, "/no/such/path: command not found"},
		{"empty name", []string{""}, 127, "not found"},
		{"no interpreter", []string{broken}, 127, "interpreter"},
		{"not executable", []string{plain}, 126, plain + ": cannot execute: permission denied"},
		{"not executable in PATH", []string{"plain"}, 126, "plain: cannot execute"},
		{"directory", []string{dir}, 126, "cannot execute"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ns := create(t, Config{})
			err := ns.Start(Command{Argv: test.argv, Env: env})
			if test.err != "" {
				var failed *StartError
				if !errors.As(err, &failed) || failed.Code != test.want || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("error %v, want status %d and one line with %q", err, test.want, test.err)
				}
				// The namespace is as good as before.
				if out, status := run(t, ns, env, "echo", "alive"); out != "alive\n" || status != (ExitStatus{}) {
					t.Errorf("another command: %q, %v", out, status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			status, err := ns.Wait()
			if err != nil || status.Shell() != test.want {
				t.Errorf("status %d, %v, want %d", status.Shell(), err, test.want)
			}
			if err := ns.Start(Command{Argv: test.argv, Env: env}); err == nil {
				t.Error("a second command was accepted")
			}
		})
	}
}

// TestCommandSeesOnlyItsOwn checks the environment, the working directory and the descriptors, with one that our own caller
// forgot to mark close-on-exec.
func TestCommandSeesOnlyItsOwn(t *testing.T) {
	const stray = 200
	if err := unix.Dup3(1, stray, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stray)
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	out, status := run(t, create(t, Config{}), []string{"HOME=/nowhere", "PATH=/usr/bin:/bin"}, "sh", "-c", "env | grep -v ^_=; pwd; ls /proc/self/fd; cat")
	// 3 is the directory that ls reads.
	if want := "HOME=/nowhere\nPATH=/usr/bin:/bin\nPWD=" + dir + "\n" + dir + "\n0\n1\n2\n3\n"; out != want || status != (ExitStatus{}) {
		t.Errorf("status %v, output:\n%swant:\n%s", status, out, want)
	}
}

// TestDispositions checks that the command's signals are not blocked, ignored or caught beforehand.
func TestDispositions(t *testing.T) {
	// grep has a handler of its own.
	out := ignoredByLibc(inside(t, Config{}, "cat /proc/self/status | sed -n '/^Sig[BIC]/p'"))
	if want := "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n"; out != want {
		t.Errorf("got:\n%swant:\n%s", out, want)
	}
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

func TestSignal(t *testing.T) {
	ns := create(t, Config{})
	if err := ns.Signal(unix.SIGTERM); err != nil {
		t.Errorf("before the start: %v", err)
	}
	r, w := pipe(t)
	if err := ns.Start(Command{Argv: []string{"sh", "-c", "trap 'exit 33' USR1; echo ready; while :; do sleep 0.01; done"}, Env: os.Environ(), Stdout: w}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if line := readLine(t, r); line != "ready\n" {
		t.Fatalf("got %q", line)
	}
	if err := ns.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if status, err := ns.Wait(); err != nil || status.Shell() != 33 {
		t.Errorf("status %v, %v, want 33", status, err)
	}
	if err := ns.Signal(unix.SIGTERM); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// TestStageKeepsAlive sends the stage what the terminal or a user may send to the whole process group.
func TestStageKeepsAlive(t *testing.T) {
	ns := create(t, Config{})
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGTSTP, unix.SIGUSR1, unix.SIGUSR2} {
		if err := unix.Kill(stagePID(ns), sig); err != nil {
			t.Fatal(err)
		}
	}
	if out, status := run(t, ns, os.Environ(), "echo", "alive"); out != "alive\n" || status != (ExitStatus{}) {
		t.Errorf("%q, %v", out, status)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	out := inside(t, Config{}, `
		for i in 1 2 3 4 5; do (sleep 0.02 & echo $! >>`+filepath.Join(t.TempDir(), "pids")+`); done
		(sleep 30 & echo $!) | {
			read pid
			for i in 1 2 3 4 5 6 7 8 9; do grep -q 'PPid:.1$' /proc/$pid/status && break; sleep 0.1; done # its parent is about to end
			grep PPid /proc/$pid/status
		}
		sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status; pgrep -c sleep`)
	if want := "PPid:\t1\n1\n"; out != want {
		t.Errorf("got %q, want %q: orphans belong to the stage and leave no zombies", out, want)
	}
}

// TestRestIsKilled leaves processes behind that ignore signals and have a session of their own.
func TestRestIsKilled(t *testing.T) {
	ns := create(t, Config{})
	out, _ := run(t, ns, os.Environ(), "sh", "-c", "readlink /proc/self/ns/pid; trap '' TERM HUP; setsid sleep 1000 >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 & sleep 0.1")
	pidNS := strings.TrimSpace(out)
	if got := processesIn(t, pidNS); len(got) != 1 || got[0] != stagePID(ns) {
		t.Errorf("processes %v are left, want only the stage %d", got, stagePID(ns))
	}
	ns.Close()
	<-ns.Gone()
	if got := processesIn(t, pidNS); len(got) != 0 {
		t.Errorf("processes %v are left after Close", got)
	}
}

// TestCallerKilled kills vasta as nothing can catch it.
func TestCallerKilled(t *testing.T) {
	for name, cfg := range map[string]Config{"root inside": {}, "keep id": {KeepID: true}} {
		t.Run(name, func(t *testing.T) {
			cmd := helperCommand(t, cfg, "sh", "-c", "readlink /proc/self/ns/pid; setsid sleep 1000 & sleep 1000")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pidNS := strings.TrimSpace(readLine(t, stdout))
			eventually(t, "four processes in "+pidNS, func() bool { return len(processesIn(t, pidNS)) == 4 })
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			eventually(t, "the end of all processes in "+pidNS, func() bool { return len(processesIn(t, pidNS)) == 0 })
			t.Logf("all ended after %v", time.Since(killed))
			cmd.Wait()
		})
	}
}

// TestStageKilled takes the namespace away under a running command.
func TestStageKilled(t *testing.T) {
	ns := create(t, Config{})
	if err := ns.Start(Command{Argv: []string{"sleep", "1000"}, Env: os.Environ()}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(stagePID(ns), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	status, err := ns.Wait()
	if !errors.Is(err, ErrGone) || status.Shell() != 137 {
		t.Errorf("status %d, %v, want 137 and ErrGone", status.Shell(), err)
	}
	select {
	case <-ns.Gone():
	case <-time.After(20 * time.Second):
		t.Error("Gone is not closed")
	}
}

// TestBigCommand passes more than a socket's buffer holds.
func TestBigCommand(t *testing.T) {
	env := os.Environ()
	for range 20 {
		env = append(env, "BIG="+strings.Repeat("x", 100_000))
	}
	if _, status := run(t, create(t, Config{}), env, "true"); status != (ExitStatus{}) {
		t.Errorf("status %v", status)
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func readLine(t *testing.T, r io.Reader) string {
	t.Helper()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("reading a line: %v (got %q)", err, line)
	}
	return line
}
