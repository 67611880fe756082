package net

import (
	"fmt"
	"testing"

	"github.com/vasta-net/vasta/packet"
)

// TestAllocations guards the rule that frames cost no heap memory: both ends, in every receive mode, with and without copy-break, every verdict of a hook, and sending.
func TestAllocations(t *testing.T) {
	const batch = 16
	for _, m := range modes {
		for _, ring := range []Features{0, RingPacked, IndirectDesc, RingPacked | InOrder} {
			for _, verdict := range []packet.Verdict{packet.Pass, packet.Drop, packet.TX, packet.RedirectTo(1)} {
				for _, n := range []int{100, 1500, 9000} {
					if n > goodFrame && m.Mode == Small {
						continue
					}
					name := fmt.Sprintf("%v,%v,verdict=%d,%d", m.Mode, m.Features|ring, verdict, n)
					redirected := 0
					r := newRig(t, DeviceConfig{}, DriverConfig{
						Features: common | m.Features | ring, Headroom: 64, CopyBreak: 128,
						Hook: func(int) packet.Hook {
							return func(frames []packet.Frame, verdicts []packet.Verdict) {
								for i := range frames {
									verdicts[i] = verdict
								}
							}
						},
						Redirect: func(int, *packet.Frame) bool { redirected++; return true },
					})
					dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
					in, frames := make([]packet.Frame, batch), make([]packet.Frame, batch)
					for i := range in {
						in[i] = packet.Frame{Bufs: [][]byte{frameOf(n, i)}, Len: n}
					}
					var outs [batch]Out
					round := func() {
						if _, err := dev.Deliver(in); err != nil { // a ring of big buffers is full at times
							t.Fatal(name, err)
						}
						if _, err := drv.Receive(frames); err != nil {
							t.Fatal(name, err)
						}
						for i := range outs {
							p, ok := drv.Pool.CutPiece(drv.HdrLen()+n, false)
							if !ok {
								t.Fatal(name, "no memory")
							}
							outs[i] = Out{Head: p}
						}
						sent, err := drv.Send(outs[:])
						if err != nil || sent != batch {
							t.Fatal(name, sent, err)
						}
						for {
							k, err := dev.Take(frames)
							if err != nil {
								t.Fatal(name, err)
							}
							if k == 0 {
								break
							}
							if err := dev.Done(); err != nil {
								t.Fatal(name, err)
							}
						}
					}
					for range 40 { // every ring goes round, tables grow to their batch
						round()
					}
					if a := testing.AllocsPerRun(40, round); a != 0 {
						t.Errorf("%s: %v allocations for a batch", name, a)
					}
					stats := drv.ReceiveStats()
					if stats.Verdicts[verdict.Kind()] == 0 || stats.TXFailed > 0 || verdict.Kind() == packet.Redirect && redirected == 0 {
						t.Errorf("%s: the verdict was not carried out: %+v", name, stats)
					}
				}
			}
		}
	}
}
