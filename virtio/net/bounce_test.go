package net

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vasta-net/vasta/packet"
)

// TestBounce: what a hook sends back is the memory that was received, in every mode, whatever the hook did at both ends of the frame, as long as the header has room; else it is a copy. Every
// reference is given back.
func TestBounce(t *testing.T) {
	edits := []struct {
		name string
		edit func(f *packet.Frame) bool
		copy bool // it cannot be sent from where it lies
		big  bool // ... nor a big one, which can be edited all the same
	}{
		{name: "as it is", edit: func(*packet.Frame) bool { return true }},
		{name: "push", edit: func(f *packet.Frame) bool { return f.Push(20) }},
		{name: "push all", edit: func(f *packet.Frame) bool { return f.Push(f.Headroom()) && f.Headroom() == 0 && f.Len > 0 }, copy: true},
		{name: "pull", edit: func(f *packet.Frame) bool { return f.Pull(20) }, big: true},
		{name: "pull and push", edit: func(f *packet.Frame) bool { return f.Pull(30) && f.Push(20) }},
		{name: "shorten", edit: func(f *packet.Frame) bool { return f.Resize(f.Len/2 + 1) }},
		{name: "lengthen", edit: func(f *packet.Frame) bool { return f.Resize(f.Len + 10) }},
		{name: "private memory", edit: func(f *packet.Frame) bool {
			f.Bufs[0] = bytes.Clone(f.Bufs[0])
			return true
		}, copy: true, big: true},
	}
	for _, m := range modes {
		for _, ring := range []Features{0, RingPacked | IndirectDesc} {
			for _, n := range []int{60, 1500, 9000, 60000, MaxFrame} {
				if n > goodFrame && m.Mode == Small {
					continue
				}
				for _, e := range edits {
					name := fmt.Sprintf("%v,%v,%d,%s", m.Mode, m.Features|ring, n, e.name)
					var want []byte
					var from *byte
					pieces, edited := 0, false
					r := newRig(t, DeviceConfig{}, DriverConfig{Features: common | m.Features | ring, Headroom: 64, Tailroom: 64, Hook: func(int) packet.Hook {
						return func(frames []packet.Frame, verdicts []packet.Verdict) {
							f := &frames[0]
							edited = e.edit(f)
							want, from, pieces = bytes.Join(f.Bufs, nil), &f.Bufs[0][0], len(f.Bufs)
							verdicts[0] = packet.TX
						}
					}})
					dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
					var frames [2]packet.Frame
					for number := range 3 {
						if k, err := dev.Deliver([]packet.Frame{{Bufs: [][]byte{frameOf(n, number)}, Len: n}}); k != 1 || err != nil {
							t.Fatal(name, k, err)
						}
						if k, err := drv.Receive(frames[:]); k != 0 || err != nil {
							t.Fatal(name, k, err)
						}
						if !edited && (e.name == "lengthen" || m.Mode == Big) {
							continue // there is no room in a big buffer, nor behind a frame of several
						}
						if _, err := drv.Receive(frames[:]); err != nil { // which ends the loan of the buffers
							t.Fatal(name, err)
						}
						if len(want) > MaxFrame {
							if s := drv.ReceiveStats(); s.TXFailed != uint64(1+number) {
								t.Fatalf("%s: %+v", name, s)
							}
							continue
						}
						k, err := dev.Take(frames[:])
						if k != 1 || err != nil || !edited {
							t.Fatal(name, k, err, edited, drv.ReceiveStats())
						}
						if !same(&frames[0], want) {
							t.Errorf("%s: a frame of %d bytes came back as one of %d, or with others", name, len(want), frames[0].Len)
						}
						copied := e.copy && m.Mode != Big || e.big && m.Mode == Big || e.name == "private memory" || pieces > 1+maxRest
						if b := frames[0].Bufs; (&b[0][0] != from) != copied {
							t.Errorf("%s: copied: %v", name, !copied)
						}
						if err := dev.Done(); err != nil {
							t.Fatal(name, err)
						}
					}
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					if err := r.driver.Close(ctx); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					cancel()
				}
			}
		}
	}
}

