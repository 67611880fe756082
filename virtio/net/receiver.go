package net

import (
	"fmt"

	"github.com/vasta-net/vasta/internal/prefetch"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/virtio/queue"
)

// publishBatch is how many buffers are posted with one store.
const publishBatch = 64

// receiver is the receive queue of a pair.
type receiver struct {
	vq      queue.Driver
	t       Transport
	index   int
	pool    *pagepool.Pool
	from    Buffers // the pool, if nothing else
	mem     []byte  // of the arena
	base    uint64  // ... where the device has it
	holder  pagepool.Holder
	mode    Mode
	hdr     int
	geo     Geometry
	fixed   bool // the length of mergeable buffers does not follow the frames
	mean    mean
	maxLen  int
	gso     Features
	merges  bool // adjacent buffers of a frame join up
	copyMax int
	late    bool // a hook sees frames before they are copied

	slots []slot
	free  []uint32 // slots that are not posted, the first to be used first
	low   int      // how many there are before they are posted again
	keep  int      // pages of the pool in use, up to which buffers are kept; -1: none are

	bufs []queue.Buffer // for Publish: bufs[i] has its segments in segs[i*chain:]
	segs []queue.Segment

	used         []queue.Used
	next, reaped int

	cut  []pagepool.Piece // for from: what refill takes, what release gives back
	back []pagepool.Piece

	spans   []span   // of each frame of the last batch
	lent    []uint32 // slots whose buffers the frames of the last batch are in
	pieces  [][]byte // ... and the frames' pieces
	origins []uint64 // ... where those lie in the arena, or private
	slab    []byte   // private memory for frames up to the copy-break
	inSlab  int      // ... of which the last batch has so many
	starve  bool

	stats ReceiveStats
	err   error
}

// Buffers is where receive buffers come from.
type Buffers interface {
	CutPieces(pieces []pagepool.Piece, n int, stretch bool) int
	PutPieces(pieces []pagepool.Piece)
}

// slot is a receive buffer, posted or not. A slot that is not posted may have kept its memory.
type slot struct {
	piece pagepool.Piece
	data  uint32           // bytes that the device may write
	held  bool             // there is memory
	alone bool             // the last frame was in this buffer alone, and nobody has a reference to it
	chain []pagepool.Piece // Big: the pieces of the chain
}

// span is where a received frame lies: which slots in lent, and which pieces. Each has a first and an end.
type span struct{ slots, pieces [2]int }

// returned is in lent instead of a slot that is not lent any more.
const returned = ^uint32(0)

// private is the origin of a piece that is not in the arena.
const private = ^uint64(0)

// ReceiveStats count what a receive queue did.
type ReceiveStats struct {
	Frames, Bytes uint64
	Copied        uint64 // frames up to the copy-break
	Kept          uint64 // buffers that were posted again with the memory they had, beside those of copied frames
	Merged        uint64 // frames of several buffers
	Short         uint64 // frames shorter than their headers
	Long          uint64 // frames longer than any may be
	BadHeader     uint64 // frames with a header that was not negotiated, or contradicts them
	Used, Posted  uint64 // bytes that the device has written, of those in the buffers it returned
	Refills       uint64 // batches of buffers posted
	NoMemory      uint64 // times that the pool had no memory for a buffer
	Kicks         uint64
	Verdicts      [4]uint64 // by packet.Verdict; without a hook none
	TXFailed      uint64    // frames that a hook sent back, but the transmit queue did not take
	RedirectFull  uint64    // frames that a hook redirected, but the target did not take
}

// receiverSlots is how many buffers a ring holds.
func receiverSlots(m Mode, f Features, size int) int {
	if m == Big && !(f.Has(IndirectDesc) && size >= bigChain) {
		return size / bigChain
	}
	return size
}

