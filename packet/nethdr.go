package packet

import "encoding/binary"

// NetHdrLen is the length of struct virtio_net_hdr_v1 / virtio_net_hdr_mrg_rxbuf (include/uapi/linux/virtio_net.h):
// the header in front of every frame on a TAP with IFF_VNET_HDR (TUNSETVNETHDRSZ 12) and in every virtio-net
// buffer (VIRTIO 1.3, 5.1.6).
const NetHdrLen = 12

// Flags and GSO types of the virtio-net header.
const (
	FlagNeedsCsum = 1 // the checksum at CsumStart+CsumOffset covers the pseudo header only
	FlagDataValid = 2 // the checksum was verified by the sender's side

	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDPL4 = 5
	GSOECN   = 0x80
)

// NetHdr is the virtio-net header in host form.
type NetHdr struct {
	Flags, GSOType        uint8
	HdrLen, GSOSize       uint16 // bytes
	CsumStart, CsumOffset uint16 // bytes from the start of the frame
	NumBuffers            uint16
}

// Decode reads the header from the first NetHdrLen bytes of b.
func (h *NetHdr) Decode(b []byte) {
	_ = b[NetHdrLen-1]
	first, rest := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:])
	h.Flags, h.GSOType = uint8(first), uint8(first>>8)
	h.HdrLen, h.GSOSize, h.CsumStart = uint16(first>>16), uint16(first>>32), uint16(first>>48)
	h.CsumOffset, h.NumBuffers = uint16(rest), uint16(rest>>16)
}

// Encode writes the header to the first NetHdrLen bytes of b. What is there already it leaves alone: most headers are as the last one in the same
// place was, and a cache line that nobody writes stays with both ends of a ring.
func (h *NetHdr) Encode(b []byte) {
	first := uint64(h.Flags) | uint64(h.GSOType)<<8 | uint64(h.HdrLen)<<16 | uint64(h.GSOSize)<<32 | uint64(h.CsumStart)<<48
	rest := uint32(h.CsumOffset) | uint32(h.NumBuffers)<<16
	_ = b[NetHdrLen-1]
	if binary.LittleEndian.Uint64(b) != first {
		binary.LittleEndian.PutUint64(b, first)
	}
	if binary.LittleEndian.Uint32(b[8:]) != rest {
		binary.LittleEndian.PutUint32(b[8:], rest)
	}
}
