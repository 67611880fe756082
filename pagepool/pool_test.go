package pagepool

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// newPool makes a pool whose arena goes with the test, whatever is held by then.
func newPool(t interface {
	Error(...any)
	Fatal(...any)
	Cleanup(func())
}, pages int) *Pool {
	p, err := New(pages * PageSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.mem == nil {
			return // closed by the test
		}
		if err := p.provider.(*Arena).close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// resident is the memory in bytes that the system has behind the arena.
func resident(t *testing.T, p *Pool) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(p.Fd(), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// The model knows who holds what; every held page and fragment carries its holder's mark in its first
// and last byte, so that memory handed out twice shows.
func TestPoolAgainstModel(t *testing.T) {
	const pages = 6
	rapid.Check(t, func(t *rapid.T) {
		p := newPool(t, pages)
		type held struct {
			refs int
			mark byte
		}
		whole, frags := map[Page]*held{}, map[Frag]byte{}
		var pageList []Page
		var fragList []Frag
		mark := byte(0)
		write := func(b []byte) byte {
			mark++
			b[0], b[len(b)-1] = mark, mark
			return mark
		}
		cut := func() map[Page]int {
			c := map[Page]int{}
			for f := range frags {
				c[f.Page()]++
			}
			return c
		}
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				free := pages - len(whole) - len(cut())
				pg, ok := p.Get()
				if ok != (free > 0) {
					t.Fatalf("Get = %v with %d pages free", ok, free)
				}
				if !ok {
					return
				}
				if whole[pg] != nil || cut()[pg] != 0 {
					t.Fatalf("page %d was handed out twice", pg)
				}
				whole[pg] = &held{1, write(p.Bytes(pg))}
				pageList = append(pageList, pg)
			},
			"ref": func(t *rapid.T) {
				if len(pageList) > 0 {
					pg := rapid.SampledFrom(pageList).Draw(t, "page")
					p.Ref(pg)
					whole[pg].refs++
				}
			},
			"put": func(t *rapid.T) {
				if len(pageList) == 0 {
					return
				}
				i := rapid.IntRange(0, len(pageList)-1).Draw(t, "page")
				pg := pageList[i]
				p.Put(pg)
				if whole[pg].refs--; whole[pg].refs > 0 {
					return
				}
				delete(whole, pg)
				pageList = append(pageList[:i], pageList[i+1:]...)
				if next, ok := p.Get(); !ok || next != pg {
					t.Fatalf("page %d follows page %d, which was put back last", next, pg)
				}
				p.Put(pg)
			},
			"get fragment": func(t *rapid.T) {
				c := cut()
				room := pages - len(whole) - len(c)
				for _, n := range c {
					room += fragsPerPage - n
				}
				f, ok := p.GetFrag()
				if ok != (room > 0) {
					t.Fatalf("GetFrag = %v with room for %d", ok, room)
				}
				if !ok {
					return
				}
				if _, taken := frags[f]; taken || whole[f.Page()] != nil {
					t.Fatalf("fragment %d was handed out twice", f)
				}
				if len(c) > 0 && c[f.Page()] == 0 && room > pages-len(whole)-len(c) && hasRoom(c) {
					t.Fatalf("another page was cut for fragment %d", f)
				}
				frags[f] = write(p.FragBytes(f))
				fragList = append(fragList, f)
			},
			"put fragment": func(t *rapid.T) {
				if len(fragList) == 0 {
					return
				}
				i := rapid.IntRange(0, len(fragList)-1).Draw(t, "fragment")
				p.PutFrag(fragList[i])
				delete(frags, fragList[i])
				fragList = append(fragList[:i], fragList[i+1:]...)
			},
			"trim": func(t *rapid.T) {
				p.Trim()
				if n := p.Trim(); n != 0 {
					t.Fatalf("a second Trim released %d pages", n)
				}
			},
			"": func(t *rapid.T) {
				inUse := len(whole) + len(cut())
				if p.InUse() != inUse || p.Free() != pages-inUse || p.FragsInUse() != len(frags) {
					t.Fatalf("in use %d, free %d, fragments %d; want %d, %d, %d",
						p.InUse(), p.Free(), p.FragsInUse(), inUse, pages-inUse, len(frags))
				}
				for pg, h := range whole {
					if b := p.Bytes(pg); len(b) != PageSize || cap(b) != PageSize || b[0] != h.mark || b[PageSize-1] != h.mark {
						t.Fatalf("page %d was overwritten", pg)
					}
				}
				for f, m := range frags {
					if b := p.FragBytes(f); len(b) != FragSize || cap(b) != FragSize || b[0] != m || b[FragSize-1] != m {
						t.Fatalf("fragment %d was overwritten", f)
					}
				}
			},
		})
	})
}

