package queue_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/vasta-net/vasta/virtio/queue"
	"github.com/vasta-net/vasta/virtio/queue/queuetest"
)

// The model joins our two ends, which would agree on a common mistake. Here each meets the bytes that the specification names. The numbers are the rows of the
// normative checklist in the design notes.

func seg(off int, n uint32) queue.Segment { return queue.Segment{Addr: base + uint64(off), Len: n} }

func publish(t *testing.T, d queue.Driver, bufs ...queue.Buffer) {
	t.Helper()
	if n, err := d.Publish(bufs); n != len(bufs) || err != nil {
		t.Fatalf("Publish: %d of %d, %v", n, len(bufs), err)
	}
}

func takeAll(t *testing.T, d queue.Device, want int) []queue.Chain {
	t.Helper()
	chains := make([]queue.Chain, 16)
	n, err := d.Take(chains)
	if n != want || err != nil {
		t.Fatalf("Take: %d, %v; want %d", n, err, want)
	}
	return chains[:n]
}

func giveBack(t *testing.T, d queue.Device, done ...queue.Done) {
	t.Helper()
	if err := d.Return(done); err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Rows 15, 29 and 31; rows 17 and 18 of the hostile inputs.
func TestRingsRefused(t *testing.T) {
	block := queuetest.Heap(t, 1<<20)
	m, err := queue.NewMemory(queue.Region{Addr: base, Mem: block})
	if err != nil {
		t.Fatal(err)
	}
	areas := func(format queue.Format, size, descriptor, driver, device int) queue.Areas {
		l := queue.LayoutOf(format, size)
		a := l.Areas(block)
		return queue.Areas{
			Descriptor: block[descriptor:][:len(a.Descriptor)],
			Driver:     block[4096+driver:][:len(a.Driver)],
			Device:     block[8192+device:][:len(a.Device)],
		}
	}
	for _, c := range []struct {
		name           string
		ring           queue.Ring
		driver, device bool // accepted
	}{
		{"size 0", queue.Ring{Size: 0}, false, false},
		{"size 3", queue.Ring{Size: 3, Areas: areas(queue.Split, 3, 0, 0, 0)}, false, false},
		{"size 3, packed", queue.Ring{Format: queue.Packed, Size: 3, Areas: areas(queue.Packed, 3, 0, 0, 0)}, true, true},
		{"size 32768", queue.Ring{Size: 32768, Areas: queue.LayoutOf(queue.Split, 32768).Areas(queuetest.Heap(t, 1<<20))}, true, true},
		{"size 32769", queue.Ring{Format: queue.Packed, Size: 32769}, false, false},
		{"size 65536", queue.Ring{Size: 65536}, false, false},
		{"size -1", queue.Ring{Size: -1}, false, false},
		{"format 2", queue.Ring{Format: 2, Size: 4, Areas: areas(queue.Split, 4, 0, 0, 0)}, false, false},
		{"descriptors at 8", queue.Ring{Size: 4, Areas: areas(queue.Split, 4, 8, 0, 0)}, false, false},
		{"available ring at 1", queue.Ring{Size: 4, Areas: areas(queue.Split, 4, 0, 1, 0)}, false, false},
		{"available ring at 2", queue.Ring{Size: 4, Areas: areas(queue.Split, 4, 0, 2, 0)}, false, true}, // allowed; ours does not do it
		{"used ring at 2", queue.Ring{Size: 4, Areas: areas(queue.Split, 4, 0, 0, 2)}, false, false},
		{"event structures at 2", queue.Ring{Format: queue.Packed, Size: 4, Areas: areas(queue.Packed, 4, 0, 2, 0)}, false, false},
		{"overlap", queue.Ring{Size: 4, Areas: areas(queue.Split, 4, 4096, 0, 0)}, false, false},
		{"overlap by a byte", queue.Ring{Size: 4, Areas: areas(queue.Split, 4, 4096-48, 0, 0)}, false, false},
		{"side by side", queue.Ring{Size: 4, Areas: areas(queue.Split, 4, 4096-64, 0, 0)}, true, true},
		{"no event words", queue.Ring{Size: 4, Areas: queue.Areas{Descriptor: block[:64], Driver: block[64:76], Device: block[128:164]}}, true, true},
		{"event words missing", queue.Ring{Size: 4, EventIdx: true, Areas: queue.Areas{Descriptor: block[:64], Driver: block[64:76], Device: block[128:164]}}, false, false},
	} {
		if _, err := queue.NewDriver(queue.DriverConfig{Ring: c.ring}); (err == nil) != c.driver {
			t.Errorf("%s: the driver end says %v", c.name, err)
		}
		if _, err := queue.NewDevice(queue.DeviceConfig{Ring: c.ring, Memory: m}); (err == nil) != c.device {
			t.Errorf("%s: the device end says %v", c.name, err)
		}
	}
}

// An available ring at an address that is no multiple of 4: the device end reads its index in another word.
func TestAvailableRingAtOddHalf(t *testing.T) {
	block := queuetest.Heap(t, 4096)
	ring := queue.Ring{Size: 4, Areas: queue.Areas{Descriptor: block[:64], Driver: block[66:80], Device: block[128:166]}}
	bed := queuetest.NewBed(t, queuetest.Heap, ring, arenaLen)
	bed.Ring.Areas = ring.Areas
	device, driver := bed.Device(t, 0), bed.MockDriver()
	for i := range 70_000 { // row 20: the index wraps
		driver.Put(i%4, desc(0, 0, 0))
		driver.SetAvailFlags(uint16(i & 1))
		driver.Offer(uint16(i % 4))
		chains := takeAll(t, device, 1)
		giveBack(t, device, queue.Done{ID: chains[0].ID})
		if device.ShouldNotify() != (i&1 == 0) {
			t.Fatal("the flags were not read")
		}
	}
	equal(t, "used idx", driver.UsedIdx(), 70_000&0xffff)
}

// Rows 19, 20, 26 and 28: what a split driver writes, in order.
func TestSplitDriverBytes(t *testing.T) {
	bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Size: 4, InOrder: true, EventIdx: true}, arenaLen)
	for _, area := range [][]byte{bed.Ring.Areas.Descriptor, bed.Ring.Areas.Driver, bed.Ring.Areas.Device} {
		for i := range area {
			area[i] = 0xee
		}
	}
	driver, device := bed.Driver(t), bed.MockDevice()
	equal(t, "used flags", device.UsedFlags(), 0)
	equal(t, "avail idx", device.AvailIdx(), 0)
	publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 10)}}, queue.Buffer{Out: []queue.Segment{seg(16, 1)}, In: []queue.Segment{seg(32, 2), seg(64, 3)}})
	equal(t, "descriptor 0", device.Get(0), queuetest.Descriptor{Addr: base, Len: 10})
	equal(t, "descriptor 1", device.Get(1), queuetest.Descriptor{Addr: base + 16, Len: 1, Flags: next, Next: 2})
	equal(t, "descriptor 2", device.Get(2), queuetest.Descriptor{Addr: base + 32, Len: 2, Flags: next | write, Next: 3})
	equal(t, "descriptor 3", device.Get(3), queuetest.Descriptor{Addr: base + 64, Len: 3, Flags: write})
	equal(t, "avail idx", device.AvailIdx(), 2)
	equal(t, "avail flags", device.AvailFlags(), 0)
	equal(t, "entries", [2]uint16{device.AvailEntry(0), device.AvailEntry(1)}, [2]uint16{0, 1})
	equal(t, "free", driver.Free(), 0)
	if n, err := driver.Publish([]queue.Buffer{{Out: []queue.Segment{seg(0, 1)}}}); n != 0 || err != nil {
		t.Errorf("Publish into a full ring: %d, %v", n, err)
	}

	// One element for both, by the last one's id: the first was used wholly, of its own length nothing is known.
	device.Return(1, 4, 2)
	used := make([]queue.Used, 1)
	for i, want := range []queue.Used{{Len: 0}, {Len: 4}} {
		if n, err := driver.Reap(used); n != 1 || err != nil || used[0] != want {
			t.Errorf("Reap %d: %d, %v, %v", i, n, err, used)
		}
	}
	// The chain goes on at the start of the table behind its end.
	publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 1), seg(0, 1), seg(0, 1)}}, queue.Buffer{In: []queue.Segment{seg(0, 1)}})
	device.Return(0, 0, 1)
	if n, err := driver.Reap(used); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 1), seg(0, 1)}})
	equal(t, "next of 0", device.Get(0).Next, 1)
	device.Return(3, 1, 1)
	device.Return(0, 0, 1)
	if n, err := driver.Reap(make([]queue.Used, 4)); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 1)}}, queue.Buffer{Out: []queue.Segment{seg(0, 1), seg(0, 1)}})
	equal(t, "next of the last", device.Get(3), queuetest.Descriptor{Addr: base, Len: 1, Flags: next, Next: 0})
}

