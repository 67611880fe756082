package tap

import (
	"unsafe"

	"github.com/vasta-net/vasta/link"
	"golang.org/x/sys/unix"
)

// The two system calls of the link. Both are raw, that is, the Go scheduler is not told of them: the descriptor is
// non-blocking. Every pointer is turned into a uintptr in the argument list of the assembly call itself, which keeps its
// memory alive and in place until the call returns (package unsafe, rule 4).

func read(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// write sends the encoded header, the head and the payload as one frame.
func (q *Queue) write(out *link.Out) unix.Errno {
	iov := q.iov[:2+len(out.Payload)]
	set(&iov[0], q.hdr[:])
	set(&iov[1], out.Head)
	for i, b := range out.Payload {
		set(&iov[2+i], b)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(q.fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
	clear(iov)
	return errno
}

func set(v *unix.Iovec, b []byte) {
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
}
