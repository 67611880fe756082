package pagepool

import "testing"

// TestFind: bytes of a whole page that is held are found, and none else; how many hold it is known.
func TestFind(t *testing.T) {
	p, err := New(4 * PageSize)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	pg, _ := p.Get()
	next, _ := p.Get()
	b := p.Bytes(pg)
	if got, ok := p.Find(b[100:300]); !ok || got != (Piece{pg, 100, 200}) {
		t.Errorf("%+v, %t", got, ok)
	}
	if got, ok := p.Find(b[PageSize-1:]); !ok || got != (Piece{pg, PageSize - 1, 1}) {
		t.Errorf("the last byte: %+v, %t", got, ok)
	}
	if got, ok := p.Find(p.Memory()[:PageSize+1]); ok {
		t.Errorf("bytes of two pages: %+v", got)
	}
	if p.Shared(pg) {
		t.Error("a page of one holder is shared")
	}
	p.Ref(pg)
	if !p.Shared(pg) {
		t.Error("a page of two holders is not shared")
	}
	p.Put(pg)
	fg, _ := p.GetFrag()
	for name, bytes := range map[string][]byte{"elsewhere": make([]byte, 10), "none": nil, "a fragment": p.FragBytes(fg), "a free page": p.Memory()[3*PageSize:]} {
		if got, ok := p.Find(bytes); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
	p.PutFrag(fg)
	p.Put(pg)
	p.Put(next)
	if _, ok := p.Find(b); ok {
		t.Error("a page that was given back is found")
	}
}
