package worker_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

var (
	mdns4, mdns6 = netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("ff02::fb")
	guestLink    = netip.MustParseAddr("fe80::2")
)

func multicast(c *worker.Config) { c.Multicast = []uint16{5353, 1900} }

// groupFrame is the guest's report that it has joined or left a group.
func groupFrame(group netip.Addr, join bool) []byte {
	record := append([]byte{3, 0, 0, 0}, group.AsSlice()...)
	if join {
		record[0] = 4
	}
	if group.Is6() {
		body := append([]byte{0, 0, 0, 1}, record...)
		return serialize(guestLink, netip.MustParseAddr("ff02::16"), layers.IPProtocolICMPv6,
			&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(143, 0)}, gopacket.Payload(body))
	}
	msg := append([]byte{0x22, 0, 0, 0, 0, 0, 0, 1}, record...)
	binary.BigEndian.PutUint16(msg[2:], ^checksum.Checksum(msg, 0))
	return serialize(guest4, netip.MustParseAddr("224.0.0.22"), layers.IPProtocolIGMP, gopacket.Payload(msg))
}

// TestMulticast: groups that the guest joins are joined on the host, at the configured ports; what comes there reaches the guest at the group's Ethernet
// address, and what the guest sends to a group leaves from a port at which answers come.
func TestMulticast(t *testing.T) {
	for _, group := range []netip.Addr{mdns4, mdns6} {
		r := newRig(t, multicast)
		for range 2 { // reports are repeated
			r.inject(groupFrame(group, true))
			r.nothing()
		}
		open := r.sockets(hosttest.UDP)
		if len(open) != 2 || open[0].Local != at(group, 5353) || open[1].Local != at(group, 1900) {
			t.Fatalf("%v: sockets %v", group, open)
		}
		server := at(server4, 5353)
		if group.Is6() {
			server = at(server6, 5353)
		}
		for _, n := range []int{4, 1400, 65000} {
			open[0].DeliverDatagram(hostsock.Datagram{Bufs: [][]byte{make([]byte, n)}, Peer: server, TTL: 255})
			r.settle()
			f := r.link.Take()
			if len(f) != 1 {
				t.Fatalf("%v: %d frames", group, len(f))
			}
			want := "01005e0000fb"
			if group.Is6() {
				want = "3333000000fb"
			}
			if mac := fmt.Sprintf("%x", f[0].Data[:6]); mac != want {
				t.Errorf("%v: to %s", group, mac)
			}
			if g := r.decode(f[0]); g.from != server || g.to != at(group, 5353) || len(g.data) != n {
				t.Errorf("%v: %v", group, g)
			}
		}
		guest := at(like(group), 5353)
		r.inject(udpFrame(guest, at(group, 5353), []byte("query")))
		r.nothing()
		s := r.host.Last()
		if d := s.Datagrams(); !s.Multicast || !s.Exclusive || s.Local.Port() != 5353 || len(d) != 1 || d[0].To != at(group, 5353) || d[0].TTL == 0 {
			t.Errorf("%v: %v has sent %v", group, s, d)
		}
		s.DeliverFrom([]byte("answer"), server)
		if g := r.only(); g.from != server || g.to != guest || string(g.data) != "answer" {
			t.Errorf("%v: %v", group, g)
		}
		r.inject(udpFrame(guest, server, []byte("thanks"))) // by the same port
		r.nothing()
		if d := s.Datagrams(); len(d) != 2 || d[1].To != server {
			t.Errorf("%v: sent %v", group, d)
		}
		r.inject(groupFrame(group, false))
		r.nothing()
		if !open[0].Closed() || !open[1].Closed() {
			t.Errorf("%v: the group was not left", group)
		}
		r.run(200 * second)
		r.idle()
	}
}

