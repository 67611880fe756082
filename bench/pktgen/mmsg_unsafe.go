package pktgen

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr (include/linux/socket.h).
type mmsghdr struct {
	msg unix.Msghdr
	len uint32 // bytes that were moved
}

// messages are headers for several messages that one system call moves. The kernel is given addresses in Go memory that the headers keep alive and
// that does not move; it keeps none of them when the call returns.
type messages struct {
	hdrs [portBatch]mmsghdr
	iovs [portBatch]unix.Iovec
}

// set has message i be the memory b.
func (m *messages) set(i int, b []byte) {
	m.iovs[i].Base = unsafe.SliceData(b)
	m.iovs[i].SetLen(len(b))
	m.hdrs[i].msg.Iov = &m.iovs[i]
	m.hdrs[i].msg.SetIovlen(1)
}

// send sends the first n messages, or as many of them as the socket takes.
func (m *messages) send(fd, n int) (int, unix.Errno) {
	return moved(unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.hdrs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0))
}

// receive receives up to n messages.
func (m *messages) receive(fd, n int) (int, unix.Errno) {
	return moved(unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.hdrs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0))
}

func moved(n, _ uintptr, errno unix.Errno) (int, unix.Errno) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
