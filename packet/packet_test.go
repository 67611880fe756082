package packet_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// The frames of these tests are made by gopacket, so that a mistake in this package is not made twice.

var (
	macA, macB = net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	srcA4      = netip.MustParseAddr("192.0.2.1")
	dstB4      = netip.MustParseAddr("198.51.100.2")
	srcA6      = netip.MustParseAddr("2001:db8::1")
	dstB6      = netip.MustParseAddr("2001:db8:1::2")
)

func ether(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: t}
}

func ip4(proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, IHL: 5, TOS: 0xb9, TTL: 61, Flags: layers.IPv4DontFragment, Protocol: proto,
		SrcIP: srcA4.AsSlice(), DstIP: dstB4.AsSlice()}
}

func ip6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, TrafficClass: 0xb9, FlowLabel: 0xabcde, HopLimit: 61, NextHeader: next,
		SrcIP: srcA6.AsSlice(), DstIP: dstB6.AsSlice()}
}

func tcp() *layers.TCP {
	return &layers.TCP{SrcPort: 1234, DstPort: 80, Seq: 7, Ack: 9, ACK: true, PSH: true, Window: 500,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop},
			{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}}}
}

func udp() *layers.UDP { return &layers.UDP{SrcPort: 1234, DstPort: 53} }

func icmp4() *layers.ICMPv4 {
	return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 5, Seq: 6}
}

// encode serializes the layers with lengths and checksums filled in.
func encode(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var network gopacket.NetworkLayer
	for _, l := range ls {
		if n, ok := l.(gopacket.NetworkLayer); ok {
			network = n
		}
		switch l := l.(type) {
		case *layers.TCP:
			l.SetNetworkLayerForChecksum(network)
		case *layers.UDP:
			l.SetNetworkLayerForChecksum(network)
		case *layers.ICMPv6:
			l.SetNetworkLayerForChecksum(network)
		}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes())
}

func tcp4(t testing.TB, payload string) []byte {
	return encode(t, ether(layers.EthernetTypeIPv4), ip4(layers.IPProtocolTCP), tcp(), gopacket.Payload(payload))
}

func tcp6(t testing.TB, payload string) []byte {
	return encode(t, ether(layers.EthernetTypeIPv6), ip6(layers.IPProtocolTCP), tcp(), gopacket.Payload(payload))
}

func udp4(t testing.TB, payload string) []byte {
	return encode(t, ether(layers.EthernetTypeIPv4), ip4(layers.IPProtocolUDP), udp(), gopacket.Payload(payload))
}

func udp6(t testing.TB, payload string) []byte {
	return encode(t, ether(layers.EthernetTypeIPv6), ip6(layers.IPProtocolUDP), udp(), gopacket.Payload(payload))
}

func ping4(t testing.TB, payload string) []byte {
	return encode(t, ether(layers.EthernetTypeIPv4), ip4(layers.IPProtocolICMPv4), icmp4(), gopacket.Payload(payload))
}

func ping6(t testing.TB, payload string) []byte {
	return encode(t, ether(layers.EthernetTypeIPv6), ip6(layers.IPProtocolICMPv6),
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)},
		&layers.ICMPv6Echo{Identifier: 5, SeqNumber: 6}, gopacket.Payload(payload))
}

// extended is an IPv6 UDP frame with the given headers, each a whole number of 8 bytes, between IP and UDP. Their first bytes (next
// header) and second bytes (length) are filled in.
func extended(t testing.TB, types []uint8, headers ...[]byte) []byte {
	t.Helper()
	plain := udp6(t, "payload")
	at := packet.EtherLen + packet.IPv6Len
	out := bytes.Clone(plain[:at])
	next := 20 // offset of the field that names the next header
	for i, h := range headers {
		out[next] = types[i]
		next = len(out)
		out = append(out, h...)
		out[next+1] = byte(len(h)/8 - 1)
	}
	out[next] = packet.ProtoUDP
	out = append(out, plain[at:]...)
	binary.BigEndian.PutUint16(out[18:], uint16(len(out)-at))
	return out
}