// Row 27: the tables that a driver writes.
func TestIndirectTableBytes(t *testing.T) {
	for _, format := range []queue.Format{queue.Split, queue.Packed} {
		bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: format, Size: 4, Indirect: true}, arenaLen)
		driver := bed.Driver(t)
		for range 4 { // each takes one descriptor
			publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 1), seg(1, 2)}, In: []queue.Segment{seg(3, 3)}})
		}
		chains := takeAll(t, bed.Device(t, 0), 4)
		for _, c := range chains {
			equal(t, "pieces", fmt.Sprint(len(c.Out), len(c.In), len(c.Out[1]), len(c.In[0])), "2 1 2 3")
		}
		d := bed.MockDevice().Get(1)
		equal(t, "flags", d.Flags&(indirect|next|write), indirect)
		equal(t, "length", d.Len, 48)
		table, _ := bed.Memory.Translate(d.Addr, 48)
		in := queuetest.Fields{Ring: queue.Ring{Format: format, Size: 3, Areas: queue.Areas{Descriptor: table}}}
		flags := [3]uint16{in.Get(0).Flags, in.Get(1).Flags, in.Get(2).Flags}
		if format == queue.Packed { // row 36: WRITE only
			equal(t, "flags in the table", flags, [3]uint16{0, 0, write})
		} else {
			equal(t, "flags in the table", flags, [3]uint16{next, next, write})
			equal(t, "next in the table", [2]uint16{in.Get(0).Next, in.Get(1).Next}, [2]uint16{1, 2})
		}
	}
}

