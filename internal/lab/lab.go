// Package lab builds two hosts of its own out of network namespaces, so that
// tests and benchmarks have real networks without touching the machine's.
//
//	lab.Host                                lab.Inet
//	lo   127.0.0.1, ::1                     lo   127.0.0.1, ::1, and the "far" addresses
//	eth0 192.0.2.2/24, 2001:db8::2/64 ───── eth0 192.0.2.1/24, 2001:db8::1/64
//	default routes via 192.0.2.1, 2001:db8::1
//
// Host plays the machine on which vasta runs as an ordinary user; Inet plays
// everything beyond it. The far addresses ([FarAddr4], [FarAddr6]) are reached
// from Host over its default routes only.
//
// The namespaces have no names: file descriptors of this process hold them, so
// the kernel removes them, their links and their routes when the process ends,
// however it ends. The only thing a dead run can leave is a directory under the
// temporary directory; the next [New] removes it.
//
// Building a lab needs root.
package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tunDevice is the device that ordinary users must be able to open.
const tunDevice = "/dev/net/tun"

// closeGrace bounds how long Close waits for killed processes to disappear.
const closeGrace = 5 * time.Second

// Lab is a pair of joined hosts. Its methods may be called from several
// goroutines.
type Lab struct {
	// Host is the machine on which the program under test runs.
	Host *Namespace
	// Inet is the network beyond Host.
	Inet *Namespace

	dir *workDir

	mu       sync.Mutex
	commands map[*Cmd]struct{} // started and not yet waited for
	opened   []*Namespace      // by Open and AddBehind
	behind   *Namespace        // by AddBehind
	closed   bool
}

// New builds a lab. The caller owns it and must Close it. New also makes
// /dev/net/tun usable by ordinary users, as it is on users' systems, and leaves
// it so; and it removes what labs of dead processes left behind.
func New() (lab *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("lab: making network namespaces needs root: run it with sudo")
	}
	if err := removeLeftovers(os.TempDir()); err != nil {
		return nil, fmt.Errorf("lab: leftovers of earlier runs: %w", err)
	}
	if err := os.Chmod(tunDevice, 0o666); err != nil {
		return nil, fmt.Errorf("lab: device for TAP links: %w; load it with modprobe tun", err)
	}

	l := &Lab{commands: make(map[*Cmd]struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.dir, err = newWorkDir(os.TempDir()); err != nil {
		return nil, fmt.Errorf("lab: working directory: %w", err)
	}
	if l.Host, err = newNamespace(l, "host"); err != nil {
		return nil, err
	}
	if l.Inet, err = newNamespace(l, "inet"); err != nil {
		return nil, err
	}
	if err := l.join(); err != nil {
		return nil, fmt.Errorf("lab: joining host and inet: %w", err)
	}
	// Every group may open unprivileged ICMP sockets in host.
	if err := l.Host.Sysctl("net.ipv4.ping_group_range", "0 2147483647"); err != nil {
		return nil, err
	}
	return l, nil
}

// Dir returns a directory that every user may enter and that Close removes: the
// place for binaries, sockets and captures of one run.
func (l *Lab) Dir() string { return l.dir.path }

// Close kills what still runs in the lab, each process by its id, and removes
// everything the lab made. It may be called more than once; it reports what it
// could not remove.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	running := make([]*Cmd, 0, len(l.commands))
	for c := range l.commands {
		running = append(running, c)
	}
	opened := l.opened
	l.mu.Unlock()

	var errs []error
	for _, c := range running {
		c.Kill()
	}
	for _, ns := range []*Namespace{l.Host, l.Inet} {
		if ns == nil {
			continue
		}
		errs = append(errs, ns.killProcesses(closeGrace), ns.close())
	}
	for _, ns := range opened {
		errs = append(errs, ns.close())
	}
	if l.dir != nil {
		errs = append(errs, l.dir.remove())
	}
	return errors.Join(errs...)
}

// track remembers a started command for Close; it refuses when the lab is
// already closed, so that no process outlives it.
func (l *Lab) track(c *Cmd) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("lab: already closed")
	}
	l.commands[c] = struct{}{}
	return nil
}

func (l *Lab) untrack(c *Cmd) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.commands, c)
}

// signalGone says whether err means that the process to be signalled, or the
// file that describes it, has already gone.
func signalGone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrProcessDone) ||
		errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECHILD)
}
