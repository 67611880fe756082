package worker_test

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/packet"
)

// got is one frame for the guest, decoded.
type got struct {
	linktest.Frame
	from, to netip.AddrPort // without ports for ICMP
	tcp      *layers.TCP
	udp      *layers.UDP
	icmp4    *layers.ICMPv4
	icmp6    *layers.ICMPv6
	data     []byte // behind the transport header; for ICMP behind the first 4 bytes of the message
}

func (g got) String() string {
	s := fmt.Sprintf("%v > %v, %d bytes", g.from, g.to, len(g.data))
	if g.tcp != nil {
		s += " " + flags(g.tcp)
	}
	return s
}

// flags are those of a segment, in the letters that tcpdump has for them.
func flags(t *layers.TCP) (s string) {
	for _, f := range []struct {
		set  bool
		name string
	}{{t.FIN, "F"}, {t.SYN, "S"}, {t.RST, "R"}, {t.PSH, "P"}, {t.ACK, "."}} {
		if f.set {
			s += f.name
		}
	}
	return s
}

// decode takes a frame for the guest apart. Everything in it has to be right.
func (r *rig) decode(f linktest.Frame) got {
	r.t.Helper()
	p, err := f.Verify()
	if err != nil {
		r.t.Fatalf("%v; frame % x", err, f.Data[:min(len(f.Data), 100)])
	}
	g := got{Frame: f}
	eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	if string(eth.SrcMAC) != string(gwMAC[:]) {
		r.t.Errorf("frame from %v, not from the gateway", eth.SrcMAC)
	}
	var src, dst netip.Addr
	switch ip := p.NetworkLayer().(type) {
	case *layers.IPv4:
		src, dst = netip.AddrFrom4([4]byte(ip.SrcIP)), netip.AddrFrom4([4]byte(ip.DstIP))
	case *layers.IPv6:
		src, dst = netip.AddrFrom16([16]byte(ip.SrcIP)), netip.AddrFrom16([16]byte(ip.DstIP))
	default:
		return g
	}
	g.from, g.to = at(src, 0), at(dst, 0)
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		g.tcp, g.data = l, l.LayerPayload()
		g.from, g.to = at(src, uint16(l.SrcPort)), at(dst, uint16(l.DstPort))
	case *layers.UDP:
		g.udp, g.data = l, l.LayerPayload()
		g.from, g.to = at(src, uint16(l.SrcPort)), at(dst, uint16(l.DstPort))
	}
	if l := p.Layer(layers.LayerTypeICMPv4); l != nil {
		g.icmp4 = l.(*layers.ICMPv4)
		g.data = l.LayerPayload()
	}
	if l := p.Layer(layers.LayerTypeICMPv6); l != nil {
		g.icmp6 = l.(*layers.ICMPv6)
		g.data = l.LayerPayload()
	}
	return g
}

// serialize makes a frame from the guest; lengths and checksums are filled in.
func serialize(src, dst netip.Addr, proto layers.IPProtocol, above ...gopacket.SerializableLayer) []byte {
	eth := &layers.Ethernet{SrcMAC: guestMAC[:], DstMAC: gwMAC[:]}
	var ip gopacket.SerializableLayer
	if src.Is4() {
		eth.EthernetType = layers.EthernetTypeIPv4
		ip = &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: proto, Flags: layers.IPv4DontFragment,
			SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice())}
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto,
			SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice())}
	}
	for _, l := range above {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)); err != nil {
				panic(err)
			}
		}
	}
	b := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, opts, append([]gopacket.SerializableLayer{eth, ip}, above...)...); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func tcpFrame(src, dst netip.AddrPort, t layers.TCP, payload []byte) []byte {
	t.SrcPort, t.DstPort = layers.TCPPort(src.Port()), layers.TCPPort(dst.Port())
	return serialize(src.Addr(), dst.Addr(), layers.IPProtocolTCP, &t, gopacket.Payload(payload))
}

func udpFrame(src, dst netip.AddrPort, payload []byte) []byte {
	u := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	return serialize(src.Addr(), dst.Addr(), layers.IPProtocolUDP, u, gopacket.Payload(payload))
}

// echoFrame is an echo request.
func echoFrame(src, dst netip.Addr, id, seq uint16, payload []byte) []byte {
	if src.Is4() {
		return serialize(src, dst, layers.IPProtocolICMPv4,
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: id, Seq: seq},
			gopacket.Payload(payload))
	}
	return serialize(src, dst, layers.IPProtocolICMPv6,
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)},
		&layers.ICMPv6Echo{Identifier: id, SeqNumber: seq}, gopacket.Payload(payload))
}

// arpFrame is an ARP request for an address.
func arpFrame(target netip.Addr) []byte {
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true},
		&layers.Ethernet{SrcMAC: guestMAC[:], DstMAC: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: layers.ARPRequest,
			HwAddressSize: 6, ProtAddressSize: 4,
			SourceHwAddress: guestMAC[:], SourceProtAddress: guest4.AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: target.AsSlice(),
		})
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

// offsets of the transport header and of its checksum field in a frame from serialize.
func checksumAt(frame []byte) (start, off uint16, proto uint8) {
	start, proto = packet.EtherLen+packet.IPv4Len, frame[23]
	if frame[12] == 0x86 {
		start, proto = packet.EtherLen+packet.IPv6Len, frame[20]
	}
	if proto == packet.ProtoTCP {
		return start, 16, proto
	}
	return start, 6, proto
}

// offload makes the checksum of a TCP or UDP frame partial, and asks for segments of size bytes when that is not 0.
func offload(src, dst netip.Addr, frame []byte, size uint16) packet.NetHdr {
	start, off, proto := checksumAt(frame)
	sum := packet.PseudoSum(src, dst, proto, len(frame)-int(start))
	frame[start+off], frame[start+off+1] = byte(sum>>8), byte(sum)
	h := packet.NetHdr{Flags: packet.FlagNeedsCsum, CsumStart: start, CsumOffset: off, GSOSize: size}
	switch {
	case size == 0:
	case proto == packet.ProtoUDP:
		h.GSOType = packet.GSOUDPL4
	case src.Is4():
		h.GSOType = packet.GSOTCPv4
	default:
		h.GSOType = packet.GSOTCPv6
	}
	return h
}

// pattern fills b with what the stream of a flow holds from an offset on: a test can check any part of it.
func pattern(b []byte, flow int, off int64) []byte {
	for i := range b {
		n := off + int64(i)
		b[i] = byte(n) ^ byte(n>>8)*31 ^ byte(n>>16)*17 ^ byte(flow*101)
	}
	return b
}
