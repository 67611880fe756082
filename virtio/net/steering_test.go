package net

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/packet"
)

// TestSteering: frames are for the pair that their flow's frames were sent by last (row 83), never for one that is not in use; RSS, where it is asked for, decides instead.
func TestSteering(t *testing.T) {
	const pairs = 4
	r := newRig(t, DeviceConfig{Config: Config{MTU: 1500, MaxPairs: pairs}}, DriverConfig{Features: everything &^ HashReport, QueueSize: 64})
	type flow struct{ out, in packet.Frame }
	var flows []flow
	for i := range 60 {
		guest, peer := netip.MustParseAddrPort(fmt.Sprintf("192.0.2.2:%d", 40000+i/2)), netip.MustParseAddrPort("198.51.100.7:443")
		if i%2 == 1 {
			guest, peer = netip.MustParseAddrPort(fmt.Sprintf("[2001:db8::2]:%d", 40000+i/2)), netip.MustParseAddrPort("[2001:db8:1::7]:443")
		}
		flows = append(flows, flow{tcpFrame(guest, peer), tcpFrame(peer, guest)})
	}
	steer := func(f *packet.Frame, among int) int {
		t.Helper()
		p := r.device.Steer(f)
		if p < 0 || p >= among || p != r.device.Steer(f) {
			t.Fatalf("pair %d of %d in use, and then %d", p, among, r.device.Steer(f))
		}
		return p
	}
	send := func(f *packet.Frame, pair int) {
		t.Helper()
		if !r.driver.Pairs()[pair].SendCopy(f) {
			t.Fatal("there is no room")
		}
		var got [4]packet.Frame
		if n, err := r.device.Pairs()[pair].Take(got[:]); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if err := r.device.Pairs()[pair].Done(); err != nil {
			t.Fatal(err)
		}
	}
	steer(&flows[0].in, 1)
	if err := r.driver.SetPairs(t.Context(), pairs); err != nil {
		t.Fatal(err)
	}
	used := map[int]int{}
	for i := range flows {
		used[steer(&flows[i].in, pairs)]++
	}
	if len(used) != pairs {
		t.Errorf("flows that nothing was sent of are spread so: %v", used)
	}
	for _, shift := range []int{0, 1} { // and flows that move
		for i := range flows {
			send(&flows[i].out, (i+shift)%pairs)
		}
		for i := range flows {
			if p := steer(&flows[i].in, pairs); p != (i+shift)%pairs {
				t.Errorf("flow %d, sent by pair %d, is for pair %d", i, (i+shift)%pairs, p)
			}
		}
	}
	arp := packet.Frame{Bufs: [][]byte{make([]byte, 60)}, Len: 60}
	if p := steer(&arp, pairs); p != 0 {
		t.Errorf("what is no flow's is for pair %d", p)
	}
	learned := []packet.Frame{flows[0].out, arp}
	if n := testing.AllocsPerRun(10, func() { r.device.steering.learn(learned, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := r.driver.SetPairs(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	for i := range flows {
		if p := steer(&flows[i].in, 2); (i+1)%pairs < 2 && p != (i+1)%pairs {
			t.Errorf("with fewer pairs flow %d, sent by pair %d, is for pair %d", i, (i+1)%pairs, p)
		}
	}
	if err := r.driver.SetRSS(t.Context(), RSSConfig{Types: HashTCPv4 | HashTCPv6, Table: []uint16{3}, MaxTx: 4, Key: make([]byte, maxRSSKey)}); err != nil {
		t.Fatal(err)
	}
	for i := range flows {
		if p := r.device.Steer(&flows[i].in); p != 3 {
			t.Fatalf("RSS has all frames be for pair 3, this one is for pair %d", p)
		}
	}
}