// frame is b in pieces that are cut at the given offsets.
func frame(b []byte, cuts ...int) *packet.Frame {
	f := &packet.Frame{Len: len(b)}
	begin := 0
	for _, c := range append(cuts, len(b)) {
		f.Bufs = append(f.Bufs, b[begin:c])
		begin = c
	}
	return f
}

// view is what a Packet says, in a form that can be compared.
type view struct {
	EtherType        uint16
	SrcMAC, DstMAC   string
	V6, DF           bool
	Src, Dst         string
	TOS, TTL, Proto  uint8
	SrcPort, DstPort uint16
	L4, HeadLen      int
	Transport        []byte
	Payload          string
}

func look(p *packet.Packet) view {
	return view{p.EtherType, net.HardwareAddr(p.SrcMAC[:]).String(), net.HardwareAddr(p.DstMAC[:]).String(), p.V6, p.DF,
		p.Src.String(), p.Dst.String(), p.TOS, p.TTL, p.Proto, p.SrcPort, p.DstPort, p.L4, p.HeadLen,
		bytes.Clone(p.Transport()), string(bytes.Join(p.Payload(nil), nil))}
}

func TestParse(t *testing.T) {
	base4 := view{EtherType: packet.EtherIPv4, SrcMAC: "02:00:00:00:00:01", DstMAC: "02:00:00:00:00:02", DF: true,
		Src: srcA4.String(), Dst: dstB4.String(), TOS: 0xb9, TTL: 61, L4: 34}
	base6 := base4
	base6.EtherType, base6.V6, base6.Src, base6.Dst, base6.L4 = packet.EtherIPv6, true, srcA6.String(), dstB6.String(), 54
	with := func(v view, proto uint8, srcPort, dstPort uint16, headLen int, payload string) view {
		v.Proto, v.SrcPort, v.DstPort, v.HeadLen, v.Payload = proto, srcPort, dstPort, headLen, payload
		return v
	}
	behind := func(v view, n int) view { v.L4 += n; return v }
	noDF := func(v view) view { v.DF = false; return v }

	optioned := ip4(layers.IPProtocolUDP)
	optioned.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
	fragmentable := ip4(layers.IPProtocolUDP)
	fragmentable.Flags = 0
	noChecksum := udp4(t, "payload")
	noChecksum[40], noChecksum[41] = 0, 0
	// A UDP length that leaves part of the IP packet unused.
	shortUDP := udp6(t, "payload")
	shortUDP = append(shortUDP, "beyond"...)
	binary.BigEndian.PutUint16(shortUDP[18:], uint16(len(shortUDP)-54))

	for _, c := range []struct {
		name string
		raw  []byte
		want view
	}{
		{"TCP/IPv4", tcp4(t, "payload"), with(base4, packet.ProtoTCP, 1234, 80, 32, "payload")},
		{"TCP/IPv6", tcp6(t, "payload"), with(base6, packet.ProtoTCP, 1234, 80, 32, "payload")},
		{"TCP without payload", tcp4(t, ""), with(base4, packet.ProtoTCP, 1234, 80, 32, "")},
		{"UDP/IPv4", udp4(t, "payload"), with(base4, packet.ProtoUDP, 1234, 53, 8, "payload")},
		{"UDP/IPv6", udp6(t, "odd"), with(base6, packet.ProtoUDP, 1234, 53, 8, "odd")},
		{"UDP/IPv4 without a checksum", noChecksum, with(base4, packet.ProtoUDP, 1234, 53, 8, "payload")},
		{"UDP shorter than its packet", shortUDP, with(base6, packet.ProtoUDP, 1234, 53, 8, "payload")},
		{"ICMP", ping4(t, "payload"), with(base4, packet.ProtoICMP, 0, 0, 8, "payload")},
		{"ICMPv6", ping6(t, "payload"), with(base6, packet.ProtoICMPv6, 0, 0, 8, "payload")},
		{"Ethernet padding", append(udp4(t, "p"), make([]byte, 17)...), with(base4, packet.ProtoUDP, 1234, 53, 8, "p")},
		{"IPv4 option", encode(t, ether(layers.EthernetTypeIPv4), optioned, udp(), gopacket.Payload("payload")),
			with(behind(base4, 4), packet.ProtoUDP, 1234, 53, 8, "payload")},
		{"may be fragmented", encode(t, ether(layers.EthernetTypeIPv4), fragmentable, udp(), gopacket.Payload("payload")),
			with(noDF(base4), packet.ProtoUDP, 1234, 53, 8, "payload")},
		{"extension headers", extended(t, []uint8{0, 60, 43}, make([]byte, 8), make([]byte, 16), make([]byte, 24)),
			with(behind(base6, 48), packet.ProtoUDP, 1234, 53, 8, "payload")},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p packet.Packet
			c.want.Transport = c.raw[c.want.L4 : c.want.L4+c.want.HeadLen]
			for cut := range len(c.raw) {
				if r := p.Parse(frame(c.raw, cut)); r != stats.None {
					t.Fatalf("cut at %d: %v", cut, r)
				}
				got := look(&p)
				if c.want.SrcPort == 0 {
					got.SrcPort, got.DstPort = 0, 0 // not set for ICMP
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Fatalf("cut at %d (-want +got):\n%s", cut, diff)
				}
			}
			if p.PayloadLen() != len(c.want.Payload) {
				t.Errorf("PayloadLen %d", p.PayloadLen())
			}
			if !bytes.Equal(p.L3(), c.raw[14:]) {
				t.Error("L3 is not what follows the Ethernet header")
			}
		})
	}
}

