package worker_test

import (
	"testing"

	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/worker"
)

// newSleeperRig is a rig whose link tells of a frame only when it was asked to.
func newSleeperRig(t *testing.T, edit ...func(*worker.Config)) *rig {
	t.Helper()
	features := allFeatures
	features.Again = true
	return newRigOn(t, linktest.New(features), edit...)
}

// stepUntil has the worker go on, and sleep where it likes, until a socket has sent n datagrams.
func (r *rig) stepUntil(s *hosttest.Socket, n int) {
	r.t.Helper()
	for range 100 {
		if len(r.numbers(s)) == n {
			return
		}
		r.w.Step(second)
	}
	r.t.Fatalf("%d of %d datagrams were sent", len(r.numbers(s)), n)
}

// TestSleeperAsked: the worker asks before it sleeps, each time; frames that come while it is awake are found.
func TestSleeperAsked(t *testing.T) {
	r := newSleeperRig(t)
	_, s := udpFlow(r, at(server4, 53))
	slept := 0
	r.host.OnWait = func(timeout int64) {
		if timeout == 0 {
			return
		}
		slept++
		if !r.link.Asked() {
			t.Error("the worker sleeps, and the link tells of nothing")
		}
	}
	for i := range 20 {
		if i%2 == 0 {
			r.numbered(i, i+1) // it waits before the worker looks
		} else {
			r.host.At(r.host.Now()+millisecond, func() { r.numbered(i, i+1) }) // it comes while the worker sleeps
		}
		r.stepUntil(s, i+1)
	}
	if slept == 0 {
		t.Error("the worker has never slept")
	}
}

// late is a link to which a frame comes at the last moment.
type late struct {
	*linktest.Queue
	before func() // Sleep
}

func (q *late) Sleep() bool {
	q.before()
	return q.Queue.Sleep()
}

// TestSleeperNotSleptOver: a frame that comes after the worker has last looked, and before it asks, does not wait.
func TestSleeperNotSleptOver(t *testing.T) {
	q := &late{before: func() {}}
	r := newSleeperRig(t, func(c *worker.Config) {
		q.Queue = c.Queue.(*linktest.Queue)
		c.Queue = q
	})
	_, s := udpFlow(r, at(server4, 53))
	for i := range 10 {
		began := r.host.Now()
		q.before = func() {
			q.before = func() {}
			r.numbered(i, i+1)
		}
		r.stepUntil(s, i+1)
		if waited := r.host.Now() - began; waited > 0 {
			t.Errorf("frame %d has waited %d ns", i, waited)
		}
	}
}

// TestSleeperStopped: a link that is stopped is not asked, and frames that wait in it keep nobody awake; they are found when there is room.
func TestSleeperStopped(t *testing.T) {
	r := newSleeperRig(t, func(c *worker.Config) { c.Overload = worker.Backpressure })
	_, s := udpFlow(r, at(server4, 53))
	s.SetSpace(0)
	r.numbered(0, 200)
	for range 50 {
		r.w.Step(0)
	}
	if r.stats.LinkStops != 1 || !r.link.Ready() {
		t.Fatalf("%d stops, frames wait: %t", r.stats.LinkStops, r.link.Ready())
	}
	r.host.OnWait = func(timeout int64) {
		if timeout == 0 || r.link.Asked() {
			t.Errorf("stopped: a wait of %d ns, the link was asked: %t", timeout, r.link.Asked())
		}
	}
	for range 5 {
		r.w.Step(millisecond)
	}
	r.host.OnWait = nil
	s.SetSpace(hosttest.Unlimited)
	for range 100 {
		r.w.Step(0)
	}
	if n := len(r.numbers(s)); n != 200 {
		t.Errorf("%d of 200 datagrams were sent", n)
	}
}