func hasRoom(cut map[Page]int) bool {
	for _, n := range cut {
		if n < fragsPerPage {
			return true
		}
	}
	return false
}

func TestTrimReturnsMemory(t *testing.T) {
	p := newPool(t, 64)
	if n := resident(t, p); n != 0 {
		t.Errorf("%d bytes are resident before any page was touched", n)
	}
	var held []Page
	for range 40 {
		pg, _ := p.Get()
		b := p.Bytes(pg)
		for i := 0; i < len(b); i += FragSize {
			b[i] = 1
		}
		held = append(held, pg)
	}
	if n := resident(t, p); n != 40*PageSize {
		t.Errorf("%d bytes are resident with 40 pages touched, want %d", n, 40*PageSize)
	}
	for _, pg := range held[1:] {
		p.Put(pg)
	}
	if n := p.Trim(); n != 39 {
		t.Errorf("Trim released %d pages, want 39", n)
	}
	if n := resident(t, p); n != PageSize {
		t.Errorf("%d bytes are resident with one page held, want %d", n, PageSize)
	}
	if p.Bytes(held[0])[0] != 1 {
		t.Error("Trim took the memory of a page that is held")
	}
	before := p.Stats()
	if pg, _ := p.Get(); p.Bytes(pg)[0] != 0 {
		t.Error("a trimmed page still has its old contents")
	}
	after := p.Stats()
	if after.AllocSlow != before.AllocSlow+1 || after.AllocFast != before.AllocFast || after.Released != 39 {
		t.Errorf("counters before and after: %+v, %+v", before, after)
	}
}

func TestStats(t *testing.T) {
	p := newPool(t, 2)
	a, _ := p.Get()
	p.Put(a)
	a, _ = p.Get()
	f, _ := p.GetFrag()
	if _, ok := p.Get(); ok {
		t.Error("got a third page of two")
	}
	p.PutFrag(f)
	b, _ := p.Get()
	if _, ok := p.GetFrag(); ok {
		t.Error("got a fragment with both pages held")
	}
	p.Put(a)
	p.Put(b)
	want := Stats{AllocFast: 2, AllocSlow: 2, AllocEmpty: 2, RecycleCached: 4, Cut: 1, FragAlloc: 1, FragEmpty: 1, PeakPages: 2, PeakFrags: 1}
	if p.Stats() != want {
		t.Errorf("counters are %+v, want %+v", p.Stats(), want)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	p := newPool(t, 4)
	pg, _ := p.Get()
	f, _ := p.GetFrag()
	p.Ref(pg)
	err := p.Close()
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "2 pages, among them 1 fragments (unnamed 2); the first is page 0, held, with 2 references") {
		t.Errorf("Close with a page and a fragment held: %v", err)
	}
	p.Bytes(pg)[0] = 1 // still mapped
	p.Put(pg)
	p.Put(pg)
	if err = p.Close(); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "cut") {
		t.Errorf("Close with a fragment held: %v", err)
	}
	p.PutFrag(f)
	fd := p.Fd()
	if err = p.Close(); err != nil {
		t.Errorf("Close with nothing held: %v", err)
	}
	if _, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the memfd is still open: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, bytes := range []int{-1, 0, PageSize - 1, (maxPages + 1) * PageSize} {
		if _, err := New(bytes); err == nil || !strings.Contains(err.Error(), "must be between") {
			t.Errorf("New(%d): %v", bytes, err)
		}
	}
}

func TestArenaIsSealed(t *testing.T) {
	p := newPool(t, 2)
	for _, size := range []int64{0, PageSize, 3 * PageSize} {
		if err := unix.Ftruncate(p.Fd(), size); !errors.Is(err, unix.EPERM) {
			t.Errorf("resizing the arena to %d bytes: %v, want EPERM", size, err)
		}
	}
}