func TestParseARPSetsTheEthernetPart(t *testing.T) {
	raw := encode(t, ether(layers.EthernetTypeARP), &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4,
		HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest, SourceHwAddress: macA,
		SourceProtAddress: srcA4.AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: dstB4.AsSlice()})
	var p packet.Packet
	if r := p.Parse(frame(raw)); r != stats.None || p.EtherType != packet.EtherARP || !bytes.Equal(p.SrcMAC[:], macA) || p.Proto != 0 {
		t.Errorf("Parse = %v, %+v", r, p.EtherType)
	}
	if !bytes.Equal(p.L3(), raw[14:]) {
		t.Error("L3 is not the ARP message")
	}
}

// badFrame is one that Parse has to refuse.
type badFrame struct {
	name string
	raw  []byte
	want stats.Reason
}

// badFrames reach every reason that Parse can give but BadVnetHeader, each by one change to a good frame.
func badFrames(t testing.TB) []badFrame {
	set := func(b []byte, at int, v ...byte) []byte { copy(b[at:], v); return b }
	// fix4 repairs the IPv4 header checksum after a change.
	fix4 := func(b []byte) []byte {
		b[24], b[25] = 0, 0
		sum := uint32(0)
		for i := 14; i < 14+int(b[14]&0xf)*4; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		sum = sum&0xffff + sum>>16
		binary.BigEndian.PutUint16(b[24:], ^uint16(sum+sum>>16))
		return b
	}
	many := make([]uint8, 9)
	chain := make([][]byte, 9)
	for i := range chain {
		many[i], chain[i] = 60, make([]byte, 8)
	}
	noSum6 := udp6(t, "payload")
	noSum6[60], noSum6[61] = 0, 0

	return []badFrame{
		{"empty", nil, stats.ShortFrame},
		{"13 bytes", make([]byte, 13), stats.ShortFrame},
		{"Ethernet header only", tcp4(t, "")[:14], stats.ShortFrame},
		{"half an IPv4 header", tcp4(t, "")[:33], stats.ShortFrame},
		{"half an IPv6 header", tcp6(t, "")[:53], stats.ShortFrame},
		{"IPv4 packet cut", tcp4(t, "payload")[:70], stats.ShortFrame},
		{"IPv6 packet cut", tcp6(t, "payload")[:90], stats.ShortFrame},
		{"IPv4 header cut inside its options", set(tcp4(t, "")[:40], 14, 0x4f, 0, 0, 60), stats.ShortFrame},
		{"a VLAN tag", set(tcp4(t, ""), 12, 0x81, 0), stats.BadEtherType},
		{"IPv4 version", set(tcp4(t, ""), 14, 0x65), stats.BadIPHeader},
		{"IPv4 header length", set(tcp4(t, ""), 14, 0x44), stats.BadIPHeader},
		{"IPv4 total length", set(tcp4(t, ""), 16, 0, 19), stats.BadIPHeader},
		{"IPv6 version", set(tcp6(t, ""), 14, 0x40), stats.BadIPHeader},
		{"IPv4 header checksum", set(tcp4(t, ""), 24, 1, 2), stats.BadIPChecksum},
		{"first fragment", fix4(set(tcp4(t, ""), 20, 0x20, 0)), stats.Fragment},
		{"last fragment", fix4(set(tcp4(t, ""), 20, 0, 9)), stats.Fragment},
		{"IPv6 fragment", extended(t, []uint8{44}, make([]byte, 8)), stats.Fragment},
		{"extension beyond the packet", set(extended(t, []uint8{0}, make([]byte, 8)), 55, 200), stats.BadExtension},
		{"extension cut", set(set(tcp6(t, "")[:58], 18, 0, 4), 20, 0), stats.BadExtension},
		{"extensions beyond the private copy", extended(t, []uint8{0, 60, 60}, make([]byte, 128), make([]byte, 128), make([]byte, 8)), stats.BadExtension},
		{"nine extensions", extended(t, many, chain...), stats.BadExtension},
		{"no next header", set(tcp6(t, ""), 20, 59), stats.UnknownProtocol},
		{"IPv4 protocol", fix4(set(tcp4(t, ""), 23, 132)), stats.UnknownProtocol},
		{"IPv6 protocol", set(tcp6(t, ""), 20, 132), stats.UnknownProtocol},
		{"ICMPv6 in IPv4", fix4(set(ping4(t, ""), 23, 58)), stats.UnknownProtocol},
		{"ICMP in IPv6", set(ping6(t, ""), 20, 1), stats.UnknownProtocol},
		{"half a TCP header", fix4(set(tcp4(t, ""), 16, 0, 39)), stats.BadTransport},
		{"TCP header length too small", set(tcp4(t, ""), 46, 4<<4), stats.BadTransport},
		{"TCP header length too large", set(tcp4(t, ""), 46, 15<<4), stats.BadTransport},
		{"TCP options beyond the private copy", set(extended(t, []uint8{0}, make([]byte, 176)), 54, packet.ProtoTCP), stats.BadTransport},
		{"half a UDP header", fix4(set(udp4(t, ""), 16, 0, 27)), stats.BadTransport},
		{"UDP length too small", set(udp4(t, "x"), 38, 0, 7), stats.BadTransport},
		{"UDP length too large", set(udp4(t, "x"), 38, 0, 10), stats.BadTransport},
		{"half an ICMP header", fix4(set(ping4(t, ""), 16, 0, 27)), stats.BadTransport},
		{"TCP source port 0", set(tcp4(t, ""), 34, 0, 0), stats.BadTransport},
		{"TCP destination port 0", set(tcp4(t, ""), 36, 0, 0), stats.BadTransport},
		{"UDP source port 0", set(udp6(t, ""), 54, 0, 0), stats.BadTransport},
		{"TCP checksum", set(tcp4(t, "payload"), 70, 'x'), stats.BadChecksum},
		{"TCP checksum, IPv6", set(tcp6(t, "payload"), 70, 'x'), stats.BadChecksum},
		{"UDP checksum", set(udp4(t, "payload"), 45, 'x'), stats.BadChecksum},
		{"UDP/IPv6 without a checksum", noSum6, stats.BadChecksum},
		{"ICMP checksum", set(ping4(t, "payload"), 45, 'x'), stats.BadChecksum},
		{"ICMPv6 checksum", set(ping6(t, "payload"), 65, 'x'), stats.BadChecksum},
	}
}

