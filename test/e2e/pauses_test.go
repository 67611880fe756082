package e2e_test

import (
	"sync/atomic"
	"testing"
	"time"
)

// pauses notices when the machine gives nobody its processors for a while, as a machine does whose host is busy.
// TCP's timers run out then with nothing lost.
type pauses struct{ longest atomic.Int64 } // nanoseconds

// pauseStep is how often a watcher looks at the clock.
const pauseStep = 10 * time.Millisecond

// leastRTO is below the least time after which Linux sends a segment again with nothing else to tell it (200 ms): the timer may have begun some
// time before the pause.
const leastRTO = 120 * time.Millisecond

// watchPauses watches until the test ends.
func watchPauses(t *testing.T) *pauses {
	p := &pauses{}
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			case <-time.After(pauseStep):
			}
			now := time.Now()
			p.longest.Store(max(p.longest.Load(), int64(now.Sub(last))))
			last = now
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-ended
	})
	return p
}

// wantNothingSentAgain fails the test when the guest's kernel had to repeat segments, unless the machine paused for so long that the timer ran out
// by itself. What duplicate acknowledgements asked for is never due to a pause.
func (r *rig) wantNothingSentAgain() {
	r.t.Helper()
	n, asked := snmp(r.t, r.Guest, "RetransSegs"), tcpExt(r.t, r.Guest, "TCPFastRetrans")
	paused := time.Duration(r.pauses.longest.Load())
	if asked != 0 || n != 0 && paused < leastRTO {
		r.t.Errorf("the guest sent %d segments again, %d of them asked for; the longest pause of the machine was %v", n, asked, paused)
	}
}
