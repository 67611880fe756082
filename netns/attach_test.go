package netns

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// startTarget starts a process in new user and network namespaces, where its user id is insideID, and returns it.
func startTarget(t *testing.T, insideID int) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: insideID, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: insideID, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, cmd) })
	return cmd
}

// end kills and reaps a target; a second time is allowed.
func end(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if cmd.ProcessState == nil {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		cmd.Wait() // its error is the kill
	}
}

// inTarget runs argv in the target's namespaces.
func inTarget(t *testing.T, target *exec.Cmd, argv ...string) string {
	t.Helper()
	args := append([]string{"-t", strconv.Itoa(target.Process.Pid), "-U", "-n", "--preserve-credentials"}, argv...)
	out, err := exec.Command("nsenter", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nsenter %q: %v\n%s", args, err, out)
	}
	return string(out)
}

func waitGone(t *testing.T, ns *Namespace) {
	t.Helper()
	select {
	case <-ns.Gone():
	case <-time.After(20 * time.Second):
		t.Fatal("the end of the namespace was not seen within 5 s")
	}
}

func notGone(t *testing.T, ns *Namespace) {
	t.Helper()
	select {
	case <-ns.Gone():
		t.Fatal("the namespace counts as gone, but lives")
	case <-time.After(50 * time.Millisecond):
	}
}

func TestAttachProcess(t *testing.T) {
	for _, insideID := range []int{0, 4711} {
		t.Run(fmt.Sprintf("uid %d inside", insideID), func(t *testing.T) {
			fds := openFDs(t)
			target := startTarget(t, insideID)
			ns, err := Attach(Target{PID: target.Process.Pid}, Config{
				IfName: "late0",
				Addrs:  []netip.Prefix{LocalAddr4, netip.MustParsePrefix("fd00::7/64")},
				Routes: []Route{{Dst: defaultRoute4, Gateway: LocalGateway4}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(ns.Warnings()) > 0 {
				t.Errorf("warnings %q", ns.Warnings())
			}
			if ns.TAP().Name != "late0" || len(ns.TAP().FDs) != 1 {
				t.Errorf("TAP %+v", ns.TAP())
			}
			out := inTarget(t, target, "sh", "-c", "ip -o addr; ip route")
			for _, want := range []string{"late0    inet 169.254.2.1/16", "late0    inet6 fd00::7/64", "lo    inet 127.0.0.1", "default via 169.254.2.2 dev late0"} {
				if !strings.Contains(out, want) {
					t.Errorf("%q is missing in:\n%s", want, out)
				}
			}
			if err := ns.Start(Command{Argv: []string{"true"}}); err == nil {
				t.Error("a command was accepted")
			}
			notGone(t, ns)

			// The interface lives as long as its descriptors.
			closeAll(ns.TAP().FDs)
			eventually(t, "the interface's end", func() bool { return !strings.Contains(inTarget(t, target, "ip", "-o", "link"), "late0") })

			end(t, target)
			waitGone(t, ns)
			if err := ns.Close(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(fds, openFDs(t)); diff != "" {
				t.Errorf("descriptors are left (-before +after):\n%s", diff)
			}
		})
	}
}

func TestAttachPaths(t *testing.T) {
	target := startTarget(t, 0)
	proc := fmt.Sprintf("/proc/%d/ns/", target.Process.Pid)
	ns, err := Attach(Target{NetNS: proc + "net", UserNS: proc + "user"}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	defer closeAll(ns.TAP().FDs)
	if out := inTarget(t, target, "ip", "-o", "link"); !strings.Contains(out, "tap0") {
		t.Errorf("no tap0 in:\n%s", out)
	}
	notGone(t, ns)
	end(t, target)
	waitGone(t, ns)
}

// TestAttachPathRemoved removes the file that named the namespace.
func TestAttachPathRemoved(t *testing.T) {
	target := startTarget(t, 0)
	path := filepath.Join(t.TempDir(), "name")
	if err := os.Symlink(fmt.Sprintf("/proc/%d/ns/net", target.Process.Pid), path); err != nil {
		t.Fatal(err)
	}
	ns, err := Attach(Target{NetNS: path}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	defer closeAll(ns.TAP().FDs)
	if err := os.WriteFile(path+"-other", nil, 0o600); err != nil { // an event that means nothing
		t.Fatal(err)
	}
	notGone(t, ns)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	waitGone(t, ns)
}

// TestAttachNamed takes a named namespace away, with its file and, as a container engine may, without.
func TestAttachNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("named namespaces are root's")
		return
	}
	name := fmt.Sprintf("vasta-test-%d", os.Getpid())
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %q: %v\n%s", args, err, out)
		}
	}
	for what, finish := range map[string]func(){
		"deleted":   func() { ip("netns", "delete", name) },
		"unmounted": func() { unmount(t, filepath.Join(namedNetNS, name)) },
	} {
		t.Run(what, func(t *testing.T) {
			ip("netns", "add", name)
			defer exec.Command("ip", "netns", "delete", name).Run()
			ns, err := Attach(Target{NetNS: name}, Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			defer closeAll(ns.TAP().FDs)
			ip("-n", name, "link", "show", "tap0")
			notGone(t, ns)
			finish()
			waitGone(t, ns)
		})
	}
}

func unmount(t *testing.T, path string) {
	t.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

func TestAttachErrors(t *testing.T) {
	target := startTarget(t, 0)
	dead := startTarget(t, 0)
	end(t, dead)
	proc := fmt.Sprintf("/proc/%d/ns/", target.Process.Pid)
	first, err := Attach(Target{PID: target.Process.Pid}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	defer closeAll(first.TAP().FDs)

	for name, test := range map[string]struct {
		target Target
		want   string
	}{
		"nothing":        {Target{}, "give one above 0, or a network namespace"},
		"negative":       {Target{PID: -1}, "process id -1"},
		"both":           {Target{PID: 1, NetNS: "x"}, "give one"},
		"dead process":   {Target{PID: dead.Process.Pid}, "no such process"},
		"no path":        {Target{NetNS: "/no/such/path"}, "network namespace /no/such/path: watching for its end: stat /no/such/path: no such file or directory: check the path"},
		"no name":        {Target{NetNS: "no-such-name"}, "/run/netns/no-such-name"},
		"no namespace":   {Target{NetNS: "/etc/passwd"}, "/etc/passwd is no network namespace"},
		"wrong kind":     {Target{NetNS: proc + "user"}, "is no network namespace"},
		"wrong userns":   {Target{NetNS: proc + "net", UserNS: proc + "net"}, "is no user namespace"},
		"no userns":      {Target{NetNS: proc + "net", UserNS: "/no/such"}, "user namespace: open /no/such"},
		"name taken":     {Target{PID: target.Process.Pid}, "creating TAP tap0"},
		"foreign userns": {Target{NetNS: proc + "net", UserNS: fmt.Sprintf("/proc/%d/ns/user", startTarget(t, 0).Process.Pid)}, "joining " + proc + "net: operation not permitted"},
	} {
		t.Run(name, func(t *testing.T) {
			fds := openFDs(t)
			ns, err := Attach(test.target, Config{})
			if err == nil {
				ns.Close()
				closeAll(ns.TAP().FDs)
				t.Fatalf("no error, want %q", test.want)
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line with %q", err, test.want)
			}
			if diff := cmp.Diff(fds, openFDs(t)); diff != "" {
				t.Errorf("descriptors are left (-before +after):\n%s", diff)
			}
		})
	}
}
