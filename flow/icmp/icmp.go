// Package icmp makes and reads the ICMP and ICMPv6 messages that accompany flows: echo, and errors that quote
// what they are about. It makes no system call and knows no clock.
package icmp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// HeaderLen is the length of an ICMP or ICMPv6 header in bytes.
const HeaderLen = 8

// Quoted limits in bytes: an ICMP error is at most 576 bytes (RFC 1812, 4.3.2.3), an ICMPv6 error at most the minimum MTU (RFC
// 4443, 2.4).
const (
	MaxError4 = 576 - header.IPv4MinimumSize
	MaxError6 = 1280 - header.IPv6MinimumSize
)

// EchoRequest reports whether a message with the given type and code is an echo request.
func EchoRequest(v6 bool, typ, code uint8) bool {
	if v6 {
		return typ == uint8(header.ICMPv6EchoRequest) && code == 0
	}
	return typ == uint8(header.ICMPv4Echo) && code == 0
}

// EchoReply reports whether b begins an echo reply.
func EchoReply(v6 bool, b []byte) bool {
	if len(b) < HeaderLen {
		return false
	}
	if v6 {
		return b[0] == uint8(header.ICMPv6EchoReply)
	}
	return b[0] == uint8(header.ICMPv4EchoReply)
}

// Ident is the identifier of the echo message b.
func Ident(b []byte) uint16 { return binary.BigEndian.Uint16(b[4:]) }

// SetIdent changes the identifier of the echo message b; its checksum is wrong then.
func SetIdent(b []byte, id uint16) { binary.BigEndian.PutUint16(b[4:], id) }

// Unreachable writes a destination unreachable message into b: its header with the checksum still 0, and behind
// it as much of the quoted packet, which begins with its IP header, as an error may carry. The code follows the errno that the host gave.
func Unreachable(b []byte, v6 bool, err unix.Errno, quoted []byte) []byte {
	limit := MaxError4
	typ, code := uint8(header.ICMPv4DstUnreachable), code4(err)
	if v6 {
		limit = MaxError6
		typ, code = uint8(header.ICMPv6DstUnreachable), code6(err)
	}
	clear(b[:HeaderLen])
	b[0], b[1] = typ, code
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
