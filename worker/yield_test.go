package worker_test

import (
	"testing"

	"github.com/vasta-net/vasta/worker"
)

// A worker that has slept lets others run before it looks at what there is to do; one that has more to do than it may do at once has not slept.
func TestYieldsAfterSleep(t *testing.T) {
	yields := 0
	r := newRig(t, func(c *worker.Config) { c.Yield = func() { yields++ } })
	r.w.Step(0) // nobody has looked at the link yet
	r.w.Step(millisecond)
	if yields != 1 {
		t.Errorf("%d yields after a sleep, want 1", yields)
	}
	r.w.Step(0)
	if yields != 1 {
		t.Errorf("%d yields after a look that did not sleep, want still 1", yields)
	}
}