func TestParseReasons(t *testing.T) {
	for _, c := range badFrames(t) {
		t.Run(c.name, func(t *testing.T) {
			var p packet.Packet
			if r := p.Parse(frame(c.raw)); r != c.want {
				t.Errorf("Parse = %v, want %v", r, c.want)
			}
		})
	}
}

func TestParseOffloads(t *testing.T) {
	partial := func(start, offset, gso, size int) packet.NetHdr {
		return packet.NetHdr{Flags: packet.FlagNeedsCsum, CsumStart: uint16(start), CsumOffset: uint16(offset),
			GSOType: uint8(gso), GSOSize: uint16(size)}
	}
	// spoil makes the checksum wrong, so that only the header can excuse it.
	spoil := func(b []byte) []byte { b[len(b)-1] ^= 0xff; return b }
	for _, c := range []struct {
		name string
		hdr  packet.NetHdr
		raw  []byte
		want stats.Reason
	}{
		{"partial TCP/IPv4", partial(34, 16, 0, 0), spoil(tcp4(t, "payload")), stats.None},
		{"partial TCP/IPv6", partial(54, 16, 0, 0), spoil(tcp6(t, "payload")), stats.None},
		{"partial UDP", partial(34, 6, 0, 0), spoil(udp4(t, "payload")), stats.None},
		{"partial ICMPv6", partial(54, 2, 0, 0), spoil(ping6(t, "payload")), stats.None},
		{"valid", packet.NetHdr{Flags: packet.FlagDataValid}, spoil(tcp4(t, "payload")), stats.None},
		{"nothing said", packet.NetHdr{}, spoil(tcp4(t, "payload")), stats.BadChecksum},
		{"start elsewhere", partial(33, 16, 0, 0), tcp4(t, "payload"), stats.BadVnetHeader},
		{"offset elsewhere", partial(34, 6, 0, 0), tcp4(t, "payload"), stats.BadVnetHeader},
		{"TSO4", partial(34, 16, packet.GSOTCPv4, 3), tcp4(t, "payload"), stats.None},
		{"TSO4 with ECN", partial(34, 16, packet.GSOTCPv4|packet.GSOECN, 3), tcp4(t, "payload"), stats.None},
		{"TSO6", partial(54, 16, packet.GSOTCPv6, 3), tcp6(t, "payload"), stats.None},
		{"USO4", partial(34, 6, packet.GSOUDPL4, 3), udp4(t, "payload"), stats.None},
		{"USO6", partial(54, 6, packet.GSOUDPL4, 3), udp6(t, "payload"), stats.None},
		{"TSO4 on IPv6", partial(54, 16, packet.GSOTCPv4, 3), tcp6(t, "payload"), stats.BadVnetHeader},
		{"TSO6 on IPv4", partial(34, 16, packet.GSOTCPv6, 3), tcp4(t, "payload"), stats.BadVnetHeader},
		{"TSO4 on UDP", partial(34, 6, packet.GSOTCPv4, 3), udp4(t, "payload"), stats.BadVnetHeader},
		{"USO on TCP", partial(34, 16, packet.GSOUDPL4, 3), tcp4(t, "payload"), stats.BadVnetHeader},
		{"UFO", partial(34, 6, 3, 3), udp4(t, "payload"), stats.BadVnetHeader},
		{"segments of no size", partial(34, 16, packet.GSOTCPv4, 0), tcp4(t, "payload"), stats.BadVnetHeader},
		{"segments without a partial checksum", packet.NetHdr{GSOType: packet.GSOTCPv4, GSOSize: 3}, tcp4(t, "payload"), stats.BadVnetHeader},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := frame(c.raw)
			f.Hdr = c.hdr
			var p packet.Packet
			if r := p.Parse(f); r != c.want {
				t.Errorf("Parse = %v, want %v", r, c.want)
			}
		})
	}
}

