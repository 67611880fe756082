// Package virtio is link.Queue over a queue pair of a virtio-net driver: what all links have in common whose frames go through rings, wherever the device is.
//
// What is received is a view of the buffers that the device has written; nothing is copied, but for frames up to the driver's copy-break. What is sent is
// copied once, into memory of the pair's pool, with the header in front of it, so that the device gets one descriptor for nearly every frame. Frames are
// given to the device in batches (Flush), and their memory is taken back without asking.
package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	virtionet "github.com/vasta-net/vasta/virtio/net"
	"golang.org/x/sys/unix"
)

// MaxFrame is the longest frame in bytes, without its virtio-net header.
const MaxFrame = virtionet.MaxFrame

const (
	// maxRest is how many pieces behind the first a frame has at most: with the first, two descriptors.
	maxRest = 1
	// inPlace is from how many bytes of payload on it is sent from where it lies. A shorter frame costs less as a copy: one descriptor, and the kernel's vhost-net
	// takes up to 64 frames of less than a page together.
	inPlace = 4096
)

// batch is how many frames wait at most to be given to the device.
const batch = 64

// Config is what a queue is made from.
type Config struct {
	// Pair is the driver's queue pair. It belongs to the queue from then on.
	Pair *virtionet.Pair
	// Fd is an eventfd that does not block, to which every call of the pair's device is written (DriverConfig.Wake, or the device itself). It stays open until
	// Close.
	Fd int
	// Gone says that the other end does not exist any more; whoever sets it writes to Fd. What was in the ring before is still received. nil: it never goes.
	Gone *atomic.Bool
	// Again is Features.Again. With it, Sleep alone asks for Fd to be written to, and the buffers of a batch go back before anybody sleeps; without, Receive asks.
	Again bool
	// Direct sends a frame by a system call of its own, past the ring, and answers as link.Queue does. A short frame that is alone takes this way while the device has no other:
	// a kick is a system call as well, and wakes a thread that would do no more than this one. nil: all go through the ring.
	Direct interface{ Send(out *link.Out) bool }
	// Close ends what the pair belongs to. The queue does not touch the pair any more.
	Close func() error
}

// Queue is a link.Queue over a Pair.
type Queue struct {
	Config
	pool     *pagepool.Pool
	holder   pagepool.Holder
	features link.Features
	closed   bool

	// asleep says that the descriptor may be readable, since the device has been asked to write to it; blocked that it was asked to tell of room, and full that
	// Send has answered false, and not true since.
	asleep, blocked, full bool

	outs  []virtionet.Out // that wait to be given to the device
	rests [batch][maxRest]pagepool.Piece
	past  link.Out // that goes past the ring
	pasts uint64   // how many have

	lender *pagepool.Pool // of payload that is not copied; nil: all is

	broken error // what the device has done to the transmit ring

	reads, writes, refused uint64
}

var _ link.Sleeper = (*Queue)(nil)

// New makes a queue of a pair whose device runs.
func New(c Config) *Queue {
	q := &Queue{Config: c, pool: c.Pair.Pool, features: Offloads(c.Pair.Features()), outs: make([]virtionet.Out, 0, batch)}
	q.features.Again = c.Again
	q.holder = q.pool.Holder("transmit ring")
	if q.sleep() {
		q.ring()
	}
	return q
}

// Offloads are what a link carries whose driver has negotiated f.
func Offloads(f virtionet.Features) link.Features {
	return link.Features{
		Csum: f.Has(virtionet.Csum | virtionet.GuestCsum),
		TSO4: f.Has(virtionet.HostTSO4 | virtionet.GuestTSO4), TSO6: f.Has(virtionet.HostTSO6 | virtionet.GuestTSO6),
		USO: f.Has(virtionet.HostUSO | virtionet.GuestUSO4 | virtionet.GuestUSO6),
	}
}

// Wanted are the features by which a link carries what f says.
func Wanted(f link.Features) (v virtionet.Features) {
	for _, o := range []struct {
		on       bool
		features virtionet.Features
	}{
		{f.Csum, virtionet.Csum | virtionet.GuestCsum},
		{f.TSO4, virtionet.HostTSO4 | virtionet.GuestTSO4}, {f.TSO6, virtionet.HostTSO6 | virtionet.GuestTSO6},
		{f.TSO4 || f.TSO6, virtionet.HostECN | virtionet.GuestECN},
		{f.USO, virtionet.HostUSO | virtionet.GuestUSO4 | virtionet.GuestUSO6},
	} {
		if o.on {
			v |= o.features
		}
	}
	return v
}

// Fd implements link.Queue. It becomes readable when a frame comes after Receive has found none, and when there is room after Send has answered false.
func (q *Queue) Fd() int { return q.Config.Fd }

// Features implements link.Queue.
func (q *Queue) Features() link.Features { return q.features }

