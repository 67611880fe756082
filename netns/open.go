package netns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// SocketKind is what kind of socket [Namespace.Open] opens.
type SocketKind struct {
	IPv6, UDP bool // else IPv4, and TCP
}

// MaxOpen is how many sockets one Open opens at most: what one message of the stage carries, rounded down.
const MaxOpen = 250

// Open opens sockets in the namespace, at most [MaxOpen], in that order: non-blocking, close-on-exec, not known to Go's poller, neither bound nor connected. They belong to
// the caller and stay in the namespace wherever they are used, which as long as one of them is open does not go. Open has one caller at a time. On error there are none.
func (n *Namespace) Open(kinds []SocketKind) (fds []int, err error) {
	if n.stage != nil {
		fds, err = n.stage.open(kinds)
	} else {
		fds, err = n.attached.open(kinds)
	}
	if err == nil && len(fds) != len(kinds) {
		closeAll(fds)
		return nil, fmt.Errorf("opening sockets inside: there are %d of %d", len(fds), len(kinds))
	}
	return fds, err
}

// stageOpen asks for sockets.
type stageOpen struct {
	Kinds []SocketKind
}

// open asks the resident stage.
func (s *stageProcess) open(kinds []SocketKind) ([]int, error) {
	if err := s.tell(kindOpen, stageOpen{kinds}); err != nil {
		return nil, err
	}
	select {
	case m := <-s.opened:
		var failure stageFailure
		err := m.decode(&failure)
		if err == nil && failure.Message != "" {
			err = failure.unpack()
		}
		return m.fds, err
	case <-s.ended:
		return nil, ErrGone
	}
}

// open has a stage of its own join the namespace again.
func (a *attachment) open(kinds []SocketKind) ([]int, error) {
	s, err := attach(a.target, a.path, stageConfig{Attached: true, Open: &stageOpen{kinds}})
	if err != nil {
		return nil, err
	}
	return s.fds, nil
}

// open runs in the stage, for a message of the caller.
func (s *stage) open(m *message) {
	var o stageOpen
	var fds []int
	err := m.decode(&o)
	if err == nil {
		fds, err = o.sockets()
	}
	var answer stageFailure
	if err != nil {
		answer = failureOf(err)
	}
	_ = s.send(kindOpened, answer, fds...) // when the caller is gone there is nobody to tell
	closeAll(fds)
}

// sockets opens all or none.
func (o *stageOpen) sockets() (fds []int, err error) {
	for _, k := range o.Kinds {
		domain, kind := unix.AF_INET, unix.SOCK_STREAM
		if k.IPv6 {
			domain = unix.AF_INET6
		}
		if k.UDP {
			kind = unix.SOCK_DGRAM
		}
		fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("opening sockets inside: %w", os.NewSyscallError("socket", err))
		}
		fds = append(fds, fd)
	}
	return fds, nil
}
