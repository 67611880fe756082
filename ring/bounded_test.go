package ring_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/interleave"
	"github.com/vasta-net/vasta/ring"
	"pgregory.net/rapid"
)

func newBounded(t testing.TB, size int) *ring.Bounded[*int] {
	t.Helper()
	b, err := ring.NewBounded[*int](size)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func number(i int) *int { return &i }

// fill puts values until the ring stops, and returns how many it has taken.
func fill(b *ring.Bounded[*int]) (n int) {
	for ; ; n++ {
		if o, _ := b.Put(number(n)); o != ring.Taken {
			return n
		}
	}
}

func TestBoundedSizes(t *testing.T) {
	for _, size := range []int{0, 1, 2, 3, 7, 64, 1000} {
		b := newBounded(t, size)
		if n := fill(b); n != size || b.Len() != size {
			t.Errorf("a ring of %d takes %d and holds %d", size, n, b.Len())
		}
		into := make([]*int, size+1)
		if n, created := b.Consume(into); n != size || created != (size > 0) {
			t.Errorf("size %d: %d values, created %v", size, n, created)
		}
		if size > 0 && !b.Wake() {
			t.Errorf("size %d: an empty ring does not wake", size)
		}
	}
	for _, size := range []int{-1, ring.MaxSize + 1} {
		if _, err := ring.NewBounded[int](size); err == nil {
			t.Errorf("a ring of %d", size)
		}
	}
}

// TestCreated is the truth table of Consume's second answer: whether slots were given back, which happens 16 at a time where that is no more than half of the
// ring, and when nothing is left.
func TestCreated(t *testing.T) {
	for _, c := range []struct {
		size, take, times int
		want              string // an answer for each time
	}{
		{64, 1, 17, "...............+."},
		{64, 15, 3, ".++"}, // at the sixteenth, and at the thirty-second
		{64, 16, 2, "++"},
		{32, 1, 16, "...............+"},
		{31, 1, 3, "+++"},
		{2, 1, 2, "++"},
		{1, 1, 1, "+"},
	} {
		b := newBounded(t, c.size)
		fill(b)
		into, got := make([]*int, c.take), ""
		for range c.times {
			_, created := b.Consume(into)
			o, _ := b.Put(nil)
			if (o == ring.Taken) != created && created {
				t.Errorf("%+v: Put after created room: %v", c, o)
			}
			got += map[bool]string{false: ".", true: "+"}[created]
		}
		if got != c.want {
			t.Errorf("size %d, %d at a time: created %s, want %s", c.size, c.take, got, c.want)
		}
	}
}

// TestWakeThreshold: producers are woken when half of the ring is free, or what was asked for.
func TestWakeThreshold(t *testing.T) {
	for _, c := range []struct{ size, threshold, want int }{{8, 0, 4}, {8, 1, 1}, {8, 7, 7}, {8, 8, 8}, {8, 100, 8}, {1, 0, 1}, {2, 0, 1}, {3, 0, 2}} {
		b := newBounded(t, c.size)
		b.SetThreshold(c.threshold)
		fill(b)
		for i := 1; ; i++ {
			b.Consume(make([]*int, 1))
			if b.Wake() {
				if i != c.want {
					t.Errorf("%+v: woken after %d", c, i)
				}
				break
			}
			if i == c.size {
				t.Fatalf("%+v: not woken", c)
			}
		}
		if b.Wake() {
			t.Errorf("%+v: woken twice", c)
		}
	}
}

// TestForced: whatever changes the ring wakes who waits for it, once.
func TestForced(t *testing.T) {
	for name, change := range map[string]func(b *ring.Bounded[*int]) bool{
		"attach":    func(b *ring.Bounded[*int]) bool { return b.Attach() },
		"mode":      func(b *ring.Bounded[*int]) bool { return b.SetMode(ring.Drop) },
		"threshold": func(b *ring.Bounded[*int]) bool { return b.SetThreshold(1) },
		"close":     func(b *ring.Bounded[*int]) bool { return b.Close() },
		"resize": func(b *ring.Bounded[*int]) bool {
			wake, err := b.Resize(2)
			if err != nil {
				t.Error(err)
			}
			return wake
		},
	} {
		b := newBounded(t, 2)
		if change(b) {
			t.Errorf("%s: somebody is to be woken, and nobody has stopped", name)
		}
		b = newBounded(t, 2)
		fill(b)
		if !change(b) || change(b) {
			t.Errorf("%s: not woken, or twice", name)
		}
		if c := b.Counters(); c.Forced != 1 || c.Stops != 1 || c.Wakes != 0 {
			t.Errorf("%s: counted %+v", name, c)
		}
	}
}

// TestOverdue: a consumer that takes and never wakes is found out by the watchdog; one that takes nothing is not blamed.
func TestOverdue(t *testing.T) {
	b := newBounded(t, 4)
	fill(b)
	if b.Overdue() {
		t.Error("a wake-up is overdue from a full ring")
	}
	b.Consume(make([]*int, 4))
	if !b.Overdue() || b.Overdue() {
		t.Error("a wake-up that was forgotten is not found, or found twice")
	}
	if n := b.Counters().Overdue; n != 1 {
		t.Errorf("counted %d times", n)
	}
	never := newBounded(t, 0)
	fill(never)
	if never.Overdue() {
		t.Error("a ring of no size owes a wake-up")
	}
}

// TestBoundedModel: one after the other, a ring is a queue with a limit, whatever is changed about it meanwhile.
func TestBoundedModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(0, 40).Draw(t, "size")
		b, err := ring.NewBounded[*int](size)
		if err != nil {
			t.Fatal(err)
		}
		var held []int // oldest first
		inNewest := 0  // of them, those put since the last Resize
		mode, id := ring.Backpressure, 0
		closed, dropped := false, uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				id++
				o, wake := b.Put(number(id))
				switch {
				case wake:
					t.Fatal("nobody sleeps")
				case o == ring.Taken:
					if closed || inNewest >= size {
						t.Fatalf("taken with %d of %d, closed %v", inNewest, size, closed)
					}
					held = append(held, id)
					inNewest++
				case closed != (o == ring.Closed), !closed && (o == ring.Dropped) != (mode == ring.Drop):
					t.Fatalf("outcome %d; closed %v, mode %d", o, closed, mode)
				case o == ring.Dropped:
					dropped++
				}
				if o == ring.Stopped && len(held) == 0 && size > 0 {
					t.Fatal("an empty ring stops its producer")
				}
			},
			"consume": func(t *rapid.T) {
				into := make([]*int, rapid.IntRange(0, 50).Draw(t, "room"))
				n, _ := b.Consume(into)
				if n != min(len(into), len(held)) {
					t.Fatalf("%d of %d", n, len(held))
				}
				for i, v := range into[:n] {
					if *v != held[i] {
						t.Fatalf("%d, want %d", *v, held[i])
					}
				}
				held = held[n:]
				inNewest = min(inNewest, len(held))
				if b.Waiting() != (len(held) > 0) || b.Len() != len(held) {
					t.Fatalf("waiting %v, length %d, with %d held", b.Waiting(), b.Len(), len(held))
				}
				b.Wake()
			},
			"resize": func(t *rapid.T) {
				n := rapid.IntRange(0, 40).Draw(t, "size")
				if _, err := b.Resize(n); err != nil {
					t.Fatal(err)
				}
				if !closed {
					size, inNewest = n, 0
				}
			},
			"mode": func(t *rapid.T) {
				mode = rapid.SampledFrom([]ring.Mode{ring.Drop, ring.Backpressure}).Draw(t, "mode")
				b.SetMode(mode)
			},
			"close": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") == 0 {
					closed = true
					b.Close()
				}
			},
		})
		if n := b.Counters().Dropped; n != dropped {
			t.Fatalf("%d dropped, counted %d", dropped, n)
		}
	})
}

