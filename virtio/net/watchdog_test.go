package net

import (
	"testing"
	"time"

	"github.com/vasta-net/vasta/packet"
)

// TestWatchdog: frames that nobody takes, or gives back, are reported once, of their pair alone, and again only after it has moved (row 48 of the hostile inputs).
func TestWatchdog(t *testing.T) {
	for _, format := range []Features{0, RingPacked} {
		r := newRig(t, DeviceConfig{}, DriverConfig{Features: common | format})
		dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
		var stalls []Stall
		now := time.Unix(1000, 0)
		w := newWatchdog(r.device, time.Second, func(s Stall) { stalls = append(stalls, s) }, now)
		// after looks at what has happened when some time has passed.
		after := func(d time.Duration, want ...Stall) {
			t.Helper()
			stalls = nil
			now = now.Add(d)
			w.look(now)
			if len(stalls) != len(want) || len(want) == 1 && stalls[0] != want[0] {
				t.Fatalf("stalls %+v, want %+v", stalls, want)
			}
		}
		send := func() {
			t.Helper()
			if !drv.SendCopy(&packet.Frame{Bufs: [][]byte{pattern(100, 1)}, Len: 100}) {
				t.Fatal("the driver cannot send")
			}
		}
		var frames [1]packet.Frame
		take := func() {
			t.Helper()
			if n, err := dev.Take(frames[:]); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		after(time.Hour) // nothing waits
		send()
		after(900 * time.Millisecond)
		after(200*time.Millisecond, Stall{Pair: 0, For: 1100 * time.Millisecond})
		after(time.Hour)
		send()
		take()
		after(time.Second) // it has moved
		after(2*time.Second, Stall{Pair: 0, For: 2 * time.Second, Held: true})
		if err := dev.Done(); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		after(time.Second, Stall{Pair: 0, For: time.Second}) // the other frame
		take()
		if err := dev.Done(); err != nil {
			t.Fatal(err)
		}
		after(time.Hour)
		after(time.Hour)
	}
}

// TestWatch: the goroutine that looks ends when it is told to, and reports until then.
func TestWatch(t *testing.T) {
	r := newRig(t, DeviceConfig{}, DriverConfig{Features: common})
	stalled := make(chan Stall, 1)
	stop := r.device.Watch(time.Millisecond, func(s Stall) { stalled <- s })
	defer stop()
	if !r.driver.Pairs()[0].SendCopy(&packet.Frame{Bufs: [][]byte{pattern(100, 1)}, Len: 100}) {
		t.Fatal("the driver cannot send")
	}
	if s := <-stalled; s.Pair != 0 || s.Held {
		t.Errorf("%+v", s)
	}
}
