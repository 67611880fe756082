// Package mem is a link inside one process: two queues joined to each other, so that what one sends the other receives. A
// network has one of them as its link, and a program of Go's own holds the other and is the guest: with a TCP/IP stack, with
// a virtual machine's device behind it, or as a test that makes frames by hand.
//
//	network, guest, err := mem.New(mem.Offloads)
//
// Both ends are the same: whole Ethernet frames with a virtio-net header, GSO frames of 64 KiB and partial checksums among them, as far
// as both ends have agreed on (link.Features).
//
// A frame is copied once, into a ring of 4 MiB for each direction (package ring), and read from there. Neither the copy nor the reading
// allocates, makes a system call, or takes a lock; only who sleeps is woken by one call. The rings are ordinary Go memory, so that an end that is closed
// takes nothing away from under the other, and the race detector sees what happens.
package mem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/ring"
)

// Offloads is everything: partial checksums, and segmentation of TCP and UDP left to the other end.
var Offloads = link.Features{Csum: true, TSO4: true, TSO6: true, USO: true}

// MaxFrame is the longest frame in bytes: an IP packet of 65,535 bytes behind an Ethernet header with a VLAN tag. IPv6 without its header
// counts no more.
const MaxFrame = packet.EtherLen + 4 + packet.IPv6Len + 65535

// Sizes of a direction.
const (
	ringBytes   = 4 << 20 // 63 frames of 64 KiB
	ringRecords = 4 << 10 // frames, when they are small
	maxBatch    = 64      // frames of one Receive
)

// Queue is one end. Send may be called from several goroutines at a time, Receive and Wait from one; the other methods from any.
type Queue struct {
	features link.Features
	in       *ring.Ring // the other end's out
	out      *ring.Ring
	peer     *Queue

	// Receiver's own.
	pieces [maxBatch][]byte // the one piece of each frame that was received
	lent   bool             // frames were received that the ring still holds

	// starved says that this end's Send has found the ring full and waits to be told of room, full that it has found it so since the last Wait.
	starved, full atomic.Bool
	closed        atomic.Bool

	reads, writes, refused atomic.Uint64

	bell bell
}

var _ link.Queue = (*Queue)(nil)

// New joins two ends. Each has to be closed.
func New(f link.Features) (network, guest *Queue, err error) {
	var rings [2]*ring.Ring
	for i := range rings {
		if rings[i], err = ring.New(make([]byte, ringBytes), ringRecords); err != nil {
			return nil, nil, fmt.Errorf("link/mem: %w", err)
		}
		rings[i].Sleep() // the first frame is announced
	}
	network = &Queue{features: f, in: rings[0], out: rings[1]}
	guest = &Queue{features: f, in: rings[1], out: rings[0]}
	network.peer, guest.peer = guest, network
	if err = network.bell.open(); err != nil {
		return nil, nil, err
	}
	if err = guest.bell.open(); err != nil {
		network.bell.close()
		return nil, nil, err
	}
	return network, guest, nil
}

// Fd implements link.Queue: an eventfd. It is readable from the first frame that came while Receive had found none, until Receive finds none again; and
// once when there is room again after Send has answered false.
func (q *Queue) Fd() int { return q.bell.fd }

// Features implements link.Queue.
func (q *Queue) Features() link.Features { return q.features }

// Receive implements link.Queue. What the other end has sent before it was closed is still received; then the answer is link.ErrGone.
func (q *Queue) Receive(frames []packet.Frame) (int, error) {
	if q.closed.Load() {
		return 0, link.ErrGone
	}
	q.reads.Add(1)
	if q.lent {
		q.lent = false
		q.in.Release()
		if q.peer.starved.Load() && q.peer.starved.CompareAndSwap(true, false) {
			q.peer.bell.ring()
		}
	}
	gone := q.peer.closed.Load() // before the ring is looked at, so that nothing is left in it when the answer is ErrGone
	n, room := 0, min(len(frames), maxBatch)
	for n < room {
		record, ok := q.in.Take()
		if !ok {
			q.bell.mute()
			if q.in.Sleep() {
				break
			}
			continue
		}
		f := &frames[n]
		f.Hdr.Decode(record)
		f.Len = len(record) - packet.NetHdrLen
		q.pieces[n] = record[packet.NetHdrLen:]
		f.Bufs = q.pieces[n : n+1 : n+1]
		q.lent = true
		n++
	}
	if gone && n == 0 && room > 0 {
		return 0, link.ErrGone
	}
	if n < room && q.peer.closed.Load() {
		q.bell.ring() // the end is still to be told; the bell of the other's Close may just have been muted
	}
	return n, nil
}

// Send implements link.Queue. The frame is copied before Send returns.
func (q *Queue) Send(out *link.Out) bool {
	q.writes.Add(1)
	size := len(out.Head)
	for _, p := range out.Payload {
		size += len(p)
	}
	if size > MaxFrame || len(out.Head) > link.MaxHead || q.closed.Load() || q.peer.closed.Load() {
		q.refused.Add(1)
		return true
	}
	var head [packet.NetHdrLen + link.MaxHead]byte
	out.Hdr.Encode(head[:])
	n := packet.NetHdrLen + copy(head[packet.NetHdrLen:], out.Head)
	ok, wake := q.out.Put(head[:n], out.Payload)
	if !ok {
		// Whoever reads stores that there is room and then looks at starved; here it is the other way round, so one of the two is seen.
		q.full.Store(true)
		q.starved.Store(true)
		if ok, wake = q.out.Put(head[:n], out.Payload); ok {
			q.starved.Store(false)
		}
	}
	if wake {
		q.peer.bell.ring()
	}
	return ok
}

// Flush implements link.Queue; Send has already made everything visible.
func (q *Queue) Flush() {}

// Counters implements link.Queue. Nothing here is a system call; the calls of Receive and Send stand in for them.
func (q *Queue) Counters() link.Counters {
	return link.Counters{Reads: q.reads.Load(), Writes: q.writes.Load(), Refused: q.refused.Load()}
}

// Wait sleeps until frames wait, the other end is closed, or there is room again after Send has answered false; all frames have been received
// before. It answers link.ErrGone when this end is closed, and the cause of ctx when that ends. It is for a guest in a goroutine; who has an
// event loop watches Fd instead.
func (q *Queue) Wait(ctx context.Context) error {
	if q.closed.Load() {
		return link.ErrGone
	}
	if !q.in.Sleep() || q.peer.closed.Load() {
		return nil
	}
	if q.full.Swap(false) && !q.starved.Load() {
		return nil // the bell for this may have been muted by a Receive
	}
	err := q.bell.wait(ctx)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrClosed):
		return link.ErrGone
	}
	return fmt.Errorf("link/mem: cannot wait for a frame: %w", err)
}

// Close ends the link. The other end receives what was sent, and then link.ErrGone; what it sends is refused. Frames that this end has received stay readable.
// A second Close does nothing and returns os.ErrClosed.
func (q *Queue) Close() error {
	if q.closed.Swap(true) {
		return os.ErrClosed
	}
	q.peer.bell.ring()
	q.bell.close()
	return nil
}
