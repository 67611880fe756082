package hostsock

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr (include/linux/socket.h).
type mmsghdr struct {
	msg unix.Msghdr
	len uint32 // bytes that were received: of the whole datagram, with MSG_TRUNC
}

// controlLen is room for one control message each of segment size, TOS, TTL and packet information, the last of both families at once: a
// socket of both may be told both.
const controlLen = 192

// control is memory for the control messages of one message, aligned as struct cmsghdr has to be (include/linux/socket.h).
type control struct {
	words [controlLen / 8]uint64
	used  int
}

// room is all of it.
func (c *control) room() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&c.words)), controlLen)
}

// bytes is what was written.
func (c *control) bytes() []byte { return c.room()[:c.used] }

// put appends a control message with n bytes of data and returns them, zeroed.
func (c *control) put(level, kind int32, n int) []byte {
	b := c.room()[c.used : c.used+unix.CmsgSpace(n)]
	clear(b)
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b))) // within room, and aligned: CmsgSpace is whole words
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	c.used += len(b)
	return b[unix.CmsgLen(0):unix.CmsgLen(n)]
}

// ask writes what d asks for, in the terms of its family.
func (c *control) ask(d *Datagram, v6 bool) {
	c.used = 0
	if d.Segment > 0 {
		binary.NativeEndian.PutUint16(c.put(unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(d.Segment))
	}
	level, tos, ttl := int32(unix.SOL_IP), int32(unix.IP_TOS), int32(unix.IP_TTL)
	if v6 {
		level, tos, ttl = unix.SOL_IPV6, unix.IPV6_TCLASS, unix.IPV6_HOPLIMIT
	}
	if d.TOS != 0 {
		binary.NativeEndian.PutUint32(c.put(level, tos, 4), uint32(d.TOS))
	}
	if d.TTL != 0 {
		binary.NativeEndian.PutUint32(c.put(level, ttl, 4), uint32(d.TTL))
	}
	if !d.Local.IsValid() {
		return
	}
	if v6 {
		a := d.Local.As16()
		copy(c.put(level, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo), a[:])
	} else {
		a := d.Local.Unmap().As4()
		copy(c.put(level, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)[4:], a[:])
	}
}

// tell reads the control messages in the first n bytes into d.
func (c *control) tell(d *Datagram, n int) {
	b := c.room()[:min(n, controlLen)]
	for h, data := nextControl(&b); h != nil; h, data = nextControl(&b) {
		d.note(h.Level, h.Type, data)
	}
}

// nextControl takes the first control message from *b: its header, and what stands behind that. The header is nil when there is none.
func nextControl(b *[]byte) (h *unix.Cmsghdr, data []byte) {
	if len(*b) < unix.CmsgLen(0) {
		return nil, nil
	}
	h = (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(*b))) // len(*b) is at least a header's
	size := int(h.Len)
	if size < unix.CmsgLen(0) || size > len(*b) {
		return nil, nil
	}
	data = (*b)[unix.CmsgLen(0):size]
	*b = (*b)[min(unix.CmsgSpace(len(data)), len(*b)):]
	return h, data
}

// describe makes message n: its address, its pieces, whose iovecs begin at first, and its control messages.
func (m *messages) describe(n int, addr []byte, first int, bufs [][]byte, control []byte) {
	h := &m.hdr[n].msg
	*h = unix.Msghdr{}
	if len(addr) > 0 {
		h.Name, h.Namelen = unsafe.SliceData(addr), uint32(len(addr))
	}
	if k := fillIovec(m.iov[first:], bufs); k > 0 {
		h.Iov = &m.iov[first]
		h.SetIovlen(k)
	}
	if len(control) > 0 {
		h.Control = unsafe.SliceData(control)
		h.SetControllen(len(control))
	}
}

// controlLen is how many bytes of control messages the kernel wrote.
func (h *mmsghdr) controlLen() int { return int(h.msg.Controllen) }

// sendmmsg sends messages; an error stands for the first of them.
func sendmmsg(fd int, hdr []mmsghdr) (int, Errno) {
	n, _, err := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(hdr))), uintptr(len(hdr)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// recvmmsg receives messages; an error stands for the first of them. Their real length is reported even if they are longer than
// the memory for them (MSG_TRUNC).
func recvmmsg(fd int, hdr []mmsghdr) (int, Errno) {
	n, _, err := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(hdr))), uintptr(len(hdr)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}