func (q *receiver) init(d *Driver, p *Pair, ring queue.DriverConfig, g Geometry, pages int, c DriverConfig) (err error) {
	n := receiverSlots(d.mode, d.features, ring.Size)
	if n == 0 {
		return fmt.Errorf("a ring of %d descriptors holds no big buffer of %d", ring.Size, bigChain)
	}
	chain := 1
	if d.mode == Big {
		chain = bigChain
	}
	*q = receiver{
		t: d.t, index: rxIndex(p.Index), pool: p.Pool, holder: p.Pool.Holder("receive ring"), mode: d.mode, hdr: d.features.hdrLen(), geo: g,
		fixed: c.Buffer > 0, merges: d.mode == Mergeable && g.Headroom+g.Tailroom == 0, copyMax: c.CopyBreak, late: c.Hook != nil, gso: d.features,
		slots: make([]slot, n), free: make([]uint32, n), low: max(1, n/8),
		bufs: make([]queue.Buffer, min(n, publishBatch)), segs: make([]queue.Segment, min(n, publishBatch)*chain),
		from: p.Pool, mem: d.arena.Memory(), cut: make([]pagepool.Piece, max(chain, min(n, publishBatch))), back: make([]pagepool.Piece, 0, n*chain),
		used: make([]queue.Used, n), lent: make([]uint32, 0, n), pieces: make([][]byte, 0, n*chain), origins: make([]uint64, 0, n*chain),
	}
	q.base, _ = d.arena.Base()
	if q.keep = -1; d.mode != Big && c.Buffers == nil {
		q.keep = pages / 2
	}
	if c.Buffers != nil {
		q.from = c.Buffers(p.Index)
	}
	if q.copyMax == 0 {
		q.copyMax = defaultCopyBreak
	}
	q.maxLen = goodFrame
	if d.features&guestGSO != 0 || d.mode != Small {
		q.maxLen = MaxFrame
	}
	q.maxLen = max(q.maxLen, g.Data-q.hdr)
	for i := range q.slots {
		q.free[i] = uint32(i)
		if d.mode == Big {
			q.slots[i].chain = make([]pagepool.Piece, chain)
		}
	}
	for i := range q.bufs {
		q.bufs[i].In = q.segs[i*chain : (i+1)*chain : (i+1)*chain]
	}
	if q.copyMax > 0 {
		q.slab = make([]byte, n*q.slabLen())
	}
	if q.vq, err = queue.NewDriver(ring); err != nil {
		return err
	}
	q.vq.Suppress()
	return d.t.Attach(q.index, ring.Ring, func() {
		if c.Wake != nil {
			c.Wake(p.Index)
		}
	})
}

// slabLen is the room for a copied frame.
func (q *receiver) slabLen() int {
	return roundUp(q.geo.Headroom+q.hdr+q.copyMax+q.geo.Tailroom, bufAlign)
}

// refill posts all buffers that are not posted, as far as there is memory.
func (q *receiver) refill() {
	q.pool.As(q.holder)
	q.starve = false
	posted := 0
	for posted < len(q.free) && !q.starve && q.err == nil {
		n := q.arm(q.free[posted:min(posted+len(q.bufs), len(q.free))])
		if n == 0 {
			break
		}
		k, err := q.vq.Publish(q.bufs[:n])
		posted += k
		if err != nil {
			q.err = err
		}
		if k < n {
			break // those that did not fit keep their memory for the next time
		}
	}
	q.free = q.free[:copy(q.free, q.free[posted:])]
	q.stats.Refills++
	if q.vq.ShouldNotify() {
		q.stats.Kicks++
		q.t.Kick(q.index)
	}
}

// admit kicks a device that may be waiting until half of the buffers are posted, when there are fewer and the driver is about to sleep: for want of memory, or because the
// frames of the last batch have them. No more will come before it is woken, and nobody else may be awake to do that.
func (q *receiver) admit() {
	if q.err == nil && 2*q.vq.InFlight() < len(q.slots) {
		q.stats.Kicks++
		q.t.Kick(q.index)
	}
}

