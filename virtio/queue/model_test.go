package queue_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vasta-net/vasta/virtio/queue"
	"github.com/vasta-net/vasta/virtio/queue/queuetest"
	"pgregory.net/rapid"
)

const cell = 512 // bytes of the arena that each buffer of the model has for itself

// held is a buffer of the model, wherever it is.
type held struct {
	token   uint64
	cell    int
	out, in int    // bytes
	data    []byte // what the driver put into out
	descs   int    // in the ring
	taken   queue.Chain
	written []byte
}

// wish is what an end is known to have asked for.
type wish int

const (
	always     wish = iota // each time
	armed                  // once, when count more have come
	suppressed             // not at all
	either                 // it was not said, or Listen has said that none may come
)

// model is a queue as it should be: lists of buffers, joined to the two ends under test.
type model struct {
	ring   queue.Ring
	bed    *queuetest.Bed
	driver queue.Driver
	device queue.Device

	offered  []*held // published, not taken; in order
	atDevice []*held // taken; in order
	returned []*held // in the order of return
	cells    []int
	tokens   uint64

	kick, call           wish
	kickAfter, callAfter int
}

func newModel(t *rapid.T, tb testing.TB, ring queue.Ring) *model {
	m := &model{ring: ring, bed: queuetest.NewBed(tb, queuetest.Heap, ring, cell*ring.Size), kickAfter: 1, callAfter: 1}
	m.driver, m.device = m.bed.Driver(tb), m.bed.Device(tb, 0)
	for i := range ring.Size {
		m.cells = append(m.cells, i)
	}
	if ring.Format == queue.Split && ring.EventIdx {
		m.kick, m.call = armed, armed // both event words start at 0
	}
	return m
}

