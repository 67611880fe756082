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
	tap         int

	mu     sync.Mutex
	frames bool // the TAP's frames are asked for
	over   sync.WaitGroup
}

// What an event of a watch is about.
const (
	aboutStop   = iota
	aboutRing   // a ring's error descriptor
	aboutTAP    // of which only the end is of interest
	aboutFrames // of a TAP that has no rings
)

// rest is for how many milliseconds a TAP is left alone after a frame. The tun driver tells of its end as it tells of a frame, and in no other way: so the next frame is asked for,
// which costs an idle TAP nothing and a busy one a wake-up a second.
const rest = 1000

// newWatch calls heard, in a goroutine of its own, for what happens to the TAP and to descriptors that are added.
func newWatch(tap int, heard func(about int32, ended bool)) (w *watch, err error) {
	w = &watch{epoll: -1, stop: -1, tap: tap}
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
	if err := w.add(tap, aboutTAP, unix.EPOLLIN); err != nil {
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

// askFrames has heard called for the TAP's frames, too.
func (w *watch) askFrames() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frames = true
	return w.control(unix.EPOLL_CTL_MOD, w.tap, aboutFrames, unix.EPOLLIN)
}

// askAgain asks for the next frame, unless all of them are asked for. An end meanwhile is told of at once.
func (w *watch) askAgain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.frames {
		_ = w.control(unix.EPOLL_CTL_MOD, w.tap, aboutTAP, unix.EPOLLIN) // the TAP is in the set
	}
}

// remove ends the watch of a descriptor; one that is closed needs no such call.
func (w *watch) remove(fd int) { _ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, fd, nil) }

func (w *watch) control(op, fd int, about int32, events uint32) error {
	if about == aboutTAP {
		events |= unix.EPOLLONESHOT
	} else {
		events |= unix.EPOLLET // an error descriptor that has spoken stays readable
	}
	if err := unix.EpollCtl(w.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: about}); err != nil {
		return fmt.Errorf("link/vhostnet: cannot watch descriptor %d: %w", fd, err)
	}
	return nil
}

func (w *watch) run(heard func(about int32, ended bool)) {
	defer w.over.Done()
	var events [4]unix.EpollEvent
	timeout := -1
	for {
		n, err := unix.EpollWait(w.epoll, events[:], timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if n == 0 {
			timeout = -1
			w.askAgain()
		}
		for _, e := range events[:max(n, 0)] {
			switch ended := e.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0; {
			case e.Fd == aboutStop:
				return
			case e.Fd == aboutTAP && !ended:
				timeout = rest
			default:
				heard(e.Fd, ended)
			}
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
