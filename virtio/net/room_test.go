package net

import (
	"errors"
	"testing"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
)

// tap is a supply of receive buffers that runs dry.
type tap struct {
	*pagepool.Pool
	left int
}

func (p *tap) CutPieces(pieces []pagepool.Piece, n int, stretch bool) int {
	got := p.Pool.CutPieces(pieces[:min(len(pieces), p.left)], n, stretch)
	p.left -= got
	return got
}

// roomBuffers is how many buffers the ring of a roomRig has: eight for each time that the driver posts some.
const roomBuffers = 64

// roomRig is a pair whose ring is full, and whose device waits for half of it.
type roomRig struct {
	t      *testing.T
	driver *Pair
	device *DevicePair
	supply *tap
	kicks  int
	frame  []packet.Frame
}

func newRoomRig(t *testing.T, format Features) *roomRig {
	arena, err := pagepool.NewArena(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pagepool.NewPool(pagepool.Config{Provider: arena, Pages: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(pool.Close(), arena.Close()); err != nil {
			t.Error(err)
		}
	})
	q := &roomRig{t: t, supply: &tap{pool, roomBuffers}, frame: []packet.Frame{{Bufs: [][]byte{pattern(60, 1)}, Len: 60}}}
	r := newRig(t, DeviceConfig{}, DriverConfig{
		Features: common | format, QueueSize: roomBuffers, Arena: arena, CopyBreak: -1, Buffers: func(int) Buffers { return q.supply },
	})
	q.driver, q.device = r.driver.Pairs()[0], r.device.Pairs()[0]
	q.supply.left = 1 << 20
	q.device.OnKick = func() { q.kicks++ }
	if n := q.fill(); n != roomBuffers {
		t.Fatalf("%d frames fill the ring", n)
	}
	return q
}

// fill delivers frames until there are no buffers, and then waits for half of them. It answers how many frames it was.
func (q *roomRig) fill() (n int) {
	for ; ; n++ {
		if got, err := q.device.Deliver(q.frame); err != nil {
			q.t.Fatal(err)
		} else if got == 0 {
			break
		}
	}
	if q.device.ListenRoom(roomBuffers / 2) {
		q.t.Fatal("there is room, and there was none")
	}
	q.kicks = 0
	return n
}

// receive has the driver take at most n frames.
func (q *roomRig) receive(n int) int {
	n, err := q.driver.Receive(make([]packet.Frame, n))
	if err != nil {
		q.t.Fatal(err)
	}
	return n
}

// formats are both kinds of ring.
var formats = map[string]Features{"split": 0, "packed": RingPacked}

// TestRoomAtHalf: a device that waits for half of the buffers is kicked once, when there are so many.
func TestRoomAtHalf(t *testing.T) {
	for name, format := range formats {
		t.Run(name, func(t *testing.T) {
			q := newRoomRig(t, format)
			frames, lent := roomBuffers, 0
			for range 3 {
				posted := 0
				for ; frames > 0; frames -= lent {
					posted += lent // what was received before is free again
					lent = q.receive(8)
					if want := b2i(posted >= roomBuffers/2); q.kicks != want {
						t.Fatalf("%d kicks with %d buffers posted", q.kicks, posted)
					}
				}
				for range 2 {
					if !q.device.ListenRoom(roomBuffers / 2) {
						t.Fatal("there is no room, though the driver has kicked")
					}
				}
				if frames = q.fill(); frames != posted {
					t.Fatalf("%d frames fill the ring; %d buffers were posted", frames, posted)
				}
			}
		})
	}
}

// TestRoomBeforeSleep: a driver that goes to sleep with less than half of the buffers posted kicks; one that has more does not.
func TestRoomBeforeSleep(t *testing.T) {
	for name, format := range formats {
		for why, posted := range map[string]int{"the caller has the others": 8, "memory is short": 24, "half is enough": 32} {
			t.Run(name+", "+why, func(t *testing.T) {
				q := newRoomRig(t, format)
				if why == "the caller has the others" {
					q.receive(8)
					q.receive(roomBuffers)
				} else {
					q.supply.left = posted
					for q.receive(8) > 0 {
					}
				}
				if q.driver.Posted() != posted || q.kicks != posted/32 {
					t.Fatalf("%d buffers are posted, with %d kicks", q.driver.Posted(), q.kicks)
				}
				if q.driver.Listen() {
					t.Fatal("the driver may not sleep")
				}
				if q.kicks != 1 {
					t.Errorf("the driver sleeps; %d kicks", q.kicks)
				}
				if !q.device.ListenRoom(roomBuffers/2) || q.fill() != posted {
					t.Error("the device does not find the buffers")
				}
				// Nothing is new: a device that asks once more waits.
				if q.device.ListenRoom(roomBuffers / 2) {
					t.Error("the kick is told of twice")
				}
			})
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
