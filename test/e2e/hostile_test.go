package e2e_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/internal/lab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// rawLink sends frames as they are from the namespace's interface.
type rawLink struct {
	fd  int
	to  unix.SockaddrLinklayer
	mac net.HardwareAddr
}

func openRaw(t *testing.T, ns *lab.Namespace) *rawLink {
	t.Helper()
	l := &rawLink{fd: -1}
	if err := ns.Do(func() error {
		link, err := netlink.LinkByName(lab.LinkName)
		if err != nil {
			return err
		}
		l.to.Ifindex, l.mac = link.Attrs().Index, link.Attrs().HardwareAddr
		l.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(l.fd) })
	return l
}

// send waits while the link's queue is full.
func (l *rawLink) send(frame []byte) error {
	for {
		err := unix.Sendto(l.fd, frame, 0, &l.to)
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// frame makes a frame with right lengths and checksums.
func frame(t *testing.T, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// craft makes the parts of frames from the guest.
type craft struct {
	t   *testing.T
	mac net.HardwareAddr
}

var routerMAC = net.HardwareAddr{0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55} // --mac-addr's default

func (c craft) ether(typ layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: c.mac, DstMAC: routerMAC, EthernetType: typ}
}

func (c craft) ip4(proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, TTL: 64, Protocol: proto,
		SrcIP: families[0].host.AsSlice(), DstIP: families[0].far.AsSlice(),
	}
}

func (c craft) ip6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: next,
		SrcIP: families[1].host.AsSlice(), DstIP: families[1].far.AsSlice(),
	}
}

// tcp4 and the like make a whole frame; edit changes a layer before lengths and checksums are made.
func (c craft) tcp4(edit func(*layers.IPv4, *layers.TCP)) []byte {
	ip, tcp := c.ip4(layers.IPProtocolTCP), &layers.TCP{SrcPort: 1024, DstPort: closedPort, SYN: true, Window: 1000}
	if edit != nil {
		edit(ip, tcp)
	}
	_ = tcp.SetNetworkLayerForChecksum(ip) // never fails
	return frame(c.t, c.ether(layers.EthernetTypeIPv4), ip, tcp)
}

func (c craft) tcp6() []byte {
	ip, tcp := c.ip6(layers.IPProtocolTCP), &layers.TCP{SrcPort: 1024, DstPort: closedPort, SYN: true, Window: 1000}
	_ = tcp.SetNetworkLayerForChecksum(ip) // never fails
	return frame(c.t, c.ether(layers.EthernetTypeIPv6), ip, tcp)
}

func (c craft) udp4() []byte {
	ip, udp := c.ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 1024, DstPort: closedPort}
	_ = udp.SetNetworkLayerForChecksum(ip) // never fails
	return frame(c.t, c.ether(layers.EthernetTypeIPv4), ip, udp, gopacket.Payload("datagram"))
}

func (c craft) ipv6(next layers.IPProtocol, payload ...byte) []byte {
	return frame(c.t, c.ether(layers.EthernetTypeIPv6), c.ip6(next), gopacket.Payload(payload))
}

func (c craft) arp() []byte {
	return frame(c.t, c.ether(layers.EthernetTypeARP), &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPRequest, SourceHwAddress: c.mac, SourceProtAddress: families[0].host.AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: families[0].gateway.AsSlice(),
	})
}

