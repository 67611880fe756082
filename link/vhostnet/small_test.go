package vhostnet_test

import (
	"bytes"
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/vhostnet"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// TestSmallTransmitRings: transmit rings of 2 to 8 entries, full most of the time, of which frames complete in any order. What is sent arrives whole and in order, a page is given back when the
// last frame in it has completed and not before, and whoever was told that the ring is full hears of room.
func TestSmallTransmitRings(t *testing.T) {
	pool, err := pagepool.New(2 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	}()
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.SampledFrom([]int{2, 4, 8}).Draw(rt, "entries")
		r := newRig(t, vhostnet.Config{Tuning: vhostnet.Tuning{Receive: 2, Transmit: size}})
		m := &smallRing{rig: r, t: t, pool: pool}
		if err := r.q.Borrow(pool); err != nil {
			rt.Fatal(err)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"send": m.send,
			"burst": func(rt *rapid.T) {
				for range rapid.IntRange(10, 80).Draw(rt, "frames") {
					m.send(rt)
				}
			},
			"flush":    func(*rapid.T) { r.q.Flush() },
			"take":     m.take,
			"complete": m.complete,
			"":         m.check,
		})
		m.finish(rt)
		r.Leave()
		if err := r.q.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

// smallRing is a queue, and what is known of the frames in it.
type smallRing struct {
	*rig
	t    *testing.T
	pool *pagepool.Pool
	sent []sentFrame // that the kernel has not taken
	held []sentFrame // that it has, and has not completed
	next uint32
	full bool
}

// sentFrame is a frame with the page it was lent from, if any.
type sentFrame struct {
	data []byte
	page pagepool.Page
	room int // in front of it there
	lent bool
}

func (m *smallRing) send(rt *rapid.T) {
	pg, ok := m.pool.Get()
	if !ok {
		return // all are lent
	}
	defer m.pool.Put(pg)
	m.next++
	f := sentFrame{data: numbered(m.next, 54+rapid.SampledFrom([]int{20, 1400, 5000, 60_000}).Draw(rt, "bytes")), page: pg}
	payload, room := f.data[54:], 0
	if f.lent = rapid.Bool().Draw(rt, "lent") && len(payload) >= 4096; f.lent {
		room = rapid.SampledFrom([]int{0, 128}).Draw(rt, "room")
		payload = m.pool.Bytes(pg)[room:][:copy(m.pool.Bytes(pg)[room:], payload)]
	}
	f.room = room
	if m.full = !m.q.Send(&link.Out{Head: f.data[:54], Payload: [][]byte{payload}, Room: room}); !m.full {
		m.sent = append(m.sent, f)
	}
}

func (m *smallRing) take(rt *rapid.T) {
	_, data, _, ok := m.Hold()
	if !ok {
		return
	}
	if len(m.sent) == 0 || !bytes.Equal(data, m.sent[0].data) {
		rt.Fatalf("%d bytes arrive, of %d frames that were sent, or others than were", len(data), len(m.sent))
	}
	m.held, m.sent = append(m.held, m.sent[0]), m.sent[1:]
}

func (m *smallRing) complete(rt *rapid.T) {
	if len(m.held) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.held)-1).Draw(rt, "which")
	m.Complete(i)
	m.held = append(m.held[:i], m.held[i+1:]...)
}

// check: every lent page that may still be read is held.
func (m *smallRing) check(rt *rapid.T) {
	lent := 0
	for _, f := range append(append([]sentFrame(nil), m.sent...), m.held...) {
		if f.lent {
			lent++
			if got := m.pool.Bytes(f.page)[f.room:][:len(f.data)-54]; !bytes.Equal(got, f.data[54:]) {
				rt.Fatalf("the page of frame %x was used again", f.data[14:18])
			}
		}
	}
	if n := m.pool.InUse(); n < lent {
		rt.Fatalf("%d pages in use, and %d frames are lent", n, lent)
	}
}

// finish completes everything: a full queue tells of room, and nothing stays held.
func (m *smallRing) finish(rt *rapid.T) {
	for {
		m.q.Flush()
		for n := len(m.sent); ; n = len(m.sent) {
			if m.take(rt); len(m.sent) == n {
				break
			}
		}
		if m.full {
			m.sleepUntilRoom(rt)
			continue
		}
		if len(m.held) == 0 && len(m.sent) == 0 {
			break
		}
		m.complete(rt)
	}
	m.q.Flush()
	if n := m.pool.InUse(); n != 0 {
		rt.Fatalf("%d pages in use after the last frame", n)
	}
}

// sleepUntilRoom waits as a worker does, while frames complete one by one; all of them have, and nothing was heard: a lost wake-up.
func (m *smallRing) sleepUntilRoom(rt *rapid.T) {
	var frames [1]packet.Frame
	if n, err := m.q.Receive(frames[:]); n != 0 || err != nil {
		rt.Fatalf("Receive: %d, %v", n, err)
	}
	for m.q.Sleep() && !readable(m.t, m.q.Fd()) {
		if len(m.held) == 0 {
			rt.Fatal("the queue was full, everything has completed, and it says nothing")
		}
		m.complete(rt)
	}
	m.send(rt)
}

func readable(t *testing.T, fd int) bool {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n == 1
}
