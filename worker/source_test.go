package worker_test

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
)

// TestSourceFlows: an address of the guest begins no more flows than it may, is told so, and keeps nobody else from having some. What ends makes room.
func TestSourceFlows(t *testing.T) {
	const limit = 5
	r := newRig(t, func(c *worker.Config) { c.SourceFlows = limit })
	other4 := netip.MustParseAddr("192.0.2.77")
	for i := range uint16(limit - 1) {
		r.inject(udpFrame(at(guest4, 5000), at(server4, 100+i), nil))
	}
	r.inject(echoFrame(guest4, server4, 1, 1, nil))
	r.nothing()
	for i := range 100 {
		r.inject(udpFrame(at(guest4, 6000+uint16(i)), at(server4, 53), nil))
		g := r.only()
		if typ, code, _ := quotation(t, g); typ != layers.ICMPv4TypeDestinationUnreachable || code != layers.ICMPv4CodeCommAdminProhibited {
			t.Errorf("%v", g)
		}
	}
	r.inject(echoFrame(guest4, server4, 2, 1, nil))
	quotation(t, r.only())
	r.dial(at(server4, 80))
	if g := r.only(); g.tcp == nil || !g.tcp.RST {
		t.Errorf("%v, want a reset", g)
	}
	r.dropped(stats.SourceFull, 102)
	r.inject(udpFrame(at(guest4, 5000), at(server4, 100), nil)) // of a flow that there is
	r.inject(udpFrame(at(other4, 5000), at(server4, 100), nil))
	r.inject(udpFrame(at(guest6, 5000), at(server6, 100), nil))
	r.nothing()
	r.dropped(stats.SourceFull, 102)
	if n := len(r.sockets(hosttest.UDP)); n != limit+1 {
		t.Errorf("%d sockets", n)
	}
	l := r.forward(at(netip.IPv4Unspecified(), 8000), 5000, true) // who comes from outside is not counted
	l.DeliverFrom([]byte("in"), at(server4, 7000))
	r.only()
	r.run(31 * second)
	for i := range uint16(limit - 1) {
		r.inject(udpFrame(at(guest4, 5000), at(server4, 200+i), nil))
	}
	r.nothing()
	r.dropped(stats.SourceFull, 102)
	r.run(200 * second)
	r.idle()
}

// TestSourceFlowsOfMany: addresses come and go without leaving anything.
func TestSourceFlowsOfMany(t *testing.T) {
	r := newRig(t, func(c *worker.Config) { c.SourceFlows = 1 })
	for round := range 5 {
		for i := range byte(200) {
			from := netip.AddrFrom4([4]byte{10, 0, byte(round), i})
			r.inject(udpFrame(at(from, 5000), at(server4, 53), nil))
		}
		r.nothing()
		r.dropped(stats.SourceFull, 0)
		r.run(31 * second)
		r.idle()
	}
}