// pattern is n bytes that no other buffer has.
func pattern(token uint64, n int) []byte {
	r := rand.New(rand.NewPCG(token, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// inFlight is everything that the driver has not got back.
func (m *model) inFlight() int { return len(m.offered) + len(m.atDevice) + len(m.returned) }

func (m *model) free() int {
	return m.ring.Size - descriptors(m.offered) - descriptors(m.atDevice) - descriptors(m.returned)
}

// segments cuts a number of pieces, in all at most cell/2 bytes, from the arena at off.
func segments(t *rapid.T, off int, label string) (s []queue.Segment, total int) {
	for range rapid.IntRange(0, 3).Draw(t, label) {
		n := rapid.IntRange(1, cell/8).Draw(t, "len")
		s = append(s, queue.Segment{Addr: queuetest.Base + uint64(off+total), Len: uint32(n)})
		total += n
	}
	return s, total
}

func (m *model) publish(t *rapid.T) {
	var bufs []queue.Buffer
	var want []*held
	free, fits := m.free(), 0
	full := false
	for range min(rapid.IntRange(1, 4).Draw(t, "batch"), len(m.cells)) {
		m.tokens++
		h := &held{token: m.tokens, cell: m.cells[len(want)]}
		b := queue.Buffer{Token: h.token}
		b.Out, h.out = segments(t, h.cell*cell, "outs")
		b.In, h.in = segments(t, h.cell*cell+cell/2, "ins")
		n := len(b.Out) + len(b.In)
		if n == 0 || n > m.ring.Size {
			continue
		}
		h.data = pattern(h.token, h.out)
		copy(m.bed.Arena[h.cell*cell:], h.data)
		if h.descs = n; m.ring.Indirect && n > 1 {
			h.descs = 1
		}
		bufs, want = append(bufs, b), append(want, h)
		if free -= h.descs; free < 0 {
			full = true
		}
		if !full {
			fits++
		}
	}
	n, err := m.driver.Publish(bufs)
	if err != nil || n != fits {
		t.Fatalf("Publish of %d buffers: %d, %v; %d fit", len(bufs), n, err, fits)
	}
	m.offered = append(m.offered, want[:n]...)
	m.cells = m.cells[n:]
	m.notified(t, "device", &m.kick, &m.kickAfter, n, m.driver.ShouldNotify())
}

// notified checks the answer of ShouldNotify after n buffers, rows 23, 24 and 37, and keeps the books on what was asked for.
func (m *model) notified(t *rapid.T, who string, w *wish, after *int, n int, got bool) {
	if n == 0 {
		if got {
			t.Fatalf("%s is to be notified of nothing", who)
		}
		return
	}
	want := *w == always
	if *w == armed {
		if *after -= n; *after <= 0 {
			want = true
			*w = suppressed
		}
	}
	if got && !want && *w == armed && m.ring.Format == queue.Packed {
		*w = suppressed // early: a packed ring's wish counts descriptors
		return
	}
	if got != want && *w != either {
		t.Fatalf("%s: notify %v after %d buffers, want %v", who, got, n, want)
	}
}

func (m *model) take(t *rapid.T) {
	chains := make([]queue.Chain, rapid.IntRange(1, 4).Draw(t, "room"))
	n, err := m.device.Take(chains)
	want := min(len(chains), len(m.offered))
	if few := m.ring.Indirect && 0 < n && n < want; err != nil || n != want && !few {
		t.Fatalf("Take: %d, %v; %d are offered", n, err, len(m.offered))
	}
	for _, c := range chains[:n] {
		h := m.offered[0]
		m.offered = m.offered[1:]
		if out := bytes.Join(c.Out, nil); !bytes.Equal(out, h.data) {
			t.Fatalf("chain %d reads %x, written was %x", c.ID, out, h.data)
		}
		if int(c.InLen) != h.in || len(bytes.Join(c.In, nil)) != h.in {
			t.Fatalf("chain %d has room for %d, offered were %d", c.ID, c.InLen, h.in)
		}
		h.taken = c
		h.taken.In = append([][]byte(nil), c.In...) // the pieces last until the next Take only; the memory stays
		m.atDevice = append(m.atDevice, h)
	}
}

func (m *model) untake(t *rapid.T) {
	n := rapid.IntRange(0, len(m.atDevice)).Draw(t, "n")
	// What was returned out of order in between stands in the way.
	if err := m.device.Untake(n); err != nil {
		return
	}
	at := len(m.atDevice) - n
	m.offered = append(append([]*held(nil), m.atDevice[at:]...), m.offered...)
	m.atDevice = m.atDevice[:at]
}

func (m *model) give(t *rapid.T) {
	var done []queue.Done
	for range rapid.IntRange(0, len(m.atDevice)).Draw(t, "n") {
		i := 0
		if !m.ring.InOrder {
			i = rapid.IntRange(0, len(m.atDevice)-1).Draw(t, "which")
		}
		h := m.atDevice[i]
		m.atDevice = append(append([]*held(nil), m.atDevice[:i]...), m.atDevice[i+1:]...)
		n := rapid.IntRange(0, h.in).Draw(t, "written")
		h.written = pattern(^h.token, n)
		left := h.written
		for _, p := range h.taken.In {
			left = left[copy(p, left):]
		}
		done = append(done, queue.Done{ID: h.taken.ID, Len: uint32(n)})
		m.returned = append(m.returned, h)
	}
	if err := m.device.Return(done); err != nil {
		t.Fatal(err)
	}
	m.notified(t, "driver", &m.call, &m.callAfter, len(done), m.device.ShouldNotify())
}

func (m *model) reap(t *rapid.T) {
	used := make([]queue.Used, rapid.IntRange(1, 4).Draw(t, "room"))
	n, err := m.driver.Reap(used)
	if err != nil || n != min(len(used), len(m.returned)) {
		t.Fatalf("Reap: %d, %v; %d were returned", n, err, len(m.returned))
	}
	for _, u := range used[:n] {
		h := m.returned[0]
		m.returned = m.returned[1:]
		if u.Token != h.token || int(u.Len) != len(h.written) {
			t.Fatalf("reaped token %d with %d bytes, returned was %d with %d", u.Token, u.Len, h.token, len(h.written))
		}
		at := h.cell*cell + cell/2
		if in := m.bed.Arena[at : at+len(h.written)]; !bytes.Equal(in, h.written) {
			t.Fatalf("buffer %d holds %x, written was %x", h.token, in, h.written)
		}
		m.cells = append(m.cells, h.cell)
	}
}

func (m *model) deviceListens(t *rapid.T) {
	after := rapid.IntRange(1, 5).Draw(t, "after")
	// What is there, and what it is counted in.
	have, taken := len(m.offered), len(m.atDevice)
	if m.ring.Format == queue.Packed {
		have, taken = descriptors(m.offered), descriptors(m.atDevice)
	}
	want := 1
	if m.ring.EventIdx {
		want = max(1, min(after, m.ring.Size-taken))
	}
	if m.device.Listen(after) != (have >= want) {
		t.Fatalf("Listen of the device is wrong: %d are offered, asked was for %d", have, want)
	}
	if m.kick = always; m.ring.EventIdx {
		if m.kick, m.kickAfter = armed, want-have; m.kickAfter <= 0 {
			m.kick = suppressed // those offered already, but not taken, have passed the event
		}
	}
}

// descriptors is how many a list takes in the ring.
func descriptors(list []*held) (n int) {
	for _, h := range list {
		n += h.descs
	}
	return n
}

func (m *model) driverListens(t *rapid.T) {
	after := rapid.IntRange(1, 3).Draw(t, "after")
	if m.driver.Listen(after) != (len(m.returned) > 0) {
		t.Fatalf("Listen of the driver is wrong: %d were returned", len(m.returned))
	}
	if m.call = always; m.ring.EventIdx {
		after = max(1, min(after, m.inFlight()))
		if m.call, m.callAfter = armed, after-len(m.returned); m.callAfter <= 0 {
			m.call = suppressed
		} else if m.ring.Format == queue.Packed && len(m.returned) > 0 {
			m.call = either // those returned may have passed the event, which counts descriptors
		}
	}
}

// restore makes a new device where the old one stood: row 42.
func (m *model) restore(t *rapid.T, tb testing.TB) {
	if len(m.atDevice) > 0 {
		return
	}
	pos := m.device.Position()
	if m.ring.Format == queue.Packed {
		if pos != queue.PositionOf(m.ring.Format, pos.Base(m.ring.Format)) {
			t.Fatalf("position %#v does not survive its base", pos)
		}
	}
	m.device = m.bed.Device(tb, 0)
	if err := m.device.Reset(pos); err != nil {
		t.Fatal(err)
	}
	m.kick = either
}

func (m *model) check(t *rapid.T) {
	if got := m.driver.InFlight(); got != m.inFlight() {
		t.Fatalf("the driver counts %d in flight, they are %d", got, m.inFlight())
	}
	if got := m.device.InFlight(); got != len(m.atDevice) {
		t.Fatalf("the device counts %d in flight, they are %d", got, len(m.atDevice))
	}
	if got := m.driver.Free(); got != m.free() {
		t.Fatalf("the driver counts %d free descriptors, they are %d", got, m.free())
	}
	if m.driver.Err() != nil || m.device.Err() != nil {
		t.Fatalf("broken: %v, %v", m.driver.Err(), m.device.Err())
	}
}

// TestQueueAgainstModel: every buffer comes back exactly once, with what was written; rows 16 to 42 of the checklist where they concern two ends
// that keep to the specification.
func TestQueueAgainstModel(t *testing.T) {
	if err := flag.Set("rapid.steps", "100"); err != nil { // long enough for ids to be used again in another order
		t.Fatal(err)
	}
	for _, format := range []queue.Format{queue.Split, queue.Packed} {
		for _, eventIdx := range []bool{false, true} {
			for _, indirect := range []bool{false, true} {
				for _, inOrder := range []bool{false, true} {
					ring := queue.Ring{Format: format, EventIdx: eventIdx, Indirect: indirect, InOrder: inOrder}
					t.Run(fmt.Sprintf("%v,event=%v,indirect=%v,inorder=%v", format, eventIdx, indirect, inOrder), func(tb *testing.T) {
						rapid.Check(tb, func(t *rapid.T) { againstModel(t, tb, ring) })
					})
				}
			}
		}
	}
}

func againstModel(t *rapid.T, tb testing.TB, ring queue.Ring) {
	ring.Size = rapid.SampledFrom([]int{1, 2, 4, 8}).Draw(t, "size")
	if ring.Format == queue.Packed {
		ring.Size = rapid.IntRange(1, 9).Draw(t, "packed size") // row 29
	}
	m := newModel(t, tb, ring)
	t.Repeat(map[string]func(*rapid.T){
		"publish": m.publish, "take": m.take, "untake": m.untake, "return": m.give, "reap": m.reap,
		"device listens": m.deviceListens, "driver listens": m.driverListens,
		"device suppresses": func(*rapid.T) { m.device.Suppress(); m.kick = suppressed },
		"driver suppresses": func(*rapid.T) { m.driver.Suppress(); m.call = suppressed },
		"restore":           func(t *rapid.T) { m.restore(t, tb) },
		"":                  m.check,
	})
}