// arm gives slots memory, those that have kept none, and writes down where it is. It answers for how many there was memory.
func (q *receiver) arm(ids []uint32) int {
	if q.mode == Big {
		return q.armChains(ids)
	}
	need := 0
	for _, id := range ids {
		if !q.slots[id].held {
			need++
		}
	}
	got := 0
	if need > 0 {
		got = q.from.CutPieces(q.cut[:need], q.geo.Headroom+q.length()+q.geo.Tailroom, q.merges && !q.fixed)
	}
	pieces := q.cut[:got]
	for i, id := range ids {
		s := &q.slots[id]
		if !s.held {
			if len(pieces) == 0 {
				q.stats.NoMemory++
				q.starve = true
				return i
			}
			s.piece, pieces = pieces[0], pieces[1:]
			s.held = true
			s.data = s.piece.Len - uint32(q.geo.Headroom+q.geo.Tailroom)
		}
		q.bufs[i].In[0] = queue.Segment{Addr: q.base + pieceOff(s.piece) + uint64(q.geo.Headroom), Len: s.data}
		q.bufs[i].Token = uint64(id)
	}
	return len(ids)
}

// length is how many bytes the device may write into the next buffer.
func (q *receiver) length() int {
	if q.mode == Mergeable && !q.fixed {
		return q.mean.length(q.hdr, q.geo.Data)
	}
	return q.geo.Data
}

// pieceOff is where a piece lies in the arena.
func pieceOff(b pagepool.Piece) uint64 { return uint64(b.Page)*pagepool.PageSize + uint64(b.Off) }

// bytes is the memory of a piece of a slot that holds it.
func (q *receiver) bytes(b pagepool.Piece) []byte {
	off := pieceOff(b)
	return q.mem[off : off+uint64(b.Len) : off+uint64(b.Len)]
}

// armChains gives slots the memory of big buffers: a header, and pieces of a page each.
func (q *receiver) armChains(ids []uint32) int {
	for i := range ids {
		id := ids[i]
		s := &q.slots[id]
		if !s.held {
			got := q.from.CutPieces(s.chain[:1], q.hdr, false)
			if got == 1 {
				got += q.from.CutPieces(s.chain[1:], bigPiece, false)
			}
			if got < len(s.chain) {
				q.from.PutPieces(s.chain[:got])
				q.stats.NoMemory++
				q.starve = true
				return i
			}
			s.held = true
			s.data = uint32(q.geo.Data)
		}
		for k, b := range s.chain {
			q.bufs[i].In[k] = queue.Segment{Addr: q.base + pieceOff(b), Len: b.Len}
		}
		q.bufs[i].Token = uint64(id)
	}
	return len(ids)
}

// release gives the memory of the last batch back, but for that of the buffers that keep it, and posts buffers again.
//
// A buffer that had a frame to itself keeps its memory, so that it comes to the same descriptor again, which says so already: that spares the pool's work, and the
// descriptor's way to the device's processor. Buffers of long frames go back, so that the next ones are cut side by side; and so do all when they are of the wrong
// length by now, or when so many pages are in use that each of those kept may be all that is in use of its page.
func (q *receiver) release() {
	keep := q.keep >= q.pool.InUse()
	length := uint32(q.length())
	for _, id := range q.lent {
		if id == returned {
			continue
		}
		s := &q.slots[id]
		if keep && s.alone && s.data >= length && s.data < 2*length {
			q.stats.Kept++
		} else {
			q.drop(s)
		}
		q.free = append(q.free, id)
	}
	if len(q.back) > 0 {
		q.from.PutPieces(q.back)
		q.back = q.back[:0]
	}
	q.lent, q.pieces, q.origins, q.inSlab = q.lent[:0], q.pieces[:0], q.origins[:0], 0
	if len(q.free) >= q.low {
		q.refill()
	}
}

// shared notes that others have references to the memory of a frame: it goes back to the pool, which knows when the last is dropped.
func (q *receiver) shared(at *span) {
	for _, id := range q.lent[at.slots[0]:at.slots[1]] {
		q.slots[id].alone = false
	}
}

