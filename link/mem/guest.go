package mem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	virtionet "github.com/vasta-net/vasta/virtio/net"
)

// Guest is the guest's end: the device's side of the rings. Send may be called from several goroutines at a time, Receive and Wait from one; the other methods from any.
type Guest struct {
	joint    *joint
	pair     *virtionet.DevicePair
	features link.Features
	bell     bell
	half     int // of the network's receive buffers: with so many posted, there is room again
	closed   atomic.Bool

	receiving sync.Mutex // of what follows
	lent      bool       // the frames of the last Receive are the caller's
	asleep    bool       // the bell tells of frames
	reads     uint64

	sending sync.Mutex      // of what follows
	out     [1]packet.Frame // that is being sent
	pieces  [][]byte
	blocked bool // the bell tells of room
	refused uint64

	full atomic.Bool // Send has answered false, and not true since
}

var _ link.Queue = (*Guest)(nil)

// Fd implements link.Queue: an eventfd. It is readable from the first frame that came after Receive had found none, until the next Receive; and
// once when there is room for half a ring again after Send has answered false, or for as much as the network can make.
func (g *Guest) Fd() int { return g.bell.fd }

// Features implements link.Queue.
func (g *Guest) Features() link.Features { return g.features }

// Receive implements link.Queue. What the network has sent before it was closed is still received; then the answer is link.ErrGone.
func (g *Guest) Receive(frames []packet.Frame) (int, error) {
	g.receiving.Lock()
	defer g.receiving.Unlock()
	if g.closed.Load() {
		return 0, link.ErrGone
	}
	if err := g.giveBack(); err != nil {
		return 0, err
	}
	if g.asleep {
		g.asleep = false
		g.pair.Awake()
		g.reads++
		g.bell.mute()
	}
	gone := g.joint.gone[0].Load() // before the ring is looked at, so that nothing is left in it when the answer is ErrGone
	for {
		n, err := g.pair.Take(frames)
		g.lent = n > 0
		switch {
		case n == len(frames):
			return n, nil
		case n == 0 && err != nil:
			return 0, fmt.Errorf("link/mem: cannot receive: %w", err)
		case n == 0 && gone:
			return 0, link.ErrGone
		case !g.listen():
			return n, nil
		case n > 0: // the caller may work on these before it looks again
			g.bell.ring()
			return n, nil
		}
	}
}

// giveBack ends the loan of the last Receive.
func (g *Guest) giveBack() error {
	if !g.lent {
		return nil
	}
	g.lent = false
	if err := g.pair.Done(); err != nil {
		return fmt.Errorf("link/mem: cannot receive: %w", err)
	}
	return nil
}

// listen has the bell tell of the next frame, and reports whether there is one already.
func (g *Guest) listen() bool {
	g.asleep = true
	if g.full.Load() && g.pair.ListenRoom(g.half) {
		g.bell.ring() // the one for this may just have been muted
	}
	return g.pair.Listen()
}

// Send implements link.Queue. The frame is copied before Send returns, and the network sees it at once.
func (g *Guest) Send(out *link.Out) bool {
	g.sending.Lock()
	defer g.sending.Unlock()
	size := len(out.Head)
	for _, p := range out.Payload {
		size += len(p)
	}
	if size < packet.EtherLen || size > MaxFrame || g.closed.Load() || g.joint.gone[0].Load() {
		g.refused++
		return true
	}
	g.pieces = append(append(g.pieces[:0], out.Head), out.Payload...)
	g.out[0] = packet.Frame{Hdr: out.Hdr, Bufs: g.pieces, Len: size}
	for {
		n, err := g.pair.Deliver(g.out[:])
		switch {
		case err != nil: // the ring is broken: Receive reports it
			g.refused++
			return true
		case n == 1:
			if g.blocked {
				g.blocked = false
				g.full.Store(false)
				g.pair.AwakeRoom()
			}
			return true
		}
		g.blocked = true
		if !g.pair.ListenRoom(g.half) {
			g.full.Store(true)
			return false
		}
	}
}

// Flush implements link.Queue; Send has already made everything visible.
func (g *Guest) Flush() {}

// Counters implements link.Queue. Refused counts frames that are too long for the network's buffers, or have offloads that the link does not carry, both ways.
func (g *Guest) Counters() link.Counters {
	g.receiving.Lock()
	defer g.receiving.Unlock()
	g.sending.Lock()
	defer g.sending.Unlock()
	s := g.pair.Stats()
	return link.Counters{Reads: g.reads, Writes: s.Calls, Refused: g.refused + s.TooLong + s.NotOffloaded + s.Filtered + s.Short + s.Long + s.BadHeader}
}

// Wait sleeps until frames wait, the other end is closed, or there is room again after Send has answered false; all frames have been received
// before. It answers link.ErrGone when this end is closed, and the cause of ctx when that ends. It is for a guest in a goroutine; who has an
// event loop watches Fd instead.
func (g *Guest) Wait(ctx context.Context) error {
	switch more, err := g.waits(); {
	case err != nil:
		return err
	case more:
		return nil
	}
	err := g.bell.wait(ctx)
	switch {
	case err == nil: // and the bell is muted
		g.receiving.Lock()
		g.asleep = false
		g.pair.Awake()
		g.receiving.Unlock()
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrClosed):
		return link.ErrGone
	}
	return fmt.Errorf("link/mem: cannot wait for a frame: %w", err)
}

// waits reports whether there is nothing to wait for, and has the bell tell when there is.
func (g *Guest) waits() (bool, error) {
	g.receiving.Lock()
	defer g.receiving.Unlock()
	if g.closed.Load() {
		return false, link.ErrGone
	}
	// The bell for room may have been muted by a Receive; what it told of is still there.
	room := g.full.Load() && g.pair.ListenRoom(g.half)
	return g.listen() || g.joint.gone[0].Load() || room, nil
}

// Close ends the link. The network receives what was sent, and then its end is gone; what it sends is refused. Frames that this end has received stay readable.
// A second Close does nothing and returns os.ErrClosed.
func (g *Guest) Close() error {
	if g.closed.Swap(true) {
		return os.ErrClosed
	}
	g.receiving.Lock()
	err := g.giveBack()
	g.receiving.Unlock()
	g.sending.Lock() // nobody is about to send any more
	g.joint.gone[1].Store(true)
	g.sending.Unlock()
	g.joint.network.ring()
	g.bell.close()
	return errors.Join(err, g.joint.leave())
}