// TestHeadersArePrivate rewrites a frame behind the parser's back, as a guest that shares its memory can.
func TestHeadersArePrivate(t *testing.T) {
	raw := tcp4(t, "payload")
	var p packet.Packet
	if r := p.Parse(frame(raw, 20, 40)); r != stats.None {
		t.Fatal(r)
	}
	before := bytes.Clone(p.Transport())
	for i := range raw[:66] {
		raw[i] = 0xff
	}
	if !bytes.Equal(p.Transport(), before) || p.L3()[0] != 0x45 {
		t.Error("the parsed headers changed with the frame")
	}
}

func TestPseudoSum(t *testing.T) {
	// A checksum field with the pseudo header's sum, summed up with the rest, gives the full checksum.
	for _, raw := range [][]byte{tcp4(t, "payload"), tcp6(t, "payload")} {
		var p packet.Packet
		if r := p.Parse(frame(raw)); r != stats.None {
			t.Fatal(r)
		}
		sum := uint32(packet.PseudoSum(p.Src, p.Dst, p.Proto, p.L4Len))
		seg := append(bytes.Clone(raw[p.L4:]), 0)
		for i := 0; i+1 < len(seg); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(seg[i:]))
		}
		sum = sum&0xffff + sum>>16
		if sum = sum&0xffff + sum>>16; sum != 0xffff {
			t.Errorf("IPv6 %v: the sum is %#x", p.V6, sum)
		}
	}
}