// exploreBounded goes through the orders in which producers put values, waiting where they are stopped, a consumer takes them, sleeping where there are
// none, and somebody changes the ring.
func exploreBounded(t *testing.T, preemptions, producers, each, size, batch int, change func(b *ring.Bounded[*int]) (wake bool)) {
	t.Helper()
	orders, err := interleave.Explore(preemptions+*deeper, func() ([]func(), func() error) {
		b := newBounded(t, size)
		consumerWoken := false
		woken := make([]bool, producers)
		wakeAll := func() {
			for p := range woken {
				woken[p] = true
			}
		}
		var got []int
		refused := 0 // values that producers were told are not wanted any more
		processes := []func(){func() {
			into := make([]*int, batch)
			for len(got)+refused < producers*each {
				n, created := b.Consume(into)
				for _, v := range into[:n] {
					got = append(got, *v)
				}
				if created && b.Wake() {
					wakeAll()
				}
				if n == 0 && b.Sleep() {
					interleave.Await(func() bool { return consumerWoken || len(got)+refused == producers*each })
					consumerWoken = false
					b.Awake()
				}
			}
		}}
		for p := range producers {
			processes = append(processes, func() {
				for i := range each {
					v := number(p<<8 | i)
				again:
					o, wake := b.Put(v)
					consumerWoken = consumerWoken || wake
					switch o {
					case ring.Stopped:
						interleave.Await(func() bool { return woken[p] })
						woken[p] = false
						goto again
					case ring.Closed, ring.Dropped:
						refused++
					}
				}
			})
		}
		if change != nil {
			processes = append(processes, func() {
				if change(b) {
					wakeAll()
				}
			})
		}
		return processes, func() error {
			if len(got)+refused != producers*each {
				return fmt.Errorf("%d came and %d were refused of %d", len(got), refused, producers*each)
			}
			for p := range producers {
				own := slices.DeleteFunc(slices.Clone(got), func(v int) bool { return v>>8 != p })
				if !slices.IsSorted(own) || len(slices.Compact(own)) != len(own) {
					return fmt.Errorf("of producer %d came %v", p, own)
				}
			}
			return nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d orders", orders)
}

// TestBoundedOrders: nobody waits for ever, and nothing is lost, doubled or overtaken, in any order of the operations.
func TestBoundedOrders(t *testing.T) {
	t.Run("one producer", func(t *testing.T) { exploreBounded(t, 3, 1, 3, 1, 1, nil) })
	t.Run("one producer, two slots", func(t *testing.T) { exploreBounded(t, 3, 1, 4, 2, 2, nil) })
	t.Run("two producers", func(t *testing.T) { exploreBounded(t, 1, 2, 2, 1, 1, nil) })
	t.Run("two producers, three slots", func(t *testing.T) { exploreBounded(t, 1, 2, 3, 3, 2, nil) })
	t.Run("three producers", func(t *testing.T) { exploreBounded(t, 1, 3, 1, 1, 2, nil) })
	for name, change := range map[string]func(b *ring.Bounded[*int]) bool{
		"larger":  func(b *ring.Bounded[*int]) bool { wake, _ := b.Resize(2); return wake },
		"smaller": func(b *ring.Bounded[*int]) bool { wake, _ := b.Resize(1); return wake },
		"closed":  func(b *ring.Bounded[*int]) bool { return b.Close() },
		"to drop": func(b *ring.Bounded[*int]) bool { return b.SetMode(ring.Drop) },
		"from drop": func(b *ring.Bounded[*int]) bool {
			wake := b.SetMode(ring.Drop)
			return b.SetMode(ring.Backpressure) || wake
		},
		"threshold": func(b *ring.Bounded[*int]) bool { return b.SetThreshold(2) },
	} {
		t.Run(name+", one producer", func(t *testing.T) { exploreBounded(t, 2, 1, 3, 1, 1, change) })
		t.Run(name+", two producers", func(t *testing.T) { exploreBounded(t, 1, 2, 2, 2, 1, change) })
	}
}

// bells wake producers that were stopped, and a consumer that sleeps: each has a channel for one wake-up.
type bells []chan struct{}

func newBells(n int) bells {
	b := make(bells, n)
	for i := range b {
		b[i] = make(chan struct{}, 1)
	}
	return b
}

func (b bells) ring() {
	for _, c := range b {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

var (
	cycles = flag.Int("ring.cycles", 1e7, "how often TestStopWake stops and wakes")
	deeper = flag.Int("ring.deeper", 0, "how many more interruptions TestBoundedOrders goes through")
)

// produce puts numbered values until the ring is closed, and answers how many it took. stopped waits until there is room again.
func produce(b *ring.Bounded[uint64], p int, consumer bells, stopped func()) (put uint64) {
	for {
		o, wake := b.Put(uint64(p)<<56 | put)
		if wake {
			consumer.ring()
		}
		switch o {
		case ring.Taken:
			put++
		case ring.Dropped:
			runtime.Gosched()
		case ring.Stopped:
			stopped()
		case ring.Closed:
			return put
		}
	}
}

// taker takes what producers have put, and looks at the numbers.
type taker struct {
	t     *testing.T
	ring  *ring.Bounded[uint64]
	bell  bells    // of the producers
	next  []uint64 // of each producer
	into  []uint64
	taken uint64
}

func newTaker(t *testing.T, b *ring.Bounded[uint64], bell bells, batch int) *taker {
	return &taker{t: t, ring: b, bell: bell, next: make([]uint64, len(bell)), into: make([]uint64, batch)}
}

// take takes a batch and answers how many values it has.
func (x *taker) take() int {
	n, created := x.ring.Consume(x.into)
	for _, v := range x.into[:n] {
		if p := v >> 56; v&(1<<56-1) != x.next[p] {
			x.t.Errorf("value %d of producer %d, want %d", v&(1<<56-1), p, x.next[p])
		} else {
			x.next[p]++
		}
	}
	x.taken += uint64(n)
	if created && x.ring.Wake() {
		x.bell.ring()
	}
	return n
}

// TestStopWake has producers stop and be woken so often; a wake-up that is lost ends it by the watchdog's count.
func TestStopWake(t *testing.T) {
	for _, c := range []struct{ producers, size, share int }{{1, 1, 4}, {1, 2, 2}, {1, 32, 1}, {4, 2, 2}, {8, 1, 1}} {
		want := uint64(*cycles * c.share / 10)
		t.Run(fmt.Sprintf("%d producers, size %d", c.producers, c.size), func(t *testing.T) {
			b, err := ring.NewBounded[uint64](c.size)
			if err != nil {
				t.Fatal(err)
			}
			bell, consumer := newBells(c.producers), newBells(1)
			var all sync.WaitGroup
			var put atomic.Uint64
			for p := range c.producers {
				all.Go(func() {
					watchdog := time.NewTicker(ring.WatchdogAfter)
					defer watchdog.Stop()
					put.Add(produce(b, p, consumer, func() {
						for ticks := 0; ; {
							select {
							case <-bell[p]:
								return
							case <-watchdog.C:
								if ticks++; ticks > 1 && b.Overdue() { // stopped for a whole tick at least
									bell.ring()
								}
							}
						}
					}))
				})
			}
			from := newTaker(t, b, bell, 64)
			for b.Counters().Wakes < want && !t.Failed() {
				if from.take() == 0 && b.Sleep() {
					<-consumer[0]
				}
			}
			if b.Close() {
				bell.ring()
			}
			all.Wait()
			for from.take() > 0 {
			}
			count := b.Counters()
			if from.taken != put.Load() || count.Overdue != 0 {
				t.Errorf("put %d, taken %d; %+v", put.Load(), from.taken, count)
			}
			t.Logf("%d values, %+v", from.taken, count)
		})
	}
}

// TestBoundedChanges changes the ring at random moments under load, the consumer being another one from time to time: everything that was
// taken comes, once and in order.
func TestBoundedChanges(t *testing.T) {
	const producers, changes = 4, 3000
	b, err := ring.NewBounded[uint64](4)
	if err != nil {
		t.Fatal(err)
	}
	bell, consumer := newBells(producers), newBells(1)
	var all sync.WaitGroup
	put := make([]uint64, producers)
	for p := range producers {
		all.Go(func() { put[p] = produce(b, p, consumer, func() { <-bell[p] }) })
	}
	from := newTaker(t, b, bell, 7)
	consume := func(stop *atomic.Bool) {
		for {
			n := from.take()
			if stop.Load() {
				return
			}
			if n == 0 && b.Sleep() {
				<-consumer[0]
			}
		}
	}
	var stop *atomic.Bool
	var attached sync.WaitGroup
	attach := func() {
		stop = new(atomic.Bool)
		stop := stop
		attached.Go(func() { consume(stop) })
	}
	detach := func() {
		stop.Store(true)
		consumer.ring()
		attached.Wait()
		if b.Attach() {
			bell.ring()
		}
	}
	attach()
	rng := rand.New(rand.NewPCG(1, 2))
	for range changes {
		for range rng.IntN(100) {
			runtime.Gosched()
		}
		wake := false
		switch rng.IntN(5) {
		case 0:
			detach()
			attach()
		case 1:
			wake, err = b.Resize(rng.IntN(40))
			if err != nil {
				t.Error(err)
			}
		case 2:
			wake = b.SetThreshold(rng.IntN(20))
		case 3:
			wake = b.SetMode(ring.Drop)
		case 4:
			wake = b.SetMode(ring.Backpressure)
		}
		if wake {
			bell.ring()
		}
	}
	detach()
	if b.Close() {
		bell.ring()
	}
	all.Wait()
	left := b.Len()
	for b.Waiting() {
		from.take()
	}
	for p := range producers {
		if put[p] != from.next[p] {
			t.Errorf("producer %d: %d put, %d came", p, put[p], from.next[p])
		}
	}
	if c := b.Counters(); c.Overdue != 0 {
		t.Errorf("%+v", c)
	}
	t.Logf("%d left at the end, %+v", left, b.Counters())
}

func TestBoundedDoesNotAllocate(t *testing.T) {
	b := newBounded(t, 64)
	v, into := number(1), make([]*int, 32)
	if n := testing.AllocsPerRun(1000, func() {
		for range 20 {
			b.Put(v)
		}
		b.Consume(into)
		b.Wake()
	}); n != 0 {
		t.Errorf("%v allocations for twenty values", n)
	}
}

// BenchmarkBounded is what a value costs, put and taken by the same goroutine, in batches.
func BenchmarkBounded(b *testing.B) {
	r := newBounded(b, 256)
	v, into := number(1), make([]*int, 64)
	for b.Loop() {
		for range 64 {
			r.Put(v)
		}
		r.Consume(into)
		r.Wake()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/value")
}