// Receive implements link.Queue. An error beside link.ErrGone says that the device has broken the ring.
func (q *Queue) Receive(frames []packet.Frame) (int, error) {
	if q.closed {
		return 0, link.ErrGone
	}
	if q.asleep {
		q.awake()
	}
	if q.broken != nil {
		return 0, q.broken
	}
	gone := q.gone() // before the ring is looked at, so that nothing is left in it when the answer is ErrGone
	q.push()
	for {
		n, err := q.Pair.Receive(frames)
		for i := range frames[:n] {
			frames[i].Hdr.NumBuffers = 0 // it was between driver and device
		}
		switch {
		case n == len(frames):
			return n, nil
		case n == 0 && err != nil:
			return 0, fmt.Errorf("link/virtio: cannot receive: %w", err)
		case n == 0 && gone:
			return 0, link.ErrGone
		case q.Again:
			return n, nil
		case !q.sleep():
			if n > 0 && q.Pair.Tight() { // the next frame may wait for the buffers of these
				q.ring()
			}
			return n, nil
		case n > 0: // the caller may work on these before it looks again
			q.ring()
			return n, nil
		}
	}
}

// Ready implements link.Sleeper.
func (q *Queue) Ready() bool { return q.Pair.Waiting() }

// Sleep implements link.Sleeper.
func (q *Queue) Sleep() bool { return !q.closed && q.broken == nil && !q.sleep() && !q.gone() }

// sleep has the descriptor tell of the next frame, and reports whether there is one already.
func (q *Queue) sleep() bool {
	q.asleep = true
	more := q.Pair.Listen()
	if q.full && !q.blocked && !q.block() {
		q.ring()
	}
	// There was no page for a buffer: frames that the device has not sent yet have them. Or other buffers have, and then there are enough of those.
	if q.Pair.Starving() && !q.blocked && !q.block() {
		more = true
	}
	return more
}

// awake ends what sleep has begun.
func (q *Queue) awake() {
	q.asleep = false
	q.Pair.Awake()
	if q.blocked {
		q.blocked = false
		q.Pair.AwakeSend()
	}
	var count [8]byte
	q.reads++
	_, _ = unix.Read(q.Config.Fd, count[:]) // EAGAIN when nobody has written
}

// one is what is written to an eventfd.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// ring makes the descriptor readable.
func (q *Queue) ring() {
	q.writes++
	_, _ = unix.Write(q.Config.Fd, one) // it fails only when the counter is full, and then it is readable
}

func (q *Queue) gone() bool { return q.Gone != nil && q.Gone.Load() }

// Send implements link.Queue. The frame is copied before Send returns.
func (q *Queue) Send(out *link.Out) bool {
	size := len(out.Head)
	for _, p := range out.Payload {
		size += len(p)
	}
	if q.closed || size < packet.EtherLen || size > MaxFrame || len(out.Head) > link.MaxHead || q.gone() {
		q.refused++
		return true
	}
	for len(q.outs) == batch || !q.lend(out, size) && !q.add(out, size) {
		if !q.push() || len(q.outs) == 0 && q.block() {
			q.full = true
			return false
		}
	}
	q.full = false
	return true
}

// Borrow has payload that lies in whole pages of a pool be sent from there, as link.Borrower says; base is where the device has the pool's memory.
func (q *Queue) Borrow(pool *pagepool.Pool, base uint64) {
	q.lender = pool
	q.Pair.Borrow(pool, base)
}

// lend adds a frame whose payload stays where it is to those that wait. False says that it has to be copied.
func (q *Queue) lend(out *link.Out, size int) bool {
	if q.lender == nil || size-len(out.Head) < inPlace || len(out.Payload) > 1+maxRest {
		return false
	}
	var pieces [1 + maxRest]pagepool.Piece
	for i, b := range out.Payload {
		var ok bool
		if pieces[i], ok = q.lender.Find(b); !ok {
			return false
		}
	}
	n := len(out.Payload)
	hdr := q.Pair.HdrLen()
	o := virtionet.Out{Hdr: out.Hdr, Borrowed: true}
	switch before := uint32(hdr + len(out.Head)); {
	case out.Room >= int(before) && !q.lender.Shared(pieces[0].Page):
		o.Within = true
		o.Head = pagepool.Piece{Page: pieces[0].Page, Off: pieces[0].Off - before, Len: before + pieces[0].Len}
		copy(q.lender.PieceBytes(o.Head)[hdr:], out.Head)
		o.Rest = append(q.rests[len(q.outs)][:0], pieces[1:n]...)
	case n > maxRest:
		return false // three descriptors
	default:
		var ok bool
		q.pool.As(q.holder)
		if o.Head, ok = q.cut(int(before)); !ok {
			return false
		}
		copy(q.pool.PieceBytes(o.Head)[hdr:], out.Head)
		o.Rest = append(q.rests[len(q.outs)][:0], pieces[:n]...)
	}
	for _, b := range pieces[:n] {
		q.lender.Ref(b.Page)
	}
	q.outs = append(q.outs, o)
	return true
}