func TestNetHdrRoundTrip(t *testing.T) {
	b := []byte{1, 0x84, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	var h packet.NetHdr
	h.Decode(b)
	want := packet.NetHdr{Flags: 1, GSOType: 0x84, HdrLen: 0x403, GSOSize: 0x605, CsumStart: 0x807, CsumOffset: 0xa09, NumBuffers: 0xc0b}
	if h != want {
		t.Errorf("Decode = %+v", h)
	}
	got := make([]byte, packet.NetHdrLen)
	h.Encode(got)
	if !bytes.Equal(got, b) {
		t.Errorf("Encode = % x", got)
	}
}

func TestFrameCopyAtAndAppend(t *testing.T) {
	data := []byte("0123456789")
	for a := range 11 {
		for b := a; b <= 10; b++ {
			f := frame(data, a, b)
			for off := range 12 {
				for n := range 12 {
					want := data[min(off, 10):min(off+n, 10)]
					got := make([]byte, n)
					if c := f.CopyAt(got, off); !bytes.Equal(got[:c], want) {
						t.Fatalf("cuts %d %d: CopyAt(%d bytes, %d) = %q, want %q", a, b, n, off, got[:c], want)
					}
					pieces := f.Append([][]byte{[]byte("first")}, off, n)
					if joined := bytes.Join(pieces[1:], nil); !bytes.Equal(joined, want) || string(pieces[0]) != "first" {
						t.Fatalf("cuts %d %d: Append(%d, %d) = %q, want %q", a, b, off, n, joined, want)
					}
				}
			}
		}
	}
}

// TestFragmentFields: of a fragment everything that is needed to put its packet together is told.
func TestFragmentFields(t *testing.T) {
	v4 := udp4(t, "payload!")
	packet.Fragmented(v4[14:34], 0xbeef, 1480, 16, true)
	v6 := make([]byte, packet.EtherLen+packet.IPv6Len+packet.FragmentLen+16)
	v6[12], v6[13], v6[14], v6[19], v6[20] = 0x86, 0xdd, 0x60, packet.FragmentLen+16, packet.ProtoFragment
	packet.PutFragment(v6[54:], packet.ProtoUDP, 0xdeadbeef, 2960, false)
	for _, c := range []struct {
		frame []byte
		id    uint32
		off   int
		more  bool
		l4    int
	}{{v4, 0xbeef, 1480, true, 34}, {v6, 0xdeadbeef, 2960, false, 62}} {
		var p packet.Packet
		if r := p.Parse(&packet.Frame{Bufs: [][]byte{c.frame}, Len: len(c.frame)}); r != stats.Fragment {
			t.Fatalf("dropped as %v", r)
		}
		if p.FragID != c.id || p.FragOffset != c.off || p.FragMore != c.more || p.L4 != c.l4 || p.L4Len != 16 || p.Proto != packet.ProtoUDP {
			t.Errorf("id %#x, offset %d, more %t, %d bytes at %d", p.FragID, p.FragOffset, p.FragMore, p.L4Len, p.L4)
		}
	}
	packet.Unfragmented(v4[14:34], 16)
	var p packet.Packet
	if r := p.Parse(&packet.Frame{Bufs: [][]byte{v4}, Len: len(v4)}); r != stats.None {
		t.Errorf("the whole packet is dropped as %v", r)
	}
}
