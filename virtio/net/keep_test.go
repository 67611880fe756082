package net

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
)

// carry delivers frames of n bytes, the first with the given number, and has them received, four at a time. It answers the next number.
func carry(t *testing.T, r *rig, n, count, number int) int {
	t.Helper()
	dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
	var frames [16]packet.Frame
	for end := number + count; number < end; {
		in := packet.Frame{Bufs: [][]byte{frameOf(n, number)}, Len: n}
		if k, err := dev.Deliver([]packet.Frame{in}); k != 1 || err != nil {
			t.Fatal(k, err)
		}
		if number++; number%4 == 0 || number == end {
			if _, err := drv.Receive(frames[:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	return number
}

// TestKeep: a buffer that had a frame to itself is posted again as it is, and the pool is not asked; unless it has to be of another length by now (row 1.14), the frame took
// several, or half of the pool is in use.
func TestKeep(t *testing.T) {
	const ring, lap = 64, 20 * 64
	for name, format := range formats {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, DeviceConfig{}, DriverConfig{Features: promiscuous | format, QueueSize: ring, CopyBreak: -1})
			p := r.driver.Pairs()[0]
			// since answers what has been counted since it was called last.
			var last ReceiveStats
			cut := uint64(0)
			since := func() (kept, cuts uint64, posted float64) {
				st, pieces := p.ReceiveStats(), p.Pool.Stats().Pieces
				kept, cuts, posted = st.Kept-last.Kept, pieces-cut, float64(st.Posted-last.Posted)/float64(st.Frames-last.Frames)
				last, cut = st, pieces
				return kept, cuts, posted
			}
			since()
			number := carry(t, r, 200, lap, 0)
			kept, cuts, short := since()
			if kept < lap-16 || cuts > 0 {
				t.Errorf("short frames: %d buffers of %d are kept, %d were cut", kept, lap, cuts)
			}
			number = carry(t, r, 9000, lap, number)
			if kept, cuts, _ = since(); kept > ring || cuts < 2*lap {
				t.Errorf("long frames: %d buffers are kept, %d were cut", kept, cuts)
			}
			number = carry(t, r, 3900, 2*lap, number) // of one buffer, in the length that buffers have come to
			since()
			number = carry(t, r, 3900, lap, number)
			if kept, cuts, posted := since(); kept < lap-16 || cuts > 0 || posted != maxMerge {
				t.Errorf("frames of 3900 bytes: %d buffers are kept, %d were cut, %v bytes each", kept, cuts, posted)
			}
			number = carry(t, r, 200, 2*lap, number)
			since()
			number = carry(t, r, 200, lap, number)
			if kept, cuts, posted := since(); kept < lap-16 || cuts > 0 || posted > 1.1*short {
				t.Errorf("short frames again: %d buffers are kept, %d were cut, %v bytes each, %v at first", kept, cuts, posted, short)
			}
			// Nearly all of the pool is somebody's.
			var pages []pagepool.Page
			for p.Pool.InUse() < (ring+2+txPages)*3/4 {
				pg, ok := p.Pool.Get()
				if !ok {
					t.Fatal("the pool is empty")
				}
				pages = append(pages, pg)
			}
			carry(t, r, 200, lap, number)
			if kept, cuts, _ := since(); kept > 16 || cuts < lap-ring {
				t.Errorf("with a pool that is short: %d buffers are kept, %d were cut", kept, cuts)
			}
			for _, pg := range pages {
				p.Pool.Put(pg)
			}
		})
	}
}

// TestKeepNothingShared: a frame whose memory somebody has a reference to, by Hold or because a hook has sent it back, stays as it is, however many frames come after it.
func TestKeepNothingShared(t *testing.T) {
	const ring, n = 64, 200
	for _, m := range modes[:3] {
		for name, verdict := range map[string]packet.Verdict{"held": packet.Pass, "sent back": packet.TX} {
			t.Run(m.Mode.String()+", "+name, func(t *testing.T) {
				wanted := -1
				r := newRig(t, DeviceConfig{}, DriverConfig{Features: common | m.Features, QueueSize: ring, CopyBreak: -1, Headroom: 64, Hook: func(int) packet.Hook {
					return func(frames []packet.Frame, verdicts []packet.Verdict) {
						for i := range frames {
							verdicts[i] = packet.Drop
							if wanted >= 0 && same(&frames[i], frameOf(n, wanted)) {
								verdicts[i] = verdict
							}
						}
					}
				}})
				dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
				number, seen := 0, [][]byte{}
				var pages []pagepool.Page
				var frames [8]packet.Frame
				for range 10 {
					wanted = number
					in := packet.Frame{Bufs: [][]byte{frameOf(n, number)}, Len: n}
					if k, err := dev.Deliver([]packet.Frame{in}); k != 1 || err != nil {
						t.Fatal(k, err)
					}
					k, err := drv.Receive(frames[:])
					if err != nil || k != b2i(verdict == packet.Pass) {
						t.Fatal(k, err)
					}
					if k == 1 {
						pages = drv.Hold(pages, 0)
						seen = append(seen, slices.Concat(frames[0].Bufs...), frames[0].Bufs[0])
					}
					wanted = -1
					number = carry(t, r, n, 3*ring, number+1)
				}
				for i := 0; i < len(seen); i += 2 {
					if !bytes.Equal(seen[i], seen[i+1]) {
						t.Error("a frame that is held was overwritten")
					}
				}
				for _, pg := range pages {
					drv.Pool.Put(pg)
				}
				if verdict == packet.Pass {
					return
				}
				back := make([]packet.Frame, 16)
				k, err := dev.Take(back)
				if k != 10 || err != nil {
					t.Fatal(k, err)
				}
				for i := range back[:k] {
					if !same(&back[i], frameOf(n, i*(3*ring+1))) {
						t.Errorf("frame %d that was sent back was overwritten", i)
					}
				}
				if err := dev.Done(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}
