package kernel

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Path is the device of vhost-net.
const Path = "/dev/vhost-net"

// Handle is an open /dev/vhost-net. It is not safe for concurrent use.
type Handle struct{ fd int }

var _ Calls = (*Handle)(nil)

// OpenError says why there is no device, and what makes one.
type OpenError struct {
	Path string
	Err  error
	Cure string
}

func (e *OpenError) Error() string { return fmt.Sprintf("%s: %v: %s", e.Path, e.Err, e.Cure) }

func (e *OpenError) Unwrap() error { return e.Err }

// Open opens the device. The error is an *OpenError.
func Open(path string) (*Handle, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return &Handle{fd}, nil
		case errors.Is(err, unix.EINTR):
			continue
		}
		return nil, &OpenError{path, err, cure(path, err)}
	}
}

// cure is what helps against an error of open.
func cure(path string, err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "become a member of its group (kvm on most systems), or get an ACL: setfacl -m u:NAME:rw " + path
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "load the module as root: modprobe vhost_net; without one, the kernel was built without it"
	}
	return "the device does not work"
}

// Fd is the descriptor, which stays the handle's.
func (h *Handle) Fd() int { return h.fd }

// Close ends what the device does, and gives it back.
func (h *Handle) Close() error {
	if h.fd < 0 {
		return fs.ErrClosed
	}
	err := unix.Close(h.fd)
	h.fd = -1
	return err
}
