package worker_test

import (
	"testing"

	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/worker"
)

// fill has the flows send as much as their windows allow, and others a little, for d nanoseconds.
func (r *rig) fill(flows, others []*guestConn, d int64) {
	r.t.Helper()
	for end := r.host.Now() + d; r.host.Now() < end; {
		for _, c := range flows {
			c.write(4<<20, 60000)
		}
		for _, c := range others {
			c.write(1000, 1000)
		}
		r.pump()
		r.run(20 * millisecond)
	}
}

// TestSendersShareWindow: one flow that sends in bulk has the whole window; several share the windows of two; and who sends little, or
// has stopped, does not count.
func TestSendersShareWindow(t *testing.T) {
	const most, least = 1 << 20, 128 << 10
	r := newRig(t, func(c *worker.Config) { c.MaxWindow, c.NearWindow, c.Budget = most, most, 24<<20 })
	var flows []*guestConn
	for range 20 {
		flows = append(flows, r.connect(at(server4, 80)))
	}
	for _, step := range []struct {
		senders     int
		least, most int64 // window of each
	}{{1, most, most}, {2, most, most}, {8, most / 4, most / 4}, {20, least, least}, {1, most, most}} {
		r.fill(flows[:step.senders], flows[step.senders:], 200*millisecond)
		for i, c := range flows[:step.senders] {
			if window := c.edge - c.nxt; window < step.least-4<<10 || window > step.most+4<<10 {
				t.Errorf("%d send: flow %d has a window of %d, want %d to %d", step.senders, i, window, step.least, step.most)
			}
		}
	}
}

// TestBulkIsLimited: the host sockets of flows that send in bulk keep little unsent, from the first batch on; those of others are left alone.
func TestBulkIsLimited(t *testing.T) {
	r := newRig(t)
	var flows []*guestConn
	for range 5 {
		flows = append(flows, r.connect(at(server4, 80)))
	}
	r.fill(flows[:2], flows[2:], 200*millisecond)
	if n := r.host.Calls(hosttest.LimitUnsent); n != 2 {
		t.Errorf("%d sockets were limited; want those of the 2 flows that send in bulk, once", n)
	}
}
