package queue_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/vasta-net/vasta/virtio/queue"
	"github.com/vasta-net/vasta/virtio/queue/queuetest"
)

// features are all combinations of what can be negotiated for a ring.
func features() (rings []queue.Ring) {
	for _, format := range []queue.Format{queue.Split, queue.Packed} {
		for i := range 8 {
			rings = append(rings, queue.Ring{Format: format, EventIdx: i&1 != 0, Indirect: i&2 != 0, InOrder: i&4 != 0})
		}
	}
	return rings
}

func name(r queue.Ring) string {
	return fmt.Sprintf("%v,%d,event=%v,indirect=%v,inorder=%v", r.Format, r.Size, r.EventIdx, r.Indirect, r.InOrder)
}

// event is what an end sleeps on: a notification that comes while nobody sleeps is kept.
type event chan struct{}

func (e event) notify() {
	select {
	case e <- struct{}{}:
	default:
	}
}

// TestStream: the two ends in two goroutines, each asleep whenever it may be, with more buffers than a 16-bit index can count (row 20). On the heap, for
// the race detector, and in a mapping, as in earnest. That it ends says that no notification was lost.
func TestStream(t *testing.T) {
	for _, ring := range features() {
		ring.Size = 16
		t.Run(name(ring)+",heap", func(t *testing.T) { stream(t, queuetest.Heap, ring, 8_000) })
	}
	t.Run("split,mapping", func(t *testing.T) { stream(t, queuetest.Mapping, queue.Ring{Size: 256, EventIdx: true}, 70_000) })
	t.Run("packed,mapping", func(t *testing.T) {
		stream(t, queuetest.Mapping, queue.Ring{Format: queue.Packed, Size: 200, EventIdx: true}, 70_000)
	})
}

