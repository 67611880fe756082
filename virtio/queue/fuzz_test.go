package queue_test

import (
	"errors"
	"testing"

	"github.com/vasta-net/vasta/virtio/queue"
	"github.com/vasta-net/vasta/virtio/queue/queuetest"
)

// inArena checks that the pieces of a chain lie in the bed's memory: each is cut from the arena, so that writing to it is seen there.
func inArena(t *testing.T, bed *queuetest.Bed, c queue.Chain) {
	t.Helper()
	var in uint64
	for i, pieces := range [][][]byte{c.Out, c.In} {
		for _, p := range pieces {
			if len(p) == 0 || cap(p) != len(p) || !bed.Holds(p) {
				t.Fatalf("chain %d: a piece of %d bytes, capacity %d, that is not the arena's", c.ID, len(p), cap(p))
			}
			if i == 1 {
				in += uint64(len(p))
			}
		}
	}
	if uint64(c.InLen) != in {
		t.Fatalf("chain %d: InLen %d, but the pieces have %d", c.ID, c.InLen, in)
	}
}

// input is the fuzzer's bytes as a source of small numbers; 0 when they are used up.
type input struct{ b []byte }

func (in *input) byte() byte {
	if len(in.b) == 0 {
		return 0
	}
	v := in.b[0]
	in.b = in.b[1:]
	return v
}

// pick is one of the values, which are those that matter; every 16th time it is any number.
func (in *input) pick(values ...uint64) uint64 {
	v := in.byte()
	if v >= 0xf0 {
		x := uint64(0)
		for range 8 {
			x = x<<8 | uint64(in.byte())
		}
		return x
	}
	return values[int(v)%len(values)]
}

func (in *input) ring(format queue.Format) queue.Ring {
	v := in.byte()
	r := queue.Ring{Format: format, Size: []int{1, 2, 4, 8}[v&3], EventIdx: v&4 != 0, Indirect: v&8 != 0, InOrder: v&16 != 0}
	if format == queue.Packed {
		r.Size = int(v>>5) + 1
	}
	return r
}

func (in *input) descriptor(size int) queuetest.Descriptor {
	n := uint64(size)
	return queuetest.Descriptor{
		Addr:  in.pick(base, base+64, base+512, base+1<<10, base+arenaLen-16, base+arenaLen, base-1, 0, ^uint64(0), 1<<63),
		Len:   uint32(in.pick(1, 16, 32, 48, 64, 128, 0, 8, arenaLen, 1<<20, 1<<31, 0xffffffff)),
		Flags: uint16(in.pick(0, next, write, next|write, indirect, indirect|next, indirect|write, queuetest.Avail, queuetest.Used)),
		Next:  uint16(in.pick(0, 1, 2, 3, n-1, n, 0xffff)),
		ID:    uint16(in.pick(0, 1, 2, 3, n-1, n, 0xffff)),
	}
}

// fuzzDevice lets a mock driver write what the input says, then calls the device end in the order that the input says.
func fuzzDevice(f *testing.F, format queue.Format) {
	f.Fuzz(func(t *testing.T, b []byte) {
		in := &input{b}
		bed := queuetest.NewBed(t, queuetest.Heap, in.ring(format), arenaLen)
		device, driver := bed.Device(t, 0), bed.MockDriver()
		size := bed.Ring.Size
		chains := make([]queue.Chain, 4)
		var taken []queue.Chain
		for len(in.b) > 0 {
			switch op := in.byte(); op % 16 {
			case 0, 1:
				driver.Put(int(in.byte()), in.descriptor(size))
			case 2:
				driver.Table(bed.Arena[1<<10:], in.descriptor(size), in.descriptor(size), in.descriptor(size))
			case 3, 4:
				list := make([]queuetest.Descriptor, 1+in.byte()%4)
				for i := range list {
					list[i] = in.descriptor(size)
				}
				if format == queue.Packed {
					driver.OfferList(list...)
					break
				}
				head := int(in.byte()) % size
				for i, d := range list { // a chain as it should be, but for what its descriptors say
					if i+1 < len(list) {
						d.Flags, d.Next = d.Flags|next, uint16((head+i+1)%size)
					}
					driver.Put(head+i, d)
				}
				driver.Offer(uint16(head))
			case 5:
				if format == queue.Split {
					driver.Offer(uint16(in.pick(0, 1, 2, 3, uint64(size))))
				} else {
					driver.SetDriverEvent(uint16(in.pick(0, 1, uint64(size), 0x8000, 0xffff)), uint16(in.byte()))
				}
			case 6:
				if format == queue.Split {
					driver.SetAvailIdx(uint16(in.pick(0, 1, uint64(size), uint64(size)+1, 0xffff)))
					driver.SetAvailFlags(uint16(in.byte()))
				}
				if bed.Ring.EventIdx && format == queue.Split {
					driver.SetUsedEvent(uint16(in.byte()))
				}
			case 7, 8, 9, 10:
				n, err := device.Take(chains[:1+in.byte()%4])
				for _, c := range chains[:n] {
					inArena(t, bed, c)
				}
				taken = append(taken, chains[:n]...)
				if err != nil && (!errors.Is(err, queue.ErrBroken) || device.Err() != err) {
					t.Fatalf("Take: %v, then %v", err, device.Err())
				}
			case 11, 12:
				if len(taken) == 0 {
					break
				}
				i := int(in.byte()) % len(taken)
				if bed.Ring.InOrder {
					i = 0
				}
				c := taken[i]
				err := device.Return([]queue.Done{{ID: c.ID, Len: min(c.InLen, uint32(in.byte()))}})
				if err != device.Err() {
					t.Fatalf("Return of what was taken: %v", err)
				}
				if err == nil {
					taken = append(taken[:i:i], taken[i+1:]...)
				}
			case 13:
				if n := int(in.byte()) % (len(taken) + 1); device.Untake(n) == nil {
					taken = taken[:len(taken)-n]
				}
			case 14:
				device.Suppress()
				device.ShouldNotify()
			case 15:
				device.Listen(int(in.byte()))
				if device.Err() != nil {
					taken = nil
					if err := device.Reset(device.Position()); err != nil {
						t.Fatalf("Reset to its own position: %v", err)
					}
				}
			}
			if got := device.InFlight(); got != len(taken) {
				t.Fatalf("%d in flight, taken are %d", got, len(taken))
			}
		}
	})
}

