package ring_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/vasta-net/vasta/internal/interleave"
	"github.com/vasta-net/vasta/ring"
	"pgregory.net/rapid"
)

func newRing(t testing.TB, bytes, records int) *ring.Ring {
	t.Helper()
	r, err := ring.New(make([]byte, bytes), records)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// record is n bytes that tell which record they are.
func record(id byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = id ^ byte(i*7)
	}
	return b
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		bytes, records int
		ok             bool
	}{{64, 1, true}, {4096, 8, true}, {0, 8, false}, {32, 8, false}, {96, 8, false}, {4096, 0, false}, {4096, 3, false}, {4096, 1 << 21, false}} {
		if _, err := ring.New(make([]byte, c.bytes), c.records); (err == nil) != c.ok {
			t.Errorf("%d bytes, %d records: %v", c.bytes, c.records, err)
		}
	}
}

// TestFull: room ends with the records or with the memory, and a record that does not fit before the end of the memory begins anew.
func TestFull(t *testing.T) {
	r := newRing(t, 8*ring.Block, 4)
	put := func(id byte, blocks int) bool {
		b := record(id, blocks*ring.Block)
		ok, wake := r.Put(b[:10], [][]byte{b[10:20], nil, b[20:]})
		if wake {
			t.Error("nobody sleeps")
		}
		return ok
	}
	take := func(id byte, blocks int) {
		t.Helper()
		if b, ok := r.Take(); !ok || !bytes.Equal(b, record(id, blocks*ring.Block)) {
			t.Fatalf("record %d: %v, %d bytes", id, ok, len(b))
		}
	}
	if put(9, 9) {
		t.Error("a record larger than the ring was taken")
	}
	for i := range 4 {
		if !put(byte(i), 1) {
			t.Errorf("record %d of 4 refused", i)
		}
	}
	if put(4, 1) {
		t.Error("five records in a ring for four")
	}
	for i := range 4 {
		take(byte(i), 1)
	}
	if put(4, 1) {
		t.Error("room that was not released")
	}
	r.Release()
	if !put(5, 3) || !put(6, 3) { // blocks 4 to 6; the last one is left out, then 0 to 2
		t.Error("refused, with half of the memory free")
	}
	if put(7, 2) {
		t.Error("more than there is memory")
	}
	take(5, 3)
	take(6, 3)
	r.Release()
	if r.Waiting() {
		t.Error("something is left")
	}
}

// TestSleepAndWake: exactly one of those that put something while the consumer sleeps has to wake it.
func TestSleepAndWake(t *testing.T) {
	r := newRing(t, 4096, 8)
	if !r.Sleep() {
		t.Fatal("an empty ring does not let its consumer sleep")
	}
	for i, want := range []bool{true, false} {
		if ok, wake := r.Put([]byte{1}, nil); !ok || wake != want {
			t.Errorf("put %d: %v, wake %v", i, ok, wake)
		}
	}
	if r.Sleep() {
		t.Error("the consumer may sleep beside a record")
	}
	r.Take()
	r.Take()
	r.Release()
	if !r.Sleep() {
		t.Error("the consumer may not sleep")
	}
	r.Awake()
	if _, wake := r.Put([]byte{1}, nil); wake {
		t.Error("a consumer that is awake is woken")
	}
}

// TestModel: a ring holds what was put, in order, as long as it is not released; Trim takes memory that holds nothing.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := make([]byte, 16*ring.Block)
		r, err := ring.New(mem, 8)
		if err != nil {
			t.Fatal(err)
		}
		var queued [][]byte
		taken := 0 // of queued
		id := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				id++
				b := record(id, rapid.IntRange(1, 20*ring.Block).Draw(t, "size"))
				cut := rapid.IntRange(0, len(b)).Draw(t, "cut")
				ok, _ := r.Put(b[:cut], [][]byte{b[cut:]})
				if ok {
					queued = append(queued, b)
				} else if len(queued) == 0 && len(b) <= 8*ring.Block {
					t.Fatalf("an empty ring refuses %d bytes", len(b))
				}
			},
			"take": func(t *rapid.T) {
				b, ok := r.Take()
				if ok != (taken < len(queued)) || ok && !bytes.Equal(b, queued[taken]) {
					t.Fatalf("Take: %v with %d of %d taken, or other bytes", ok, taken, len(queued))
				}
				if ok {
					taken++
				}
			},
			"release": func(*rapid.T) {
				r.Release()
				queued, taken = queued[taken:], 0
			},
			"trim": func(t *rapid.T) {
				if len(queued) > 0 {
					t.Skip("only an empty ring is trimmed")
				}
				r.Trim(func(m []byte) { clear(m) })
			},
		})
	})
}

// TestTrim gives all of the memory back, once.
func TestTrim(t *testing.T) {
	mem := make([]byte, 16*ring.Block)
	r, err := ring.New(mem, 8)
	if err != nil {
		t.Fatal(err)
	}
	freed := 0
	free := func(m []byte) {
		freed += len(m)
		for i := range m {
			m[i] = 0
		}
	}
	if r.Trim(free); freed != 0 {
		t.Errorf("%d bytes of a ring that was not used", freed)
	}
	for i := range 3 {
		if ok, _ := r.Put(record(byte(i), 5*ring.Block), nil); !ok {
			t.Fatal("refused")
		}
		r.Take()
		r.Release()
	}
	if r.Trim(free); freed < len(mem) || slices.ContainsFunc(mem, func(b byte) bool { return b != 0 }) {
		t.Errorf("%d bytes freed of %d", freed, len(mem))
	}
	freed = 0
	if r.Trim(free); freed != 0 {
		t.Errorf("%d bytes freed once more", freed)
	}
	if ok, _ := r.Put(record(1, 8*ring.Block), nil); !ok {
		t.Error("the trimmed ring is full")
	}
}

