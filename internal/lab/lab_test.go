package lab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/internal/lab"
)

// crashEnv makes the test binary a process that builds a lab and waits to be
// killed.
const crashEnv = "VASTA_LAB_TEST_CRASH"

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		if err := crash(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// crash builds a lab, starts a process in it, prints the lab's directory and the
// process id, and waits for SIGKILL.
func crash() error {
	l, err := lab.New()
	if err != nil {
		return err
	}
	sleep := l.Host.Command(lab.Ordinary, "sleep", "600")
	if err := sleep.Start(); err != nil {
		return err
	}
	fmt.Println(l.Dir(), sleep.Process.Pid)
	return sleep.Wait()
}

func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestHostReachesInetAtEveryAddress(t *testing.T) {
	l := newLab(t)
	for _, addr := range []string{
		lab.InetAddr4.Addr().String(), lab.InetAddr6.Addr().String(),
		lab.FarAddr4.Addr().String(), lab.FarAddr6.Addr().String(),
	} {
		ln, err := l.Inet.Listen("tcp", net.JoinHostPort(addr, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		conn, err := l.Host.Dial("tcp", ln.Addr().String(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		if _, err := io.WriteString(conn, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
	}
}

func TestDoReturnsToTheNamespaceItCameFrom(t *testing.T) {
	l := newLab(t)
	here := netnsOfThread(t)
	err := l.Host.Do(func() error {
		host := netnsOfThread(t)
		if host == here {
			t.Error("Do did not enter host")
		}
		err := l.Inet.Do(func() error {
			if in := netnsOfThread(t); in == host || in == here {
				t.Errorf("nested Do is in %s, not in inet", in)
			}
			return nil
		})
		if in := netnsOfThread(t); in != host {
			t.Errorf("after the nested Do the thread is in %s, want %s", in, host)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = l.Host.Do(func() error { panic("on purpose") })
	}()
	if in := netnsOfThread(t); in != here {
		t.Errorf("after a panic inside Do the thread is in %s, want %s", in, here)
	}
}

func netnsOfThread(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCommandRunsAsTheUserWithAHomeOfItsOwn(t *testing.T) {
	l := newLab(t)
	out, err := l.Host.Command(lab.Ordinary, "sh", "-ec",
		`id -u; id -G; touch "$HOME/f" "$XDG_RUNTIME_DIR/f"; stat -c %a "$XDG_RUNTIME_DIR"; grep CapEff /proc/self/status; readlink /proc/self/ns/net`).Output()
	if err != nil {
		t.Fatal(err)
	}
	var host string
	if err := l.Host.Do(func() error { host = netnsOfThread(t); return nil }); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("31000\n31000\n700\nCapEff:\t0000000000000000\n%s\n", host)
	if string(out) != want {
		t.Errorf("got:\n%swant:\n%s", out, want)
	}
}

func TestOrdinaryUsersMayPingAndOpenTUN(t *testing.T) {
	l := newLab(t)
	out, err := l.Host.Command(lab.Ordinary, "sh", "-ec", `cat /proc/sys/net/ipv4/ping_group_range; : <>/dev/net/tun`).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := strings.Fields(string(out)); len(got) != 2 || got[0] != "0" || got[1] != "2147483647" {
		t.Errorf("ping_group_range is %q", out)
	}
}

func TestCommandErrors(t *testing.T) {
	l := newLab(t)
	if err := l.Host.Command(lab.Root, "vasta-no-such-program").Run(); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("missing program: %v", err)
	}
	if err := l.Host.Command(lab.Root).Run(); err == nil {
		t.Error("empty command line: no error")
	}
	_, err := l.Host.Command(lab.Root, "sh", "-c", "echo because >&2; exit 7").Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(err.Error(), "because") {
		t.Errorf("failing program: %v", err)
	}
}

func TestEndOfContextKillsTheWholeGroup(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	out, err := l.Host.CommandContext(ctx, lab.Ordinary, "sh", "-c", "sleep 600 & echo $!; wait").Output()
	if err == nil || time.Since(start) > 5*time.Second {
		t.Fatalf("error %v after %v", err, time.Since(start))
	}
	waitGone(t, strings.TrimSpace(string(out)))
}

func TestWaitKillsBackgroundChildren(t *testing.T) {
	l := newLab(t)
	out, err := l.Host.Command(lab.Root, "sh", "-c", "sleep 600 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	waitGone(t, strings.TrimSpace(string(out)))
}

func TestSetMTUChangesBothEnds(t *testing.T) {
	l := newLab(t)
	for _, mtu := range []int{1500, lab.MTU} {
		if err := l.SetMTU(mtu); err != nil {
			t.Fatal(err)
		}
		for _, ns := range []*lab.Namespace{l.Host, l.Inet} {
			err := ns.Do(func() error {
				link, err := netlink.LinkByName(lab.LinkName)
				if err == nil && link.Attrs().MTU != mtu {
					t.Errorf("%s: MTU %d, want %d", ns.Name(), link.Attrs().MTU, mtu)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestNamespaceBehindHostReachesInet(t *testing.T) {
	l := newLab(t)
	behind, err := l.AddBehind()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetMTU(1500); err != nil {
		t.Fatal(err)
	}
	for _, server := range []netip.Addr{lab.InetAddr4.Addr(), lab.InetAddr6.Addr(), lab.FarAddr4.Addr(), lab.FarAddr6.Addr()} {
		listener, err := l.Inet.Listen("tcp", netip.AddrPortFrom(server, 7777).String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := behind.Dial("tcp", listener.Addr().String(), 5*time.Second)
		if err != nil {
			t.Errorf("%v: %v", server, err)
		} else {
			accepted, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if from := accepted.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); from != lab.BehindAddr4.Addr() && from != lab.BehindAddr6.Addr() {
				t.Errorf("%v: reached from %v: something on the way translates addresses", server, from)
			}
			accepted.Close()
			conn.Close()
		}
		listener.Close()
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	l := newLab(t)
	witness := newLab(t)

	// A veth dies with either of its namespaces: the end in the witness tells
	// when the kernel has really removed the lab's.
	for name, path := range map[string]string{"tohost": l.Host.Path(), "toinet": l.Inet.Path()} {
		ns, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		err = witness.Host.Do(func() error {
			return netlink.LinkAdd(&netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "witness", PeerNamespace: netlink.NsFd(ns.Fd()),
			})
		})
		ns.Close()
		if err != nil {
			t.Fatal(err)
		}
	}

	// A daemon that left its process group is found by its namespace.
	out, err := l.Host.Command(lab.Ordinary, "sh", "-c", `
		setsid sh -c 'echo $$ >"$HOME/pid.new"; mv "$HOME/pid.new" "$HOME/pid"; exec sleep 600' >/dev/null 2>&1 &
		until cat "$HOME/pid" 2>/dev/null; do sleep 0.01; done`).Output()
	if err != nil {
		t.Fatal(err)
	}
	running := l.Inet.Command(lab.Ordinary, "sleep", "600")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := running.Wait(); err == nil {
		t.Error("command survived Close")
	}
	waitGone(t, strings.TrimSpace(string(out)))
	if _, err := os.Stat(l.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory %s: %v", l.Dir(), err)
	}
	if err := l.Host.Command(lab.Root, "true").Start(); err == nil {
		t.Error("a command started after Close")
	}
	eventually(t, "namespaces to vanish", func() bool {
		var left int
		err := witness.Host.Do(func() error {
			links, err := netlink.LinkList()
			left = len(links)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return left == 2 // lo and eth0
	})
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestNextRunRemovesWhatAKilledRunLeft(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	dir, pid, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok {
		t.Fatalf("child says: %s", line)
	}

	newLab(t) // must not touch a living run
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("directory of a living run: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("child was not killed")
	}
	waitGone(t, pid)

	unrelated := filepath.Join(os.TempDir(), "vasta-lab-unrelated")
	if err := os.MkdirAll(unrelated, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(unrelated)
	newLab(t)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory of the killed run: %v", err)
	}
	if _, err := os.Stat(unrelated); err != nil {
		t.Errorf("directory without a lock: %v", err)
	}
}

// waitGone waits until the process has ended.
func waitGone(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "process "+pid+" to end", func() bool {
		if unix.Kill(n, 0) != nil {
			return true
		}
		// An orphan may stay a zombie for as long as init likes.
		stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestOpenEntersANamespaceOfOthers(t *testing.T) {
	l := newLab(t)
	inside := l.Host.Command(lab.Root, "unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 600")
	out, err := inside.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		inside.Kill()
		_ = inside.Wait() // killed
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("%q, %v", line, err)
	}
	ns, err := l.Open("other", fmt.Sprintf("/proc/%d/ns/net", inside.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := ns.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if c, err := ns.Dial("tcp", listener.Addr().String(), 5*time.Second); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if c, err := l.Host.Dial("tcp", listener.Addr().String(), time.Second); err == nil {
		c.Close()
		t.Error("the namespace's loopback is the host's")
	}
	if _, err := l.Open("none", "/proc/self/ns/nothing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that does not exist: %v", err)
	}
}

// TestRoute checks that the end of a route is reached over as many routers as were asked for, and that a narrow link is noticed.
func TestRoute(t *testing.T) {
	l := newLab(t)
	r, err := l.NewRoute(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetMTU(1, 1300); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{lab.End4.Addr().String(), lab.End6.Addr().String()} {
		// Inet and the two routers take one from the hop limit each.
		for ttl, reached := range map[string]bool{"3": false, "4": true} {
			out, err := l.Host.Command(lab.Root, "ping", "-n", "-c", "1", "-W", "2", "-t", ttl, end).CombinedOutput()
			if (err == nil) != reached {
				t.Errorf("%s with %s hops: %v: %s", end, ttl, err, out)
			}
		}
		out, err := l.Host.Command(lab.Root, "ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1400", end).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "1300") {
			t.Errorf("%s over a link of 1300 bytes: %v: %s", end, err, out)
		}
	}
	if _, err := l.NewRoute(0); err == nil {
		t.Error("a route without a router was made")
	}
}
