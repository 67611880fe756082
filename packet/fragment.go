package packet

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// Lengths and numbers of fragmentation.
const (
	// FragmentLen is the length of the IPv6 fragment header (RFC 8200, 4.5), in bytes.
	FragmentLen   = 8
	ProtoFragment = 44

	moreFragments = 0x2000 // IPv4, beside the offset
	offsetMask    = 0x1fff // IPv4, in units of 8 bytes
)

// Unfragmented makes the IP header ip, options included, that of a whole packet with n bytes behind it.
func Unfragmented(ip []byte, n int) {
	if ip[0]>>4 == 6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(n))
		return
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+n))
	ip[6], ip[7] = 0, 0
	sumIPv4(ip)
}

// Fragmented makes the IPv4 header ip that of a fragment with n bytes behind it, which begin at offset off, a multiple of 8.
func Fragmented(ip []byte, id uint16, off, n int, more bool) {
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+n))
	binary.BigEndian.PutUint16(ip[4:], id)
	field := uint16(off / 8)
	if more {
		field |= moreFragments
	}
	binary.BigEndian.PutUint16(ip[6:], field)
	sumIPv4(ip)
}

// PutFragment writes an IPv6 fragment header to b. off is a multiple of 8.
func PutFragment(b []byte, next uint8, id uint32, off int, more bool) {
	b[0], b[1] = next, 0
	field := uint16(off)
	if more {
		field |= 1
	}
	binary.BigEndian.PutUint16(b[2:], field)
	binary.BigEndian.PutUint32(b[4:], id)
}

func sumIPv4(ip []byte) {
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip, 0))
}