// TestBounceFull: where the transmit queue is full, what a hook sends back is gone, and its memory is not.
func TestBounceFull(t *testing.T) {
	r := newRig(t, DeviceConfig{}, DriverConfig{Features: promiscuous, QueueSize: 64, CopyBreak: -1, Hook: func(int) packet.Hook {
		return func(_ []packet.Frame, verdicts []packet.Verdict) {
			for i := range verdicts {
				verdicts[i] = packet.TX
			}
		}
	}})
	dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
	var frames [16]packet.Frame
	const all = 100
	for n := 0; n < all; {
		k, err := dev.Deliver([]packet.Frame{{Bufs: [][]byte{frameOf(1000, n)}, Len: 1000}})
		if err != nil {
			t.Fatal(err)
		}
		n += k
		if _, err := drv.Receive(frames[:]); err != nil {
			t.Fatal(err)
		}
	}
	st := drv.ReceiveStats()
	if st.Verdicts[packet.TX] != all || st.TXFailed != all-64 {
		t.Errorf("%+v", st)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := r.driver.Close(ctx); err != nil {
		t.Error(err)
	}
}

// TestCopyBreak: frames up to the copy-break are copied, whatever is received beside them, and no others; with a hook only those that it passes, and it sees them where the device
// has written them.
func TestCopyBreak(t *testing.T) {
	for _, m := range modes {
		for _, hooked := range []bool{false, true} {
			name := fmt.Sprintf("%v,%v,hook=%v", m.Mode, m.Features, hooked)
			c := DriverConfig{Features: common | m.Features, Headroom: 64, CopyBreak: 100}
			views := map[*byte]bool{}
			if hooked {
				c.Hook = func(int) packet.Hook {
					return func(frames []packet.Frame, verdicts []packet.Verdict) {
						for i := range frames {
							views[&frames[i].Bufs[0][0]] = true
							if frames[i].Len == 70 {
								verdicts[i] = packet.Drop
							}
						}
					}
				}
			}
			r := newRig(t, DeviceConfig{}, c)
			dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
			long := 1500
			if m.Mode != Small {
				long = MaxFrame // of as many pieces as there can be
			}
			lengths := []int{long, 100, 101, 70, long, 60, 14}
			passed, copied := len(lengths), 4
			if hooked {
				passed, copied = passed-1, 3
			}
			const rounds = 50
			for round := range rounds {
				var in []packet.Frame
				for i, n := range lengths {
					in = append(in, packet.Frame{Bufs: [][]byte{frameOf(n, round+i)}, Len: n})
				}
				if n, err := dev.Deliver(in); n != len(in) || err != nil {
					t.Fatal(name, n, err)
				}
				var frames [16]packet.Frame
				n, err := drv.Receive(frames[:])
				if n != passed || err != nil {
					t.Fatal(name, n, err)
				}
				i := 0
				for k, length := range lengths {
					if hooked && length == 70 {
						continue
					}
					f := &frames[i]
					if !same(f, frameOf(length, round+k)) {
						t.Fatalf("%s: frame %d of %d bytes has %d, or others", name, k, length, f.Len)
					}
					if hooked && views[&f.Bufs[0][0]] != (length > 100) {
						t.Errorf("%s: a frame of %d bytes was copied: %v", name, length, length > 100)
					}
					pages := drv.Hold(nil, i)
					if (len(pages) == 0) != (length <= 100) {
						t.Errorf("%s: a frame of %d bytes is in %d pages", name, length, len(pages))
					}
					for _, p := range pages {
						drv.Pool.Put(p)
					}
					if length <= 100 && m.Mode != Big && (f.Headroom() < 64 || !f.Push(64)) {
						t.Errorf("%s: headroom %d", name, f.Headroom())
					}
					i++
				}
				clear(views)
				// Empty, so that the next round has all buffers.
				if n, err := drv.Receive(frames[:]); n != 0 || err != nil {
					t.Fatal(name, n, err)
				}
			}
			if s := drv.ReceiveStats(); s.Copied != uint64(copied*rounds) {
				t.Errorf("%s: %d frames were copied, want %d", name, s.Copied, copied*rounds)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if err := r.driver.Close(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
	}
}
