//go:build lab

package vhostnet_test

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"os/exec"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/vhostnet"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/vhost/kernel"
	"github.com/vasta-net/vasta/virtio/queue"
	"golang.org/x/sys/unix"
)

// spy is a device of the kernel's that lets the test at the rings.
type spy struct {
	*kernel.Handle
	areas [2]queue.Areas
}

func (s *spy) SetVringAddr(ring int, a queue.Areas) error {
	s.areas[ring] = a
	return s.Handle.SetVringAddr(ring, a)
}

// TestKernelGivesUp: the kernel finds an available index that is far outside of the ring, says so by the error descriptor, and the rings are made anew, again and again, with frames passing
// in between; then the TAP goes away, and the link ends.
func TestKernelGivesUp(t *testing.T) {
	if out, err := exec.Command("modprobe", "vhost_net").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	vhostnet.SetShortLife(t, 0)
	handle, err := kernel.Open(kernel.Path)
	if err != nil {
		t.Fatal(err)
	}
	device := &spy{Handle: handle}
	tap, guest := newTAP(t)
	r := &rig{log: &logged{}}
	const ringSize = 64
	r.q, err = vhostnet.New(vhostnet.Config{
		TAP: tap, Device: device, Offloads: offloads, Log: slog.New(slog.NewTextHandler(r.log, nil)), Tuning: vhostnet.Tuning{Receive: ringSize},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := numbered(9, 1400)
	want[12], want[13] = 0x88, 0xb5
	for rebuilds := range uint64(10) {
		r.exchange(t, guest, want)
		var frames [8]packet.Frame
		for r.q.Counters().Rebuilds == rebuilds {
			idx := device.areas[kernel.RX].Driver[2:4]
			binary.LittleEndian.PutUint16(idx, binary.LittleEndian.Uint16(idx)+0x4000)
			for range ringSize + 1 { // the kernel looks at the index when it has no buffer left that it knows of
				guest.send(t, want)
			}
			r.drain(t, frames[:])
		}
		r.drain(t, frames[:])
	}
	if text := r.log.String(); r.q.Direct() || strings.Contains(text, "ERROR") {
		t.Errorf("without rings: %t, log:\n%s", r.q.Direct(), text)
	}
	if out, err := exec.Command("ip", "link", "del", "tap0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for {
		var frames [8]packet.Frame
		if _, err := r.q.Receive(frames[:]); errors.Is(err, link.ErrGone) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		r.wait(t)
	}
	if err := r.q.Close(); err != nil {
		t.Error(err)
	}
}

// drain receives until nothing has come for a while: what was sent before may lie in the TAP's queue, in rings that are, or in some that are no more.
func (r *rig) drain(t *testing.T, frames []packet.Frame) {
	t.Helper()
	for {
		n, err := r.q.Receive(frames)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 || !r.q.Sleep() {
			continue
		}
		fds := []unix.PollFd{{Fd: int32(r.q.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 200); n == 0 && err == nil {
			return
		}
	}
}
