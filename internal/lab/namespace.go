package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// threadNS names the network namespace of the calling thread.
const threadNS = "/proc/thread-self/ns/net"

// Namespace is one network namespace of a lab, held open by a file descriptor.
type Namespace struct {
	lab  *Lab
	name string
	file *os.File
}

// newNamespace makes a network namespace with nothing but its loopback.
func newNamespace(l *Lab, name string) (*Namespace, error) {
	ns := &Namespace{lab: l, name: name}
	err := onThreadOfItsOwn(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		var err error
		ns.file, err = os.Open(threadNS)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: making namespace %s: %w", name, err)
	}
	// A router asks for its neighbours from its link-local address, which for the first seconds were tentative.
	if err := ns.Sysctl("net.ipv6.conf.default.accept_dad", "0"); err != nil {
		return nil, err
	}
	if err := ns.setUp("lo"); err != nil {
		return nil, err
	}
	return ns, nil
}

// Open returns the network namespace that path names, such as /proc/PID/ns/net,
// as one more of the lab's; name stands for it in errors. It is held open until
// its Close or the lab's, which do not end the processes in it: whoever made it does.
func (l *Lab) Open(name, path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lab: namespace %s: %w", name, err)
	}
	ns := &Namespace{lab: l, name: name, file: file}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened = append(l.opened, ns)
	return ns, nil
}

// onThreadOfItsOwn runs fn on a thread that moves back to its network namespace
// afterwards, on return as well as on panic or runtime.Goexit.
func onThreadOfItsOwn(fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(threadNS)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		// A thread that cannot go home stays locked: the runtime ends it with
		// its goroutine instead of handing it to others.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		home.Close()
	}()
	return fn()
}

// Name returns the namespace's part in the lab: "host", "inet", or what Open was
// given.
func (ns *Namespace) Name() string { return ns.name }

// Path returns a path that setns(2) callers, such as nsenter --net=PATH, can open
// while the lab lives. Only root may open it.
func (ns *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd())
}

// Do runs fn on the calling goroutine with its thread inside the namespace and
// returns fn's error. Sockets that fn opens belong to the namespace for good.
// Goroutines that fn starts run outside it. Calls may be nested.
func (ns *Namespace) Do(fn func() error) error {
	return onThreadOfItsOwn(func() error {
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("lab: entering namespace %s: %w", ns.name, err)
		}
		return fn()
	})
}

// Sysctl writes value to the setting key ("net.ipv4.ip_forward") inside the
// namespace.
func (ns *Namespace) Sysctl(key, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
	return ns.Do(func() error {
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return fmt.Errorf("lab: sysctl %s=%s in %s: %w", key, value, ns.name, err)
		}
		return nil
	})
}

// Dial is net.DialTimeout with the socket inside the namespace. The address must
// be numeric: a resolver would run outside.
func (ns *Namespace) Dial(network, address string, timeout time.Duration) (conn net.Conn, err error) {
	err = ns.Do(func() error {
		conn, err = net.DialTimeout(network, address, timeout)
		return err
	})
	return conn, err
}

// Listen is net.Listen with the socket inside the namespace; the address must be
// numeric.
func (ns *Namespace) Listen(network, address string) (l net.Listener, err error) {
	err = ns.Do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// ListenPacket is net.ListenPacket with the socket inside the namespace; the
// address must be numeric.
func (ns *Namespace) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = ns.Do(func() error {
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}

// Close lets go of a namespace that [Lab.Open] returned. It is called once, and not after the lab's Close.
func (ns *Namespace) Close() error {
	ns.lab.mu.Lock()
	ns.lab.opened = slices.DeleteFunc(ns.lab.opened, func(o *Namespace) bool { return o == ns })
	ns.lab.mu.Unlock()
	return ns.close()
}

func (ns *Namespace) close() error { return ns.file.Close() }

// Processes returns the ids of the processes whose main thread is in the
// namespace. A namespace nested in it is not it.
func (ns *Namespace) Processes() ([]int, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(ns.file.Fd()), &want); err != nil {
		return nil, fmt.Errorf("lab: namespace %s: %w", ns.name, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("lab: processes of namespace %s: %w", ns.name, err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var have unix.Stat_t
		// Any failure means that the process has gone meanwhile.
		if unix.Stat(filepath.Join("/proc", e.Name(), "ns/net"), &have) == nil &&
			have.Dev == want.Dev && have.Ino == want.Ino {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killProcesses kills what is still in the namespace and waits, at most grace,
// until it is empty. Nobody but the lab's own commands and their children can be
// there.
func (ns *Namespace) killProcesses(grace time.Duration) error {
	deadline := time.Now().Add(grace)
	for {
		pids, err := ns.Processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		var errs []error
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !signalGone(err) {
				errs = append(errs, fmt.Errorf("lab: killing process %d in %s: %w", pid, ns.name, err))
			}
		}
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("lab: processes %v in %s outlived SIGKILL by %v", pids, ns.name, grace)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