// Rows 17, 18, 27, 36 and 40: chains as drivers may build them.
func TestDeviceReadsChains(t *testing.T) {
	t.Run("split: descriptors, then a table marked WRITE", func(t *testing.T) {
		bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Size: 8, Indirect: true}, arenaLen)
		device, driver := bed.Device(t, 0), bed.MockDriver()
		driver.Table(bed.Arena[kib:], desc(64, next, 2), desc(192, write, 0), desc(128, next|write, 1))
		driver.Put(5, desc(0, next, 2))
		driver.Put(2, at(base+kib, 48, indirect|write))
		driver.Offer(5)
		c := takeAll(t, device, 1)[0]
		equal(t, "pieces", fmt.Sprint(len(c.Out), len(c.In), c.InLen), "2 2 128")
		c.In[0][0] = 1
		equal(t, "the order of the table", bed.Arena[128], 1)
	})
	t.Run("packed: flags in a table mean nothing but WRITE", func(t *testing.T) {
		bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: queue.Packed, Size: 3, Indirect: true}, arenaLen)
		device, driver := bed.Device(t, 0), bed.MockDriver()
		driver.Table(bed.Arena[kib:], desc(0, next|indirect, 7), desc(64, write|queuetest.Avail, 0))
		driver.OfferList(queuetest.Descriptor{Addr: base + kib, Len: 32, Flags: indirect | write, ID: 2})
		c := takeAll(t, device, 1)[0]
		equal(t, "chain", fmt.Sprint(len(c.Out), len(c.In), c.ID), "1 1 2")
	})
	t.Run("one byte each, over two regions", func(t *testing.T) {
		bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Size: 16}, arenaLen)
		device, driver := bed.Device(t, 0), bed.MockDriver()
		m, err := queue.NewMemory(queue.Region{Addr: 100, Mem: bed.Arena[:10]}, queue.Region{Addr: 110, Mem: bed.Arena[kib : kib+10]})
		if err != nil {
			t.Fatal(err)
		}
		device.SetMemory(m)
		for i := range 12 {
			driver.Put(i, queuetest.Descriptor{Addr: 104 + uint64(i), Len: 1, Flags: next, Next: uint16(i + 1)})
		}
		driver.Put(12, at(105, 15, write))
		driver.Offer(0)
		c := takeAll(t, device, 1)[0]
		equal(t, "pieces", fmt.Sprint(len(c.Out), len(c.In), len(c.In[0]), len(c.In[1]), c.InLen), "12 2 5 10 15")
	})
	t.Run("as many as the limit says", func(t *testing.T) {
		bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Size: 2, Indirect: true}, arenaLen)
		device, driver := bed.Device(t, 5), bed.MockDriver()
		driver.Table(bed.Arena[kib:], desc(0, next, 1), desc(0, next, 2), desc(0, next, 3), desc(0, next, 4), desc(0, 0, 0))
		driver.Put(0, at(base+kib, 80, indirect))
		driver.Offer(0)
		equal(t, "pieces", len(takeAll(t, device, 1)[0].Out), 5)
	})
}

