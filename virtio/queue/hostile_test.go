package queue_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/virtio/queue"
	"github.com/vasta-net/vasta/virtio/queue/queuetest"
)

const (
	base = queuetest.Base
	kib  = 1 << 10

	next     = queuetest.Next
	write    = queuetest.Write
	indirect = queuetest.Indirect
)

// desc is a descriptor of 64 bytes at offset off of the arena.
func desc(off int, flags, next uint16) queuetest.Descriptor {
	return queuetest.Descriptor{Addr: base + uint64(off), Len: 64, Flags: flags, Next: next}
}

// at is desc with another address and length.
func at(addr uint64, n uint32, flags uint16) queuetest.Descriptor {
	return queuetest.Descriptor{Addr: addr, Len: n, Flags: flags}
}

// hostileDriver is something that a driver must not do. Rows are those of the list of hostile inputs in the design notes (H) and of the checklist (C).
type hostileDriver struct {
	name string
	ring queue.Ring
	do   func(d *queuetest.MockDriver, arena []byte)
	want queue.Fault
}

func splitCases() []hostileDriver {
	plain := queue.Ring{Format: queue.Split, Size: 8}
	tables := queue.Ring{Format: queue.Split, Size: 8, Indirect: true}
	type mock = queuetest.MockDriver
	one := func(x queuetest.Descriptor) func(*mock, []byte) {
		return func(d *mock, _ []byte) { d.Put(0, x); d.Offer(0) }
	}
	table := func(list ...queuetest.Descriptor) func(*mock, []byte) {
		return func(d *mock, arena []byte) {
			d.Table(arena[kib:], list...)
			d.Put(0, at(base+kib, uint32(16*len(list)), indirect))
			d.Offer(0)
		}
	}
	return []hostileDriver{
		{"H1 loop of one", plain, one(desc(0, next, 0)), queue.FaultChainLong},
		{"H1 loop of two, C19", plain, func(d *mock, _ []byte) {
			d.Put(0, desc(0, next, 1))
			d.Put(1, desc(0, next, 0))
			d.Offer(0)
		}, queue.FaultChainLong},
		{"H1 loop in a table", tables, table(desc(0, next, 1), desc(0, next, 0)), queue.FaultChainLong},
		{"H2 chain and table longer than the ring", tables, func(d *mock, arena []byte) {
			d.Table(arena[kib:], desc(0, next, 1), desc(0, next, 2), desc(0, next, 3), desc(0, next, 4), desc(0, 0, 0))
			for i := range uint16(4) {
				d.Put(int(i), desc(0, next, i+1))
			}
			d.Put(4, at(base+kib, 5*16, indirect))
			d.Offer(0)
		}, queue.FaultChainLong},
		{"H3 next is the size", plain, one(desc(0, next, 8)), queue.FaultNext},
		{"H3 next is 65535", plain, one(desc(0, next, 65535)), queue.FaultNext},
		{"H3 next outside of the table", tables, table(desc(0, next, 2), desc(0, 0, 0)), queue.FaultNext},
		{"H4 head is the size", plain, func(d *mock, _ []byte) { d.Offer(8) }, queue.FaultHead},
		{"H4 head is 65535", plain, func(d *mock, _ []byte) { d.Offer(65535) }, queue.FaultHead},
		{"H5 idx jumps", plain, func(d *mock, _ []byte) { d.SetAvailIdx(9) }, queue.FaultAvailIndex},
		{"H5 idx jumps by 32768", plain, func(d *mock, _ []byte) { d.SetAvailIdx(32768) }, queue.FaultAvailIndex},
		{"H5 idx moves back, C20", plain, func(d *mock, _ []byte) { d.SetAvailIdx(65535) }, queue.FaultAvailIndex},
		{"H6 the same head twice", plain, func(d *mock, _ []byte) { d.Put(3, desc(0, 0, 0)); d.Offer(3, 3) }, queue.FaultHeadTwice},
		{"H7 table of no bytes, C27", tables, one(at(base, 0, indirect)), queue.FaultIndirectLength},
		{"H7 table of 8 bytes", tables, one(at(base, 8, indirect)), queue.FaultIndirectLength},
		{"H7 table of 24 bytes", tables, one(at(base, 24, indirect)), queue.FaultIndirectLength},
		{"H7 table of 65537 descriptors", tables, one(at(base, 16*65537, indirect)), queue.FaultIndirectLength},
		{"H7 table of 4 GiB", tables, one(at(base, math.MaxUint32-15, indirect)), queue.FaultIndirectLength},
		{"H8 table in a table", tables, table(at(base, 16, indirect)), queue.FaultIndirectNested},
		{"H9 INDIRECT and NEXT", tables, one(at(base, 16, indirect|next)), queue.FaultIndirectNext},
		{"C27 INDIRECT not negotiated", plain, one(at(base, 16, indirect)), queue.FaultIndirect},
		{"H10 table outside", tables, one(at(base-16, 16, indirect)), queue.FaultIndirectAddress},
		{"H10 table over the end", tables, one(at(base+arenaLen-16, 32, indirect)), queue.FaultIndirectAddress},
		{"H11 address 0", plain, one(at(0, 64, 0)), queue.FaultAddress},
		{"H11 address in a hole", plain, one(at(base+arenaLen, 1, 0)), queue.FaultAddress},
		{"H11 over the end, H17", plain, one(at(base+arenaLen-1, 2, 0)), queue.FaultAddress},
		{"H11 address + length wraps", plain, one(at(math.MaxUint64-3, 64, 0)), queue.FaultAddress},
		{"H11 length 0xffffffff", plain, one(at(base, math.MaxUint32, 0)), queue.FaultAddress},
		{"H11 length 0", plain, one(at(base, 0, 0)), queue.FaultEmpty},
		{"C19 chain of more than 2^32 bytes", plain, func(d *mock, _ []byte) {
			for i := range 4 {
				d.Put(i, queuetest.Descriptor{Addr: big, Len: 1 << 30, Flags: next, Next: uint16(i + 1)})
			}
			d.Put(4, desc(0, 0, 0))
			d.Offer(0)
		}, queue.FaultChainBytes},
		{"H12 writable before readable, C18", plain, func(d *mock, _ []byte) {
			d.Put(0, desc(0, write|next, 1))
			d.Put(1, desc(64, 0, 0))
			d.Offer(0)
		}, queue.FaultOrder},
		{"H12 writable in the chain, readable in the table", tables, func(d *mock, arena []byte) {
			d.Table(arena[kib:], desc(64, 0, 0))
			d.Put(0, desc(0, write|next, 1))
			d.Put(1, at(base+kib, 16, indirect))
			d.Offer(0)
		}, queue.FaultOrder},
	}
}

