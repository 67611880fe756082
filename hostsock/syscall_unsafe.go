package hostsock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of this package. The rule that keeps them safe: every pointer is turned into a uintptr in the
// argument list of the assembly call itself, which makes the compiler keep its memory alive and in place until the call
// returns (package unsafe, rule 4), and every length given to the kernel is the length of that memory.
//
// They are raw: the Go scheduler is not told, so none of them may block. Descriptors are non-blocking, and messages
// carry MSG_DONTWAIT besides. Only epollWait with a timeout blocks, and goes through the scheduler.

// epollWait waits for at most ms milliseconds, -1 for no limit. An interrupted or failed wait returns 0.
func epollWait(epoll int, ready []unix.EpollEvent, ms int) int {
	var n uintptr
	var err Errno
	if ms == 0 {
		n, _, err = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll),
			uintptr(unsafe.Pointer(unsafe.SliceData(ready))), uintptr(len(ready)), 0, 0, 0)
	} else {
		n, _, err = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll),
			uintptr(unsafe.Pointer(unsafe.SliceData(ready))), uintptr(len(ready)), uintptr(ms), 0, 0)
	}
	if err != 0 {
		return 0
	}
	return int(n)
}

func epollAdd(epoll, fd int, event *unix.EpollEvent) Errno {
	_, _, err := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), unix.EPOLL_CTL_ADD, uintptr(fd),
		uintptr(unsafe.Pointer(event)), 0, 0)
	return err
}

func epollDelete(epoll, fd int) {
	unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), unix.EPOLL_CTL_DEL, uintptr(fd), 0, 0, 0)
}

// fillIovec describes the first pieces of bufs and returns how many iovecs it used.
func fillIovec(iov []unix.Iovec, bufs [][]byte) int {
	n := min(len(bufs), len(iov))
	for i, b := range bufs[:n] {
		iov[i].Base = unsafe.SliceData(b)
		iov[i].SetLen(len(b))
	}
	return n
}

// sendmsg sends what iov describes. msg is scratch memory.
func sendmsg(fd int, msg *unix.Msghdr, iov []unix.Iovec) (int, Errno) {
	msg.Name, msg.Namelen = nil, 0
	msg.Iov = unsafe.SliceData(iov)
	msg.SetIovlen(len(iov))
	n, _, err := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(msg)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// recv reads from a stream or an ICMP socket, with MSG_PEEK or without further flags.
func recv(fd int, buf []byte, flags int) (int, Errno) {
	n, _, err := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))),
		uintptr(len(buf)), uintptr(unix.MSG_DONTWAIT|flags), 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// recvmsg reads from a stream socket into what iov describes. msg is scratch memory.
func recvmsg(fd int, msg *unix.Msghdr, iov []unix.Iovec) (int, Errno) {
	msg.Name, msg.Namelen = nil, 0
	msg.Iov = unsafe.SliceData(iov)
	msg.SetIovlen(len(iov))
	n, _, err := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(msg)), unix.MSG_DONTWAIT)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

func socket(domain, kind, proto int) (int, Errno) {
	fd, _, err := unix.RawSyscall(unix.SYS_SOCKET, uintptr(domain), uintptr(kind), uintptr(proto))
	if err != 0 {
		return -1, err
	}
	return int(fd), 0
}

func bind(fd int, addr []byte) Errno {
	_, _, err := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(addr))),
		uintptr(len(addr)))
	return err
}

func connect(fd int, addr []byte) Errno {
	_, _, err := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(addr))),
		uintptr(len(addr)))
	return err
}

func listen(fd, backlog int) Errno {
	_, _, err := unix.RawSyscall(unix.SYS_LISTEN, uintptr(fd), uintptr(backlog), 0)
	return err
}

func accept(fd int, peer *sockaddr) (int, Errno) {
	n := uint32(len(peer))
	conn, _, err := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(peer)),
		uintptr(unsafe.Pointer(&n)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if err != 0 {
		return -1, err
	}
	return int(conn), 0
}

func getOption(fd, level, option int) (int32, Errno) {
	var value int32
	n := uint32(unsafe.Sizeof(value))
	_, _, err := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&n)), 0)
	return value, err
}

func setOption(fd, level, option int, value int32) Errno {
	_, _, err := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0)
	return err
}

// setOptionBytes sets an option whose value is a struct.
func setOptionBytes(fd, level, option int, value []byte) Errno {
	_, _, err := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), 0)
	return err
}

func bindToDevice(fd int, device string) Errno {
	_, _, err := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE,
		uintptr(unsafe.Pointer(unsafe.StringData(device))), uintptr(len(device)), 0)
	return err
}

// resetOnClose makes close drop what is queued and send a reset at once: lingering is on, for no time at all. On a descriptor that
// is not a socket it does nothing.
func resetOnClose(fd int) {
	linger := unix.Linger{Onoff: 1, Linger: 0}
	unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER,
		uintptr(unsafe.Pointer(&linger)), unsafe.Sizeof(linger), 0)
}

func shutdown(fd, how int) Errno {
	_, _, err := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
	return err
}

func closeFd(fd int) {
	unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}