// Rows 21, 22 and 28: what a split device writes.
func TestSplitDeviceBytes(t *testing.T) {
	for _, inOrder := range []bool{false, true} {
		bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Size: 8, InOrder: inOrder}, arenaLen)
		device, driver := bed.Device(t, 0), bed.MockDriver()
		for i := range 4 {
			driver.Put(i, desc(0, 0, 0))
		}
		driver.Put(4, desc(0, write, 0))
		driver.Offer(0, 1, 2, 3, 4)
		takeAll(t, device, 5)
		descriptors := string(bed.Ring.Areas.Descriptor) // row 16: they are not the device's
		giveBack(t, device, queue.Done{ID: 0}, queue.Done{ID: 1}, queue.Done{ID: 2})
		giveBack(t, device, queue.Done{ID: 3}, queue.Done{ID: 4, Len: 64})
		equal(t, "used idx", driver.UsedIdx(), 5)
		got := [2][2]uint32{}
		got[0][0], got[0][1] = driver.UsedElem(0)
		got[1][0], got[1][1] = driver.UsedElem(3)
		if inOrder { // a batch is one element, at the first one's place, with the last one's id
			equal(t, "elements", got, [2][2]uint32{{2, 0}, {4, 64}})
		} else {
			equal(t, "elements", got, [2][2]uint32{{0, 0}, {3, 0}})
			id, n := driver.UsedElem(4)
			equal(t, "element 4", [2]uint32{id, n}, [2]uint32{4, 64})
		}
		equal(t, "descriptors unchanged", string(bed.Ring.Areas.Descriptor) == descriptors, true)
	}
}

