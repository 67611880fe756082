package overloadbench

import (
	"fmt"
	"time"

	"github.com/vasta-net/vasta/bench/pktgen"
	"github.com/vasta-net/vasta/ring"
)

// consumeBatch is how many frames a consumer takes at once.
const consumeBatch = 64

// ringBed is producers and a consumer at the two ends of a ring.Bounded of frames.
type ringBed struct {
	ring     *ring.Bounded[[]byte]
	woken    []chan struct{} // of the producers
	consumer chan struct{}
}

func newRingBed(s setup) (bed, error) {
	r, err := ring.NewBounded[[]byte](s.ring)
	if err != nil {
		return nil, err
	}
	if s.drop {
		r.SetMode(ring.Drop)
	}
	b := &ringBed{ring: r, consumer: make(chan struct{}, 1)}
	for range s.producers {
		b.woken = append(b.woken, make(chan struct{}, 1))
	}
	return b, nil
}

func (b *ringBed) out(i, size int) (pktgen.Port, error) {
	p := &ringProducer{bed: b, woken: b.woken[i]}
	// As many as the ring holds, and as many as the consumer has in hand: what comes round has been consumed.
	p.frames = make([][]byte, 2*ringSize+consumeBatch+1)
	for i := range p.frames {
		p.frames[i] = make([]byte, size)
	}
	return p, nil
}

func (b *ringBed) in() (pktgen.Port, error) { return &ringConsumer{bed: b}, nil }

func (b *ringBed) counts() (c counts, err error) {
	x := b.ring.Counters()
	return counts{dropped: x.Dropped, wakes: x.Wakes, overdue: x.Overdue}, nil
}

func (b *ringBed) close() error { return nil }

// wake wakes who waits at c, or has the next wait end at once.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait waits at c, and reports whether it was woken.
func wait(c chan struct{}, limit time.Duration) bool {
	select {
	case <-c:
		return true
	default:
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}

// ringProducer is a Port that frames go into the ring by.
type ringProducer struct {
	bed    *ringBed
	woken  chan struct{}
	frames [][]byte // that the ring is lent, in turn
	next   int
	waited time.Duration // since it was stopped
}

func (p *ringProducer) Send(frames [][]byte) (int, error) {
	for i, f := range frames {
		to := p.frames[p.next]
		copy(to, f)
		o, asleep := p.bed.ring.Put(to)
		if asleep {
			wake(p.bed.consumer)
		}
		if o != ring.Taken {
			return i, nil
		}
		if p.next++; p.next == len(p.frames) {
			p.next = 0
		}
	}
	return len(frames), nil
}

func (p *ringProducer) AwaitRoom(limit time.Duration) error {
	if wait(p.woken, limit) {
		p.waited = 0
		return nil
	}
	if p.waited += limit; p.waited >= ring.WatchdogAfter {
		p.waited = 0
		if p.bed.ring.Overdue() {
			p.bed.wakeAll()
		}
	}
	return nil
}

func (p *ringProducer) Receive(time.Duration) ([][]byte, error) { return nil, pktgen.ErrGone }
func (p *ringProducer) Calls() uint64                           { return 0 }
func (p *ringProducer) Close() error                            { return nil }

func (b *ringBed) wakeAll() {
	for _, c := range b.woken {
		wake(c)
	}
}

// ringConsumer is the Port that frames come out of the ring by.
type ringConsumer struct {
	bed    *ringBed
	frames [consumeBatch][]byte
}

func (c *ringConsumer) Receive(limit time.Duration) ([][]byte, error) {
	for {
		n, created := c.bed.ring.Consume(c.frames[:])
		if created && c.bed.ring.Wake() {
			c.bed.wakeAll()
		}
		if n > 0 || limit <= 0 {
			return c.frames[:n], nil
		}
		if c.bed.ring.Sleep() {
			wait(c.bed.consumer, limit)
			c.bed.ring.Awake()
		}
		limit = 0
	}
}

func (c *ringConsumer) Send([][]byte) (int, error) {
	return 0, fmt.Errorf("the ring's consumer sends nothing")
}
func (c *ringConsumer) AwaitRoom(time.Duration) error { return nil }
func (c *ringConsumer) Calls() uint64                 { return 0 }
func (c *ringConsumer) Close() error                  { return nil }
