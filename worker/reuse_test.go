package worker_test

import "testing"

// TestPortReusedInOneBatch: a guest that resets a connection may open the next one between the same ends at once. The worker sees
// reset and SYN in one batch, and must not take the SYN for the old connection's: the guest would repeat it after a second.
func TestPortReusedInOneBatch(t *testing.T) {
	for _, to := range servers() {
		t.Run(to.Addr().String(), func(t *testing.T) {
			r := newRig(t)
			old := r.connect(to)
			first := r.host.Last()
			old.abort()
			next := r.conn(old.local, to)
			next.syn()
			start := r.host.Now()
			r.pump()
			if !next.opened || r.host.Now()-start > 10*millisecond {
				t.Errorf("the second connection: open %v after %d ns", next.opened, r.host.Now()-start)
			}
			if !first.Aborted() {
				t.Error("the first connection's peer has seen no reset")
			}
			if s := r.w.Snapshot(); s.TCPOpened != 2 || s.TCPFlows != 1 {
				t.Errorf("%d opened, %d open", s.TCPOpened, s.TCPFlows)
			}
		})
	}
}
