package worker_test

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// TestCloseWithEverythingOpen: Close resets the host's peers and leaves no descriptor, page or fragment, whatever is going on. The
// rig's own check does the counting.
func TestCloseWithEverythingOpen(t *testing.T) {
	var r *rig
	t.Cleanup(func() { // after the rig's own
		for _, s := range r.host.Sockets() {
			if s.Kind == hosttest.TCP && !s.Aborted() {
				t.Errorf("%v was not reset", s)
			}
		}
	})
	r = newRig(t)
	r.forward(at(netip.IPv6Unspecified(), 8000), 5000, false)
	r.forward(at(netip.IPv6Unspecified(), 8000), 5000, true).DeliverFrom([]byte("x"), at(server4, 7000))
	r.inject(udpFrame(at(guest4, 5000), at(server4, 53), nil))
	r.inject(echoFrame(guest6, server6, 1, 1, nil))
	held := r.connect(at(server4, 80))
	r.host.Last().SetSpace(10)
	held.write(60000, 10000)
	flight := r.connect(at(server6, 80))
	flight.quiet = true
	flight.deliver(r.host.Last(), 1, 500000)
	hole := r.connect(at(server4, 81))
	hole.send(layers.TCP{}, hole.nxt+5000, make([]byte, 5000))
	ended := r.connect(at(server4, 82))
	ended.end()
	r.pump()
	half := r.connect(at(server4, 83))
	r.host.Last().End()
	half.quiet = true
	r.host.OnOpen = nil
	r.dial(at(server4, 84))
	r.link.SetFull(true)
	r.dial(at(netip.MustParseAddr("203.0.113.1"), 85))
	r.run(5 * millisecond)
	s := r.w.Snapshot()
	if s.TCPFlows != 7 || s.UDPFlows != 2 || s.ICMPFlows != 1 || s.Held == 0 || s.FragsInUse == 0 || s.PagesInUse < 2 {
		t.Errorf("before Close: %+v", s)
	}
}

// TestStaleEvents: events of descriptors and flows that are gone, or never were, change nothing.
func TestStaleEvents(t *testing.T) {
	r := newRig(t)
	var tokens []uint64
	r.host.OnOpen = establish
	first := r.connect(at(server4, 80))
	const flowKind, listenerKind = 2, 3
	for gen := range uint64(4) {
		for index := range uint64(3) {
			tokens = append(tokens, flowKind<<56|gen<<32|index, listenerKind<<56|gen<<32|index)
		}
	}
	first.abort()
	r.pump()
	second := r.connect(at(server4, 80)) // in the slot of the first
	s := r.host.Last()
	for i, token := range tokens {
		if token>>56 == flowKind && token>>32&0xff == 2 && uint32(token) == 0 {
			continue // the living flow's own
		}
		before := r.calls()
		for _, e := range []hostsock.Event{{In: true}, {Out: true}, {In: true, Out: true, End: true, Hangup: true, Error: true}} {
			e.Token = token
			r.host.Inject(e)
			r.settle()
		}
		if r.calls() != before {
			t.Errorf("event %d, %x: %d calls of the host", i, token, r.calls()-before)
		}
	}
	second.upload(1000, 1000)
	second.received(s, 1000)
}

// TestGone: when the guest is gone the worker says so, and can be closed.
func TestGone(t *testing.T) {
	r := newRig(t)
	r.connect(at(server4, 80))
	r.link.Vanish()
	if err := r.w.Run(); !errors.Is(err, link.ErrGone) {
		t.Errorf("Run: %v", err)
	}
}

// TestWatchFails: a worker that cannot watch its link is none.
func TestWatchFails(t *testing.T) {
	host := hosttest.New()
	host.Fail(hosttest.Watch, unix.ENOSPC, 1)
	q := linktest.New(allFeatures)
	c := config(t, q, host)
	c.Clock = host.Now
	_, err := worker.New(c)
	if err := errors.Join(c.Hold.Close(), c.Send.Close()); err != nil {
		t.Error(err)
	}
	if !errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%q", err)
	}
}

// TestIdleMemory: a second after a load its memory is given back, and Idle is called once.
func TestIdleMemory(t *testing.T) {
	idle := 0
	var send *pagepool.Pool
	r := newRig(t, func(c *worker.Config) { c.Idle = func() { idle++ }; send = c.Send })
	c := r.connect(at(server4, 80))
	c.deliver(r.host.Last(), 1, 1<<20)
	r.pump()
	c.abort()
	r.pump()
	if idle != 0 {
		t.Errorf("idle %d times during the load", idle)
	}
	r.run(900 * millisecond)
	if idle != 0 {
		t.Errorf("idle %d times within a second", idle)
	}
	r.run(5 * second)
	if idle != 1 {
		t.Errorf("idle %d times after it", idle)
	}
	if s := send.Stats(); s.Released < 8 || send.InUse() != 0 {
		t.Errorf("%d pages given back, %d in use", s.Released, send.InUse())
	}
	r.connect(at(server4, 80)).upload(1000, 1000)
}

