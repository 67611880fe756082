package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A watcher tells when a namespace it did not make has ended. It sleeps in poll(2) on a thread of its own.
type watcher struct {
	gone   chan struct{} // closed when the namespace has ended
	exited chan struct{} // closed when the goroutine has ended
	wake   int           // an eventfd that ends the goroutine
	once   sync.Once     // guards closing
}

// watched is what a watcher sleeps on, and how it looks whether the end has come.
type watched struct {
	fds   []unix.PollFd
	ended func() bool
}

// newWatcher watches the process pid, or, when pid is 0, the network namespace at path.
func newWatcher(pid int, path string) (*watcher, error) {
	if pid == 0 {
		pid = pidOfPath(path)
	}
	var what watched
	var err error
	if pid != 0 {
		what, err = watchProcess(pid)
	} else {
		what, err = watchPath(path)
	}
	if err != nil {
		return nil, err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		closePolled(what.fds)
		return nil, os.NewSyscallError("eventfd", err)
	}
	w := &watcher{gone: make(chan struct{}), exited: make(chan struct{}), wake: wake}
	go w.run(what)
	return w, nil
}

// pidOfPath returns the process of a path like /proc/PID/ns/net, else 0. No file system event tells of its end.
func pidOfPath(path string) int {
	rest, ok := strings.CutPrefix(filepath.Clean(path), "/proc/")
	if !ok {
		return 0
	}
	first, _, _ := strings.Cut(rest, "/")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	return pid
}

func watchProcess(pid int) (watched, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return watched{}, fmt.Errorf("process %d: %w: give the id of a running process, not of a thread", pid, err)
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	ended := func() bool {
		now := []unix.PollFd{fds[0]}
		n, err := unix.Poll(now, 0)
		return err == nil && n > 0
	}
	return watched{fds, ended}, nil
}

// watchPath watches the path's directory for its removal, and the mount table for the namespace's unmounting, which
// leaves the file behind.
func watchPath(path string) (w watched, err error) {
	defer func() {
		if err != nil {
			closePolled(w.fds)
			err = fmt.Errorf("network namespace %s: watching for its end: %w", path, err)
		}
	}()
	before, err := os.Stat(path)
	if err != nil {
		return w, fmt.Errorf("%w: check the path", err)
	}
	inotify, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return w, fmt.Errorf("inotify: %w: raise the sysctl fs.inotify.max_user_instances", err)
	}
	w.fds = append(w.fds, unix.PollFd{Fd: int32(inotify), Events: unix.POLLIN})
	const events = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_CREATE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if _, err := unix.InotifyAddWatch(inotify, filepath.Dir(path), events); err != nil {
		return w, fmt.Errorf("inotify on its directory: %w", err)
	}
	mounts, err := unix.Open(procSelfMountInfo, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return w, &os.PathError{Op: "open", Path: procSelfMountInfo, Err: err}
	}
	w.fds = append(w.fds, unix.PollFd{Fd: int32(mounts), Events: unix.POLLPRI})
	w.ended = func() bool {
		drain(inotify)
		now, err := os.Stat(path)
		return err != nil || !os.SameFile(before, now)
	}
	return w, nil
}

// drain takes all events of an inotify descriptor: only that there were some matters.
func drain(inotify int) {
	var buf [4096]byte
	for {
		if _, err := unix.Read(inotify, buf[:]); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// run ends when the namespace has ended or close is called.
func (w *watcher) run(what watched) {
	defer close(w.exited)
	defer closePolled(what.fds)
	all := append(slices.Clone(what.fds), unix.PollFd{Fd: int32(w.wake), Events: unix.POLLIN})
	// It looks before the first sleep as well: the end may have come since the watching was set up.
	for !what.ended() {
		if _, err := unix.Poll(all, -1); err != nil {
			continue // EINTR
		}
		if all[len(all)-1].Revents != 0 {
			return
		}
	}
	close(w.gone)
}

// close ends the watching.
func (w *watcher) close() {
	w.once.Do(func() {
		_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // an eventfd at 0 takes it
		<-w.exited
		unix.Close(w.wake)
	})
}

func closePolled(fds []unix.PollFd) {
	for _, p := range fds {
		unix.Close(int(p.Fd))
	}
}
