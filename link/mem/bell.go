package mem

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bell wakes the goroutine or the event loop of an end: an eventfd. The descriptor is guarded by a lock, because the other end may ring while it
// is closed and its number given to another file; the lock is taken by who wakes somebody, which costs a system call anyway.
type bell struct {
	fd int

	mu     sync.Mutex
	closed bool
	file   *os.File // the same in the care of Go's poller; made by the first wait
}

func (b *bell) open() (err error) {
	if b.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("link/mem: cannot make an eventfd: %w", err)
	}
	return nil
}

// one is what is written to an eventfd.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// ring makes the descriptor readable.
func (b *bell) ring() {
	b.mu.Lock()
	if !b.closed {
		_, _ = unix.Write(b.fd, one) // it fails only when the counter is full, and then it is readable
	}
	b.mu.Unlock()
}

// mute makes the descriptor unreadable.
func (b *bell) mute() {
	var count [8]byte
	b.mu.Lock()
	if !b.closed {
		_, _ = unix.Read(b.fd, count[:]) // EAGAIN when it has not rung
	}
	b.mu.Unlock()
}

// wait waits until the bell has rung, and mutes it.
func (b *bell) wait(ctx context.Context) error {
	f, err := b.polled()
	if err != nil {
		return err
	}
	if ctx.Done() != nil {
		stopped := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			_ = f.SetReadDeadline(time.Unix(1, 0)) // it fails when f is closed, which ends the wait as well
			close(stopped)
		})
		defer func() {
			if !stop() {
				<-stopped
				_ = f.SetReadDeadline(time.Time{})
			}
		}()
	}
	var count [8]byte
	_, err = f.Read(count[:])
	return err
}

// polled is the descriptor in the care of Go's poller. An end with an event loop of its own never asks for it, so that ringing wakes one poller only.
func (b *bell) polled() (*os.File, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, os.ErrClosed
	}
	if b.file == nil {
		fd, err := unix.FcntlInt(uintptr(b.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		b.file = os.NewFile(uintptr(fd), "link/mem")
	}
	return b.file, nil
}

func (b *bell) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	unix.Close(b.fd)
	if b.file != nil {
		b.file.Close() // ends a wait
	}
}