// What the device end refuses of its own caller.
func TestReturnRefused(t *testing.T) {
	for _, format := range []queue.Format{queue.Split, queue.Packed} {
		for _, inOrder := range []bool{false, true} {
			bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: format, Size: 4, InOrder: inOrder}, arenaLen)
			driver, device := bed.Driver(t), bed.Device(t, 0)
			in := []queue.Segment{seg(0, 64)}
			publish(t, driver, queue.Buffer{Token: 10, Out: in}, queue.Buffer{Token: 11, Out: in}, queue.Buffer{Token: 12, In: in})
			c := takeAll(t, device, 3)
			if err := device.Return([]queue.Done{{ID: 99}}); !errors.Is(err, queue.ErrNotTaken) {
				t.Errorf("an id that is none: %v", err)
			}
			if err := device.Return([]queue.Done{{ID: c[2].ID}}); inOrder != errors.Is(err, queue.ErrNotTaken) {
				t.Errorf("the third first, in-order %v: %v", inOrder, err)
			}
			// Two are good, and are returned; the third is not.
			done := []queue.Done{{ID: c[0].ID}, {ID: c[1].ID}, {ID: c[2].ID, Len: 65}}
			want := queue.ErrNotTaken
			if inOrder {
				want = queue.ErrLength
			}
			if err := device.Return(done); !errors.Is(err, want) || device.Err() != nil {
				t.Errorf("the third wrong: %v, want %v; then %v", err, want, device.Err())
			}
			used := make([]queue.Used, 4)
			n, err := driver.Reap(used)
			tokens := []uint64{}
			for _, u := range used[:n] {
				tokens = append(tokens, u.Token)
			}
			if want := []uint64{12, 10, 11}; err != nil || !inOrder && !slices.Equal(tokens, want) || inOrder && !slices.Equal(tokens, want[1:]) {
				t.Errorf("reaped %v, %v", tokens, err)
			}
			if err := device.Untake(1); inOrder != (err == nil) {
				t.Errorf("Untake: %v", err)
			}
		}
	}
}

// Rows 30, 32, 33, 34 and 38: what both ends of a packed queue write, over two laps of a ring of 3.
func TestPackedBytes(t *testing.T) {
	const avail, used = queuetest.Avail, queuetest.Used
	bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: queue.Packed, Size: 3}, arenaLen)
	driver, device, raw := bed.Driver(t), bed.Device(t, 0), bed.MockDevice()
	buf := make([]queue.Used, 4)
	two := queue.Buffer{Out: []queue.Segment{seg(0, 1)}, In: []queue.Segment{seg(64, 2)}}
	for lap, w := range []struct{ offered, returned uint16 }{{avail, avail | used}, {used, 0}} {
		if lap == 0 {
			publish(t, driver, two, queue.Buffer{Out: []queue.Segment{seg(0, 3)}})
		} else {
			publish(t, driver, two)
		}
		equal(t, "first", raw.Get(0).Flags, w.offered|next)
		equal(t, "second", raw.Get(1).Flags, w.offered|write)
		c := takeAll(t, device, 2-lap)
		id := raw.Get(1).ID
		equal(t, "the id is the last descriptor's", c[0].ID, id)
		giveBack(t, device, queue.Done{ID: c[0].ID, Len: 2})
		equal(t, "used", raw.Get(0), queuetest.Descriptor{Addr: base, Len: 2, ID: id, Flags: w.returned | write})
		equal(t, "the rest of the list", raw.Get(1).Flags, w.offered|write)
		if lap == 0 {
			giveBack(t, device, queue.Done{ID: c[1].ID})
			equal(t, "the list was skipped", raw.Get(2).Flags, w.returned)
		}
		if n, err := driver.Reap(buf); n != 2-lap || err != nil {
			t.Fatal(n, err)
		}
		if lap == 0 {
			equal(t, "position", driver.Position(), queue.Position{Avail: 0, Used: 0}) // a lap, and both wrap counters have flipped
		}
	}
	equal(t, "position", driver.Position(), queue.Position{Avail: 2, Used: 2})
	equal(t, "base", device.Position().Base(queue.Packed), 2|2<<16) // row 42
}

// Row 33: a descriptor is offered when both flags are as the lap has them, and by no other change; so is a used one.
func TestPackedFlags(t *testing.T) {
	const avail, used = queuetest.Avail, queuetest.Used
	for _, flags := range []uint16{0, used, avail, avail | used} {
		bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: queue.Packed, Size: 2, EventIdx: true}, arenaLen)
		device, driver, raw := bed.Device(t, 0), bed.Driver(t), bed.MockDevice()
		raw.Put(0, desc(0, flags, 0))
		equal(t, "Listen of the device", device.Listen(1), flags == avail)
		takeAll(t, device, b2i(flags == avail))
		publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 1)}})
		raw.Put(0, desc(0, flags, 0))
		equal(t, "Listen of the driver", driver.Listen(1), flags == avail|used)
		n, err := driver.Reap(make([]queue.Used, 1))
		equal(t, "reaped", fmt.Sprint(n, err), fmt.Sprint(b2i(flags == avail|used), nil))
	}
}

