package virtiobench

import (
	"context"
	"errors"
	"time"

	"github.com/vasta-net/vasta/bench/baseline"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	virtionet "github.com/vasta-net/vasta/virtio/net"
)

func newGeneral(p pagepool.Provider) *baseline.General { return baseline.NewGeneral(p) }

// toDevice measures frames from the driver to the device, which copies each one out and drops it.
func toDevice(ctx context.Context, s setup, d time.Duration) (Sample, error) {
	b, err := newBed(s)
	if err != nil {
		return Sample{}, err
	}
	perSecond, err := b.run(ctx, d, b.sender(s), b.taker(s))
	if err = errors.Join(err, b.close(), moved(perSecond)); err != nil {
		return Sample{}, err
	}
	return b.sample(perSecond, s.frame), nil
}

// moved refuses a measurement in which nothing moved: the processors were somebody else's.
func moved(perSecond float64) error {
	if perSecond > 0 {
		return nil
	}
	return errors.New("no frame came through while it was measured")
}

// sender is the driver as a generator: it writes each frame into a piece of the pool, and sends it from there.
func (b *bed) sender(s setup) func() error {
	pair := b.driver.Pairs()[0]
	hdr := pair.HdrLen()
	var x struct {
		_      apart
		outs   [burst]virtionet.Out
		filled int
		seq    uint64
		_      apart
	}
	return func() error {
		if n := burst - x.filled; pair.Cut(x.outs[x.filled:], s.frame) < n {
			return errors.New("the pool is empty")
		}
		for ; x.filled < burst; x.filled++ {
			stamp(pair.Pool.PieceBytes(x.outs[x.filled].Head)[hdr:], x.seq)
			x.seq++
		}
		n, err := pair.Send(x.outs[:x.filled])
		copy(x.outs[:], x.outs[n:x.filled])
		x.filled -= n
		if b.stop.Load() {
			for _, o := range x.outs[:x.filled] {
				pair.Pool.Put(o.Head.Page)
			}
			x.filled = 0
		}
		return err
	}
}

// taker is the device as a sink.
func (b *bed) taker(s setup) func() error {
	pair := b.device.Pairs()[0]
	var x struct {
		_      apart
		frames [burst]packet.Frame
		_      apart
	}
	to := b.of(0)
	out := make([]byte, 64<<10)
	return func() error {
		n, err := pair.Take(x.frames[:])
		if n == 0 {
			return err
		}
		for i := range x.frames[:n] {
			f := &x.frames[i]
			if seq := number(f.Bufs[0]); seq != to.next {
				to.wrong++
				to.next = seq
			}
			to.next++
			f.CopyAt(out, 0)
		}
		to.kept += uint64(n)
		to.count.Store(to.kept)
		return pair.Done()
	}
}

// toDriver measures frames from the device to the driver.
func toDriver(ctx context.Context, s setup, d time.Duration) (Sample, error) {
	b, err := newBed(s)
	if err != nil {
		return Sample{}, err
	}
	var perSecond float64
	if s.queues > 1 {
		perSecond, err = b.runBothEnds(ctx, s, d)
	} else {
		perSecond, err = b.run(ctx, d, b.deliverer(s, 0), b.receiver(s, 0))
	}
	var posted, used, recycled, released, slow, slowBefore uint64
	for _, pair := range b.driver.Pairs() {
		rx, pool := pair.ReceiveStats(), pair.Pool.Stats()
		posted, used = posted+rx.Posted, used+rx.Used
		recycled, released, slow = recycled+rx.Kept+pool.Release(), released+pool.Released, slow+pool.AllocSlow
	}
	for i := range b.sinks {
		slowBefore += b.sinks[i].slow
	}
	if err = errors.Join(err, b.close(), moved(perSecond)); err != nil {
		return Sample{}, err
	}
	sample := b.sample(perSecond, s.frame)
	sample.Extra["used_of_posted"] = float64(used) / float64(max(posted, 1))
	sample.Extra["refused"] = float64(b.refuse)
	if !s.general {
		sample.Extra["recycled"] = float64(recycled) / float64(max(recycled+released, 1))
		sample.Extra["slow"] = float64(slow - slowBefore)
	}
	maps, _ := b.arena.Mapped()
	sample.Extra["maps"] = float64(maps)
	return sample, nil
}