// drop notes the memory of a slot to be given back.
func (q *receiver) drop(s *slot) {
	s.held = false
	if q.mode == Big {
		q.back = append(q.back, s.chain...)
	} else {
		q.back = append(q.back, s.piece)
	}
}

// reap gets more buffers from the device, so that at least want are there if the device has returned as many.
func (q *receiver) reap(want int) {
	if q.next > 0 {
		q.reaped = copy(q.used, q.used[q.next:q.reaped])
		q.next = 0
	}
	n, err := q.vq.Reap(q.used[q.reaped:])
	q.reaped += n
	if err != nil && q.err == nil {
		q.err = err
	}
}

// receive fills frames.
func (q *receiver) receive(frames []packet.Frame) (n int, err error) {
	q.release()
	if len(q.spans) < len(frames) {
		q.spans = make([]span, len(frames)) // grows to the caller's batch, once
	}
	q.expect(2 * len(frames))
	for n < len(frames) {
		if q.next == q.reaped {
			if q.err != nil {
				break
			}
			if q.reap(1); q.next == q.reaped {
				break
			}
			q.expect(2 * len(frames))
		}
		slots, pieces := len(q.lent), len(q.pieces)
		if q.frame(&frames[n]) {
			q.spans[n] = span{[2]int{slots, len(q.lent)}, [2]int{pieces, len(q.pieces)}}
			n++
		}
	}
	q.stats.Frames += uint64(n)
	if n == 0 {
		err = q.err
	}
	return n, err
}

// expect hints at the buffers of the next n frames.
func (q *receiver) expect(n int) {
	if q.mode == Big {
		return
	}
	for _, u := range q.used[q.next:min(q.next+n, q.reaped)] {
		b := q.bytes(q.slots[u.Token].piece)[q.geo.Headroom:]
		prefetch.Read(b[:min(len(b), prefetch.Frame)])
	}
}

// frame makes the next frame from the next buffers. False says that there is none: it is counted and gone.
func (q *receiver) frame(f *packet.Frame) bool {
	u := q.used[q.next]
	q.next++
	id := uint32(u.Token)
	s := &q.slots[id]
	q.stats.Used += uint64(u.Len)
	q.stats.Posted += uint64(s.data)
	if q.mode == Big {
		return q.bigFrame(f, id, s, int(u.Len))
	}
	mem := q.bytes(s.piece)
	at := q.geo.Headroom
	n := int(u.Len)
	if n < q.hdr {
		q.stats.Short++
		q.free = append(q.free, id)
		return false
	}
	// Decode copies: what the device writes into the buffer later changes nothing.
	f.Hdr.Decode(mem[at:])
	at, n = at+q.hdr, n-q.hdr
	if q.mode == Mergeable {
		if count := int(f.Hdr.NumBuffers); count != 1 {
			return q.merge(f, id, mem, at, n, count)
		}
	}
	if n < packet.EtherLen {
		q.stats.Short++
		q.free = append(q.free, id)
		return false
	}
	if n <= q.copyMax && !q.late {
		q.copyOut(f, id, mem[at:at+n])
	} else {
		q.lent = append(q.lent, id)
		s.alone = true
		q.setPiece(f, mem[at:at+n], pieceOff(s.piece)+uint64(at))
		f.SetRoom(mem, at)
	}
	f.Len = n
	if q.mode == Mergeable {
		q.mean.add(n)
	}
	return q.accept(f)
}

// tight says that what is lent leaves too few buffers for the longest frame.
func (q *receiver) tight() bool {
	need := 1
	if q.mode == Mergeable {
		shortest := q.geo.Data
		need = min((q.maxLen+q.hdr+shortest-1)/shortest, len(q.slots))
	}
	return len(q.lent) > 0 && q.vq.InFlight() < need
}