// explore goes through the orders in which producers put records into a small ring and a consumer takes them, sleeping whenever it finds
// nothing. Each producer puts its records and repeats what is refused once the consumer has gone on.
func explore(t *testing.T, preemptions, producers, each, blocks, records int) {
	t.Helper()
	orders, err := interleave.Explore(preemptions, func() ([]func(), func() error) {
		r := newRing(t, blocks*ring.Block, records)
		woken, released := false, 0
		var got []byte
		var wrong error
		processes := []func(){func() {
			for len(got) < producers*each {
				b, ok := r.Take()
				if !ok {
					if r.Sleep() {
						interleave.Await(func() bool { return woken })
						woken = false
						r.Awake()
					}
					continue
				}
				id := b[0]
				if !bytes.Equal(b, record(id, ring.Block+1)) {
					wrong = fmt.Errorf("record %d has other bytes", id)
				}
				r.Waiting() // an operation, at which it is interrupted: the record is still borrowed
				if !bytes.Equal(b, record(id, ring.Block+1)) {
					wrong = fmt.Errorf("record %d is overwritten before it is released", id)
				}
				got = append(got, id)
				r.Release()
				released++
			}
		}}
		for p := range producers {
			processes = append(processes, func() {
				for i := range each {
					for {
						before := released
						ok, wake := r.Put(record(byte(p<<4|i), ring.Block+1), nil)
						if wake {
							woken = true
						}
						if ok {
							break
						}
						interleave.Await(func() bool { return released > before })
					}
				}
			})
		}
		return processes, func() error {
			for p := range producers {
				var own []byte
				for _, id := range got {
					if int(id>>4) == p {
						own = append(own, id)
					}
				}
				if len(own) != each || !slices.IsSorted(own) {
					return fmt.Errorf("of producer %d came %v", p, own)
				}
			}
			return wrong
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d orders", orders)
}

// TestOrders: nothing is lost, doubled, mixed up or left behind, in any order of the operations.
func TestOrders(t *testing.T) {
	t.Run("one producer", func(t *testing.T) { explore(t, -1, 1, 1, 4, 2) })
	t.Run("one producer, two records", func(t *testing.T) { explore(t, 4, 1, 2, 4, 2) })
	t.Run("one producer, full", func(t *testing.T) { explore(t, 3, 1, 3, 4, 8) })
	t.Run("two producers", func(t *testing.T) { explore(t, 3, 2, 1, 4, 2) })
	t.Run("two producers, room for one", func(t *testing.T) { explore(t, 3, 2, 1, 16, 1) })
	t.Run("two producers, full", func(t *testing.T) { explore(t, 2, 2, 2, 4, 2) })
	t.Run("three producers", func(t *testing.T) { explore(t, 2, 3, 1, 8, 4) })
}

// TestProducers puts from several goroutines; the race detector watches. What is refused is put again.
func TestProducers(t *testing.T) {
	const producers, each = 4, 5000
	r := newRing(t, 64*ring.Block, 16)
	woken := make(chan struct{}, 1)
	var all sync.WaitGroup
	for p := range producers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(p), 1))
			for i := range each {
				b := record(byte(p), 8+rng.IntN(20*ring.Block))
				binary.LittleEndian.PutUint32(b, uint32(p))
				binary.LittleEndian.PutUint32(b[4:], uint32(i))
				for {
					ok, wake := r.Put(b[:8], [][]byte{b[8:]})
					if wake {
						woken <- struct{}{}
					}
					if ok {
						break
					}
					runtime.Gosched()
				}
			}
		})
	}
	next := make([]uint32, producers)
	for n := 0; n < producers*each; {
		b, ok := r.Take()
		if !ok {
			r.Release()
			if r.Sleep() {
				<-woken
			}
			continue
		}
		p, i := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		if i != next[p] || !bytes.Equal(b[8:], record(byte(p), len(b))[8:]) {
			t.Fatalf("record %d of producer %d, want number %d; or other bytes", i, p, next[p])
		}
		next[p]++
		if n++; n%3 == 0 {
			r.Release()
		}
		if n%100 == 0 {
			r.Release()
			r.Trim(func(m []byte) { clear(m) })
		}
	}
	all.Wait()
}

func TestPutDoesNotAllocate(t *testing.T) {
	r := newRing(t, 1<<20, 16)
	head, frame := make([]byte, ring.Block), [][]byte{make([]byte, 65000)}
	if n := testing.AllocsPerRun(1000, func() {
		r.Put(head, frame)
		r.Take()
		r.Release()
	}); n != 0 {
		t.Errorf("%v allocations for a record", n)
	}
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{66, 65000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := newRing(b, 1<<20, 16)
			head, frame := make([]byte, ring.Block), [][]byte{make([]byte, size)}
			b.SetBytes(int64(size))
			for b.Loop() {
				r.Put(head, frame)
				r.Take()
				r.Release()
			}
		})
	}
}
