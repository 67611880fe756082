package tcp

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vasta-net/vasta/pagepool"
	"pgregory.net/rapid"
)

func newPool(t failer, pages int) *pagepool.Pool {
	p, err := pagepool.New(pages * pagepool.PageSize)
	if err != nil {
		t.Fatalf("make a pool: %v", err)
	}
	return p
}

// paged is a page of a send queue: where its bytes begin in the stream and in the page, and how many there are.
type paged struct{ from, off, n int64 }

// The queue of what the guest has not acknowledged, against a slice of bytes. What begins within a page ends with it if that is asked for, and in front of what begins with one is room.
func TestSendQueueAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := newPool(t, 100)
		q := sendQueue{base: 1, tail: 1}
		var model []byte // from q.base on
		var pages []paged
		within := func(at int64) (p paged, ok bool) {
			i := slices.IndexFunc(pages, func(p paged) bool { return p.from <= at && at < p.from+p.n })
			if i < 0 {
				return p, false
			}
			return pages[i], true
		}
		add := func(n int) []byte { return fromHost.at(q.tail-1, n) }
		for range rapid.IntRange(0, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "operation") {
			case 0:
				n := rapid.SampledFrom([]int{1, 100, 9000, 65408, 65536}).Draw(t, "page of")
				off := min(rapid.SampledFrom([]int{0, 116, 128}).Draw(t, "behind"), pagepool.PageSize-n)
				page, ok := pool.Get()
				if !ok {
					continue
				}
				copy(pool.Bytes(page)[off:], add(n))
				model = append(model, add(n)...)
				pages = append(pages, paged{q.tail, int64(off), int64(n)})
				q.addPage(page, off, n)
			case 1:
				b := bytes.Clone(add(rapid.IntRange(0, 20000).Draw(t, "copy of")))
				n := q.addSmall(pool, b)
				if n < len(b) && pool.Free() > 0 {
					t.Fatalf("%d of %d bytes found room with %d pages free", n, len(b), pool.Free())
				}
				model = append(model, b[:n]...)
			case 2:
				n := rapid.OneOf(rapid.IntRange(0, len(model)), rapid.IntRange(0, min(len(model), 70000))).Draw(t, "release")
				q.release(pool, q.base+int64(n))
				model = model[n:]
			case 3:
				at := rapid.IntRange(0, len(model)).Draw(t, "from")
				n := rapid.IntRange(0, len(model)-at).Draw(t, "bytes")
				limit := rapid.IntRange(1, maxPieces).Draw(t, "pieces")
				from := q.base + int64(at)
				align := rapid.Bool().Draw(t, "align")
				b, got, room := q.pieces(pool, nil, from, n, limit, align)
				p, inPage := within(from)
				starts := from == p.from || at == 0
				if align && inPage && !starts {
					n, limit = min(n, int(p.from+p.n-from)), 1
				}
				if len(b) > limit || got < n && len(b) < limit {
					t.Fatalf("%d of %d bytes in %d pieces of %d", got, n, len(b), limit)
				}
				want := 0
				if inPage && starts && got > 0 {
					want = int(p.off + from - p.from)
				}
				if room != want {
					t.Fatalf("room for %d bytes in front of those at %d, of a page of %+v; want %d", room, from, p, want)
				}
				if !bytes.Equal(bytes.Join(b, nil), model[at:at+got]) {
					t.Fatalf("wrong bytes at %d, %d of them", at, got)
				}
			}
			if q.tail-q.base != int64(len(model)) {
				t.Fatalf("[%d, %d) is kept, %d bytes in the model", q.base, q.tail, len(model))
			}
		}
		q.clear(pool)
		if err := pool.Close(); err != nil {
			t.Fatalf("%v", err)
		}
	})
}