// deliverer is the device as a generator: it writes each frame, and copies it into the driver's buffers.
func (b *bed) deliverer(s setup, index int) func() error {
	pair := b.device.Pairs()[index]
	size := burst
	if s.bursts > 0 {
		size = s.bursts
	}
	frames := make([]packet.Frame, size)
	for i := range frames {
		m := make([]byte, s.frame)
		frames[i] = packet.Frame{Bufs: [][]byte{m}, Len: s.frame}
	}
	var x struct {
		_          apart
		at         int
		seq, pause uint64
		_          apart
	}
	x.at = size
	return func() error {
		if x.at == size {
			if s.bursts > 0 && b.of(index).count.Load() < x.pause {
				return nil // the sink has not emptied the ring yet
			}
			for i := range frames {
				stamp(frames[i].Bufs[0], x.seq+uint64(i))
			}
			x.at = 0
		}
		n, err := pair.Deliver(frames[x.at:])
		x.at += n
		x.seq += uint64(n)
		if s.bursts > 0 {
			b.refuse += uint64(size - x.at)
			x.at = size
			x.pause = x.seq
		}
		return err
	}
}

// receiver is the driver as a sink. With a hook, that drops everything; without, every frame is a batch's until the next.
func (b *bed) receiver(s setup, index int) func() error {
	pair := b.driver.Pairs()[index]
	var x struct {
		_      apart
		frames [2 * burst]packet.Frame
		next   uint64 // the number that this pair waits for
		warm   bool
		_      apart
	}
	to := b.of(index)
	out := make([]byte, 64<<10)
	return func() error {
		n, err := pair.Receive(x.frames[:])
		for i := range x.frames[:n] {
			f := &x.frames[i]
			if seq := number(f.Bufs[0]); seq != x.next {
				to.wrong++
				x.next = seq
			}
			x.next++
			if s.copies {
				f.CopyAt(out, 0)
			}
		}
		if n > 0 {
			to.kept += uint64(n)
		}
		if !x.warm && to.kept > warmFrames*uint64(max(1, s.queues)) {
			x.warm = true
			to.slow += pair.Pool.Stats().AllocSlow
		}
		to.count.Store(to.kept)
		return err
	}
}

// warmFrames is how many frames the sink sees before the pool is expected to have all pages that it needs.
const warmFrames = 10_000

// dropView is a hook that reads a frame's number where it lies, and drops it.
func dropView(to *sink) packet.Hook {
	sum := uint64(0)
	return func(frames []packet.Frame, verdicts []packet.Verdict) {
		for i := range frames {
			sum += number(frames[i].Bufs[0])
			verdicts[i] = packet.Drop
		}
		to.kept += uint64(len(frames))
	}
}

// dropCopy copies header and frame of a batch first, and measures how long that takes.
func dropCopy(to *sink) packet.Hook {
	sum := uint64(0)
	var private [2 * burst][packet.NetHdrLen + 64]byte
	return func(frames []packet.Frame, verdicts []packet.Verdict) {
		began := time.Now()
		for i := range frames {
			frames[i].Hdr.Encode(private[i][:])
			frames[i].CopyAt(private[i][packet.NetHdrLen:], 0)
		}
		to.copied += time.Since(began)
		for i := range frames {
			sum += number(private[i][packet.NetHdrLen:])
			verdicts[i] = packet.Drop
		}
		to.kept += uint64(len(frames))
	}
}

// dropObject makes a packet object first, from a list of free ones, or on the heap.
func dropObject(heap bool) func(to *sink) packet.Hook {
	return func(to *sink) packet.Hook {
		sum := uint64(0)
		var pool baseline.Objects
		return func(frames []packet.Frame, verdicts []packet.Verdict) {
			for i := range frames {
				if heap {
					object = new(baseline.Object)
				} else {
					object = pool.Get()
				}
				object.Fill(&frames[i])
				sum += number(object.Data[:])
				if !heap {
					pool.Put(object)
				}
				verdicts[i] = packet.Drop
			}
			to.kept += uint64(len(frames))
		}
	}
}

// object keeps the compiler from leaving objects on the stack.
var object *baseline.Object