// add copies a frame of size bytes to those that wait. False says that there is no memory for it.
func (q *Queue) add(out *link.Out, size int) bool {
	q.pool.As(q.holder)
	hdr := q.Pair.HdrLen()
	first := min(size, pagepool.PageSize-hdr)
	head, ok := q.cut(hdr + first)
	if !ok {
		return false
	}
	o := virtionet.Out{Hdr: out.Hdr, Head: head}
	var rest []byte
	if first < size {
		tail := q.rests[len(q.outs)][:1]
		if tail[0], ok = q.cut(size - first); !ok {
			q.pool.Put(head.Page)
			return false
		}
		o.Rest, rest = tail, q.pool.PieceBytes(tail[0])
	}
	b := q.pool.PieceBytes(head)[hdr:]
	n := copy(b, out.Head)
	for _, p := range out.Payload {
		k := copy(b[n:], p)
		n += k
		rest = rest[copy(rest, p[k:]):]
	}
	q.outs = append(q.outs, o)
	return true
}

// cut takes a piece of n bytes. One that leaves little of a page gets the page for itself, so that receive buffers still are cut from the one they share.
func (q *Queue) cut(n int) (pagepool.Piece, bool) {
	if n <= pagepool.PageSize/2 {
		return q.pool.CutPiece(n, false)
	}
	pg, ok := q.pool.Get()
	return pagepool.Piece{Page: pg, Len: uint32(n)}, ok
}

// push gives the device the frames that wait, and takes the memory of others back. False says that the ring has no room for all of them.
func (q *Queue) push() bool {
	if len(q.outs) == 1 && q.direct(&q.outs[0]) {
		q.drop(1)
	}
	for len(q.outs) > 0 {
		n, err := q.Pair.Send(q.outs)
		q.drop(n)
		switch {
		case errors.Is(err, virtionet.ErrFrame):
			q.giveBack(1)
		case err != nil:
			q.giveBack(len(q.outs))
			q.broken = fmt.Errorf("link/virtio: cannot send: %w", err)
			q.ring() // Receive reports it
		case len(q.outs) > 0:
			if q.block() {
				return false
			}
		}
	}
	return true
}

// direct sends a frame past the ring, if it is short and would not overtake any.
func (q *Queue) direct(o *virtionet.Out) bool {
	if q.Direct == nil || o.Head.Len >= inPlace || len(o.Rest) > 0 {
		return false
	}
	if q.Pair.Unsent() > 0 {
		if q.Pair.Reclaim(); q.Pair.Unsent() > 0 {
			return false
		}
	}
	q.past.Hdr, q.past.Head = o.Hdr, q.pool.PieceBytes(o.Head)[q.Pair.HdrLen():]
	if !q.Direct.Send(&q.past) {
		return false
	}
	q.pool.Put(o.Head.Page)
	q.pasts++
	return true
}

// block has the descriptor tell of room; false says that there is some now.
func (q *Queue) block() bool {
	if q.Pair.ListenSend() {
		q.Pair.Reclaim()
		return false
	}
	q.asleep, q.blocked = true, true
	return true
}

// giveBack refuses the first n frames that wait.
func (q *Queue) giveBack(n int) {
	for i := range q.outs[:n] {
		o := &q.outs[i]
		heads, rests := q.pool, q.pool
		if o.Within {
			heads = q.lender
		}
		if o.Borrowed {
			rests = q.lender
		}
		heads.Put(o.Head.Page)
		rests.PutPieces(o.Rest)
	}
	q.refused += uint64(n)
	q.drop(n)
}

// drop forgets the first n frames that wait; the pieces behind their heads move along.
func (q *Queue) drop(n int) {
	left := copy(q.outs, q.outs[n:])
	q.outs = q.outs[:left]
	if n == 0 {
		return
	}
	for i := range q.outs {
		if o := &q.outs[i]; o.Rest != nil {
			o.Rest = q.rests[i][:copy(q.rests[i][:], o.Rest)]
		}
	}
}

// Flush implements link.Queue: what was sent goes to the device, and pages that the device has done with come back while the cache still knows them.
func (q *Queue) Flush() {
	if len(q.outs) > 0 {
		q.push()
	}
	if q.Pair.Unsent() > 0 {
		q.Pair.Reclaim()
	}
}

// Counters implements link.Queue. Reads are those of the descriptor, Writes the kicks.
func (q *Queue) Counters() link.Counters {
	r, t := q.Pair.ReceiveStats(), q.Pair.TransmitStats()
	return link.Counters{Reads: q.reads, Writes: q.writes + r.Kicks + t.Kicks, Refused: q.refused + r.Short + r.Long + r.BadHeader, Descriptors: t.Descriptors, Kicks: r.Kicks + t.Kicks, Past: q.pasts}
}

// Close implements link.Queue. What was sent stays in the ring for the device, as far as there is room. Frames of the last Receive must not be touched any more. A second
// Close does nothing and returns os.ErrClosed.
func (q *Queue) Close() error {
	if q.closed {
		return os.ErrClosed
	}
	q.Flush()
	q.giveBack(len(q.outs))
	q.closed = true
	return q.Config.Close()
}
