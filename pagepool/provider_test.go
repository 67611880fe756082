package pagepool

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// strict is a provider that sees to what a pool does with it.
type strict struct {
	*Arena
	out    map[Page]bool
	frees  int
	refuse bool
	wrong  error
}

func (s *strict) Alloc(pages []Page) int {
	if s.refuse {
		return 0
	}
	n := s.Arena.Alloc(pages)
	for _, pg := range pages[:n] {
		s.out[pg] = true
	}
	return n
}

func (s *strict) Free(pages []Page) int {
	for i, pg := range pages {
		if !s.out[pg] || i > 0 && pages[i-1] >= pg {
			s.wrong = fmt.Errorf("page %d is freed twice, or out of order", pg)
		}
		delete(s.out, pg)
		s.frees++
	}
	return s.Arena.Free(pages)
}

// backEnd is a Mapper that counts.
type backEnd struct{ maps, unmaps, bytes int }

func (b *backEnd) Map(mem []byte, fd int) (uint64, error) {
	b.maps++
	b.bytes = len(mem)
	if fd < 0 {
		return 0, errors.New("no descriptor")
	}
	return 0x7000_0000_0000, nil
}

func (b *backEnd) Unmap(addr uint64, mem []byte) error {
	b.unmaps++
	if addr != 0x7000_0000_0000 || len(mem) != b.bytes {
		return fmt.Errorf("unmap of %d bytes at %#x", len(mem), addr)
	}
	return nil
}