func TestMisusePanics(t *testing.T) {
	p := newPool(t, 4)
	free, _ := p.Get()
	p.Put(free)
	frag, _ := p.GetFrag()
	other := frag + 1
	for _, c := range []struct {
		name, want string
		do         func()
	}{
		{"double put", "Put of page 0, which is cut", func() { p.Put(free) }},
		{"put of a cut page", "which is cut into fragments", func() { p.Put(frag.Page()) }},
		{"bytes of a free page", "Bytes of page 3, which is free", func() { p.Bytes(3) }},
		{"ref of a free page", "Ref of page 3, which is free", func() { p.Ref(3) }},
		{"put of a free page", "Put of page 3, which is free", func() { p.Put(3) }},
		{"put of a free fragment", "PutFrag of fragment 1 of page 0, which is free", func() { p.PutFrag(other) }},
		{"bytes of a free fragment", "FragBytes of fragment 1 of page 0", func() { p.FragBytes(other) }},
		{"put of a fragment of a whole page", "PutFrag of fragment 0 of page 3", func() { p.PutFrag(3 * fragsPerPage) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer func() {
				if r, _ := recover().(string); !strings.Contains(r, c.want) {
					t.Errorf("panicked with %q, want %q", r, c.want)
				}
			}()
			c.do()
		})
	}
}

func TestNoAllocations(t *testing.T) {
	p := newPool(t, 64)
	if n := testing.AllocsPerRun(100, func() { cycle(p) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	if n := testing.AllocsPerRun(10, func() { cycle(p); p.Trim() }); n != 0 {
		t.Errorf("%v allocations with Trim, want 0", n)
	}
}

// cycle takes and gives back pages and fragments.
func cycle(p *Pool) {
	var pages [8]Page
	var frags [20]Frag
	for i := range pages {
		pages[i], _ = p.Get()
	}
	for i := range frags {
		frags[i], _ = p.GetFrag()
	}
	for _, pg := range pages {
		p.Put(pg)
	}
	for _, f := range frags {
		p.PutFrag(f)
	}
}

func BenchmarkGetPut(b *testing.B) {
	p := newPool(b, 64)
	b.ReportAllocs()
	for b.Loop() {
		pg, _ := p.Get()
		p.Put(pg)
	}
}

func BenchmarkFrag(b *testing.B) {
	p := newPool(b, 64)
	p.GetFrag()
	b.ReportAllocs()
	for b.Loop() {
		f, _ := p.GetFrag()
		p.PutFrag(f)
	}
}

func BenchmarkTrimNothing(b *testing.B) {
	p := newPool(b, 1024)
	b.ReportAllocs()
	for b.Loop() {
		p.Trim()
	}
}

// TestCutPiecesInARow: pieces that are taken together lie where they would lie if they were taken one by one.
func TestCutPiecesInARow(t *testing.T) {
	for _, stretch := range []bool{false, true} {
		for _, n := range []int{1, 63, 64, 65, 128, 1530, 4096, 20000, 40000, PageSize} {
			for _, batch := range []int{1, 7, 32, 300} {
				together, single := newPool(t, 64), newPool(t, 64)
				for round := range 3 {
					got, want := make([]Piece, batch), make([]Piece, batch)
					k := together.CutPieces(got, n, stretch)
					for i := range want[:k] {
						b, ok := single.CutPiece(n, stretch)
						if want[i] = b; !ok || got[i] != b {
							t.Fatalf("%d bytes, stretch %v, round %d: piece %d is %+v, one by one %+v", n, stretch, round, i, got[i], b)
						}
					}
					if together.Stats() != single.Stats() && k == batch {
						t.Errorf("%d bytes: %+v, one by one %+v", n, together.Stats(), single.Stats())
					}
					for i := 0; i < k; { // half of them in runs, as a queue gives them back
						j := i
						for j < k && got[j].Page == got[i].Page {
							j++
						}
						together.PutRefs(got[i].Page, j-i)
						i = j
					}
					single.PutPieces(want[:k])
					a, b := together.Stats(), single.Stats()
					if together.InUse() != single.InUse() || a.Release() != b.Release() || a.ReleasedRefcnt != b.ReleasedRefcnt {
						t.Errorf("%d bytes: %d in use, one by one %d; %+v, %+v", n, together.InUse(), single.InUse(), a, b)
					}
				}
			}
		}
	}
}

// TestPutRefsOfMore: more references cannot be given back than there are.
func TestPutRefsOfMore(t *testing.T) {
	p := newPool(t, 2)
	pg, _ := p.Get()
	p.Ref(pg)
	defer func() {
		if recover() == nil {
			t.Error("three of two references were given back")
		}
	}()
	p.PutRefs(pg, 3)
}
