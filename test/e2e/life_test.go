package e2e_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linesWith are the lines of a text that contain a word.
func linesWith(text, word string) (lines []string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			lines = append(lines, line)
		}
	}
	return lines
}

// eventually waits until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(settleLimit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%v later still: %s", settleLimit, what)
		}
	}
}

// TestExitStatus checks that the command's end is vasta's.
func TestExitStatus(t *testing.T) {
	l := newLab(t)
	for _, tc := range []struct {
		status  int
		command []string
	}{
		{0, []string{"true"}},
		{7, []string{"sh", "-c", "exit 7"}},
		{128 + 9, []string{"sh", "-c", "kill -9 $$"}},
		{128 + 15, []string{"sh", "-c", "kill -TERM $$"}},
		{126, []string{"/etc/passwd"}},
		{127, []string{"no-such-program"}},
	} {
		runVasta(t, l, tc.status, append([]string{"-q", "--"}, tc.command...)...)
	}
}

// TestOrphans checks that the command's orphans are reaped while it runs, and end with it.
func TestOrphans(t *testing.T) {
	l := newLab(t)
	out := runVasta(t, l, 0, "-q", "--", "sh", "-c", "(sleep 0.1 &); (sleep 1000 &); sleep 0.4; ps -e -o stat=,comm=")
	if len(linesWith(out, "Z")) != 0 || len(linesWith(out, "sleep")) != 1 {
		t.Errorf("processes inside:\n%swant one sleep and no zombie", out)
	}
	if left, err := l.Host.Processes(); err != nil || len(left) != 0 {
		t.Errorf("processes %v left (%v)", left, err)
	}
}

// TestSignalsReachTheCommand checks that what ends vasta ends the command, whose status it has then.
func TestSignalsReachTheCommand(t *testing.T) {
	l := newLab(t)
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGHUP} {
		cmd := l.Host.Command(lab.Ordinary, vastaPath, "-q", "--", "sh", "-c", "echo running; exec sleep 1000")
		if line := startAndRead(t, cmd); line != "running\n" {
			t.Fatalf("the command says %q", line)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the status is looked at below
		if got := cmd.ProcessState.ExitCode(); got != 128+int(sig) {
			t.Errorf("after %v: status %d", sig, got)
		}
	}
}

// startAndRead starts a command and returns the first line of its output.
func startAndRead(t *testing.T, cmd *lab.Cmd) string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// TestKilled checks that nothing outlives vasta when it is killed: no process, no namespace, no interface, no file.
func TestKilled(t *testing.T) {
	l := newLab(t)
	cmd := l.Host.Command(lab.Ordinary, vastaPath, "-q", "--",
		"sh", "-c", "setsid sleep 1000 & sleep 1000 & readlink /proc/self/ns/net; wait")
	ns := strings.TrimSpace(startAndRead(t, cmd))
	if len(holders(t, ns)) < 3 {
		t.Fatalf("processes %v in %s", holders(t, ns), ns)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	eventually(t, "processes in its namespace", func() bool { return len(holders(t, ns)) == 0 })
	hostIsAsBefore(t, l)
}

// holders lists the processes in the network namespace with the given name, as in net:[4026531840].
func holders(t *testing.T, ns string) (pids []string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == ns { // an error: it has ended
			pids = append(pids, strings.Split(link, "/")[2])
		}
	}
	return pids
}

