package icmp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Limits of errors in bytes, from the ICMP header on: an ICMP error is at most 576 bytes (RFC 1812, 4.3.2.3), an ICMPv6 error at most the
// minimum MTU (RFC 4443, 2.4).
const (
	MaxError4 = 576 - header.IPv4MinimumSize
	MaxError6 = header.IPv6MinimumMTU - header.IPv6MinimumSize
)

// The narrowest ways: a link that carries IPv4 has at least 68 bytes (RFC 791, 3.2), one that carries IPv6 1280.
const (
	minMTU4 = 68
	minMTU6 = header.IPv6MinimumMTU
)

// Error is what an ICMP or ICMPv6 error says, but for the packet that it is about.
type Error struct {
	V6         bool
	Type, Code uint8
	// Info is the MTU in bytes of packet too big, or fragmentation needed, and the pointer of a parameter problem. Other errors have none.
	Info uint32
}

// Of is the error that tells what the host has answered with err.
func Of(v6 bool, err unix.Errno) Error {
	if v6 {
		return Error{V6: true, Type: uint8(header.ICMPv6DstUnreachable), Code: code6(err)}
	}
	return Error{Type: uint8(header.ICMPv4DstUnreachable), Code: code4(err)}
}

// TooBig tells that the way carries packets of mtu bytes at most, 0 where that is not known (RFC 1191, 3; RFC 4443, 3.2).
func TooBig(v6 bool, mtu int) Error {
	if v6 {
		return Error{V6: true, Type: uint8(header.ICMPv6PacketTooBig), Info: uint32(max(mtu, minMTU6))}
	}
	if mtu > 0 {
		mtu = min(max(mtu, minMTU4), 0xffff)
	}
	return Error{Type: uint8(header.ICMPv4DstUnreachable), Code: uint8(header.ICMPv4FragmentationNeeded), Info: uint32(mtu)}
}

// Relayed is an error that the network has sent to the host, as the guest is told of it. Not ok are those that a host has to ignore (RFC 6633;
// reserved ones), and redirects, which are for whoever routes.
func Relayed(v6 bool, typ, code uint8, info uint32) (e Error, ok bool) {
	e = Error{V6: v6, Type: typ, Code: code}
	if v6 {
		switch header.ICMPv6Type(typ) {
		case header.ICMPv6PacketTooBig:
			return TooBig(true, int(info)), true
		case header.ICMPv6ParamProblem:
			e.Info = info
			return e, true
		case header.ICMPv6DstUnreachable, header.ICMPv6TimeExceeded:
			return e, true
		}
		return Error{}, false
	}
	switch header.ICMPv4Type(typ) {
	case header.ICMPv4DstUnreachable:
		if header.ICMPv4Code(code) == header.ICMPv4FragmentationNeeded {
			return TooBig(false, int(info)), true
		}
		return e, true
	case header.ICMPv4ParamProblem:
		e.Info = info & 0xff
		return e, true
	case header.ICMPv4TimeExceeded:
		return e, true
	}
	return Error{}, false
}

// TimeExceeded reports whether the hop limit of a packet has run out.
func (e Error) TimeExceeded() bool {
	if e.V6 {
		return e.Type == uint8(header.ICMPv6TimeExceeded)
	}
	return e.Type == uint8(header.ICMPv4TimeExceeded)
}

// Put writes the error into b: its header with the checksum still 0, and behind it as much of the quoted packet, which begins with its IP
// header, as an error may carry.
func (e Error) Put(b, quoted []byte) []byte {
	limit := MaxError4
	clear(b[:HeaderLen])
	b[0], b[1] = e.Type, e.Code
	switch {
	case e.V6:
		limit = MaxError6
		binary.BigEndian.PutUint32(b[4:], e.Info)
	case e.Type == uint8(header.ICMPv4ParamProblem):
		b[4] = uint8(e.Info)
	default:
		binary.BigEndian.PutUint16(b[6:], uint16(e.Info))
	}
	n := copy(b[HeaderLen:limit], quoted)
	return b[:HeaderLen+n]
}

func code4(err unix.Errno) uint8 {
	switch err {
	case unix.ENETUNREACH, unix.ENETDOWN:
		return uint8(header.ICMPv4NetUnreachable)
	case unix.ECONNREFUSED:
		return uint8(header.ICMPv4PortUnreachable)
	case unix.EACCES, unix.EPERM:
		return uint8(header.ICMPv4AdminProhibited)
	}
	return uint8(header.ICMPv4HostUnreachable)
}

func code6(err unix.Errno) uint8 {
	switch err {
	case unix.ENETUNREACH, unix.ENETDOWN:
		return uint8(header.ICMPv6NetworkUnreachable)
	case unix.ECONNREFUSED:
		return uint8(header.ICMPv6PortUnreachable)
	case unix.EACCES, unix.EPERM:
		return uint8(header.ICMPv6Prohibited)
	}
	return uint8(header.ICMPv6AddressUnreachable)
}