// A ring that is wholly in flight offers nothing, even when its next place says that it does: rows 5 and 19 of the hostile inputs.
func TestPackedFullRing(t *testing.T) {
	bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: queue.Packed, Size: 2}, arenaLen)
	device, driver := bed.Device(t, 0), bed.MockDriver()
	two := desc(0, 0, 0)
	two.ID = 1
	driver.OfferList(desc(0, 0, 0))
	driver.OfferList(two)
	takeAll(t, device, 2)
	driver.OfferList(desc(0, next, 0))
	takeAll(t, device, 0)
	equal(t, "Listen", device.Listen(1), false)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Row 38: a batch of a packed in-order queue.
func TestPackedBatch(t *testing.T) {
	bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: queue.Packed, Size: 4, InOrder: true}, arenaLen)
	driver, device, raw := bed.Driver(t), bed.Device(t, 0), bed.MockDevice()
	out := []queue.Segment{seg(0, 64)}
	publish(t, driver, queue.Buffer{Token: 1, Out: out}, queue.Buffer{Token: 2, Out: append(out, out...)}, queue.Buffer{Token: 3, In: out})
	c := takeAll(t, device, 3)
	giveBack(t, device, queue.Done{ID: c[0].ID}, queue.Done{ID: c[1].ID}, queue.Done{ID: c[2].ID, Len: 5})
	equal(t, "the only used descriptor", raw.Get(0).ID, c[2].ID)
	equal(t, "behind it", raw.Get(1).Flags, queuetest.Avail|next)
	used := make([]queue.Used, 4)
	n, err := driver.Reap(used)
	equal(t, "reaped", fmt.Sprint(used[:n], err), "[{1 0} {2 0} {3 5}] <nil>")
}

// Rows 23 and 24: the notifications of split rings, with the words set by hand; each event with the index before and after.
func TestSplitNotifications(t *testing.T) {
	for _, c := range []struct {
		start     uint16
		n         int
		event     uint16
		eventIdx  bool
		flags     uint16
		notifying bool
	}{
		{0, 1, 0, true, 0, true}, {0, 1, 1, true, 0, false}, {0, 1, 65535, true, 0, false}, {0, 4, 3, true, 0, true}, {0, 4, 4, true, 0, false},
		{65534, 4, 65535, true, 0, true}, {65534, 4, 0, true, 0, true}, {65534, 4, 1, true, 0, true}, {65534, 4, 2, true, 0, false},
		{65534, 4, 65533, true, 0, false}, {100, 4, 100, true, 1, true}, // the flag means nothing with EVENT_IDX
		{100, 4, 99, false, 0, true}, {100, 4, 100, false, 1, false}, // and the event nothing without it
	} {
		bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Size: 8, EventIdx: c.eventIdx}, arenaLen)
		driver, device := bed.Driver(t), bed.Device(t, 0)
		pos := queue.Position{Avail: c.start, Used: c.start}
		if err := errors.Join(driver.Reset(pos), device.Reset(pos)); err != nil {
			t.Fatal(err)
		}
		raw := bed.MockDevice()
		raw.SetUsedFlags(c.flags)
		raw.SetAvailFlags(c.flags)
		raw.SetAvailEvent(c.event)
		raw.SetUsedEvent(c.event)
		var done []queue.Done
		for range c.n {
			publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 1)}})
		}
		raw.SetAvailFlags(c.flags)
		equal(t, fmt.Sprintf("%+v: the driver notifies", c), driver.ShouldNotify(), c.notifying)
		equal(t, "again, of nothing", driver.ShouldNotify(), false)
		for _, x := range takeAll(t, device, c.n) {
			done = append(done, queue.Done{ID: x.ID})
		}
		giveBack(t, device, done...)
		equal(t, fmt.Sprintf("%+v: the device notifies", c), device.ShouldNotify(), c.notifying)
	}
}