// fuzzDriver lets a mock device write what the input says, then calls the driver end. What comes back was offered, once, and is not longer than it was.
func fuzzDriver(f *testing.F, format queue.Format) {
	f.Fuzz(func(t *testing.T, b []byte) {
		in := &input{b}
		bed := queuetest.NewBed(t, queuetest.Heap, in.ring(format), arenaLen)
		driver, device := bed.Driver(t), bed.MockDevice()
		size := uint64(bed.Ring.Size)
		used := make([]queue.Used, 4)
		out := map[uint64]uint32{} // token to bytes that may be written
		token := uint64(0)
		back := func(n int) {
			for _, u := range used[:n] {
				if room, ok := out[u.Token]; !ok || u.Len > room {
					t.Fatalf("token %d with %d bytes; offered %v with %d", u.Token, u.Len, ok, room)
				}
				delete(out, u.Token)
			}
		}
		for len(in.b) > 0 {
			switch op := in.byte(); op % 12 {
			case 0, 1, 2:
				v := in.byte()
				token++
				buf := queue.Buffer{Token: token}
				for range v & 3 {
					buf.Out = append(buf.Out, queue.Segment{Addr: base, Len: uint32(v)})
				}
				for range v >> 2 & 3 {
					buf.In = append(buf.In, queue.Segment{Addr: base + 512, Len: 16})
				}
				if n, err := driver.Publish([]queue.Buffer{buf}); n == 1 {
					out[token] = 16 * uint32(v>>2&3)
				} else if err != nil && !errors.Is(err, queue.ErrBuffer) && err != driver.Err() {
					t.Fatal(err)
				}
			case 3, 4, 5:
				device.Return(uint32(in.pick(0, 1, 2, 3, size-1, size, 1<<16)), uint32(in.pick(0, 1, 16, 17, 32, 48, 0xffffffff)), int(in.pick(1, 1, 1, 2, 3, 0)%8))
			case 6:
				if format == queue.Split {
					device.SetUsedIdx(uint16(in.pick(0, 1, size, size+1, 0xffff)))
					device.SetUsedFlags(uint16(in.byte()))
				} else {
					device.Put(int(in.byte()), in.descriptor(int(size)))
				}
			case 7:
				if format == queue.Packed {
					device.SetDeviceEvent(uint16(in.pick(0, 1, size, 0x8000, 0xffff)), uint16(in.byte()))
				} else if bed.Ring.EventIdx {
					device.SetAvailEvent(uint16(in.byte()))
				}
			case 8, 9:
				n, err := driver.Reap(used[:1+in.byte()%4])
				back(n)
				if err != nil && (!errors.Is(err, queue.ErrBroken) || driver.Err() != err) {
					t.Fatalf("Reap: %v, then %v", err, driver.Err())
				}
			case 10:
				driver.Suppress()
				driver.ShouldNotify()
				driver.Listen(int(in.byte()))
			case 11:
				if driver.Err() == nil {
					break
				}
				for {
					n := driver.Reclaim(used)
					if back(n); n == 0 {
						break
					}
				}
				if len(out) != 0 {
					t.Fatalf("%d buffers were not reclaimed", len(out))
				}
				if err := driver.Reset(queue.Start(format)); err != nil {
					t.Fatal(err)
				}
				device = bed.MockDevice()
			}
			if got := driver.InFlight(); got != len(out) {
				t.Fatalf("%d in flight, offered are %d", got, len(out))
			}
		}
	})
}

func FuzzSplitDevice(f *testing.F)  { fuzzDevice(f, queue.Split) }
func FuzzPackedDevice(f *testing.F) { fuzzDevice(f, queue.Packed) }
func FuzzSplitDriver(f *testing.F)  { fuzzDriver(f, queue.Split) }
func FuzzPackedDriver(f *testing.F) { fuzzDriver(f, queue.Packed) }
