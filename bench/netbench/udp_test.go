package netbench

import (
	"testing"

	loadgen "github.com/vasta-net/vasta/bench/internal/load"
	"github.com/vasta-net/vasta/bench/internal/procfs"
)

func TestLosses(t *testing.T) {
	probe := loadgen.Probe{
		Sent: loadgen.Sent{Datagrams: 1000}, Arrivals: loadgen.Arrivals{Received: 900, OutOfOrder: 3, Duplicates: 2},
		Near: procfs.UDPDrops{Link: 40, Socket: 1}, Far: procfs.UDPDrops{Socket: 9},
	}
	l := losses{vasta: map[string]int64{"socket_full": 5, "link_full": 1}}
	l.add(probe)
	l.add(loadgen.Probe{Sent: loadgen.Sent{Datagrams: 10}, Arrivals: loadgen.Arrivals{Received: 10}})
	if n := l.uncounted(); n != 100-40-1-9-5-1 {
		t.Errorf("%d without a reason", n)
	}
	const want = "100 of 1010 lost, 40 by the namespace's link, 1 by its sockets, 9 by the host's sockets, by vasta 1 link_full, 5 socket_full, 3 out of order, 2 twice"
	if got := l.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	l.vasta["socket_full"] = 1000
	if n := l.uncounted(); n != 0 {
		t.Errorf("more was counted than lost, and still %d without a reason", n)
	}
}
