package worker_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// reportFrame is an ICMP error of the guest's about a frame that it got.
func reportFrame(about []byte, typ, code uint8, info uint32) []byte {
	quoted := gopacket.Payload(about[packet.EtherLen:min(len(about), packet.EtherLen+packet.IPv6Len+8)])
	if binary.BigEndian.Uint16(about[12:]) == packet.EtherIPv6 {
		ip := about[packet.EtherLen:]
		peer := netip.AddrFrom16([16]byte(ip[8:24]))
		rest := gopacket.Payload(append(binary.BigEndian.AppendUint32(nil, info), quoted...))
		return serialize(guest6, peer, layers.IPProtocolICMPv6, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}, rest)
	}
	peer := netip.AddrFrom4([4]byte(about[packet.EtherLen+12:][:4]))
	return serialize(guest4, peer, layers.IPProtocolICMPv4,
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Id: uint16(info >> 16), Seq: uint16(info)}, quoted)
}

// refused and tooBig are the errors of a family.
func refusedLike(a netip.Addr) (typ, code uint8) { return portUnreachable(a) }

func tooBigLike(a netip.Addr) (typ, code uint8) {
	if a.Is4() {
		return 3, 4
	}
	return 2, 0
}

// TestGuestPortUnreachable: a datagram that nobody in the guest wants ends its flow and its host socket, so that the host refuses what comes
// next; a forwarded port stays.
func TestGuestPortUnreachable(t *testing.T) {
	for _, to := range servers() {
		r := newRig(t)
		guest := at(like(to.Addr()), 5000)
		r.inject(udpFrame(guest, to, []byte("out")))
		r.settle()
		s := r.host.Last()
		s.Deliver([]byte("in"))
		r.settle()
		frame := r.link.Take()[0].Data
		typ, code := refusedLike(to.Addr())
		report := reportFrame(frame, typ, code, 0)
		r.inject(report)
		r.nothing()
		if !s.Closed() {
			t.Errorf("%v: the host socket is open", to)
		}
		r.dropped(stats.GuestUnreachable, 1)
		r.inject(report) // its flow is gone
		r.nothing()
		r.dropped(stats.ICMPNoFlow, 1)
		r.idle()

		l := r.forward(at(to.Addr(), 8000), 5000, true)
		l.DeliverFrom([]byte("in"), to)
		r.settle()
		r.inject(reportFrame(r.link.Take()[0].Data, typ, code, 0))
		r.nothing()
		if l.Closed() || r.stats.UDPFlows != 0 {
			t.Errorf("%v: the port is closed: %t, %d flows", to, l.Closed(), r.stats.UDPFlows)
		}
		r.dropped(stats.GuestUnreachable, 2)
	}
}

// TestGuestRefusesConnection: an error about our SYN resets the host's peer, as a reset would.
func TestGuestRefusesConnection(t *testing.T) {
	for _, to := range servers() {
		r := newRig(t)
		l := r.forward(at(to.Addr(), 8000), 5000, false)
		s := l.Inbound(to, at(to.Addr(), 8000))
		r.settle()
		typ, code := refusedLike(to.Addr())
		r.inject(reportFrame(r.link.Take()[0].Data, typ, code, 0))
		r.nothing()
		if !s.Aborted() {
			t.Errorf("%v: the host's peer was not reset", to)
		}
		r.dropped(stats.GuestUnreachable, 1)
		r.idle()
	}
}

// TestGuestPathMTU: a router of the guest's side has TCP send shorter segments, and long datagrams come in fragments that pass it.
func TestGuestPathMTU(t *testing.T) {
	const mtu = 1400
	for _, to := range servers() {
		typ, code := tooBigLike(to.Addr())
		r := newRig(t)
		c := r.connect(to)
		c.quiet = true
		s := r.host.Last()
		c.deliver(s, 1, 20000)
		r.settle()
		var first []byte
		for _, f := range r.link.Take() {
			if len(f.Data) > mtu {
				first = f.Data
			}
		}
		r.inject(reportFrame(first, typ, code, mtu))
		r.settle()
		again := 0
		for _, f := range r.link.Take() {
			again += len(f.Data)
			if size := int(f.Hdr.GSOSize); size == 0 && len(f.Data) > packet.EtherLen+mtu || size > mtu-40 {
				t.Errorf("%v: a frame of %d bytes, in segments of %d", to, len(f.Data), size)
			}
		}
		if again < 20000 {
			t.Errorf("%v: %d bytes sent again", to, again)
		}
		r.inject(reportFrame(first, typ, code, mtu))
		r.nothing()
		r.dropped(stats.ICMPIgnored, 1)
		c.abort()
		r.pump()

		guest := at(like(to.Addr()), 5000)
		r.inject(udpFrame(guest, to, []byte("out")))
		r.settle()
		s = r.host.Last()
		s.Deliver(make([]byte, 3000))
		r.settle()
		r.inject(reportFrame(r.link.Take()[0].Data, typ, code, mtu))
		r.nothing()
		s.Deliver(pattern(make([]byte, 3000), 1, 0))
		r.settle()
		frames := r.link.Take()
		if all := r.together(frames, mtu); len(frames) != 3 || len(all) != 1 || len(all[0].data) != 3000 {
			t.Errorf("%v: %d frames, %v", to, len(frames), all)
		}
		s.Deliver(make([]byte, 1000))
		if g := r.only(); len(g.data) != 1000 {
			t.Errorf("%v: %v", to, g)
		}
	}
}

// TestForgedReports: errors about flows that are not there, from whom the packet did not go to, and about nothing are counted and change nothing.
func TestForgedReports(t *testing.T) {
	r := newRig(t)
	r.inject(udpFrame(at(guest4, 5000), at(server4, 53), []byte("out")))
	r.settle()
	s := r.host.Last()
	s.Deliver([]byte("in"))
	r.settle()
	frame := r.link.Take()[0].Data
	other := append([]byte(nil), frame...)
	other[packet.EtherLen+packet.IPv4Len+3]++ // another port of the guest
	r.inject(reportFrame(other, 3, 3, 0))
	r.nothing()
	r.dropped(stats.ICMPNoFlow, 1)
	report := reportFrame(frame, 3, 3, 0)
	report[packet.EtherLen+19]++ // to somebody else
	setDF(report, false)         // and the checksum is right again
	r.inject(report)
	r.nothing()
	r.dropped(stats.BadDestination, 1)
	r.inject(reportFrame(frame, 11, 0, 0))
	r.inject(reportFrame(frame, 3, 1, 0))
	r.inject(reportFrame(frame, 3, 4, 65535))
	r.nothing()
	r.dropped(stats.ICMPIgnored, 3)
	if s.Closed() {
		t.Error("the flow has ended")
	}
}

// TestReportToOtherWorker: an error that comes to another worker than its flow's reaches its flow.
func TestReportToOtherWorker(t *testing.T) {
	r := newCrew(t, 2)
	members := r.crew.members
	members[0].link.Inject(packet.NetHdr{}, udpFrame(at(guest4, 5000), at(server4, 53), []byte("out")))
	r.settle()
	s := r.host.Last()
	s.Deliver([]byte("in"))
	r.settle()
	members[1].link.Inject(packet.NetHdr{}, reportFrame(members[0].link.Take()[0].Data, 3, 3, 0))
	r.settle()
	if !s.Closed() || members[0].stats.Drops[stats.GuestUnreachable] != 1 {
		t.Errorf("the host socket is closed: %t", s.Closed())
	}
}
