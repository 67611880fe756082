// Package icmp makes and reads the ICMP and ICMPv6 messages that accompany flows: echo, and errors that quote
// what they are about. It makes no system call and knows no clock.
package icmp

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// HeaderLen is the length of an ICMP or ICMPv6 header in bytes.
const HeaderLen = 8

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

// SetIdent changes the identifier of the echo message b, and its checksum by as much (RFC 1624).
func SetIdent(b []byte, id uint16) {
	sum := ^binary.BigEndian.Uint16(b[2:])
	sum = checksum.Combine(checksum.Combine(sum, ^Ident(b)), id)
	binary.BigEndian.PutUint16(b[2:], ^sum)
	binary.BigEndian.PutUint16(b[4:], id)
}

// PutRequest writes the header of an echo request, with neither checksum nor sequence number, to b.
func PutRequest(b []byte, v6 bool, id uint16) {
	clear(b[:HeaderLen])
	b[0] = uint8(header.ICMPv4Echo)
	if v6 {
		b[0] = uint8(header.ICMPv6EchoRequest)
	}
	binary.BigEndian.PutUint16(b[4:], id)
}
