//go:build lab

package vhostnet_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/tap"
	"github.com/vasta-net/vasta/link/vhostnet"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/vhost/kernel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestReconfigured: 1000 times the TAP's offloads, MTU, queue length or state change while the kernel moves frames both ways, sent from the rings, from borrowed pages and past the rings. What
// arrives is right and in order, each time something does, and in the end nothing is held.
func TestReconfigured(t *testing.T) {
	if out, err := exec.Command("modprobe", "vhost_net").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	device, err := kernel.Open(kernel.Path)
	if err != nil {
		t.Fatal(err)
	}
	fd, guest := newTAP(t)
	pool, err := pagepool.New(4 << 20)
	if err != nil {
		t.Fatal(err)
	}
	q, err := vhostnet.New(vhostnet.Config{TAP: fd, Device: device, Offloads: offloads, Tuning: vhostnet.Tuning{Receive: 32, Transmit: 16}})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Borrow(pool); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(guest.fd, true); err != nil {
		t.Fatal(err)
	}
	l := &load{queue: q, guest: guest, pool: pool, rng: rand.New(rand.NewPCG(3, 4))}
	tap0, err := netlink.LinkByName("tap0")
	if err != nil {
		t.Fatal(err)
	}
	const cycle = 40 // the state, which takes the kernel longest, changes once in so many
	for i := range 1000 {
		var err error
		switch at := i % cycle; {
		case at == cycle-2:
			err = netlink.LinkSetDown(tap0)
		case at == cycle-1:
			err = netlink.LinkSetUp(tap0)
		case at%6 == 0:
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0)
		case at%6 == 1:
			err = netlink.LinkSetMTU(tap0, 65520)
		case at%6 == 2:
			err = netlink.LinkSetTxQLen(tap0, 100)
		case at%6 == 3:
			_, err = tap.Offload(fd)
		case at%6 == 4:
			err = netlink.LinkSetMTU(tap0, 1500)
		case at%6 == 5:
			err = netlink.LinkSetTxQLen(tap0, 1000)
		}
		if err != nil {
			t.Fatalf("reconfiguration %d: %v", i, err)
		}
		if err := l.exchange(i%cycle != cycle-2); err != nil {
			t.Fatalf("after reconfiguration %d: %v", i, err)
		}
	}
	for q.Pair().Unsent() > 0 {
		q.Flush()
	}
	if c := q.Counters(); c.Rebuilds != 0 || pool.InUse() != 0 {
		t.Errorf("%d rebuilds, %d pages in use", c.Rebuilds, pool.InUse())
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
}

// load is frames both ways.
type load struct {
	queue                    *vhostnet.Queue
	guest                    guest
	pool                     *pagepool.Pool
	rng                      *rand.Rand
	given, seen, sent, taken uint32
	frames                   [link.MaxBatch]packet.Frame
	buf                      [1 << 17]byte
}

// exchange sends some frames each way; with both, until one has arrived on either side.
func (l *load) exchange(both bool) error {
	seen, taken := l.seen, l.taken
	for round := 0; round < 1 || both && (l.seen == seen || l.taken == taken); round++ {
		for range 1 + l.rng.IntN(2) {
			l.given++
			b := experiment(l.given, 60+l.rng.IntN(1400))
			_, _ = unix.Write(l.guest.fd, b) // the TAP may be down, or full
		}
		for range 1 + l.rng.IntN(2) {
			if err := l.send(); err != nil {
				return err
			}
		}
		l.queue.Flush()
		n, err := l.queue.Receive(l.frames[:])
		if err != nil {
			return err
		}
		for i := range l.frames[:n] {
			if err := check(bytes.Join(l.frames[i].Bufs, nil), &l.seen); err != nil {
				return fmt.Errorf("from the guest: %w", err)
			}
		}
		for {
			n, err := unix.Read(l.guest.fd, l.buf[:])
			if err != nil {
				break // EAGAIN, or once ENETDOWN
			}
			if err := check(l.buf[:n], &l.taken); err != nil {
				return fmt.Errorf("to the guest: %w", err)
			}
		}
	}
	return nil
}

// send gives the queue one frame, half of them from the pool's pages.
func (l *load) send() error {
	pg, ok := l.pool.Get()
	if !ok {
		return nil // the kernel has all of them
	}
	defer l.pool.Put(pg)
	size := 20 + l.rng.IntN([]int{1400, 9000}[l.rng.IntN(2)])
	frame := experiment(l.sent+1, 54+size)
	out := link.Out{Head: frame[:54], Payload: [][]byte{frame[54:]}}
	if l.rng.IntN(2) == 0 {
		out.Room = 128 * l.rng.IntN(2)
		out.Payload[0] = l.pool.Bytes(pg)[out.Room:][:size]
		copy(out.Payload[0], frame[54:])
	}
	if l.queue.Send(&out) {
		l.sent++
	}
	return nil
}

// experiment is a numbered frame that no kernel looks into.
func experiment(n uint32, size int) []byte {
	b := numbered(n, size)
	b[12], b[13] = 0x88, 0xb5
	return b
}

// check compares a frame with what was sent under its number, which is greater than the last one.
func check(b []byte, last *uint32) error {
	if len(b) < 18 {
		return fmt.Errorf("%d bytes", len(b))
	}
	n := uint32(b[14])<<24 | uint32(b[15])<<16 | uint32(b[16])<<8 | uint32(b[17])
	if n <= *last || !bytes.Equal(b, experiment(n, len(b))) {
		return fmt.Errorf("number %d of %d bytes after %d, or others than it had", n, len(b), *last)
	}
	*last = n
	return nil
}
