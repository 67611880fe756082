package worker_test

import (
	"testing"

	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

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

// TestRefusedSYNComesAgain: the guest repeats its SYN while the host's refusal is on its way. It is answered once, and the host
// is not asked again.
func TestRefusedSYNComesAgain(t *testing.T) {
	for _, to := range servers() {
		t.Run(to.Addr().String(), func(t *testing.T) {
			r := newRig(t)
			var s *hosttest.Socket
			r.host.OnOpen = func(opened *hosttest.Socket) hostsock.Errno {
				s = opened
				return 0
			}
			c := r.dial(to)
			r.pump()
			s.Refuse(unix.ECONNREFUSED)
			c.syn()
			r.pump()
			c.refused()
			r.dropped(stats.HostRefused, 1)
			if len(c.segments) != 1 {
				t.Errorf("%d answers, want one", len(c.segments))
			}
			r.idle()
		})
	}
}
