package worker_test

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// TestReconfigureMTU: from a change of the link's MTU on, connections are told of segments that fit it, and datagrams are cut to it. What was begun before keeps
// its segment size.
func TestReconfigureMTU(t *testing.T) {
	const mtu = 1400
	r := newRig(t)
	told := func(c *guestConn) int {
		t.Helper()
		for _, o := range c.segments[0].Options {
			if o.OptionType == layers.TCPOptionKindMSS {
				return int(binary.BigEndian.Uint16(o.OptionData))
			}
		}
		t.Fatal("no MSS in the answer to the SYN")
		return 0
	}
	before := r.connect(at(server4, 80))
	_, datagrams := udpFlow(r, at(server4, 53))
	if err := r.w.Reconfigure(r.w.Map, router(mtu, r.stats), mtu); err != nil {
		t.Fatal(err)
	}
	if old, v4, v6 := told(before), told(r.connect(at(server4, 80))), told(r.connect(at(server6, 80))); old < 60000 || v4 != mtu-40 || v6 != mtu-60 {
		t.Errorf("segments of %d bytes before, %d and %d after", old, v4, v6)
	}
	r.take()
	datagrams.Deliver(make([]byte, 5000))
	r.settle()
	if all := r.together(r.link.Take(), mtu); len(all) != 1 {
		t.Errorf("%d datagrams, want one", len(all))
	}
}