// A queue that was long does not keep a long ring when it is empty.
func TestSendQueueShrinks(t *testing.T) {
	pool := newPool(t, 200)
	q := sendQueue{base: 1, tail: 1}
	for range 200 {
		page, ok := pool.Get()
		if !ok {
			t.Fatal("no page left")
		}
		q.addPage(page, 0, 10)
	}
	q.release(pool, q.tail)
	if len(q.chunks) > keepChunks {
		t.Errorf("a ring of %d chunks is kept", len(q.chunks))
	}
	if n := q.addSmall(pool, nil); n != 0 || q.n != 0 {
		t.Errorf("nothing was added as %d bytes", n)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
}

// What waits for the host, against a sliding window of bytes of which some are there.
func TestHoldAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const window = 300000
		env := Env{Hold: newPool(t, 8)}
		var h hold
		low := rapid.SampledFrom([]int64{1, 4095, 4096, 1<<32 - 5000, 1 << 40}).Draw(t, "start")
		edge := low + 10000
		there := map[int64]bool{} // stream offsets
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "operation") {
			case 0, 1:
				from := rapid.Int64Range(low, edge-1).Draw(t, "from")
				n := rapid.Int64Range(1, min(edge-from, 65536)).Draw(t, "bytes")
				h.reserve(&env, low, edge)
				got := int64(h.write(env.Hold, from, fromGuest.at(from, int(n))))
				if got < n && env.Hold.Free() > 0 {
					t.Fatalf("%d of %d bytes found room", got, n)
				}
				for i := range got {
					there[from+i] = true
				}
			case 2:
				least := edge
				if len(there) == 0 {
					least = low + 1 // as of another connection that takes over the ring
				}
				edge = rapid.Int64Range(least, low+window).Draw(t, "edge")
			case 3:
				n := int64(0)
				for there[low+n] {
					n++
				}
				if n == 0 {
					continue
				}
				n = rapid.Int64Range(1, n).Draw(t, "take")
				got := bytes.Join(h.pieces(env.Hold, nil, low, low+n, 100), nil)
				for at := 0; at < len(got); at += patternPeriod {
					k := min(len(got)-at, patternPeriod)
					if !bytes.Equal(got[at:at+k], fromGuest.at(low+int64(at), k)) {
						t.Fatalf("wrong bytes at %d", low+int64(at))
					}
				}
				n = int64(len(got))
				for i := range n {
					delete(there, low+i)
				}
				h.release(&env, low, low+n, len(there) == 0)
				low += n
				edge = max(edge, low+1)
			}
			frags := map[int64]bool{}
			for off := range there {
				frags[off/pagepool.FragSize] = true
			}
			if n := env.Hold.FragsInUse(); n < len(frags) || n > len(frags)+1 || n != h.n {
				t.Fatalf("%d fragments in use, %d counted, %d hold something", n, h.n, len(frags))
			}
		}
		h.clear(&env)
		if err := env.Hold.Close(); err != nil {
			t.Fatalf("%v", err)
		}
	})
}

// A ring that was outgrown is used again by the next connection, which finds nothing in it.
func TestRingsComeBackEmpty(t *testing.T) {
	env := Env{Hold: newPool(t, 2)}
	var first, second hold
	first.reserve(&env, 1, 10000)
	small := len(first.ring)
	first.write(env.Hold, 1, fromGuest.at(0, 9000))
	first.reserve(&env, 1, 100000)
	if len(first.ring) == small {
		t.Fatal("the ring did not grow")
	}
	second.reserve(&env, 1, 10000)
	for i, s := range second.ring {
		if s != 0 {
			t.Errorf("slot %d of a ring that was used before holds fragment %d", i, s-1)
		}
	}
	if got := bytes.Join(first.pieces(env.Hold, nil, 1, 9001, 10), nil); !bytes.Equal(got, fromGuest.at(0, 9000)) {
		t.Error("wrong bytes after the ring has grown")
	}
	first.clear(&env)
	second.clear(&env)
	if err := env.Hold.Close(); err != nil {
		t.Error(err)
	}
}