// What an end writes when it wants notifications, or none: rows 23, 24 and 37.
func TestWishBytes(t *testing.T) {
	bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Size: 8}, arenaLen)
	driver, device, raw := bed.Driver(t), bed.Device(t, 0), bed.MockDevice()
	driver.Suppress()
	device.Suppress()
	equal(t, "split flags, suppressed", [2]uint16{raw.AvailFlags(), raw.UsedFlags()}, [2]uint16{1, 1})
	driver.Listen(1)
	device.Listen(1)
	equal(t, "split flags", [2]uint16{raw.AvailFlags(), raw.UsedFlags()}, [2]uint16{0, 0})

	bed = queuetest.NewBed(t, queuetest.Heap, queue.Ring{Size: 8, EventIdx: true}, arenaLen)
	driver, device, raw = bed.Driver(t), bed.Device(t, 0), bed.MockDevice()
	for range 4 {
		publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 1)}})
	}
	takeAll(t, device, 4)
	equal(t, "Listen", driver.Listen(3) || device.Listen(1), false)
	equal(t, "events", [2]uint16{raw.UsedEvent(), raw.AvailEvent()}, [2]uint16{2, 4})
	driver.Listen(1000) // never more than are in flight
	equal(t, "event of too many", raw.UsedEvent(), 3)
	driver.Suppress()
	equal(t, "Listen for more", device.Listen(3), false)
	equal(t, "event of three", raw.AvailEvent(), 6)
	device.Listen(1000) // never more than fit
	equal(t, "event of too many", raw.AvailEvent(), 7)
	device.Suppress()
	equal(t, "events, suppressed", [2]uint16{raw.UsedEvent(), raw.AvailEvent()}, [2]uint16{65535, 3})
	equal(t, "flags", [2]uint16{raw.AvailFlags(), raw.UsedFlags()}, [2]uint16{0, 0})

	for _, eventIdx := range []bool{false, true} {
		bed = queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: queue.Packed, Size: 3, EventIdx: eventIdx}, arenaLen)
		driver, device, raw = bed.Driver(t), bed.Device(t, 0), bed.MockDevice()
		for range 3 {
			publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 1)}})
		}
		takeAll(t, device, 3)
		driver.Listen(2)
		device.Listen(1)
		at, flags := raw.DriverEvent()
		atDev, flagsDev := raw.DeviceEvent()
		if eventIdx { // offset 1 of this lap; offset 0 of the next one, whose wrap counter is 0
			equal(t, "events", [4]uint16{at, flags, atDev, flagsDev}, [4]uint16{0x8001, 2, 0, 2})
		} else {
			equal(t, "events", [4]uint16{at, flags, atDev, flagsDev}, [4]uint16{0, 0, 0, 0})
		}
		if eventIdx {
			giveBack(t, device, queue.Done{ID: 0}, queue.Done{ID: 1})
			device.Listen(2)
			atDev, _ = raw.DeviceEvent()
			equal(t, "event of two", atDev, 1)
			device.Listen(1000) // never more than fit
			atDev, _ = raw.DeviceEvent()
			equal(t, "event of too many", atDev, 1)
		}
		driver.Suppress()
		device.Suppress()
		_, flags = raw.DriverEvent()
		_, flagsDev = raw.DeviceEvent()
		equal(t, "flags, suppressed", [2]uint16{flags, flagsDev}, [2]uint16{1, 1})
	}
}

// Row 37: the notifications of packed rings, for every place of the event and every number of descriptors, over the end of the ring.
func TestPackedNotifications(t *testing.T) {
	const size = 5
	for start := range 2 * size {
		for n := 1; n <= size; n++ {
			for event := range 2 * size {
				bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: queue.Packed, Size: size, EventIdx: true}, arenaLen)
				driver := bed.Driver(t)
				place := func(i int) uint16 { return uint16(i%size) | uint16(1-i/size%2)<<15 }
				if err := driver.Reset(queue.Position{Avail: place(start), Used: place(start)}); err != nil {
					t.Fatal(err)
				}
				bed.MockDevice().SetDeviceEvent(place(event), 2)
				for range n {
					publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 1)}})
				}
				// The event is passed when it is one of the n places behind start, counted modulo two laps.
				want := (event-start+2*size)%(2*size) < n
				if got := driver.ShouldNotify(); got != want {
					t.Errorf("from %d, %d descriptors, event at %d: notify %v, want %v", start, n, event, got, want)
				}
			}
		}
	}
}

