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
	h.Flags, h.GSOType = b[0], b[1]
	h.HdrLen = binary.LittleEndian.Uint16(b[2:])
	h.GSOSize = binary.LittleEndian.Uint16(b[4:])
	h.CsumStart = binary.LittleEndian.Uint16(b[6:])
	h.CsumOffset = binary.LittleEndian.Uint16(b[8:])
	h.NumBuffers = binary.LittleEndian.Uint16(b[10:])
}

// Encode writes the header to the first NetHdrLen bytes of b.
func (h *NetHdr) Encode(b []byte) {
	_ = b[NetHdrLen-1]
	b[0], b[1] = h.Flags, h.GSOType
	binary.LittleEndian.PutUint16(b[2:], h.HdrLen)
	binary.LittleEndian.PutUint16(b[4:], h.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], h.CsumStart)
	binary.LittleEndian.PutUint16(b[8:], h.CsumOffset)
	binary.LittleEndian.PutUint16(b[10:], h.NumBuffers)
}
