package pagepool

import "unsafe"

// Find names the page that bytes lie in, if that is a whole page of this pool's that is held. It only compares addresses: nothing of an address is kept, or made into
// a pointer again.
func (p *Pool) Find(b []byte) (piece Piece, ok bool) {
	at, first := uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(unsafe.Pointer(unsafe.SliceData(p.mem)))
	if at < first || at-first >= uintptr(len(p.mem)) {
		return Piece{}, false
	}
	off := int(at - first)
	piece = Piece{Page: Page(off / PageSize), Off: uint32(off % PageSize), Len: uint32(len(b))}
	m := &p.pages[piece.Page]
	return piece, m.refs > 0 && !m.cut && off%PageSize+len(b) <= PageSize
}