// hostIsAsBefore checks that the host has its own interfaces alone, and that vasta's user has no files.
func hostIsAsBefore(t *testing.T, l *lab.Lab) {
	t.Helper()
	var names []string
	if err := l.Host.Do(func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			names = append(names, link.Attrs().Name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if strings.Join(names, " ") != "lo "+lab.LinkName {
		t.Errorf("interfaces of the host: %v", names)
	}
	home := l.Host.Command(lab.Ordinary, "true").Dir
	err := filepath.WalkDir(home, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = fmt.Errorf("a file was left: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// target starts an idle process of the ordinary user in a namespace of its own, and returns it and what ends it.
func target(t *testing.T, l *lab.Lab) (cmd *lab.Cmd, end func()) {
	t.Helper()
	cmd = l.Host.Command(lab.Ordinary, "unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if line := startAndRead(t, cmd); line != "up\n" {
		t.Fatalf("the target says %q", line)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			stdin.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("the target: %v", err)
			}
		}
	}
	t.Cleanup(end)
	return cmd, end
}

// TestAttach gives an existing namespace a network by its process and by its path, as its owner and as root, and checks that
// vasta ends well when the namespace or its interface vanishes, or on a signal.
func TestAttach(t *testing.T) {
	for _, tc := range []struct {
		name   string
		user   lab.User
		byPath bool
		end    func(t *testing.T, ns *lab.Namespace, vasta *lab.Cmd, endTarget func())
	}{
		{"by process, which ends", lab.Ordinary, false, func(t *testing.T, _ *lab.Namespace, _ *lab.Cmd, endTarget func()) { endTarget() }},
		{"by path, and the process ends", lab.Ordinary, true, func(t *testing.T, _ *lab.Namespace, _ *lab.Cmd, endTarget func()) { endTarget() }},
		{"by root, and the interface is removed", lab.Root, false, func(t *testing.T, ns *lab.Namespace, _ *lab.Cmd, _ func()) { removeLink(t, ns) }},
		{"by root and path, SIGTERM", lab.Root, true, func(t *testing.T, _ *lab.Namespace, vasta *lab.Cmd, _ func()) {
			if err := vasta.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t)
			cmd, endTarget := target(t, l)
			args := []string{vastaPath, "attach", "-q", "--ready-fd", "3"}
			path := fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
			if tc.byPath {
				args = append(args, "--netns", path)
			} else {
				args = append(args, fmt.Sprint(cmd.Process.Pid))
			}
			vasta := l.Host.Command(tc.user, args...)
			log := &logBuffer{}
			vasta.Stderr = log
			if err := runUntilReady(vasta); err != nil {
				t.Fatalf("%v: %s", err, log)
			}
			ns, err := l.Open("guest", path)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if err := download(ns, f.far, serve(t, l.Inet, f.far, source(1<<20)), 1<<20); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
			}
			tc.end(t, ns, vasta, endTarget)
			ended := make(chan error, 1)
			go func() { ended <- vasta.Wait() }()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("vasta ended with %v: %s", err, log)
				}
			case <-time.After(stopLimit):
				vasta.Kill()
				t.Errorf("vasta did not end: %v: %s", <-ended, log)
			}
			hasLink := func() bool {
				return ns.Do(func() error { _, err := netlink.LinkByName(lab.LinkName); return err }) == nil
			}
			eventually(t, "an interface inside", func() bool { return !hasLink() })
			hostIsAsBefore(t, l)
		})
	}
}

// removeLink removes the interface that vasta has made.
func removeLink(t *testing.T, ns *lab.Namespace) {
	t.Helper()
	if err := ns.Do(func() error {
		link, err := netlink.LinkByName(lab.LinkName)
		return errors.Join(err, netlink.LinkDel(link))
	}); err != nil {
		t.Fatal(err)
	}
}

// TestInterfaceRemoved checks that the command goes on when root inside removes the interface, and that vasta says so.
func TestInterfaceRemoved(t *testing.T) {
	r := start(t)
	if err := attempt(r, "tcp", at(families[0].gateway, closedPort)); err == nil {
		t.Error("connected")
	}
	removeLink(t, r.Guest)
	eventually(t, "no warning", func() bool { return len(linesWith(r.log.String(), "interface inside is gone")) == 1 })
	before := r.cpuTime()
	time.Sleep(300 * time.Millisecond)
	if used := r.cpuTime() - before; used > 100*time.Millisecond {
		t.Errorf("vasta used %v of 300 ms without an interface", used)
	}
	if c := r.now(); c.RxFrames == 0 {
		t.Error("no counters after the interface")
	}
	r.stop()
}

// TestLocalMode checks that a host without a network still reaches its own loopback from inside.
func TestLocalMode(t *testing.T) {
	l := newLab(t)
	removeLink(t, l.Host)
	r := startIn(t, l)
	const size = 1 << 20
	port4 := serve(t, l.Host, families[0].loopback, source(size))
	if err := download(r.Guest, netip.MustParseAddr("169.254.2.2"), port4, size); err != nil {
		t.Error(err)
	}
	port6 := serve(t, l.Host, families[1].loopback, source(size))
	if err := download(r.Guest, netip.MustParseAddr("fe80::1%2"), port6, size); err != nil { // 2: the interface behind lo
		t.Error(err)
	}
}