// setPiece makes a frame of one piece.
func (q *receiver) setPiece(f *packet.Frame, b []byte, origin uint64) {
	at := len(q.pieces)
	q.addPiece(b, origin)
	f.Bufs = q.pieces[at : at+1 : at+1]
}

func (q *receiver) addPiece(b []byte, origin uint64) {
	q.pieces, q.origins = append(q.pieces, b), append(q.origins, origin)
}

// copyOut copies a short frame to private memory; its buffer is posted again as it is.
func (q *receiver) copyOut(f *packet.Frame, id uint32, b []byte) {
	room, from := q.slabRoom()
	copy(room[from:], b)
	q.setPiece(f, room[from:from+len(b)], private)
	f.SetRoom(room, from)
	q.free = append(q.free, id)
	q.stats.Copied++
}

// copyLate is copyOut for a frame that a hook has passed: what it drops or sends back is not copied.
func (q *receiver) copyLate(f *packet.Frame, at *span) {
	if f.Len > q.copyMax || at.slots[1]-at.slots[0] != 1 {
		return
	}
	room, from := q.slabRoom()
	b, k := room[from:from+f.Len], at.pieces[0]
	f.CopyAt(b, 0)
	q.pieces[k], q.origins[k] = b, private
	f.Bufs = q.pieces[k : k+1 : k+1]
	f.SetRoom(room, from)
	q.free = append(q.free, q.lent[at.slots[0]])
	q.lent[at.slots[0]] = returned
	at.slots[1] = at.slots[0]
	q.stats.Copied++
}

// slabRoom is private memory for one frame, and where in it the frame begins. There is as much as there are buffers.
func (q *receiver) slabRoom() (room []byte, from int) {
	room = q.slab[q.inSlab*q.slabLen():][:q.slabLen()]
	q.inSlab++
	return room, q.geo.Headroom + q.hdr
}

// accept looks at a frame's header and length.
func (q *receiver) accept(f *packet.Frame) bool {
	if f.Hdr.Flags|f.Hdr.GSOType != 0 && !headerFits(&f.Hdr, f.Len, q.gso) {
		q.stats.BadHeader++
		return false
	}
	if f.Len > q.maxLen {
		q.stats.Long++
		return false
	}
	q.stats.Bytes += uint64(f.Len)
	return true
}

// merge makes a frame of several buffers (5.1.6.4): the device has returned all of them together.
func (q *receiver) merge(f *packet.Frame, id uint32, mem []byte, at, n, count int) bool {
	if count == 0 || count > len(q.slots) {
		q.break_("num_buffers %d in a ring of %d buffers", count, len(q.slots))
		q.free = append(q.free, id)
		return false
	}
	if q.reaped-q.next < count-1 {
		if q.reap(count - 1); q.reaped-q.next < count-1 {
			q.break_("num_buffers %d, but %d buffers were returned", count, 1+q.reaped-q.next)
			q.free = append(q.free, id)
			return false
		}
	}
	first := len(q.pieces)
	q.lent = append(q.lent, id)
	q.slots[id].alone = false
	q.addPiece(mem[at:at+n:len(mem)], pieceOff(q.slots[id].piece)+uint64(at))
	f.SetRoom(mem, at)
	total := n
	last := q.slots[id].piece
	end := int(last.Off) + at + n // in its page
	for range count - 1 {
		u := q.used[q.next]
		q.next++
		s := &q.slots[u.Token]
		s.alone = false
		q.stats.Used += uint64(u.Len)
		q.stats.Posted += uint64(s.data)
		q.lent = append(q.lent, uint32(u.Token))
		if u.Len == 0 {
			continue
		}
		total += int(u.Len)
		p := s.piece
		if q.merges && p.Page == last.Page && int(p.Off) == end {
			// It lies right behind the one before: one piece.
			b := q.pieces[len(q.pieces)-1]
			page := q.bytes(pagepool.Piece{Page: p.Page, Len: pagepool.PageSize})
			q.pieces[len(q.pieces)-1] = page[end-len(b) : end+int(u.Len)]
		} else {
			b := q.bytes(p)[q.geo.Headroom:]
			q.addPiece(b[:u.Len], pieceOff(p)+uint64(q.geo.Headroom))
		}
		last, end = p, int(p.Off)+q.geo.Headroom+int(u.Len)
	}
	f.Bufs = q.pieces[first:len(q.pieces):len(q.pieces)]
	f.Len = total
	q.stats.Merged++
	q.mean.add(min(total, MaxFrame))
	if total < packet.EtherLen {
		q.stats.Short++
		return false
	}
	return q.accept(f)
}