func packedCases() []hostileDriver {
	plain := queue.Ring{Format: queue.Packed, Size: 5}
	tables := queue.Ring{Format: queue.Packed, Size: 5, Indirect: true}
	type mock = queuetest.MockDriver
	list := func(l ...queuetest.Descriptor) func(*mock, []byte) {
		return func(d *mock, _ []byte) { d.OfferList(l...) }
	}
	table := func(l ...queuetest.Descriptor) func(*mock, []byte) {
		return func(d *mock, arena []byte) {
			d.Table(arena[kib:], l...)
			d.OfferList(at(base+kib, uint32(16*len(l)), indirect))
		}
	}
	id := func(x queuetest.Descriptor, id uint16) queuetest.Descriptor { x.ID = id; return x }
	n := desc(0, next, 0)
	return []hostileDriver{
		{"H19 list that never ends", plain, list(n, n, n, n, n), queue.FaultChainLong},
		{"H19 list longer than what is left", plain, func(d *mock, _ []byte) {
			d.OfferList(desc(0, 0, 0))
			d.OfferList(n, n, n, n)
		}, queue.FaultChainLong},
		{"H19 id is the size", plain, list(id(desc(0, 0, 0), 5)), queue.FaultID},
		{"H19 id is 65535", plain, list(id(desc(0, 0, 0), 65535)), queue.FaultID},
		{"H19 id twice", plain, func(d *mock, _ []byte) {
			d.OfferList(desc(0, 0, 0))
			d.OfferList(desc(0, 0, 0))
		}, queue.FaultHeadTwice},
		{"H2 table longer than the ring", tables, table(desc(0, 0, 0), desc(0, 0, 0), desc(0, 0, 0), desc(0, 0, 0), desc(0, 0, 0), desc(0, 0, 0)), queue.FaultChainLong},
		{"H7 table of no bytes", tables, list(at(base, 0, indirect)), queue.FaultIndirectLength},
		{"H7 table of 24 bytes", tables, list(at(base, 24, indirect)), queue.FaultIndirectLength},
		{"H9 INDIRECT and NEXT, C36", tables, list(at(base, 16, indirect|next), desc(0, 0, 0)), queue.FaultIndirectNext},
		{"C36 INDIRECT in a list", tables, list(n, at(base, 16, indirect)), queue.FaultIndirectNext},
		{"C36 INDIRECT not negotiated", plain, list(at(base, 16, indirect)), queue.FaultIndirect},
		{"H10 table outside", tables, list(at(base+arenaLen, 16, indirect)), queue.FaultIndirectAddress},
		{"H11 address in a hole", plain, list(at(base-1, 64, 0)), queue.FaultAddress},
		{"H11 length 0xffffffff", plain, list(at(base, math.MaxUint32, 0)), queue.FaultAddress},
		{"H11 length 0", plain, list(at(base, 0, write)), queue.FaultEmpty},
		{"H12 writable before readable", plain, list(desc(0, write|next, 0), desc(0, 0, 0)), queue.FaultOrder},
		{"H12 writable before readable in a table", tables, table(desc(0, write, 0), desc(0, 0, 0)), queue.FaultOrder},
	}
}

