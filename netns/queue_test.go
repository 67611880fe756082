package netns

import (
	"net/netip"
	"strings"
	"testing"
)

// TestNoQdisc: frames go straight to the TAP's queues, however many; a discipline of the user's takes its place.
func TestNoQdisc(t *testing.T) {
	const show = "tc qdisc show dev uplink0"
	for _, queues := range []int{1, 2} {
		out := inside(t, Config{IfName: "uplink0", Queues: queues}, show+"; tc qdisc replace dev uplink0 root handle 1: tbf rate 100mbit burst 64kb limit 1mb; "+show)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) != 2 || !strings.HasPrefix(lines[0], "qdisc noqueue") || !strings.HasPrefix(lines[1], "qdisc tbf 1: root") {
			t.Errorf("%d queues:\n%s", queues, out)
		}
	}
}

// TestDropped: what a full queue loses is told, as the kernel counts it.
func TestDropped(t *testing.T) {
	ns := create(t, Config{IfName: "uplink0", TxQueueLen: 10, Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/24")}})
	before, ok := ns.Dropped()
	if !ok || before != 0 {
		t.Fatalf("%d dropped before anything was sent, known: %v", before, ok)
	}
	out, status := run(t, ns, nil, "bash", "-c", `ip neigh add 10.1.2.9 lladdr 02:00:00:00:00:09 dev uplink0 nud permanent
		exec 3>/dev/udp/10.1.2.9/9
		for i in {1..100}; do echo x >&3; done
		ip -s -j link show uplink0`)
	if status.Code != 0 {
		t.Fatalf("status %+v: %s", status, out)
	}
	var links []struct {
		Stats struct {
			TX struct {
				Dropped uint64 `json:"dropped"`
			} `json:"tx"`
		} `json:"stats64"`
	}
	decode(t, strings.TrimSpace(out), &links)
	got, ok := ns.Dropped()
	if want := links[0].Stats.TX.Dropped; !ok || got < want || want < 90 { // the kernel's own multicast may come later
		t.Errorf("%d dropped, known: %v; ip counts %d", got, ok, want)
	}
	if err := ns.Close(); err != nil {
		t.Error(err)
	}
	if _, ok := ns.Dropped(); ok {
		t.Error("a closed namespace tells")
	}
}

func TestTxDroppedMalformed(t *testing.T) {
	for _, body := range [][]byte{nil, make([]byte, 15), make([]byte, 16), append(make([]byte, 16), 12, 0, 23, 0, 1, 2, 3, 4, 5, 6, 7, 8)} {
		if n, err := txDropped(body); err == nil {
			t.Errorf("%v: %d", body, n)
		}
	}
}
