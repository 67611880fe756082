package kernel_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/vhost/kernel"
	"github.com/vasta-net/vasta/vhost/kernel/kerneltest"
	"github.com/vasta-net/vasta/virtio/queue"
	"golang.org/x/sys/unix"
)

// newDevice is a device over a twin, with memory mapped and both rings attached.
func newDevice(t *testing.T, twin *kerneltest.Twin, c kernel.Config) *kernel.Device {
	t.Helper()
	c.Calls, c.TAP, c.Call = twin, 99, 98
	d, err := kernel.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	})
	if err := d.SetFeatures(1<<32 | 1<<29); err != nil {
		t.Fatal(err)
	}
	l := queue.LayoutOf(queue.Split, 8)
	mem, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	if _, err := d.Map(mem, -1); err != nil {
		t.Fatal(err)
	}
	for ring := range 2 {
		r := queue.Ring{Format: queue.Split, Size: 8, Areas: l.Areas(mem[ring*4096:]), EventIdx: true}
		if err := d.Attach(ring, r); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// TestOrderOfCalls: the kernel is told of memory and features before rings, of all about a ring before its backend, and of the end of both before the memory goes.
func TestOrderOfCalls(t *testing.T) {
	twin := kerneltest.New()
	d := newDevice(t, twin, kernel.Config{Workers: true, BusyPoll: 50 * time.Microsecond})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range twin.Called() {
		if !strings.HasPrefix(c, "SetVringKick") && !strings.HasPrefix(c, "SetVringErr") { // their descriptors have any number
			got = append(got, c)
		}
	}
	want := []string{
		"SetOwner", "Features", "NewWorker", "AttachVringWorker 0 1", "NewWorker", "AttachVringWorker 1 1", "SetFeatures", "SetMemTable 1",
		"SetVringNum 0 8", "SetVringBase 0 0", "SetVringAddr 0 0", "SetVringCall 0 98", "SetVringBusyPoll 0 50",
		"SetVringNum 1 8", "SetVringBase 1 0", "SetVringAddr 1 0", "SetVringCall 1 98", "SetVringBusyPoll 1 50",
		"SetBackend 0 99", "SetBackend 1 99",
	}
	if !slices.Equal(got, want) {
		t.Errorf("calls\n%q, want\n%q", got, want)
	}
	if !d.Workers() {
		t.Error("the rings have no threads of their own")
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if got, want := twin.Called(), []string{"SetBackend 0 -1", "SetBackend 1 -1", "Close"}; !slices.Equal(got, want) {
		t.Errorf("at the end %q, want %q", got, want)
	}
	if err := d.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a second Close: %v", err)
	}
}

// TestOlderKernels lack threads for each ring and busy polling, which are only wishes.
func TestOlderKernels(t *testing.T) {
	twin := kerneltest.New()
	twin.NoWorkers = true
	twin.Fail("SetVringBusyPoll", unix.ENOBUFS, 2)
	d := newDevice(t, twin, kernel.Config{Workers: true, BusyPoll: time.Millisecond})
	if err := d.Start(); err != nil {
		t.Error(err)
	}
	if d.Workers() {
		t.Error("threads that the kernel has refused are said to be there")
	}
}

// TestEachRefusal: whatever the kernel refuses is an error that says what, nothing stays running, and a second attempt works.
func TestEachRefusal(t *testing.T) {
	for _, method := range []string{"SetMemTable", "SetVringNum", "SetVringBase", "SetVringAddr", "SetVringKick", "SetVringCall", "SetVringErr", "SetBackend"} {
		t.Run(method, func(t *testing.T) {
			twin := kerneltest.New()
			d := newDevice(t, twin, kernel.Config{})
			twin.Fail(method, unix.EFAULT, 1)
			err := d.Start()
			if !errors.Is(err, unix.EFAULT) || !strings.HasPrefix(err.Error(), "vhost-net: the kernel ") {
				t.Fatalf("Start: %v", err)
			}
			if err := d.SetFeatures(1 << 32); err != nil {
				t.Errorf("after a failed Start: %v", err)
			}
		})
	}
	for _, method := range []string{"SetOwner", "Features"} {
		twin := kerneltest.New()
		twin.Fail(method, unix.EBUSY, 1)
		if _, err := kernel.New(kernel.Config{Calls: twin}); !errors.Is(err, unix.EBUSY) {
			t.Errorf("%s: %v", method, err)
		}
		if calls := twin.Called(); calls[len(calls)-1] != "Close" {
			t.Errorf("%s: the device is not closed: %q", method, calls)
		}
	}
}

// TestMemoryWhileRunning: regions come and go under rings that run.
func TestMemoryWhileRunning(t *testing.T) {
	twin := kerneltest.New()
	d := newDevice(t, twin, kernel.Config{})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	twin.Called()
	more, err := unix.Mmap(-1, 0, 1<<12, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(more)
	twin.Fail("SetMemTable", unix.E2BIG, 1)
	if _, err := d.Map(more, -1); !errors.Is(err, unix.E2BIG) {
		t.Errorf("Map: %v", err)
	}
	addr, err := d.Map(more, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Unmap(addr, more); err != nil {
		t.Error(err)
	}
	if err := d.Unmap(addr, more); err == nil {
		t.Error("what is not mapped can be unmapped")
	}
	if got, want := twin.Called(), []string{"SetMemTable 2", "SetMemTable 2", "SetMemTable 1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestWrongRings are refused before the kernel sees them.
func TestWrongRings(t *testing.T) {
	d, err := kernel.New(kernel.Config{Calls: kerneltest.New()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Start(); err == nil {
		t.Error("started without rings")
	}
	for _, err := range []error{d.Attach(2, queue.Ring{}), d.Attach(0, queue.Ring{Format: queue.Packed}), d.Attach(0, queue.Ring{Size: 1 << 16})} {
		if err == nil {
			t.Error("a wrong ring is taken")
		}
	}
}

// TestOpenErrors name the cure.
func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	closed := filepath.Join(dir, "dir")
	if err := os.Mkdir(closed, 0); err != nil {
		t.Fatal(err)
	}
	for path, cure := range map[string]string{filepath.Join(dir, "none"): "modprobe vhost_net", closed: "does not work"} {
		_, err := kernel.Open(path)
		var open *kernel.OpenError
		if !errors.As(err, &open) || !strings.Contains(err.Error(), cure) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v; want %q", err, cure)
		}
	}
	denied := &kernel.OpenError{Err: fs.ErrPermission}
	if !errors.Is(denied, fs.ErrPermission) {
		t.Error("the cause of an OpenError is lost")
	}
}