// TestManyFlowsThenIdle: flow slots of a load are given back too, and what follows works.
func TestManyFlowsThenIdle(t *testing.T) {
	r := newRig(t)
	for range 2 {
		for i := range uint16(500) {
			r.inject(udpFrame(at(guest4, 1000+i), at(server4, 53), nil))
		}
		r.run(40 * second)
		r.idle()
	}
	r.connect(at(server4, 80)).upload(1000, 1000)
	r.received(1000)
}

func (r *rig) received(n int64) {
	r.t.Helper()
	if s := r.host.Last(); s.SentBytes() != n {
		r.t.Errorf("%v has sent %d bytes, want %d", s, s.SentBytes(), n)
	}
}

// TestCapture: every frame is shown, in both directions, as it is on the link.
func TestCapture(t *testing.T) {
	type seen struct {
		d    worker.Direction
		data []byte
	}
	var all []seen
	r := newRig(t, func(c *worker.Config) {
		c.Capture = func(d worker.Direction, _ *packet.NetHdr, bufs [][]byte) {
			all = append(all, seen{d, bytes.Join(bufs, nil)})
		}
	})
	request := arpFrame(gw4)
	r.inject(request)
	reply := r.only()
	if len(all) != 2 || all[0].d != worker.FromGuest || all[1].d != worker.ToGuest ||
		!bytes.Equal(all[0].data, request) || !bytes.Equal(all[1].data, reply.Data) {
		t.Errorf("captured %v", all)
	}
	frame := udpFrame(at(guest4, 5000), at(server4, 53), []byte("question"))
	r.inject(frame)
	r.settle()
	r.host.Last().Deliver([]byte("answer"))
	reply = r.only()
	if len(all) != 4 || !bytes.Equal(all[2].data, frame) || len(all[3].data) != len(reply.Data) {
		t.Errorf("captured %v", all)
	}
	if r.stats.RxFrames != 2 || r.stats.TxFrames != 2 || r.stats.RxBytes != uint64(len(request)+len(frame)) {
		t.Errorf("counted %+v", r.stats)
	}
}

// running is a worker in a goroutine of its own, over real descriptors.
func running(t *testing.T) (w *worker.Worker, q *linktest.Queue, done chan error) {
	t.Helper()
	host, err := hostsock.NewSystem()
	if err != nil {
		t.Fatal(err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	if q, err = linktest.NewPollable(allFeatures); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	c := config(t, q, host)
	c.WakeFd, c.Clock = wake, func() int64 { return int64(time.Since(start)) }
	if w, err = worker.New(c); err != nil {
		t.Fatal(err)
	}
	done = make(chan error, 1)
	go func() { done <- w.Run() }()
	t.Cleanup(func() {
		w.Stop()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		q.Check(t)
		if err := errors.Join(host.Release(), unix.Close(wake)); err != nil {
			t.Error(err)
		}
	})
	return w, q, done
}

func ended(t *testing.T, done chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the worker does not end")
		return nil
	}
}

// TestDo: what other goroutines ask for is done once, in their order, in the worker's goroutine, while frames come and go.
func TestDo(t *testing.T) {
	w, q, done := running(t)
	const callers, times = 4, 500
	var counts [callers]int // written by the worker alone
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			for k := range times {
				w.Do(func() {
					if counts[i] != k {
						t.Errorf("command %d of caller %d comes after %d", k, i, counts[i])
					}
					counts[i]++
				})
			}
		})
	}
	group.Go(func() {
		for range times {
			q.Inject(packet.NetHdr{}, arpFrame(gw4))
		}
	})
	group.Wait()
	finished := make(chan uint64)
	for {
		w.Do(func() { finished <- w.Snapshot().TxFrames })
		if n := <-finished; n == times {
			break
		}
	}
	w.Stop()
	w.Stop()
	if err := ended(t, done); err != nil {
		t.Error(err)
	}
	for i, n := range counts {
		if n != times {
			t.Errorf("%d commands of caller %d were run", n, i)
		}
	}
	w.Do(func() { t.Error("a command was run after the end") })
	if frames := q.Take(); len(frames) != times {
		t.Errorf("%d ARP replies", len(frames))
	}
}

// TestStopIdle: a worker that waits for nothing can be stopped, and one whose guest goes away ends by itself.
func TestStopIdle(t *testing.T) {
	for _, how := range []string{"stop", "vanish"} {
		t.Run(how, func(t *testing.T) {
			w, q, done := running(t)
			ready := make(chan bool)
			w.Do(func() { close(ready) })
			<-ready
			time.Sleep(5 * time.Millisecond) // it sleeps by now
			var want error
			if how == "stop" {
				w.Stop()
			} else {
				q.Vanish()
				want = link.ErrGone
			}
			if err := ended(t, done); !errors.Is(err, want) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}
