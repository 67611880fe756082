package netns

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helperEnv makes the test binary play vasta: it creates a namespace from the JSON Config in the variable, runs its arguments
// there, and ends with the command's status.
const helperEnv = "VASTA_NETNS_TEST_HELPER"

func TestMain(m *testing.M) {
	if StageMain() {
		return
	}
	if cfg, ok := os.LookupEnv(helperEnv); ok {
		os.Exit(helper(cfg, os.Args[1:]))
	}
	os.Exit(m.Run())
}

func helper(cfgJSON string, argv []string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "error:", err)
		var start *StartError
		if errors.As(err, &start) {
			return start.Code
		}
		return 1
	}
	var cfg Config
	if err := json.Unmarshal([]byte(cfgJSON), &cfg); err != nil {
		return fail(err)
	}
	os.Unsetenv(helperEnv)
	ns, err := Create(cfg)
	if err != nil {
		return fail(err)
	}
	for _, w := range ns.Warnings() {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	err = ns.Start(Command{Argv: argv, Env: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Foreground: true})
	if err != nil {
		return fail(err)
	}
	status, err := ns.Wait()
	if err != nil {
		return fail(err)
	}
	return status.Shell()
}

// helperCommand is a command line that runs argv in a namespace, with its environment.
func helperCommand(t *testing.T, cfg Config, argv ...string) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(procSelfExe, argv...)
	cmd.Env = append(os.Environ(), helperEnv+"="+string(b))
	return cmd
}

// TestOrdinaryUser runs all the other tests again without any privilege when this run has them.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("the tests run as an ordinary user already")
		return
	}
	const id = 31000
	if err := os.Chmod(tunPath, 0o666); err != nil {
		t.Fatalf("ordinary users need the device, as everywhere else: %v", err)
	}
	cmd := exec.Command(procSelfExe, "-test.skip=^(TestOrdinaryUser|TestHostNetwork.*)$", "-test.v", "-test.timeout=2m")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
	cmd.Env = append(os.Environ(), "HOME=/", "TMPDIR="+os.TempDir())
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as uid %d: %v\n%s", id, err, out)
	}
	if n := bytes.Count(out, []byte("--- PASS")); n < 20 {
		t.Fatalf("as uid %d: only %d tests ran:\n%s", id, n, out)
	}
}

// create makes a namespace that ends with the test.
func create(t *testing.T, cfg Config) *Namespace {
	t.Helper()
	ns, err := Create(cfg)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	if len(ns.Warnings()) > 0 {
		t.Errorf("warnings: %q", ns.Warnings())
	}
	t.Cleanup(func() {
		ns.Close()
		closeAll(ns.TAP().FDs)
	})
	return ns
}

// run runs argv in ns and returns its standard output and error together, and its status.
func run(t *testing.T, ns *Namespace, env []string, argv ...string) (string, ExitStatus) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := ns.Start(Command{Argv: argv, Env: env, Stdout: out, Stderr: out}); err != nil {
		t.Fatalf("Start %q: %v", argv, err)
	}
	status, err := ns.Wait()
	if err != nil {
		t.Fatalf("Wait for %q: %v", argv, err)
	}
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b), status
}

// inside runs a shell script in a new namespace and returns its output; the script must succeed.
func inside(t *testing.T, cfg Config, script string) string {
	t.Helper()
	out, status := run(t, create(t, cfg), os.Environ(), "sh", "-c", script)
	if status != (ExitStatus{}) {
		t.Fatalf("%s: status %v, output:\n%s", script, status, out)
	}
	return out
}

// processesIn returns the living processes whose PID namespace has the given name, like "pid:[4026531836]". Zombies do not count:
// they wait for the host's init, whenever that looks.
func processesIn(t *testing.T, pidNS string) []int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil && name == pidNS {
			pid, err := strconv.Atoi(strings.Split(link, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !bytes.Contains(stat, []byte(") Z ")) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// eventually waits until ok returns true, at most five seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// openFDs lists this process's descriptors and what they refer to.
func openFDs(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	fds := map[string]string{}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			fds[e.Name()] = target
		}
	}
	return fds
}

// hostNamespace puts the test into a network namespace of its own, made by the ip commands. Subtests are not in it. It needs
// root.
func hostNamespace(t *testing.T, commands ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes a host of its own: run it as root")
	}
	// Never unlocked: the thread ends with the test's goroutine, and the namespace with the thread.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", c, err, out)
		}
	}
}

// stagePID returns the process id of ns's stage, 0 when it has ended.
func stagePID(ns *Namespace) int {
	ns.stage.mu.Lock()
	defer ns.stage.mu.Unlock()
	return ns.stage.pid
}
