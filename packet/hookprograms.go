package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// ProtocolCounts are frames by EtherType class and IP protocol, as CountHook counts them. Index 256 is for what is neither IPv4 nor IPv6.
type ProtocolCounts [257]uint64

// NotIP is the index of frames that are neither IPv4 nor IPv6.
const NotIP = 256

// CountHook counts frames by their IP protocol (of IPv6 the first next header), and drops those that drop names by index. It belongs, with the counts, to one queue.
func CountHook(counts *ProtocolCounts, drop *[257]bool) Hook {
	return func(frames []Frame, verdicts []Verdict) {
		for i := range frames {
			var b [EtherLen + 10]byte
			at := NotIP
			if n := frames[i].CopyAt(b[:], 0); n == len(b) {
				switch binary.BigEndian.Uint16(b[12:]) {
				case EtherIPv4:
					at = int(b[EtherLen+9])
				case EtherIPv6:
					at = int(b[EtherLen+6])
				}
			}
			counts[at]++
			if drop[at] {
				verdicts[i] = Drop
			}
		}
	}
}

// SwapMACs sends every frame back, with its addresses exchanged.
func SwapMACs(frames []Frame, verdicts []Verdict) {
	for i := range frames {
		verdicts[i] = Drop
		if len(frames[i].Bufs) == 0 || len(frames[i].Bufs[0]) < EtherLen {
			continue
		}
		b := frames[i].Bufs[0]
		var dst [6]byte
		copy(dst[:], b)
		copy(b, b[6:12])
		copy(b[6:12], dst[:])
		verdicts[i] = TX
	}
}

const (
	protoIPIP   = 4  // IPv4 in IP (RFC 2003)
	protoIPv6IP = 41 // IPv6 in IP (RFC 2473)
	tunnelTTL   = 64
)

// TunnelHook sends every IP packet back inside another one, from src to dst (RFC 2003, RFC 2473): the outer header is written into the room in front of the
// frame, so that no byte of the packet moves. Frames that are no IP are dropped, and so are GSO frames, which no header says how to cut inside of a tunnel, and
// those whose checksum is not made yet.
func TunnelHook(src, dst netip.Addr) (Hook, error) {
	if !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() {
		return nil, errors.New("tunnel hook: two addresses of one family are needed")
	}
	outer := IPv4Len
	if src.Is6() {
		outer = IPv6Len
	}
	s, d := src.AsSlice(), dst.AsSlice()
	return func(frames []Frame, verdicts []Verdict) {
		for i := range frames {
			f := &frames[i]
			verdicts[i] = Drop
			if len(f.Bufs) == 0 || len(f.Bufs[0]) < EtherLen+1 || f.Hdr.GSOType != GSONone || f.Hdr.Flags&FlagNeedsCsum != 0 {
				continue
			}
			proto := byte(protoIPIP)
			switch binary.BigEndian.Uint16(f.Bufs[0][12:]) {
			case EtherIPv4:
			case EtherIPv6:
				proto = protoIPv6IP
			default:
				continue
			}
			inner := f.Len - EtherLen
			if inner+outer > 0xffff || !f.Push(outer) {
				continue
			}
			b := f.Bufs[0]
			copy(b, b[outer:outer+12]) // the Ethernet addresses
			ip := b[EtherLen : EtherLen+outer]
			clear(ip)
			if outer == IPv4Len {
				binary.BigEndian.PutUint16(b[12:], EtherIPv4)
				ip[0], ip[8], ip[9] = 0x45, tunnelTTL, proto
				binary.BigEndian.PutUint16(ip[2:], uint16(inner+outer))
				copy(ip[12:], s)
				copy(ip[16:], d)
				binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip, 0))
			} else {
				binary.BigEndian.PutUint16(b[12:], EtherIPv6)
				ip[0], ip[6], ip[7] = 0x60, proto, tunnelTTL
				binary.BigEndian.PutUint16(ip[4:], uint16(inner))
				copy(ip[8:], s)
				copy(ip[24:], d)
			}
			verdicts[i] = TX
		}
	}, nil
}
