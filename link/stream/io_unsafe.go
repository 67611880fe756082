package stream

import (
	"unsafe"

	"github.com/vasta-net/vasta/link"
	"golang.org/x/sys/unix"
)

// The system calls of the link. All are raw, that is, the Go scheduler is not told of them: the descriptor is non-blocking. Every pointer is turned into a
// uintptr in the argument list of the assembly call itself, which keeps its memory alive and in place until the call returns (package unsafe, rule 4). What msg
// points at is the queue's own, and the frame's pieces are kept alive by their caller.

func receive(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func send(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// sendMessage sends head and payload as one message (struct msghdr, include/linux/socket.h).
func (q *Datagram) sendMessage(out *link.Out) unix.Errno {
	iov := q.iov[:1+len(out.Payload)]
	set(&iov[0], out.Head)
	for i, b := range out.Payload {
		set(&iov[1+i], b)
	}
	q.msg.Iov = unsafe.SliceData(iov)
	q.msg.SetIovlen(len(iov))
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(q.fd), uintptr(unsafe.Pointer(&q.msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	clear(iov)
	return errno
}

func set(v *unix.Iovec, b []byte) {
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
}