const arenaLen = 4 * kib

// big is where a region of 1 GiB lies, whose memory is never touched.
const big = 1 << 44

// TestHostileDriver: the queue is broken with the error that says what was seen, stays so, writes nothing more into the ring, and works
// again after a reset.
func TestHostileDriver(t *testing.T) {
	huge := queuetest.Mapping(t, 1<<30)
	for _, c := range append(splitCases(), packedCases()...) {
		t.Run(c.ring.Format.String()+" "+c.name, func(t *testing.T) {
			bed := queuetest.NewBed(t, queuetest.Heap, c.ring, arenaLen)
			device := bed.Device(t, 0)
			m, err := queue.NewMemory(queue.Region{Addr: base, Mem: bed.Arena}, queue.Region{Addr: big, Mem: huge})
			if err != nil {
				t.Fatal(err)
			}
			device.SetMemory(m)
			driver := bed.MockDriver()
			c.do(driver, bed.Arena)
			chains := make([]queue.Chain, 8)
			n, err := device.Take(chains)
			var broken *queue.BrokenError
			if !errors.As(err, &broken) || !errors.Is(err, queue.ErrBroken) || broken.Fault != c.want {
				t.Fatalf("Take: %v, want the fault %v", err, c.want)
			}
			if s := err.Error(); strings.Contains(s, "%!") || !strings.Contains(s, "(virtio 2.") {
				t.Errorf("the error reads %q", s)
			}
			before := string(c.ring.Areas.Device)
			if _, again := device.Take(chains); again != err || device.Err() != err {
				t.Errorf("a broken queue answers %v, then %v", err, again)
			}
			for _, x := range chains[:n] {
				if device.Return([]queue.Done{{ID: x.ID}}) != err {
					t.Error("a broken queue takes chains back")
				}
			}
			if string(c.ring.Areas.Device) != before {
				t.Error("a broken queue writes into the ring")
			}

			clear(bed.Ring.Areas.Descriptor)
			clear(bed.Ring.Areas.Driver)
			if err := device.Reset(queue.Start(c.ring.Format)); err != nil {
				t.Fatal(err)
			}
			driver = bed.MockDriver()
			if driver.Put(0, desc(0, 0, 0)); c.ring.Format == queue.Packed {
				driver.OfferList(desc(0, 0, 0))
			} else {
				driver.Offer(0)
			}
			if n, err := device.Take(chains); n != 1 || err != nil {
				t.Errorf("after the reset: %d, %v", n, err)
			}
		})
	}
}

