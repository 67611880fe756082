package hostsock

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// maxEvents is how many readiness reports one Wait takes from the kernel at most.
const maxEvents = 256

// maxPieces is how many pieces of memory one Send or SendDatagrams hands to the kernel at most.
const maxPieces = 64

// Counters are the system calls a System has made so far.
type Counters struct {
	Wait   uint64 // epoll_pwait
	Send   uint64 // sendmsg, sendmmsg
	Recv   uint64 // recvfrom, recvmsg, recvmmsg
	Socket uint64 // everything else: opening, options, accepting, shutting down, closing
}

// System is the Host of the machine: every method is one or a few system calls.
//
// Calls that cannot block are made without telling the Go scheduler, which saves the hand-over of the
// processor; only a Wait with a timeout goes through the scheduler. All buffers that the kernel reads arguments from are
// part of the System, so that no method allocates; that is also why it is not safe for concurrent use.
type System struct {
	epoll    int
	counters Counters

	ready [maxEvents]unix.EpollEvent
	iov   [maxPieces]unix.Iovec // cleared after each call: it must not keep the caller's memory alive
	msg   unix.Msghdr
	addr  sockaddr // where addresses go to and come from the kernel

	peeked [1]byte

	messages messages
	failed   failed
}

var _ Host = (*System)(nil)

// NewSystem opens the epoll set of one worker.
func NewSystem() (*System, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("hostsock: cannot open an epoll set: %w (raise the limit of open files, ulimit -n)", err)
	}
	return &System{epoll: fd}, nil
}

// Release closes the epoll set. Sockets that are still open stay open.
func (s *System) Release() error { return unix.Close(s.epoll) }

// Counters are the system calls so far.
func (s *System) Counters() Counters { return s.counters }

// Watch implements Host. Any descriptor that epoll takes will do, also a TAP device or an eventfd.
func (s *System) Watch(fd int, token uint64) Errno {
	s.counters.Socket++
	return epollAdd(s.epoll, fd, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET,
		Fd:     int32(uint32(token)), // Fd and Pad are the two halves of the kernel's 64 bits of user data
		Pad:    int32(uint32(token >> 32)),
	})
}

// Unwatch implements Host.
func (s *System) Unwatch(fd int) {
	s.counters.Socket++
	epollDelete(s.epoll, fd)
}

// Wait implements Host. At most 256 events are returned at once, and timeouts are rounded up to milliseconds.
func (s *System) Wait(events []Event, timeout int64) int {
	if len(events) == 0 {
		return 0
	}
	s.counters.Wait++
	n := epollWait(s.epoll, s.ready[:min(len(events), maxEvents)], milliseconds(timeout))
	for i := range n {
		e := &s.ready[i]
		events[i] = Event{
			Token:  uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32,
			In:     e.Events&(unix.EPOLLIN|unix.EPOLLRDHUP) != 0,
			Out:    e.Events&unix.EPOLLOUT != 0,
			End:    e.Events&unix.EPOLLRDHUP != 0,
			Hangup: e.Events&unix.EPOLLHUP != 0,
			Error:  e.Events&unix.EPOLLERR != 0,
			Urgent: e.Events&unix.EPOLLPRI != 0,
		}
	}
	return n
}

// milliseconds is a timeout of epoll_wait for one in nanoseconds: never shorter, and -1 for no limit.
func milliseconds(timeout int64) int {
	if timeout < 0 {
		return -1
	}
	ms := timeout / int64(time.Millisecond)
	if timeout%int64(time.Millisecond) != 0 {
		ms++
	}
	return int(min(ms, math.MaxInt32))
}

// Yield lets other threads of the machine run first (sched_yield(2)). The Go scheduler is not told of it, as of the other calls.
func Yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
