package pagepool

import "fmt"

// Piece is a run of bytes in a page, of the length it was cut with. It holds one reference to the page: Put(Page) gives it back.
type Piece struct {
	Page Page
	Off  uint32 // bytes from the start of the page; a multiple of pieceAlign
	Len  uint32 // bytes
}

// pieceAlign is what pieces are aligned to: a cache line, so that no two holders write to one.
const pieceAlign = 64

// CutPiece takes a piece of n bytes, 1 to PageSize, from the page that the last one was cut from, or from the next; ok is false when all pages
// are in use. The pieces of a page lie one behind the other, and the page is free again when all of them are. With stretch the piece gets what is
// left of the page, when that is too little for another one like it.
func (p *Pool) CutPiece(n int, stretch bool) (b Piece, ok bool) {
	if uint(n-1) >= PageSize {
		panic(fmt.Sprintf("pagepool: CutPiece of %d bytes", n))
	}
	if p.carve == noPage || p.carved+n > PageSize {
		if !p.carveNext() {
			return Piece{}, false
		}
	}
	m := &p.pages[p.carve]
	m.refs++
	b = Piece{Page: p.carve, Off: uint32(p.carved), Len: uint32(n)}
	p.carved = (p.carved + n + pieceAlign - 1) &^ (pieceAlign - 1)
	if stretch && p.carved+n > PageSize {
		b.Len = PageSize - b.Off
		p.carved = PageSize
	}
	p.stats.Pieces++
	return b, true
}

// carveNext leaves the page that pieces were cut from to their holders, and begins another.
func (p *Pool) carveNext() bool {
	if p.carve != noPage && p.pages[p.carve].refs == 1 { // all its pieces are back already
		p.carved = 0
		return true
	}
	pg, ok := p.Get()
	if !ok {
		return false
	}
	p.endCarving()
	p.carve, p.carved = pg, 0
	return true
}

// endCarving drops the pool's own reference to the page that pieces are cut from.
func (p *Pool) endCarving() {
	if p.carve == noPage {
		return
	}
	if m := &p.pages[p.carve]; m.refs > 1 {
		m.refs-- // the last piece will free it
	} else {
		p.Put(p.carve)
	}
	p.carve = noPage
}

// PieceBytes is the memory of a piece, until it is put back.
func (p *Pool) PieceBytes(b Piece) []byte {
	p.held(b.Page, "PieceBytes")
	off := int(b.Page)*PageSize + int(b.Off)
	return p.mem[off : off+int(b.Len) : off+int(b.Len)]
}

// CutPieces takes pieces of n bytes, as CutPiece does, and answers how many there were.
func (p *Pool) CutPieces(pieces []Piece, n int, stretch bool) (got int) {
	for got < len(pieces) {
		// One by one where the page may end, and in a row before.
		b, ok := p.CutPiece(n, stretch)
		if !ok {
			break
		}
		pieces[got] = b
		got++
		step := (n + pieceAlign - 1) &^ (pieceAlign - 1)
		row := min(len(pieces)-got, (PageSize-p.carved)/step-1)
		if row <= 0 {
			continue
		}
		for i := range pieces[got : got+row] {
			pieces[got+i] = Piece{Page: p.carve, Off: uint32(p.carved + i*step), Len: uint32(n)}
		}
		p.pages[p.carve].refs += int32(row)
		p.carved += row * step
		p.stats.Pieces += uint64(row)
		got += row
	}
	return got
}

// PutPieces gives pieces back.
func (p *Pool) PutPieces(pieces []Piece) {
	for i := range pieces {
		p.Put(pieces[i].Page)
	}
}
