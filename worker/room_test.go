package worker_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/worker"
)

// roomLink does with long frames what a link does that sends from the worker's pages, and counts the descriptors that it would need.
type roomLink struct {
	*linktest.Queue
	pool        *pagepool.Pool
	frames      int // long ones
	descriptors int
	most        int // of one
}

// inRing is what of the headers goes in front of a frame in a ring, in bytes.
const inRing = 12

func (q *roomLink) Send(out *link.Out) bool {
	size := 0
	for _, b := range out.Payload {
		size += len(b)
	}
	if size < 4096 {
		return q.Queue.Send(out)
	}
	n := 1 + len(out.Payload)
	if out.Room >= inRing+len(out.Head) {
		n--
		// Whatever was there belongs to nobody.
		piece, ok := q.pool.Find(out.Payload[0])
		if !ok {
			panic("room in front of what lies in no page")
		}
		before := pagepool.Piece{Page: piece.Page, Off: piece.Off - uint32(out.Room), Len: uint32(out.Room)}
		for i := range q.pool.PieceBytes(before) {
			q.pool.PieceBytes(before)[i] = 0xdb
		}
	}
	q.frames++
	q.descriptors += n
	q.most = max(q.most, n)
	return q.Queue.Send(out)
}

// TestRoomInFront: what is read of the host's stream lies in its pages such that a long frame takes one descriptor, headers and all, whatever the host says at a time, and however far
// the guest's window lets it, and seldom more where something has to be sent again; what a link writes in front of the payload harms nothing, not what has to be sent again either.
func TestRoomInFront(t *testing.T) {
	for _, to := range servers() {
		for _, mtu := range []int{1500, 9000, 65520, 65535} {
			for _, times := range []bool{false, true} {
				for _, silent := range []bool{false, true} {
					t.Run(fmt.Sprintf("%v MTU %d timestamps %v silent %v", to.Addr(), mtu, times, silent), func(t *testing.T) {
						testRoom(t, func(r *rig) *guestConn {
							r.port++
							c := r.conn(at(like(to.Addr()), r.port), to)
							c.times, c.mss = times, uint16(mtu-60)
							return c
						}, mtu, silent)
					})
				}
			}
		}
	}
}

func testRoom(t *testing.T, join func(*rig) *guestConn, mtu int, silent bool) {
	l := &roomLink{Queue: linktest.New(allFeatures)}
	r := newRigOn(t, l.Queue, func(c *worker.Config) { c.MTU, c.Queue, l.pool = mtu, l, c.Send })
	c := join(r)
	c.syn()
	r.pump()
	s := r.host.Last()
	random := rand.New(rand.NewPCG(1, 1))
	const total = 8 << 20
	for off := int64(1); off <= total; {
		n := min([]int{9_000, 30_000, 64_000, 300_000}[random.IntN(4)], int(total+1-off))
		c.window = []int{40_000, 100_000, 1 << 20}[random.IntN(3)]
		c.deliver(s, off, n)
		off += int64(n)
		if random.IntN(3) > 0 {
			r.pump()
		}
		if silent && random.IntN(8) == 0 { // until it is sent to again
			c.quiet = true
			r.run(second)
			c.quiet = false
			c.ack()
		}
	}
	for range 10_000 {
		if r.pump(); c.rcvNxt > total {
			break
		}
		r.run(10 * millisecond)
	}
	if c.rcvNxt != total+1 {
		t.Fatalf("the guest has %d bytes, want %d", c.rcvNxt-1, total)
	}
	mean := float64(l.descriptors) / float64(l.frames)
	t.Logf("%d long frames, %.2f descriptors a frame, %d at most, %d segments sent again", l.frames, mean, l.most, r.stats.TCPRetransmits)
	if mean > 1.2 || !silent && l.most > 2 || silent != (r.stats.TCPRetransmits > 0) {
		t.Errorf("%d long frames take %.2f descriptors each, and %d at most; %d segments sent again", l.frames, mean, l.most, r.stats.TCPRetransmits)
	}
}