// TestPoolsShareAProvider: two pools on one arena, with pieces of any length, references, trims and a provider that refuses. Each piece carries its mark;
// every page goes back to the provider once.
func TestPoolsShareAProvider(t *testing.T) {
	const pages = 8
	rapid.Check(t, func(t *rapid.T) {
		a, err := NewRegion(make([]byte, pages*PageSize))
		if err != nil {
			t.Fatal(err)
		}
		from := &strict{Arena: a, out: map[Page]bool{}}
		type held struct {
			Piece
			refs int
			mark byte
		}
		var pools [2]*Pool
		var pieces [2][]*held
		for i := range pools {
			if pools[i], err = NewPool(Config{Provider: from, Pages: 5, Ring: 4}); err != nil {
				t.Fatal(err)
			}
		}
		mark := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"cut": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "pool")
				n := rapid.OneOf(rapid.IntRange(1, PageSize), rapid.IntRange(1, 2000)).Draw(t, "bytes")
				stretch := rapid.Bool().Draw(t, "stretch")
				b, ok := pools[i].CutPiece(n, stretch)
				if !ok {
					if pools[i].InUse() < 5 && from.Available() > 0 && !from.refuse {
						t.Fatalf("no piece with %d pages in use and %d available", pools[i].InUse(), from.Available())
					}
					return
				}
				if int(b.Len) < n || (!stretch && int(b.Len) != n) || b.Off%pieceAlign != 0 || stretch && b.Len > uint32(n) && b.Off+b.Len != PageSize {
					t.Fatalf("a piece of %d (stretch %v) is %+v", n, stretch, b)
				}
				mark++
				m := pools[i].PieceBytes(b)
				m[0], m[len(m)-1] = mark, mark
				pieces[i] = append(pieces[i], &held{b, 1, mark})
			},
			"ref": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "pool")
				if len(pieces[i]) > 0 {
					h := rapid.SampledFrom(pieces[i]).Draw(t, "piece")
					pools[i].Ref(h.Page)
					h.refs++
				}
			},
			"put": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "pool")
				if len(pieces[i]) == 0 {
					return
				}
				k := rapid.IntRange(0, len(pieces[i])-1).Draw(t, "piece")
				h := pieces[i][k]
				if rapid.Bool().Draw(t, "remote") {
					pools[i].PutRemote(h.Page)
				} else {
					pools[i].Put(h.Page)
				}
				if h.refs--; h.refs == 0 {
					pieces[i] = append(pieces[i][:k], pieces[i][k+1:]...)
				}
			},
			"trim":    func(t *rapid.T) { pools[rapid.IntRange(0, 1).Draw(t, "pool")].Trim() },
			"refuse":  func(*rapid.T) { from.refuse = !from.refuse },
			"reclaim": func(t *rapid.T) { pools[rapid.IntRange(0, 1).Draw(t, "pool")].Reclaim() },
			"": func(t *rapid.T) {
				if from.wrong != nil {
					t.Fatal(from.wrong)
				}
				for i, p := range pools {
					for _, h := range pieces[i] {
						if m := p.PieceBytes(h.Piece); m[0] != h.mark || m[len(m)-1] != h.mark {
							t.Fatalf("piece %+v was overwritten", h.Piece)
						}
					}
					if s := p.Stats(); int(s.Hold()-s.Release()) != p.InUse() {
						t.Fatalf("%d held less %d released, %d in use", s.Hold(), s.Release(), p.InUse())
					}
				}
			},
		})
		for i, p := range pools {
			for _, h := range pieces[i] {
				for range h.refs {
					p.Put(h.Page)
				}
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if len(from.out) != 0 || from.wrong != nil {
			t.Fatalf("%d pages were not given back; %v", len(from.out), from.wrong)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMappedOnce(t *testing.T) {
	a, err := NewArena(8 * PageSize)
	if err != nil {
		t.Fatal(err)
	}
	var back backEnd
	if err := a.Map(&back); err != nil {
		t.Fatal(err)
	}
	if err := a.Map(&back); err == nil {
		t.Error("the arena could be mapped twice")
	}
	p, err := NewPool(Config{Provider: a})
	if err != nil {
		t.Fatal(err)
	}
	pg, _ := p.Get()
	if !p.Mapped() || p.Addr(pg+1) != 0x7000_0000_0000+PageSize {
		t.Errorf("page 1 is at %#x", p.Addr(pg+1))
	}
	if err := a.Close(); !errors.Is(err, ErrInUse) {
		t.Errorf("Close with a page out: %v", err)
	}
	p.Put(pg)
	p.Trim()
	p.Get()
	p.Put(0)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if maps, unmaps := a.Mapped(); maps != 1 || unmaps != 1 || back.maps != 1 || back.unmaps != 1 {
		t.Errorf("mapped %d times and unmapped %d times", maps, unmaps)
	}
}

func TestUnmapped(t *testing.T) {
	a, err := NewAnonymous(2 * PageSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Map(&backEnd{}); err == nil || !strings.Contains(err.Error(), "no descriptor") {
		t.Errorf("Map that the back end refuses: %v", err)
	}
	p, err := NewPool(Config{Provider: a})
	if err != nil {
		t.Fatal(err)
	}
	pg, _ := p.Get()
	p.Bytes(pg)[PageSize-1] = 7
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a page of an unmapped pool has an address")
			}
		}()
		p.Addr(pg)
	}()
	p.Put(pg)
	if p.Trim() != 1 {
		t.Error("anonymous memory does not go back to the system")
	}
	if pg, _ = p.Get(); p.Bytes(pg)[PageSize-1] != 0 {
		t.Error("a trimmed page has its old contents")
	}
	p.Put(pg)
	if err := errors.Join(p.Close(), a.Close()); err != nil {
		t.Error(err)
	}
}

func TestNewPoolRefuses(t *testing.T) {
	a, _ := NewRegion(make([]byte, PageSize))
	for _, c := range []Config{{Ring: 3}, {Ring: -1}, {Ring: 2 * maxReturns}, {Pages: -1}} {
		c.Provider = a
		if _, err := NewPool(c); err == nil {
			t.Errorf("NewPool(%+v) is accepted", c)
		}
	}
	if _, err := NewRegion(make([]byte, PageSize-1)); err == nil {
		t.Error("a region below a page is accepted")
	}
}
