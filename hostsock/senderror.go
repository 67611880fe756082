package hostsock

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// SendError is what the network, or this machine, has answered to something that a socket has sent.
type SendError struct {
	// Err is what the kernel makes of it.
	Err Errno
	// ICMP says that an ICMP or ICMPv6 message, of this Type and Code, has come; otherwise it is this machine that has refused to send.
	ICMP       bool
	Type, Code uint8
	// Info is the width of the way in bytes when something was too long for it, and the pointer of a parameter problem.
	Info uint32
	// From is who has sent the ICMP message; invalid where that is not known.
	From netip.Addr
	// Peer is where it was sent to; the port of an echo socket's is 0.
	Peer netip.AddrPort
	// Data is memory of the caller's for what the message has brought back of what was sent: the payload of a UDP datagram, or an ICMP
	// message. Len is how many bytes of it that were.
	Data []byte
	Len  int
}

// failed is memory for what the kernel writes of one error.
type failed struct {
	hdr     unix.Msghdr
	iov     [1]unix.Iovec // cleared after each call
	addr    sockaddr
	control control
}

// QueueErrors implements Host.
func (s *System) QueueErrors(fd int, v6, dual bool) Errno {
	if v6 {
		if err := s.setOption(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1); err != 0 || !dual {
			return err
		}
	}
	return s.setOption(fd, unix.SOL_IP, unix.IP_RECVERR, 1)
}

// RecvError implements Host.
func (s *System) RecvError(fd int, e *SendError) Errno {
	m := &s.failed
	s.counters.Recv++
	m.describe(e.Data)
	n, err := recvError(fd, &m.hdr)
	clear(m.iov[:])
	if err != 0 {
		return err
	}
	*e = SendError{Peer: m.addr.decode(), Data: e.Data, Len: n}
	m.control.tellError(e, int(m.hdr.Controllen))
	return 0
}

// Layout of struct sock_extended_err (include/uapi/linux/errqueue.h), all in the machine's byte order: errno, origin, type, code, padding, info and
// data; the socket address of who has reported it follows.
const (
	extendedErrLen   = 16
	originICMP       = 2
	originICMP6      = 3
	offOrigin        = 4
	offType, offCode = 5, 6
	offInfo          = 8
)

// note puts what one control message says into e. data is what stands behind its header.
func (e *SendError) note(level, kind int32, data []byte) {
	ours := level == unix.SOL_IP && kind == unix.IP_RECVERR || level == unix.SOL_IPV6 && kind == unix.IPV6_RECVERR
	if !ours || len(data) < extendedErrLen {
		return
	}
	e.Err = Errno(binary.NativeEndian.Uint32(data))
	e.ICMP = data[offOrigin] == originICMP || data[offOrigin] == originICMP6
	e.Type, e.Code = data[offType], data[offCode]
	e.Info = binary.NativeEndian.Uint32(data[offInfo:])
	var from sockaddr
	if copy(from[:], data[extendedErrLen:]) >= unix.SizeofSockaddrInet4 && e.ICMP {
		e.From = from.decode().Addr().WithZone("")
	}
}
