package kerneltest

import (
	"encoding/binary"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/vhost/kernel"
	"github.com/vasta-net/vasta/virtio/queue"
	"golang.org/x/sys/unix"
)

// start has a ring served. The lock is held.
func (t *Twin) start(i int) error {
	r := &t.rings[i]
	m, err := t.memory()
	if err != nil {
		return unix.EFAULT
	}
	has := func(f uint64) bool { return t.features&f != 0 }
	r.vq, err = queue.NewDevice(queue.DeviceConfig{Memory: m, MaxChain: 1024, Ring: queue.Ring{
		Format: queue.Split, Size: r.size, Areas: r.areas, EventIdx: has(eventIdx), Indirect: has(indirect), InOrder: has(inOrder),
	}})
	if err != nil {
		r.vq = nil
		return unix.EFAULT
	}
	if r.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		r.vq = nil
		return err
	}
	if i == kernel.RX {
		t.serving.Add(1)
		go t.serve(r.kick, r.stop, r.vq)
	}
	t.pump()
	return nil
}

// stop ends that. The lock is held.
func (t *Twin) stop(i int) {
	r := &t.rings[i]
	if r.vq == nil {
		return
	}
	r.vq = nil
	notify(r.stop)
	if i == kernel.TX {
		t.held = nil
		unix.Close(r.stop) // the receive ring's goroutine closes its own
	}
}

// serve gives frames that wait to the driver when it has posted buffers.
func (t *Twin) serve(kick, stop int, vq queue.Device) {
	defer t.serving.Done()
	defer unix.Close(stop)
	fds := []unix.PollFd{{Fd: int32(kick), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		t.mu.Lock()
		if t.rings[kernel.RX].vq != vq {
			t.mu.Unlock()
			return
		}
		var b [8]byte
		_, _ = unix.Read(kick, b[:]) // it does not block
		t.pump()
		t.mu.Unlock()
	}
}

func notify(fd int) {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(fd, one[:]) // a counter that cannot take it is readable anyway
}

// pump puts frames that wait into the driver's buffers, as many as there are for. The lock is held.
func (t *Twin) pump() {
	r := &t.rings[kernel.RX]
	for r.vq != nil && len(t.waiting) > 0 {
		f := &t.waiting[0]
		message := make([]byte, packet.NetHdrLen, packet.NetHdrLen+len(f.data))
		f.hdr.Encode(message)
		message = append(message, f.data...)
		done := t.scatter(r, message)
		if done == nil {
			return
		}
		if r.vq.Return(done) != nil {
			notify(r.err)
			return
		}
		t.waiting = t.waiting[1:]
		if r.vq.ShouldNotify() {
			notify(r.call)
		}
	}
}

// scatter copies a message into as many buffers as it needs; nil says that there are too few, and that the driver will tell of more.
func (t *Twin) scatter(r *ring, message []byte) (done []queue.Done) {
	var first []byte
	for len(message) > 0 {
		var c [1]queue.Chain
		n, err := r.vq.Take(c[:])
		if err != nil {
			notify(r.err)
			return nil
		}
		if n == 0 && r.vq.Listen(1) {
			continue
		}
		if n == 0 { // Listen has asked for buffers beyond these
			_ = r.vq.Untake(len(done))
			return nil
		}
		written := 0
		for _, in := range c[0].In {
			if first == nil {
				first = in
			}
			k := copy(in, message)
			message = message[k:]
			written += k
		}
		done = append(done, queue.Done{ID: c[0].ID, Len: uint32(written)})
	}
	binary.LittleEndian.PutUint16(first[10:], uint16(len(done))) // num_buffers
	return done
}

// Give sends a frame toward the driver; it waits, as in a TAP's queue, until there are buffers for it.
func (t *Twin) Give(hdr packet.NetHdr, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = append(t.waiting, frame{hdr, append([]byte(nil), data...)})
	t.pump()
}

// Waiting is how many frames have found no buffers yet.
func (t *Twin) Waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

// Take is the next frame that the driver has sent, and in how many pieces; false when there is none.
func (t *Twin) Take() (hdr packet.NetHdr, data []byte, pieces int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if hdr, data, pieces, ok = t.hold(); ok {
		t.complete(len(t.held) - 1)
	}
	return hdr, data, pieces, ok
}

// Hold is Take, but the driver does not hear yet that the frame was sent: Complete says so.
func (t *Twin) Hold() (hdr packet.NetHdr, data []byte, pieces int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hold()
}

// Held is how many frames the driver has not heard of.
func (t *Twin) Held() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.held)
}

// Complete tells the driver that the i-th of them was sent, in whatever order.
func (t *Twin) Complete(i int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.complete(i)
}

// hold takes a frame from the transmit ring. The lock is held.
func (t *Twin) hold() (hdr packet.NetHdr, data []byte, pieces int, ok bool) {
	r := &t.rings[kernel.TX]
	if r.vq == nil {
		return hdr, nil, 0, false
	}
	var c [1]queue.Chain
	n, err := r.vq.Take(c[:])
	if n == 0 && err == nil && r.vq.Listen(1) {
		n, err = r.vq.Take(c[:])
	}
	if err != nil {
		notify(r.err)
	}
	if n == 0 {
		return hdr, nil, 0, false
	}
	for _, b := range c[0].Out {
		data = append(data, b...)
	}
	if len(data) < packet.NetHdrLen {
		notify(r.err)
		return hdr, nil, 0, false
	}
	t.held = append(t.held, c[0].ID)
	hdr.Decode(data)
	return hdr, data[packet.NetHdrLen:], len(c[0].Out), true
}

// complete returns the buffer of the i-th frame that is held. The lock is held, too.
func (t *Twin) complete(i int) {
	r := &t.rings[kernel.TX]
	id := t.held[i]
	t.held = append(t.held[:i], t.held[i+1:]...)
	if r.vq.Return([]queue.Done{{ID: id}}) != nil {
		notify(r.err)
		return
	}
	if r.vq.ShouldNotify() {
		notify(r.call)
	}
}

// Break has the kernel find a ring broken: it says so by the error descriptor and does nothing more for it.
func (t *Twin) Break(i int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := &t.rings[i]; r.vq != nil {
		t.stop(i)
		notify(r.err)
	}
}

// Corrupt writes a used index far outside of a ring, and calls the driver.
func (t *Twin) Corrupt(i int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &t.rings[i]
	idx := binary.LittleEndian.Uint16(r.areas.Device[2:])
	binary.LittleEndian.PutUint16(r.areas.Device[2:], idx+0x7fff)
	notify(r.call)
}