// An end that asks after more than a lap notifies, wherever the event is: it was passed.
func TestPackedNotificationAfterLaps(t *testing.T) {
	for event := range uint16(3) {
		bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: queue.Packed, Size: 3, EventIdx: true}, arenaLen)
		driver, device, raw := bed.Driver(t), bed.Device(t, 0), bed.MockDevice()
		raw.SetDeviceEvent(event|0x8000, 2)
		raw.SetDriverEvent(event|0x8000, 2)
		for range 7 { // the place behind the last one looks as if it were before the event
			publish(t, driver, queue.Buffer{Out: []queue.Segment{seg(0, 1)}})
			giveBack(t, device, queue.Done{ID: takeAll(t, device, 1)[0].ID})
			if n, err := driver.Reap(make([]queue.Used, 1)); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		equal(t, "notify", [2]bool{driver.ShouldNotify(), device.ShouldNotify()}, [2]bool{true, true})
	}
}

// A caller's buffers that cannot be offered.
func TestBuffersRefused(t *testing.T) {
	bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Size: 2}, arenaLen)
	driver := bed.Driver(t)
	one := []queue.Segment{seg(0, 1)}
	for _, b := range []queue.Buffer{{}, {Out: []queue.Segment{seg(0, 0)}}, {In: []queue.Segment{seg(0, 0)}}, {Out: []queue.Segment{one[0], one[0], one[0]}},
		{Out: []queue.Segment{seg(0, 1<<31)}, In: []queue.Segment{seg(0, 1<<31)}}} {
		if n, err := driver.Publish([]queue.Buffer{{Out: one}, b}); n != 1 || !errors.Is(err, queue.ErrBuffer) {
			t.Errorf("%v: %d, %v", b, n, err)
		}
		if err := driver.Reset(queue.Position{}); err != nil {
			t.Fatal(err)
		}
	}
}

// Positions that a queue cannot have, and those that it can.
func TestPositions(t *testing.T) {
	for _, c := range []struct {
		format queue.Format
		pos    queue.Position
		ok     bool
	}{
		{queue.Split, queue.Position{Avail: 8, Used: 0}, true}, {queue.Split, queue.Position{Avail: 9, Used: 0}, false},
		{queue.Split, queue.Position{Avail: 3, Used: 65534}, true}, {queue.Split, queue.Position{Avail: 0, Used: 1}, false},
		{queue.Packed, queue.Position{Avail: 0x8007, Used: 0x8000}, true}, {queue.Packed, queue.Position{Avail: 0x8008, Used: 0x8000}, false},
		{queue.Packed, queue.Position{Avail: 2, Used: 0x8005}, true}, {queue.Packed, queue.Position{Avail: 6, Used: 0x8005}, false},
		{queue.Packed, queue.Position{Avail: 5, Used: 0x8005}, true}, {queue.Packed, queue.Position{Avail: 4, Used: 5}, false},
	} {
		bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: c.format, Size: 8}, arenaLen)
		device := bed.Device(t, 0)
		if err := device.Reset(c.pos); (err == nil) != c.ok {
			t.Errorf("%v %#v: %v", c.format, c.pos, err)
		} else if c.ok && device.Position() != c.pos {
			t.Errorf("%v %#v: the position is %#v", c.format, c.pos, device.Position())
		}
		if c.ok && c.pos.Avail != c.pos.Used {
			if err := bed.Driver(t).Reset(c.pos); !errors.Is(err, queue.ErrInFlight) {
				t.Errorf("%v %#v: the driver says %v", c.format, c.pos, err)
			}
		}
	}
	equal(t, "base of a split queue", queue.PositionOf(queue.Split, queue.Position{Avail: 7, Used: 7}.Base(queue.Split)), queue.Position{Avail: 7, Used: 7})
}
