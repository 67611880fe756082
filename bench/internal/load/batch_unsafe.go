package load

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr (include/linux/socket.h).
type mmsghdr struct {
	msg unix.Msghdr
	len uint32 // bytes that were moved
}

// batch is memory for several messages of a connected socket, which one system call moves. The kernel is given addresses in Go memory that
// the headers keep alive and that does not move; it keeps none of them when the call returns.
type batch struct {
	hdrs []mmsghdr
	iovs []unix.Iovec
	bufs [][]byte
}

func newBatch(n, size int) *batch {
	b := &batch{hdrs: make([]mmsghdr, n), iovs: make([]unix.Iovec, n), bufs: make([][]byte, n)}
	memory := make([]byte, n*size)
	for i := range b.hdrs {
		b.bufs[i] = memory[i*size : (i+1)*size]
		b.iovs[i].Base = unsafe.SliceData(b.bufs[i])
		b.iovs[i].SetLen(size)
		b.hdrs[i].msg.Iov = &b.iovs[i]
		b.hdrs[i].msg.SetIovlen(1)
	}
	return b
}

// send sends the first n messages, or as many of them as the socket takes.
func (b *batch) send(fd, n int) (int, error) {
	return moved(unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b.hdrs))), uintptr(n), 0, 0, 0))
}

// receive waits for a message and takes those that are there then. Their lengths are in hdrs.
func (b *batch) receive(fd int) (int, error) {
	return moved(unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b.hdrs))), uintptr(len(b.hdrs)), unix.MSG_WAITFORONE, 0, 0))
}

// message is what was received as message i.
func (b *batch) message(i int) []byte { return b.bufs[i][:min(int(b.hdrs[i].len), len(b.bufs[i]))] }

func moved(n, _ uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
