package linktest

import (
	"encoding/binary"
	"fmt"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// Frame is a copy of one frame that was sent to the guest.
type Frame struct {
	Hdr  packet.NetHdr
	Data []byte // from the Ethernet header on
}

func copyOf(out *link.Out) Frame {
	f := Frame{Hdr: out.Hdr, Data: append([]byte(nil), out.Head...)}
	for _, b := range out.Payload {
		f.Data = append(f.Data, b...)
	}
	return f
}

// Complete finishes a partial checksum, as the guest's side would before it put the frame on a wire. It fails when the
// place of the checksum lies outside the frame.
func (f *Frame) Complete() error {
	if f.Hdr.Flags&packet.FlagNeedsCsum == 0 {
		return nil
	}
	start := int(f.Hdr.CsumStart)
	at := start + int(f.Hdr.CsumOffset)
	if start > len(f.Data) || at+2 > len(f.Data) {
		return fmt.Errorf("linktest: checksum of bytes from %d on at %d, in a frame of %d bytes", start, at, len(f.Data))
	}
	sum := ^checksum.Checksum(f.Data[start:], 0)
	binary.BigEndian.PutUint16(f.Data[at:], sum)
	f.Hdr.Flags &^= packet.FlagNeedsCsum
	return nil
}

// Packet decodes the frame.
func (f *Frame) Packet() gopacket.Packet {
	return gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.Default)
}

// Verify decodes the frame as a guest would: every layer and every checksum has to be right, and the virtio-net header
// has to fit the frame. A partial checksum is completed by that.
func (f *Frame) Verify() (gopacket.Packet, error) {
	if err := f.Complete(); err != nil {
		return nil, err
	}
	p := f.Packet()
	if e := p.ErrorLayer(); e != nil && p.TransportLayer() == nil { // what TCP and UDP carry is not judged
		return p, fmt.Errorf("linktest: frame cannot be decoded: %w", e.Error())
	}
	for _, l := range p.Layers() { // gopacket does not find the pseudo header by itself
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
				return p, fmt.Errorf("linktest: %v without an IP header: %w", l.LayerType(), err)
			}
		}
	}
	err, wrong := p.VerifyChecksums()
	if err != nil {
		return p, fmt.Errorf("linktest: checksums cannot be verified: %w", err)
	}
	if len(wrong) > 0 {
		return p, fmt.Errorf("linktest: checksum of %v is %#x, should be %#x", wrong[0].Layer.LayerType(), wrong[0].Actual, wrong[0].Correct)
	}
	return p, f.checkGSO(p)
}

// checkGSO holds the segmentation that the header asks for against what is to be segmented.
func (f *Frame) checkGSO(p gopacket.Packet) error {
	var want gopacket.LayerType
	v6 := p.Layer(layers.LayerTypeIPv6) != nil
	switch gso := f.Hdr.GSOType &^ packet.GSOECN; {
	case gso == packet.GSONone:
		return nil
	case gso == packet.GSOTCPv4 && !v6, gso == packet.GSOTCPv6 && v6:
		want = layers.LayerTypeTCP
	case gso == packet.GSOUDPL4:
		want = layers.LayerTypeUDP
	default:
		return fmt.Errorf("linktest: segmentation of type %d for a packet with IPv6 = %v", gso, v6)
	}
	l := p.Layer(want)
	switch {
	case l == nil:
		return fmt.Errorf("linktest: segmentation of a packet without %v", want)
	case f.Hdr.GSOSize == 0:
		return fmt.Errorf("linktest: segmentation into segments of no size")
	case len(l.LayerPayload()) <= int(f.Hdr.GSOSize):
		return fmt.Errorf("linktest: segmentation of %d bytes into segments of %d", len(l.LayerPayload()), f.Hdr.GSOSize)
	}
	return nil
}