// TestBroadcast: a broadcast leaves, to everybody and to the guest's own network, and answers come back, where multicast is switched on.
func TestBroadcast(t *testing.T) {
	for _, to := range []string{"255.255.255.255", "192.0.2.255"} {
		t.Run(to, func(t *testing.T) {
			all := netip.MustParseAddr(to)
			r := newRig(t, multicast, ownBroadcast)
			r.inject(udpFrame(at(guest4, 4000), at(all, 9999), []byte("who is there")))
			r.nothing()
			s := r.host.Last()
			if d := s.Datagrams(); len(d) != 1 || d[0].To != at(all, 9999) || !s.Multicast {
				t.Fatalf("sent %v", d)
			}
			s.DeliverFrom([]byte("I am"), at(server4, 9999))
			if g := r.only(); g.from != at(server4, 9999) {
				t.Errorf("%v", g)
			}
			r.host.Fail(hosttest.SendDatagrams, unix.ENETUNREACH, 2)                    // the first may be about an earlier one
			r.inject(udpFrame(at(guest4, 4000), at(all, 9999), []byte("who is there"))) // no ICMP error is about a broadcast
			r.nothing()
			r.dropped(stats.HostUnreachable, 1)
		})
	}
}

// ownBroadcast gives the guest's network a broadcast address.
func ownBroadcast(c *worker.Config) { c.Map.Broadcast = netip.MustParseAddr("192.0.2.255") }

// TestNoMulticast: without the option nothing of it happens.
func TestNoMulticast(t *testing.T) {
	r := newRig(t, ownBroadcast)
	r.inject(groupFrame(mdns4, true))
	r.inject(groupFrame(mdns6, true))
	r.inject(udpFrame(at(guest4, 5353), at(mdns4, 5353), []byte("query")))
	r.inject(udpFrame(at(guest4, 5353), at(netip.MustParseAddr("192.0.2.255"), 5353), []byte("query")))
	r.nothing()
	r.dropped(stats.BadDestination, 2)
	r.dropped(stats.UnknownProtocol, 1)
	if n := len(r.host.Sockets()); n != 0 {
		t.Errorf("%d sockets", n)
	}
}

// TestGroupsBounded: a guest that joins whatever there is gets so many groups, none twice, and not those that every node is in.
func TestGroupsBounded(t *testing.T) {
	r := newRig(t, multicast)
	for _, local := range []string{"224.0.0.1", "ff02::1", "ff02::1:ff00:2"} {
		r.inject(groupFrame(netip.MustParseAddr(local), true))
	}
	r.nothing()
	if n := r.host.Open(); n != 0 {
		t.Errorf("%d sockets for groups of the link", n)
	}
	for i := range 100 {
		r.inject(groupFrame(netip.AddrFrom4([4]byte{239, 1, 2, byte(i)}), true))
	}
	r.nothing()
	if n := r.host.Open(); n != 64 {
		t.Errorf("%d sockets, want 2 for each of 32 groups", n)
	}
	r.dropped(stats.FlowTableFull, 68)
	bad := groupFrame(mdns4, true)
	bad[packet.EtherLen+packet.IPv4Len+7] = 9 // more records than there are
	ip := bad[packet.EtherLen+packet.IPv4Len:]
	ip[2], ip[3] = 0, 0
	binary.BigEndian.PutUint16(ip[2:], ^checksum.Checksum(ip, 0))
	r.inject(bad)
	r.nothing()
	r.dropped(stats.BadTransport, 1)
}

// TestGroupsFail: sockets that cannot be had are counted, and asked for again with the next report.
func TestGroupsFail(t *testing.T) {
	r := newRig(t, multicast)
	r.host.Fail(hosttest.OpenGroup, unix.ENODEV, 2)
	r.inject(groupFrame(mdns4, true))
	r.nothing()
	r.dropped(stats.HostError, 2)
	r.inject(groupFrame(mdns4, true))
	r.nothing()
	if n := r.host.Open(); n != 2 {
		t.Errorf("%d sockets", n)
	}
}

// TestGroupsOfOneWorker: reports that come to several workers are one worker's matter.
func TestGroupsOfOneWorker(t *testing.T) {
	r := makeCrew(t, 2, multicast)
	t.Cleanup(r.close)
	for i := range 4 {
		r.crew.members[i%2].link.Inject(packet.NetHdr{}, groupFrame(mdns4, true))
		r.settle()
	}
	if n := len(r.sockets(hosttest.UDP)); n != 2 {
		t.Errorf("%d sockets for a group at two ports", n)
	}
	r.crew.members[1].link.Inject(packet.NetHdr{}, groupFrame(mdns4, false))
	r.settle()
	if n := len(r.sockets(hosttest.UDP)); n != 0 {
		t.Errorf("%d sockets after the group was left", n)
	}
}