// bigFrame makes a frame of a chain: the header is a piece of its own.
func (q *receiver) bigFrame(f *packet.Frame, id uint32, s *slot, n int) bool {
	if n < q.hdr+packet.EtherLen {
		q.stats.Short++
		q.free = append(q.free, id)
		return false
	}
	f.Hdr.Decode(q.bytes(s.chain[0]))
	n -= q.hdr
	if n <= q.copyMax && !q.late {
		q.copyOut(f, id, q.bytes(s.chain[1])[:n])
		f.Len = n
		return q.accept(f)
	}
	q.lent = append(q.lent, id)
	first := len(q.pieces)
	f.SetRoom(nil, 0)
	f.Len = n
	for i := 1; n > 0; i++ {
		b := q.bytes(s.chain[i])
		b = b[:min(n, len(b))]
		if i > 1 && s.chain[i].Page == s.chain[i-1].Page && s.chain[i].Off == s.chain[i-1].Off+bigPiece {
			k := len(q.pieces) - 1
			have := len(q.pieces[k])
			page := q.bytes(pagepool.Piece{Page: s.chain[i].Page, Len: pagepool.PageSize})
			from := int(s.chain[i].Off) - have
			q.pieces[k] = page[from : from+have+len(b)]
		} else {
			q.addPiece(b, pieceOff(s.chain[i]))
		}
		n -= len(b)
	}
	f.Bufs = q.pieces[first:len(q.pieces):len(q.pieces)]
	return q.accept(f)
}

// break_ takes the queue out of use: the device has broken a rule of the network device.
func (q *receiver) break_(format string, args ...any) {
	if q.err == nil {
		q.err = fmt.Errorf("%w: receive queue %d: %s", ErrBroken, q.index/2, fmt.Sprintf(format, args...))
	}
}

// close takes all buffers back. The device has been reset.
func (q *receiver) close() {
	if q.vq == nil {
		return
	}
	q.lent = q.lent[:0]
	for i := range q.slots {
		if q.slots[i].held {
			q.drop(&q.slots[i])
		}
	}
	q.from.PutPieces(q.back)
	q.back = q.back[:0]
	q.vq = nil
	q.err = errClosed
}

// headerFits says whether a header can be that of a frame of n bytes: only what was negotiated, and places inside the frame (5.1.6).
func headerFits(h *packet.NetHdr, n int, f Features) bool {
	if h.Flags&packet.FlagNeedsCsum != 0 {
		if !f.Has(GuestCsum) || int(h.CsumStart)+int(h.CsumOffset)+2 > n {
			return false
		}
	} else if h.Flags&packet.FlagDataValid != 0 && !f.Has(GuestCsum) {
		return false
	}
	gso := h.GSOType &^ packet.GSOECN
	if gso == packet.GSONone {
		return h.GSOType == 0
	}
	if h.Flags&packet.FlagNeedsCsum == 0 || h.GSOSize == 0 {
		return false
	}
	if h.GSOType&packet.GSOECN != 0 && !f.Has(GuestECN) {
		return false
	}
	switch gso {
	case packet.GSOTCPv4:
		return f.Has(GuestTSO4)
	case packet.GSOTCPv6:
		return f.Has(GuestTSO6)
	case packet.GSOUDPL4:
		return f&(GuestUSO4|GuestUSO6) != 0
	}
	return false
}
