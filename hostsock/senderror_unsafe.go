package hostsock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// recvError takes one message from the error queue of a socket.
func recvError(fd int, msg *unix.Msghdr) (int, Errno) {
	n, _, err := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(msg)), unix.MSG_DONTWAIT|unix.MSG_ERRQUEUE)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// describe makes the message that an error is received into: data is the memory for what was sent.
func (m *failed) describe(data []byte) {
	m.addr = sockaddr{}
	m.hdr = unix.Msghdr{Name: &m.addr[0], Namelen: uint32(len(m.addr))}
	if len(data) > 0 {
		m.iov[0].Base = unsafe.SliceData(data)
		m.iov[0].SetLen(len(data))
		m.hdr.Iov = &m.iov[0]
		m.hdr.SetIovlen(1)
	}
	room := m.control.room()
	m.hdr.Control = unsafe.SliceData(room)
	m.hdr.SetControllen(len(room))
}

// tellError reads the control messages in the first n bytes into e.
func (c *control) tellError(e *SendError, n int) {
	b := c.room()[:min(n, controlLen)]
	for h, data := nextControl(&b); h != nil; h, data = nextControl(&b) {
		e.note(h.Level, h.Type, data)
	}
}
