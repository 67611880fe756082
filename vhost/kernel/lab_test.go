//go:build lab

package kernel_test

import (
	"os/exec"
	"testing"

	"github.com/vasta-net/vasta/vhost/kernel"
)

// TestKernel: the kernel has the device, and offers what its version has.
func TestKernel(t *testing.T) {
	if out, err := exec.Command("modprobe", "vhost_net").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h, err := kernel.Open(kernel.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	f, err := h.Features()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("features %#x", f)
	const need = 1<<15 | 1<<28 | 1<<29 | 1<<32 // MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, VERSION_1
	if f&need != need {
		t.Errorf("features %#x, want %#x", f, need)
	}
	if _, err := h.NewWorker(); err == nil {
		t.Error("a device without an owner gets a thread")
	}
	if err := h.SetOwner(); err != nil {
		t.Fatal(err)
	}
	if err := h.SetOwner(); err == nil {
		t.Error("a device has two owners")
	}
	id, err := h.NewWorker()
	t.Logf("threads for rings: %d, %v", id, err)
	if err == nil {
		if err := h.AttachVringWorker(kernel.TX, id); err != nil {
			t.Error(err)
		}
	}
	if err := h.SetVringNum(2, 256); err == nil {
		t.Error("there is a third ring")
	}
}
