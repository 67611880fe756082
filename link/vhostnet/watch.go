package vhostnet

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// watch waits, in a goroutine, for what the rings say nothing of: that the kernel has given a ring up, and that the TAP does not exist any more. The worker that
// serves the queue is woken by its bell, as it is for frames.
type watch struct {
	epoll, stop int
	over        sync.WaitGroup
}

// What an event of a watch is about.
const (
	aboutStop = iota
	aboutRing // a ring's error descriptor
	aboutTAP
)

// newWatch calls heard, in a goroutine of its own, for each event that is not the end of the watch.
func newWatch(heard func(about int32, events uint32)) (w *watch, err error) {
	w = &watch{epoll: -1, stop: -1}
	defer func() {
		if err != nil {
			w.closeFiles()
		}
	}()
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("link/vhostnet: cannot make an event set: %w", err)
	}
	if w.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("link/vhostnet: cannot make an eventfd: %w", err)
	}
	if err := w.add(w.stop, aboutStop, unix.EPOLLIN); err != nil {
		return nil, err
	}
	w.over.Add(1)
	go w.run(heard)
	return w, nil
}

// add watches a descriptor: for events, and for errors in any case.
func (w *watch) add(fd int, about int32, events uint32) error {
	return w.control(unix.EPOLL_CTL_ADD, fd, about, events)
}

// change changes what a descriptor is watched for.
func (w *watch) change(fd int, about int32, events uint32) error {
	return w.control(unix.EPOLL_CTL_MOD, fd, about, events)
}

// remove ends the watch of a descriptor; one that is closed needs no such call.
func (w *watch) remove(fd int) { _ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, fd, nil) }

func (w *watch) control(op, fd int, about int32, events uint32) error {
	// Edges: an error descriptor that has spoken stays readable.
	if err := unix.EpollCtl(w.epoll, op, fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: about}); err != nil {
		return fmt.Errorf("link/vhostnet: cannot watch descriptor %d: %w", fd, err)
	}
	return nil
}

func (w *watch) run(heard func(about int32, events uint32)) {
	defer w.over.Done()
	var events [4]unix.EpollEvent
	for {
		n, err := unix.EpollWait(w.epoll, events[:], -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd == aboutStop {
				return
			}
			heard(e.Fd, e.Events)
		}
	}
}

// close ends the goroutine.
func (w *watch) close() {
	ring(w.stop)
	w.over.Wait()
	w.closeFiles()
}

func (w *watch) closeFiles() {
	for _, fd := range []int{w.epoll, w.stop} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