func (c craft) solicit(hopLimit uint8) []byte {
	ip, icmp := c.ip6(layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	ip.HopLimit, ip.DstIP = hopLimit, families[1].gateway.AsSlice()
	_ = icmp.SetNetworkLayerForChecksum(ip) // never fails
	return frame(c.t, c.ether(layers.EthernetTypeIPv6), ip, icmp, &layers.ICMPv6NeighborSolicitation{TargetAddress: families[1].gateway.AsSlice()})
}

// with overwrites bytes of a frame from an offset on.
func with(frame []byte, off int, b ...byte) []byte {
	copy(frame[off:], b)
	return frame
}

// Offsets in frames of tcp4 and udp4.
const (
	ip4At  = 14
	tcp4At = ip4At + 20
	udp4At = ip4At + 20
)

// TestHostileFrames sends every kind of bad frame, and a flood of damaged ones, while content goes both ways.
func TestHostileFrames(t *testing.T) {
	const size = 256 << 20
	r := start(t)
	f := families[0]
	far, near := serve(t, r.Inet, f.far, source(size)), serve(t, r.Host, f.loopback, sink(size))
	transfers := make(chan error, 2)
	go func() { transfers <- download(r.Guest, f.far, far, size) }()
	go func() { transfers <- upload(r.Guest, f.gateway, near, size) }()

	raw := openRaw(t, r.Guest)
	c := craft{t, raw.mac}
	cases := []struct {
		name, reason string
		frame        []byte
	}{
		{"nothing behind the Ethernet header", "short_frame", c.tcp4(nil)[:ip4At]},
		{"EtherType", "bad_ethertype", with(c.tcp4(nil), 12, 0x88, 0xcc)},
		{"IPv4 header cut", "short_frame", c.tcp4(nil)[:ip4At+19]},
		{"IP version", "bad_ip_header", with(c.tcp4(nil), ip4At, 0x55)},
		{"IPv4 header length", "bad_ip_header", with(c.tcp4(nil), ip4At, 0x44)},
		{"IPv4 total length", "short_frame", with(c.tcp4(nil), ip4At+2, 0xff, 0xff)},
		{"IPv4 total length below the header's", "bad_ip_header", with(c.tcp4(nil), ip4At+2, 0, 19)},
		{"IPv4 checksum", "bad_ip_checksum", with(c.tcp4(nil), ip4At+10, 1, 2)},
		{"IPv4 fragment of no whole units", "bad_fragment", c.tcp4(func(ip *layers.IPv4, _ *layers.TCP) { ip.Flags = layers.IPv4MoreFragments })},
		{"source address", "bad_source", c.tcp4(func(ip *layers.IPv4, _ *layers.TCP) { ip.SrcIP = net.IP{127, 0, 0, 1} })},
		{"destination address", "bad_destination", c.tcp4(func(ip *layers.IPv4, _ *layers.TCP) { ip.DstIP = net.IP{127, 0, 0, 1} })},
		{"IP protocol", "unknown_protocol", frame(t, c.ether(layers.EthernetTypeIPv4), c.ip4(250), gopacket.Payload("?"))},
		{"TCP header cut", "bad_transport", frame(t, c.ether(layers.EthernetTypeIPv4), c.ip4(layers.IPProtocolTCP), gopacket.Payload("?"))},
		{"TCP data offset", "bad_transport", with(c.tcp4(nil), tcp4At+12, 0x40)},
		{"TCP data offset beyond the end", "bad_transport", with(c.tcp4(nil), tcp4At+12, 0xf0)},
		{"TCP port 0", "bad_transport", c.tcp4(func(_ *layers.IPv4, tcp *layers.TCP) { tcp.DstPort = 0 })},
		{"TCP checksum", "bad_checksum", with(c.tcp4(nil), tcp4At+16, 1, 2)},
		{"TCP option", "bad_option", c.tcp4(func(_ *layers.IPv4, tcp *layers.TCP) {
			tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 3, OptionData: []byte{1}}}
		})},
		{"TCP segment of no connection", "tcp_no_flow", c.tcp4(func(_ *layers.IPv4, tcp *layers.TCP) { tcp.SYN, tcp.ACK = false, true })},
		{"UDP length", "bad_transport", with(c.udp4(), udp4At+4, 0, 7)},
		{"UDP length beyond the end", "bad_transport", with(c.udp4(), udp4At+4, 0xff, 0xff)},
		{"IPv6 header cut", "short_frame", c.tcp6()[:ip4At+39]},
		{"IPv6 extension beyond the end", "bad_extension", c.ipv6(0, 6, 255, 0, 0, 0, 0, 0, 0)},
		{"IPv6 fragment of no whole units", "bad_fragment", c.ipv6(44, 6, 0, 0, 1, 0, 0, 0, 1)},
		{"ARP cut", "short_frame", c.arp()[:ip4At+27]},
		{"ARP operation", "bad_arp", with(c.arp(), ip4At+6, 0, 9)},
		{"neighbour solicitation from afar", "bad_ndp", c.solicit(64)},
	}
	before := r.now().Drops
	const repeats = 3
	want := make(map[string]uint64)
	for _, tc := range cases {
		want[tc.reason] += repeats
		for range repeats {
			if err := raw.send(tc.frame); err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
		}
	}
	for reason, n := range want {
		eventually(t, fmt.Sprintf("fewer than %d frames dropped for %s", n, reason), func() bool {
			return r.now().Drops[reason]-before[reason] >= n
		})
	}

	if err := flood(c, raw, 10_000); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-transfers; err != nil {
			t.Error(err)
		}
	}
	bothFamilies(t, func(t *testing.T, f family) { // it is as good as new
		if err := download(r.Guest, f.far, serve(t, r.Inet, f.far, source(1<<20)), 1<<20); err != nil {
			t.Error(err)
		}
	})
	r.stop()
}

// flood sends so many frames with random damage.
func flood(c craft, raw *rawLink, frames int) error {
	seeds := [][]byte{c.tcp4(nil), c.tcp6(), c.udp4(), c.arp(), c.solicit(255), c.ipv6(0, 6, 0, 0, 0, 0, 0, 0, 0)}
	rng := rand.New(rand.NewPCG(1, 2))
	for range frames {
		damaged := append([]byte(nil), seeds[rng.IntN(len(seeds))]...)
		for range 1 + rng.IntN(4) {
			// Not the source's MAC address, which the guest would lose its own connections by.
			damaged[12+rng.IntN(len(damaged)-12)] = byte(rng.Uint32())
		}
		if rng.IntN(4) == 0 {
			damaged = damaged[:ip4At+rng.IntN(len(damaged)-ip4At)]
		}
		if err := raw.send(damaged); err != nil {
			return err
		}
	}
	return nil
}
