// Package queuetest is the other end of a virtqueue for tests: a mock driver and a mock device that write whatever they are told to,
// right or wrong, and a Bed, which is the memory that two ends share.
//
// The mocks check nothing. Each keeps one counter, where its next well-formed entry goes; everything else is the test's.
//
//	bed := queuetest.NewBed(t, queuetest.Heap, queue.Ring{Format: queue.Split, Size: 8}, 1<<16)
//	device := bed.Device(t, 0)
//	driver := bed.MockDriver()
//	driver.Put(3, queuetest.Descriptor{Addr: bed.Base, Len: 64, Flags: queuetest.Next, Next: 3}) // a loop
//	driver.Offer(3)
//	_, err := device.Take(make([]queue.Chain, 1)) // queue.FaultChainLong
package queuetest

import (
	"testing"

	"github.com/vasta-net/vasta/virtio/queue"
	"golang.org/x/sys/unix"
)

// Provider gives zeroed memory, aligned to a cache line at least, until the test ends.
type Provider func(tb testing.TB, n int) []byte

// Heap is memory on the Go heap, where the race detector sees what is done.
func Heap(_ testing.TB, n int) []byte { return aligned(n) }

// Mapping is shared memory outside of the heap, as rings have it in earnest: the race detector does not look there, so that one goroutine
// may rewrite what another reads.
func Mapping(tb testing.TB, n int) []byte {
	tb.Helper()
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		tb.Fatalf("mmap of %d bytes: %v", n, err)
	}
	tb.Cleanup(func() {
		if err := unix.Munmap(mem); err != nil {
			tb.Errorf("munmap: %v", err)
		}
	})
	return mem
}

// Base is the address at which the arena of a Bed begins, as descriptors name it. It is not where the arena lies in this process, so that an
// address that was not translated does not work by chance.
const Base = 0x10_0000_0000

// Bed is a ring, an arena for buffers, and the table by which the device finds the arena.
type Bed struct {
	Ring   queue.Ring
	Arena  []byte // of the length that was asked for, at Base
	Memory *queue.Memory

	tables []byte // for indirect descriptors, at Base + tablesOff
}

// tablesOff is where the indirect tables of Bed.Driver lie, as descriptors name them: in a region of their own.
const tablesOff = 1 << 32

// NewBed makes the memory of a queue. The areas of ring are filled in.
func NewBed(tb testing.TB, from Provider, ring queue.Ring, arena int) *Bed {
	tb.Helper()
	l := queue.LayoutOf(ring.Format, ring.Size)
	ring.Areas = l.Areas(from(tb, l.Len))
	b := &Bed{Ring: ring, Arena: from(tb, arena)}
	regions := []queue.Region{{Addr: Base, Mem: b.Arena}}
	if ring.Indirect {
		b.tables = from(tb, ring.Size*tableLen(ring.Size)*16)
		regions = append(regions, queue.Region{Addr: Base + tablesOff, Mem: b.tables})
	}
	m, err := queue.NewMemory(regions...)
	if err != nil {
		tb.Fatal(err)
	}
	b.Memory = m
	return b
}

// tableLen is the number of descriptors in each indirect table of a Bed.
func tableLen(size int) int { return min(size, 16) }

// Driver is the driver end of the queue. With Indirect it has tables of 16 descriptors, or of the ring's size if that is less.
func (b *Bed) Driver(tb testing.TB) queue.Driver {
	tb.Helper()
	c := queue.DriverConfig{Ring: b.Ring}
	if b.Ring.Indirect {
		c.Tables = queue.Tables{Mem: b.tables, Addr: Base + tablesOff, Segments: tableLen(b.Ring.Size)}
	}
	d, err := queue.NewDriver(c)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// Device is the device end of the queue; maxChain as in queue.DeviceConfig.
func (b *Bed) Device(tb testing.TB, maxChain int) queue.Device {
	tb.Helper()
	d, err := queue.NewDevice(queue.DeviceConfig{Ring: b.Ring, Memory: b.Memory, MaxChain: maxChain})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}
