package pagepool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vasta-net/vasta/internal/interleave"
)

// heapPool is a pool over memory on the Go heap, where the race detector sees what is done.
func heapPool(t testing.TB, pages, ring int) *Pool {
	t.Helper()
	a, err := NewRegion(make([]byte, pages*PageSize))
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPool(Config{Provider: a, Ring: ring})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestReturnOrders: what two others give back arrives once each, in any order of the operations, with room for both, for one, and for none.
func TestReturnOrders(t *testing.T) {
	for _, ring := range []int{0, 1, 2, 4} {
		t.Run(fmt.Sprint(ring), func(t *testing.T) {
			orders, err := interleave.Explore(3, func() ([]func(), func() error) {
				var r returns
				r.init(ring)
				var got []uint32
				drop := func(what uint32, _ bool) { got = append(got, what) }
				return []func(){
						func() { r.put(1); r.put(2) },
						func() { r.put(11) },
						func() { r.take(drop); r.take(drop) },
					}, func() error {
						r.take(drop)
						slices.Sort(got)
						if !slices.Equal(got, []uint32{1, 2, 11}) {
							return fmt.Errorf("given back: %v", got)
						}
						return nil
					}
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d orders", orders)
		})
	}
}

// TestShutdownOrders: whoever waits for the last page does not sleep over it.
func TestShutdownOrders(t *testing.T) {
	_, err := interleave.Explore(-1, func() ([]func(), func() error) {
		var r returns
		r.init(2)
		back := 0
		return []func(){
			func() { r.put(1) },
			func() {
				r.closing.Store(true)
				for r.take(func(uint32, bool) { back++ }); back == 0; r.take(func(uint32, bool) { back++ }) {
					interleave.Await(func() bool { return len(r.wake) > 0 })
					<-r.wake
				}
			},
		}, func() error { return nil }
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRemoteReturns: pages, fragments and pieces go round between their owner and two others, each with its number in it; the race detector watches.
func TestRemoteReturns(t *testing.T) {
	const rounds = 20_000
	for _, ring := range []int{0, 8, 1024} {
		t.Run(fmt.Sprint(ring), func(t *testing.T) {
			p := heapPool(t, 16, ring)
			type lent struct {
				b    []byte
				mark byte
				back func()
			}
			others := [2]chan lent{make(chan lent, 64), make(chan lent, 64)}
			var all sync.WaitGroup
			for _, c := range others {
				all.Go(func() {
					for l := range c {
						if l.b[0] != l.mark || l.b[len(l.b)-1] != l.mark {
							t.Errorf("what was lent with mark %d has %d and %d", l.mark, l.b[0], l.b[len(l.b)-1])
						}
						l.back()
					}
				})
			}
			lend := func(i int, b []byte, back func()) {
				b[0], b[len(b)-1] = byte(i), byte(i)
				others[i%2] <- lent{b, byte(i), back}
			}
			for i := 0; i < rounds; {
				switch i % 3 {
				case 0:
					if pg, ok := p.Get(); ok {
						lend(i, p.Bytes(pg), func() { p.PutRemote(pg) })
						i++
					}
				case 1:
					if f, ok := p.GetFrag(); ok {
						lend(i, p.FragBytes(f), func() { p.PutFragRemote(f) })
						i++
					}
				case 2:
					if b, ok := p.CutPiece(1000+i%999, i%2 == 0); ok {
						lend(i, p.PieceBytes(b), func() { p.PutRemote(b.Page) })
						i++
					}
				}
				p.Reclaim()
			}
			for _, c := range others {
				close(c)
			}
			if err := p.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			all.Wait()
			s := p.Stats()
			if s.Hold() != s.Release() {
				t.Errorf("%d pages went out, %d came back", s.Hold(), s.Release())
			}
			if (s.RecycleRing > 0) != (ring > 0) || (ring == 0 && s.RecycleRingFull == 0) {
				t.Errorf("with a ring of %d: %+v", ring, s)
			}
		})
	}
}

func TestShutdownNamesWhatIsHeld(t *testing.T) {
	p := heapPool(t, 8, 4)
	p.As(p.Holder("rx ring"))
	a, _ := p.Get()
	p.Get()
	p.As(p.Holder("send queue"))
	b, _ := p.CutPiece(100, false)
	p.Mark(a, p.Holder("send queue"))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	err := p.Shutdown(ctx)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "3 pages, among them 0 fragments (rx ring 1, send queue 2)") ||
		!strings.Contains(err.Error(), "enough") {
		t.Errorf("Shutdown: %v", err)
	}
	p.Put(a)
	p.Put(1)
	done := make(chan error)
	go func() { done <- p.Shutdown(t.Context()) }()
	p.PutRemote(b.Page)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRefill(t *testing.T) {
	p := heapPool(t, 2, 4)
	a, _ := p.Get()
	b, _ := p.Get()
	p.PutRemote(a)
	p.PutRemote(b)
	if c, ok := p.Get(); !ok || c != b {
		t.Errorf("Get = %d, %v after both pages were given back", c, ok)
	}
	s := p.Stats()
	if s.AllocRefill != 1 || s.RecycleRing != 2 || s.AllocSlow != 2 || s.AllocFast != 1 || s.RecycleCached != 0 {
		t.Errorf("counters are %+v", s)
	}
}

func TestRemotePutDoesNotAllocate(t *testing.T) {
	p := heapPool(t, 4, 4)
	if n := testing.AllocsPerRun(100, func() {
		pg, _ := p.Get()
		b, _ := p.CutPiece(1500, true)
		p.PutRemote(pg)
		p.PutRemote(b.Page)
		p.Reclaim()
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkPiece(b *testing.B) {
	p := heapPool(b, 16, 0)
	var ring [256]Piece
	for i := range ring {
		ring[i], _ = p.CutPiece(1536, false)
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		p.Put(ring[i].Page)
		ring[i], _ = p.CutPiece(1536, false)
		i = (i + 1) % len(ring)
	}
}

func BenchmarkPutRemote(b *testing.B) {
	p := heapPool(b, 16, 64)
	b.ReportAllocs()
	for b.Loop() {
		pg, _ := p.Get()
		p.PutRemote(pg)
	}
}