// TestHostileDevice: row 20 of the hostile inputs, at a driver that has three buffers of 64 bytes in flight, two of them to be written, in a ring of 4.
func TestHostileDevice(t *testing.T) {
	type mock = queuetest.MockDevice
	for _, c := range []struct {
		name    string
		format  queue.Format
		inOrder bool
		do      func(d *mock)
		good    int // reaped before it was seen
		want    queue.Fault
	}{
		{"id not in flight", queue.Split, false, func(d *mock) { d.Return(3, 0, 1) }, 0, queue.FaultUsedID},
		{"id is the size", queue.Split, false, func(d *mock) { d.Return(4, 0, 1) }, 0, queue.FaultUsedID},
		{"id of 32 bits", queue.Split, false, func(d *mock) { d.Return(1<<16, 0, 1) }, 0, queue.FaultUsedID},
		{"id twice", queue.Split, false, func(d *mock) { d.Return(1, 64, 1); d.Return(1, 64, 1) }, 1, queue.FaultUsedID},
		{"more than there is room for", queue.Split, false, func(d *mock) { d.Return(1, 65, 1) }, 0, queue.FaultUsedLength},
		{"written to a readable one", queue.Split, false, func(d *mock) { d.Return(0, 1, 1) }, 0, queue.FaultUsedLength},
		{"length 0xffffffff", queue.Split, false, func(d *mock) { d.Return(1, math.MaxUint32, 1) }, 0, queue.FaultUsedLength},
		{"idx jumps past what is in flight", queue.Split, false, func(d *mock) { d.Return(1, 0, 4) }, 0, queue.FaultUsedIndex},
		{"idx moves back", queue.Split, false, func(d *mock) { d.SetUsedIdx(65535) }, 0, queue.FaultUsedIndex},
		{"batch shorter than its id says", queue.Split, true, func(d *mock) { d.Return(2, 0, 2) }, 0, queue.FaultUsedOrder},
		{"in-order id not in flight", queue.Split, true, func(d *mock) { d.Return(3, 0, 1) }, 0, queue.FaultUsedID},
		{"in-order length", queue.Split, true, func(d *mock) { d.Return(1, 65, 2) }, 0, queue.FaultUsedLength},
		{"id not in flight", queue.Packed, false, func(d *mock) { d.Return(3, 0, 1) }, 0, queue.FaultUsedID},
		{"id is the size", queue.Packed, false, func(d *mock) { d.Return(4, 0, 1) }, 0, queue.FaultUsedID},
		{"id twice", queue.Packed, false, func(d *mock) { d.Return(1, 64, 1); d.Return(1, 64, 1) }, 1, queue.FaultUsedID},
		{"more than there is room for", queue.Packed, false, func(d *mock) { d.Return(1, 65, 1) }, 0, queue.FaultUsedLength},
		{"written to a readable one", queue.Packed, false, func(d *mock) { d.Return(0, 1, 1) }, 0, queue.FaultUsedLength},
		{"in-order id twice", queue.Packed, true, func(d *mock) { d.Return(0, 0, 1); d.Return(0, 0, 1) }, 1, queue.FaultUsedID},
		{"in-order length", queue.Packed, true, func(d *mock) { d.Return(2, 65, 3) }, 0, queue.FaultUsedLength},
	} {
		t.Run(c.format.String()+" "+c.name, func(t *testing.T) {
			bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: c.format, Size: 4, InOrder: c.inOrder}, arenaLen)
			driver := bed.Driver(t)
			piece := []queue.Segment{{Addr: base, Len: 64}}
			if n, err := driver.Publish([]queue.Buffer{{Out: piece}, {In: piece, Token: 1}, {In: piece, Token: 2}}); n != 3 || err != nil {
				t.Fatal(n, err)
			}
			c.do(bed.MockDevice())
			n, err := driver.Reap(make([]queue.Used, 4))
			var broken *queue.BrokenError
			if !errors.As(err, &broken) || broken.Fault != c.want || n != c.good {
				t.Fatalf("Reap: %d, %v; want %d and the fault %v", n, err, c.good, c.want)
			}
			if _, again := driver.Publish([]queue.Buffer{{Out: piece}}); again != err {
				t.Errorf("a broken queue publishes: %v", again)
			}
			// Whatever is in flight is not lost to its owner.
			if got := driver.Reclaim(make([]queue.Used, 4)); got != 3-c.good {
				t.Errorf("%d reclaimed, want %d", got, 3-c.good)
			}
			if err := driver.Reset(queue.Start(c.format)); err != nil || driver.Free() != 4 || driver.InFlight() != 0 {
				t.Errorf("after the reset: %v, %d free, %d in flight", err, driver.Free(), driver.InFlight())
			}
		})
	}
}

