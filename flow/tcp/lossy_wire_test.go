package tcp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vasta-net/vasta/packet"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
)

// Frames as they cross the lossy path: complete, with every checksum, made and read by gVisor's views, so that Conn's own reading of
// them (packet.Parse, Segment.Parse) meets a stranger's writing.

// ends of the path, by version; end i sends from address i to address 1-i, from port 1000+i to port 2000-i.
var pathAddrs = map[bool][2]netip.Addr{
	false: {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
	true:  {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")},
}

// wireFrame makes the frame that end i sends, with room for n bytes of payload behind the headers, which seal has to fill in.
func wireFrame(v6 bool, i int, f header.TCPFields, options []byte, n int) []byte {
	ipLen := header.IPv4MinimumSize
	if v6 {
		ipLen = header.IPv6MinimumSize
	}
	hl := header.TCPMinimumSize + len(options)
	b := make([]byte, packet.EtherLen+ipLen+hl+n)
	ip := b[packet.EtherLen:]
	src := tcpip.AddrFromSlice(pathAddrs[v6][i].AsSlice())
	dst := tcpip.AddrFromSlice(pathAddrs[v6][1-i].AsSlice())
	if v6 {
		binary.BigEndian.PutUint16(b[12:], packet.EtherIPv6)
		header.IPv6(ip).Encode(&header.IPv6Fields{PayloadLength: uint16(hl + n), TransportProtocol: header.TCPProtocolNumber, HopLimit: 64, SrcAddr: src, DstAddr: dst})
	} else {
		binary.BigEndian.PutUint16(b[12:], packet.EtherIPv4)
		h := header.IPv4(ip)
		h.Encode(&header.IPv4Fields{TotalLength: uint16(ipLen + hl + n), TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: src, DstAddr: dst})
		h.SetChecksum(^h.CalculateChecksum())
	}
	f.SrcPort, f.DstPort = uint16(1000+i), uint16(1000+1-i)
	f.DataOffset = uint8(hl)
	t := header.TCP(ip[ipLen:])
	t.Encode(&f)
	copy(t[header.TCPMinimumSize:], options)
	return b
}

// wireTCP is the TCP segment in a frame.
func wireTCP(b []byte) header.TCP {
	if binary.BigEndian.Uint16(b[12:]) == packet.EtherIPv6 {
		return header.TCP(b[packet.EtherLen+header.IPv6MinimumSize:])
	}
	return header.TCP(b[packet.EtherLen+header.IPv4MinimumSize:])
}

// seal makes the TCP checksum.
func seal(b []byte) {
	ip, t := b[packet.EtherLen:], wireTCP(b)
	var pseudo uint16
	if binary.BigEndian.Uint16(b[12:]) == packet.EtherIPv6 {
		h := header.IPv6(ip)
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, h.SourceAddress(), h.DestinationAddress(), uint16(len(t)))
	} else {
		h := header.IPv4(ip)
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, h.SourceAddress(), h.DestinationAddress(), uint16(len(t)))
	}
	t.SetChecksum(0)
	t.SetChecksum(^checksum.Checksum(t, pseudo))
}

// segmentOptions are the options of a segment as a TCP writes them, padded.
func segmentOptions(s *Segment) []byte {
	b := make([]byte, MaxOptions)
	n := 0
	if s.MSS > 0 {
		n += header.EncodeMSSOption(uint32(s.MSS), b[n:])
	}
	if s.Scale >= 0 && s.Flags&SYN != 0 {
		n += header.EncodeWSOption(int(s.Scale), b[n:])
	}
	if s.SACKOK {
		n += header.EncodeSACKPermittedOption(b[n:])
	}
	if s.HasTimes {
		n += header.EncodeTSOption(s.TSVal, s.TSEcr, b[n:])
	}
	if s.SACKCount > 0 {
		blocks := make([]header.SACKBlock, s.SACKCount)
		for i := range blocks {
			blocks[i] = header.SACKBlock{Start: seqnum.Value(s.SACK[i][0]), End: seqnum.Value(s.SACK[i][1])}
		}
		n += header.EncodeSACKBlocks(blocks, b[n:])
	}
	n += header.AddTCPOptionPadding(b, n)
	return b[:n]
}

// describe writes a segment down for a trace, with offsets of both streams in place of sequence numbers.
func describe(b []byte, iss, peerISS uint32) string {
	t := wireTCP(b)
	var s strings.Builder
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if uint8(t.Flags())&(1<<i) != 0 && name != "ACK" {
			s.WriteString(name + " ")
		}
	}
	off := int64(int32(t.SequenceNumber() - iss))
	fmt.Fprintf(&s, "%d", off)
	if n := len(t.Payload()); n > 0 {
		fmt.Fprintf(&s, ":%d", off+int64(n))
	}
	if t.Flags()&header.TCPFlagAck != 0 {
		fmt.Fprintf(&s, " ack %d", int32(t.AckNumber()-peerISS))
	}
	fmt.Fprintf(&s, " win %d", t.WindowSize())
	o := t.ParsedOptions()
	for _, k := range o.SACKBlocks {
		fmt.Fprintf(&s, " sack %d:%d", int32(uint32(k.Start)-peerISS), int32(uint32(k.End)-peerISS))
	}
	if o.TS {
		fmt.Fprintf(&s, " ts %d/%d", o.TSVal, o.TSEcr)
	}
	return s.String()
}
