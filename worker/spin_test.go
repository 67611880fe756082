package worker_test

import (
	"testing"

	"github.com/vasta-net/vasta/worker"
)

// TestSpinsGiveWay: a worker that looks for events before it sleeps stops looking when another one begins to, and when it is given something.
func TestSpinsGiveWay(t *testing.T) {
	const looks = 3 // before something happens
	for _, tc := range []struct {
		name      string
		meanwhile func(r *rig, c *guestConn)
	}{
		{"another spins", func(r *rig, _ *guestConn) { r.crew.members[1].w.Step(1) }},
		{"a frame is handed over", func(r *rig, c *guestConn) {
			r.crew.only = 1
			c.ack()
			r.crew.members[1].w.Step(0)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var look func()
			made := 0
			r := newCrew(t, 2, func(c *worker.Config) {
				c.Spin, c.Spinners = second, 1
				if made++; made > 1 {
					return
				}
				clock := c.Clock
				c.Clock = func() int64 { // which the worker reads after each look
					if look != nil {
						look()
					}
					return clock()
				}
			})
			r.crew.only = 0
			c := r.connect(at(server4, 80))
			m := r.crew.members[0]
			from := m.stats.SysWait
			look = func() {
				if m.stats.SysWait-from == looks {
					look = nil
					tc.meanwhile(r, c)
				}
			}
			m.w.Step(1)
			if n := m.stats.SysWait - from; n != looks+1 { // the last is the one that may sleep
				t.Errorf("%d looks, want %d", n, looks+1)
			}
			r.checkCrew()
		})
	}
}