// TestOverlappingBuffer: a buffer over the ring itself (row 16 of the hostile inputs) is the driver's own harm: it is read and written like any
// other, and what becomes of the ring is checked like any ring.
func TestOverlappingBuffer(t *testing.T) {
	bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Size: 8}, arenaLen)
	device, driver := bed.Device(t, 0), bed.MockDriver()
	m, err := queue.NewMemory(queue.Region{Addr: 0, Mem: bed.Ring.Areas.Descriptor}, queue.Region{Addr: kib, Mem: bed.Ring.Areas.Driver})
	if err != nil {
		t.Fatal(err)
	}
	device.SetMemory(m)
	driver.Put(0, at(0, 16*8, write))
	driver.Put(1, at(kib, 4+2*8, write))
	driver.Offer(0, 1)
	chains := make([]queue.Chain, 2)
	if n, err := device.Take(chains); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	for _, c := range chains {
		for i := range c.In[0] {
			c.In[0][i] = 0xff
		}
	}
	if err := device.Return([]queue.Done{{ID: 0, Len: chains[0].InLen}, {ID: 1, Len: chains[1].InLen}}); err != nil {
		t.Fatal(err)
	}
	if _, err := device.Take(chains); !errors.Is(err, queue.ErrBroken) {
		t.Errorf("Take of a ring of ones: %v", err)
	}
}

// TestRewrittenWhileRead: row 13 of the hostile inputs. Another goroutine rewrites every field of the ring while the device reads it; whatever the device answers
// lies in the arena, and it never panics; it goes on until a hundred chains were good and a hundred rings broken. In a mapping: the race detector would see a race, which is the point.
func TestRewrittenWhileRead(t *testing.T) {
	for _, format := range []queue.Format{queue.Split, queue.Packed} {
		t.Run(format.String(), func(t *testing.T) {
			bed := queuetest.NewBed(t, queuetest.Mapping, queue.Ring{Format: format, Size: 8, Indirect: true, EventIdx: true}, arenaLen)
			device := bed.Device(t, 0)
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				driver := bed.MockDriver()
				values := []queuetest.Descriptor{
					desc(0, 0, 0), desc(64, next, 1), desc(128, write, 2), at(base, 32, indirect), at(base+arenaLen-64, 128, 0), desc(0, next, 9), at(^uint64(0), 1, 0),
				}
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					x := values[i*7%len(values)]
					x.ID, x.Flags = uint16(i%9), x.Flags|uint16(i/3%4)<<7&queuetest.Avail|uint16(i/5%2)<<15
					driver.Put(i, x)
					driver.Table(bed.Arena, values[i%len(values)], values[i/2%len(values)])
					driver.SetDriverEvent(uint16(i), uint16(i/7))
					if format == queue.Split {
						driver.SetAvailEntry(i, uint16(i%9))
						driver.SetAvailIdx(uint16(i % 16))
					}
				}
			}()
			chains := make([]queue.Chain, 4)
			for rounds, broken, whole := 0, 0, 0; rounds < 20_000 || broken < 100 || whole < 100; rounds++ {
				n, err := device.Take(chains)
				whole += n
				for _, c := range chains[:n] {
					inArena(t, bed, c)
					if err == nil {
						if err := device.Return([]queue.Done{{ID: c.ID, Len: c.InLen}}); err != nil {
							t.Fatal(err)
						}
					}
				}
				device.ShouldNotify()
				device.Listen(1 + rounds%5)
				if err != nil {
					broken++
					if err := device.Reset(queue.Start(format)); err != nil {
						t.Fatal(err)
					}
				}
			}
			close(stop)
			<-stopped
		})
	}
}