func stream(t *testing.T, from queuetest.Provider, ring queue.Ring, total int) {
	bed := queuetest.NewBed(t, from, ring, cell*ring.Size)
	driver, device := bed.Driver(t), bed.Device(t, 0)
	kick, call, failed := make(event, 1), make(event, 1), make(chan error, 1)
	go func() { failed <- serve(device, kick, call, total) }()

	free := make([]int, ring.Size)
	for i := range free {
		free[i] = i
	}
	used := make([]queue.Used, 7)
	sum := 0
	for sent, got := 0, 0; got < total; {
		var bufs []queue.Buffer
		for i := range min(5, len(free), total-sent) {
			// What is sent is the number of the buffer, in one piece or two; what comes back is its complement.
			at := free[i] * cell
			copy(bed.Arena[at:], fmt.Sprintf("%08d", sent+i))
			b := queue.Buffer{Token: uint64(free[i]), In: []queue.Segment{{Addr: queuetest.Base + uint64(at) + 64, Len: 8}}}
			if i%2 == 0 {
				b.Out = []queue.Segment{{Addr: queuetest.Base + uint64(at), Len: 3}, {Addr: queuetest.Base + uint64(at) + 3, Len: 5}}
			} else {
				b.Out = []queue.Segment{{Addr: queuetest.Base + uint64(at), Len: 8}}
			}
			bufs = append(bufs, b)
		}
		n, err := driver.Publish(bufs)
		if err != nil {
			t.Fatal(err)
		}
		free, sent = free[n:], sent+n
		if driver.ShouldNotify() {
			kick.notify()
		}
		reaped, err := driver.Reap(used)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range used[:reaped] {
			at := int(u.Token) * cell
			out, in := bed.Arena[at:at+8], bed.Arena[at+64:at+64+int(u.Len)]
			for i := range out {
				if len(in) != 8 || in[i] != ^out[i] {
					t.Fatalf("sent %q, came back %q", out, in)
				}
			}
			var v int
			fmt.Sscanf(string(out), "%d", &v)
			sum += v
			free = append(free, int(u.Token))
		}
		got += reaped
		if n == 0 && reaped == 0 && got < total && !driver.Listen(ring.Size/2) {
			select {
			case <-call:
			case err := <-failed:
				t.Fatalf("the device has ended: %v", err)
			}
			driver.Suppress()
		}
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if want := total * (total - 1) / 2; sum != want {
		t.Errorf("the numbers that came back make %d, want %d", sum, want)
	}
}

func serve(device queue.Device, kick, call event, total int) error {
	chains := make([]queue.Chain, 6)
	done := make([]queue.Done, 0, 6)
	for served := 0; served < total; {
		n, err := device.Take(chains)
		if err != nil {
			return err
		}
		if n == 0 {
			if !device.Listen(1) {
				<-kick
			}
			device.Suppress()
			continue
		}
		done = done[:0]
		for _, c := range chains[:n] {
			out := bytes.Join(c.Out, nil)
			for i := range out {
				out[i] = ^out[i]
			}
			copy(c.In[0], out)
			done = append(done, queue.Done{ID: c.ID, Len: uint32(len(out))})
		}
		if err := device.Return(done); err != nil {
			return err
		}
		served += n
		if device.ShouldNotify() {
			call.notify()
		}
	}
	return nil
}

// TestNoAllocation: a batch of each step allocates nothing, in any mode.
func TestNoAllocation(t *testing.T) {
	for _, ring := range features() {
		ring.Size = 64
		t.Run(name(ring), func(t *testing.T) {
			step := rounds(t, queuetest.NewBed(t, queuetest.Heap, ring, cell*ring.Size), 32, 2)
			if n := testing.AllocsPerRun(200, step); n != 0 {
				t.Errorf("%v allocations in a round", n)
			}
		})
	}
}

// rounds answers a function that sends a batch of buffers of so many segments to the device and back.
func rounds(tb testing.TB, bed *queuetest.Bed, batch, segments int) func() {
	driver, device := bed.Driver(tb), bed.Device(tb, 0)
	bufs, used := make([]queue.Buffer, batch), make([]queue.Used, batch)
	chains, done := make([]queue.Chain, batch), make([]queue.Done, batch)
	for i := range bufs {
		for s := range segments {
			bufs[i].Out = append(bufs[i].Out, queue.Segment{Addr: queuetest.Base + uint64(cell*i+64*s), Len: 64})
		}
	}
	return func() {
		n, err := driver.Publish(bufs)
		driver.ShouldNotify()
		if n != batch || err != nil {
			tb.Fatal(n, err)
		}
		if n, err = device.Take(chains); n != batch || err != nil {
			tb.Fatal(n, err)
		}
		for i := range chains {
			done[i] = queue.Done{ID: chains[i].ID}
		}
		if err = device.Return(done); err != nil {
			tb.Fatal(err)
		}
		device.ShouldNotify()
		device.Listen(1)
		if n, err = driver.Reap(used); n != batch || err != nil {
			tb.Fatal(n, err)
		}
		driver.Listen(batch)
		driver.Suppress()
		device.Suppress()
	}
}

func BenchmarkPublishReap(b *testing.B) {
	for _, format := range []queue.Format{queue.Split, queue.Packed} {
		for _, batch := range []int{1, 32} {
			b.Run(fmt.Sprintf("%v/batch=%d", format, batch), func(b *testing.B) {
				ring := queue.Ring{Format: format, Size: 256, EventIdx: true}
				benchmark(b, ring, batch)
			})
		}
	}
}

// benchmark is the time of both ends on one core for one descriptor: publish, take, return and reap, without notifications.
func benchmark(b *testing.B, ring queue.Ring, batch int) {
	bed := queuetest.NewBed(b, queuetest.Mapping, ring, cell*ring.Size)
	driver, device := bed.Driver(b), bed.Device(b, 0)
	bufs, used := make([]queue.Buffer, batch), make([]queue.Used, batch)
	chains, done := make([]queue.Chain, batch), make([]queue.Done, batch)
	for i := range bufs {
		bufs[i].Out = []queue.Segment{{Addr: queuetest.Base + uint64(cell*i), Len: 64}}
	}
	b.ReportAllocs()
	for n := 0; n < b.N; n += batch {
		driver.Publish(bufs)
		k, _ := device.Take(chains)
		for i := range chains[:k] {
			done[i] = queue.Done{ID: chains[i].ID}
		}
		device.Return(done[:k])
		if k, err := driver.Reap(used); k != batch || err != nil {
			b.Fatal(k, err)
		}
	}
}
