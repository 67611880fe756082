package net

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/vasta-net/vasta/internal/prefetch"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/virtio/queue"
)

// DevicePair is the device's side of a queue pair: Take and Done for what the driver sends, Deliver for what it is to receive. Take and Deliver may be
// called by two goroutines; each by one.
type DevicePair struct {
	Index  int
	OnKick func() // called when the driver has done what Listen or ListenRoom ask for, from the driver's goroutine; set before the driver starts

	d  *Device
	tx deviceTx
	rx deviceRx
}

func newDevicePair(d *Device, i int) *DevicePair { return &DevicePair{Index: i, d: d} }

// start gives the pair its rings.
func (p *DevicePair) start(f Features, m *queue.Memory, rx, tx attached) error {
	rxq, err := queue.NewDevice(queue.DeviceConfig{Ring: rx.ring, Memory: m})
	if err != nil {
		return err
	}
	txq, err := queue.NewDevice(queue.DeviceConfig{Ring: tx.ring, Memory: m})
	if err != nil {
		return err
	}
	if err := m.Guard(func() error {
		rxq.Suppress()
		txq.Suppress()
		return nil
	}); err != nil {
		return err
	}
	p.tx.mu.Lock()
	p.tx.vq, p.tx.memory, p.tx.call, p.tx.hdr, p.tx.features, p.tx.err = txq, m, tx.call, f.hdrLen(), f, nil
	p.tx.mu.Unlock()
	p.rx.mu.Lock()
	p.rx.vq, p.rx.memory, p.rx.call, p.rx.hdr, p.rx.merge, p.rx.err = rxq, m, rx.call, f.hdrLen(), f.Has(MrgRxbuf), nil
	p.rx.have, p.rx.next = 0, 0
	p.rx.chains = make([]queue.Chain, min(rx.ring.Size, maxTaken))
	p.rx.mu.Unlock()
	return nil
}

// stop takes the rings away.
func (p *DevicePair) stop() {
	p.tx.mu.Lock()
	p.tx.vq = nil
	p.tx.mu.Unlock()
	p.rx.mu.Lock()
	p.rx.vq = nil
	p.rx.mu.Unlock()
}

func (p *DevicePair) setMemory(m *queue.Memory) {
	p.tx.mu.Lock()
	if p.tx.vq != nil {
		p.tx.vq.SetMemory(m)
		p.tx.memory = m
	}
	p.tx.mu.Unlock()
	p.rx.mu.Lock()
	if p.rx.vq != nil {
		p.rx.untake()
		p.rx.vq.SetMemory(m)
		p.rx.memory = m
	}
	p.rx.mu.Unlock()
}

// DeviceStats count what a device's side of a pair did.
type DeviceStats struct {
	Taken, Delivered uint64 // frames
	Short, Long      uint64 // frames from the driver shorter than their headers, or longer than any may be
	BadHeader        uint64 // ... with a header that was not negotiated
	NoBuffer         uint64 // frames toward the driver for which no buffer was posted
	TooLong          uint64 // ... that are longer than the buffers
	Filtered         uint64 // ... that are not for the driver's addresses, modes and VLANs
	NotOffloaded     uint64 // ... with offloads that the driver does not take
	Calls            uint64
}

// maxTaken bounds the chains that are taken at once.
const maxTaken = 256

// deviceTx is the driver's transmit queue.
type deviceTx struct {
	mu       sync.Mutex // held from Take, when it answers any, to Done, and for the length of a call
	vq       queue.Device
	memory   *queue.Memory
	call     func()
	hdr      int
	features Features
	chains   [maxTaken]queue.Chain
	done     [maxTaken]queue.Done
	taken    int
	pieces   [][]byte
	moves    atomic.Uint64 // batches taken, and given back
	stats    DeviceStats
	err      error // the driver has taken memory away
}

// Take fills frames with what the driver has sent. After a Take that answered more than 0, the frames are borrowed until Done, which must
// follow, and soon: a driver that resets the device waits for it. An error says that the queue is broken.
func (p *DevicePair) Take(frames []packet.Frame) (n int, err error) {
	q := &p.tx
	q.mu.Lock()
	s := p.d.state.Load()
	if q.vq == nil || s == nil || p.Index >= s.pairs {
		q.mu.Unlock()
		return 0, nil
	}
	err = q.guard(func() (err error) {
		n, err = q.take(frames)
		if s.pairs > 1 && s.rss == nil {
			p.d.steering.learn(frames[:n], p.Index)
		}
		return err
	})
	if q.err != nil {
		n, q.taken = 0, 0
	}
	q.stats.Taken += uint64(n)
	if n == 0 {
		q.mu.Unlock()
		return 0, err
	}
	q.moves.Add(1)
	return n, nil
}

// guard calls f, which touches memory of the driver's, under the lock. When that is not there any more, the queue is broken for good.
func (q *deviceTx) guard(f func() error) error {
	if q.err != nil {
		return q.err
	}
	return gone(&q.err, q.memory.Guard(f))
}

// gone notes an error that ends a queue.
func gone(to *error, err error) error {
	if _, ok := err.(*queue.GoneError); ok { //nolint:errorlint // Guard answers it as it is; to look behind others would allocate
		*to = err
	}
	return err
}

// take fills frames. It answers an error only without any.
func (q *deviceTx) take(frames []packet.Frame) (n int, err error) {
	for n == 0 { // bad frames leave nothing to answer
		q.taken, err = q.vq.Take(q.chains[:min(len(frames), maxTaken)])
		if q.taken == 0 {
			break
		}
		q.pieces = q.pieces[:0]
		for i := range q.taken {
			b := q.chains[i].Out[0]
			prefetch.Read(b[:min(len(b), prefetch.Frame)])
		}
		for i := range q.taken {
			c := &q.chains[i]
			q.done[i] = queue.Done{ID: c.ID}
			if q.frame(&frames[n], c) {
				n++
			}
		}
		if n == 0 && q.finish() != nil {
			break
		}
	}
	return n, err
}

// Guard calls f, which reads the frames of the last Take, and answers what it does. When a driver in another process has taken the memory away, the answer is an error
// that the next call answers too. Done has to follow all the same.
func (p *DevicePair) Guard(f func() error) error { return p.tx.guard(f) }

// Listen asks for OnKick when the driver sends the next frame. It answers true when there is one already: then OnKick may not be called, and the caller has to take
// instead of sleeping. Awake ends the asking. Both belong to the goroutine that takes, and may be called between Take and Done.
func (p *DevicePair) Listen() bool {
	q := &p.tx
	if q.taken == 0 { // else it is locked
		q.mu.Lock()
		defer q.mu.Unlock()
	}
	return q.vq != nil && listen(&q.err, q.memory, q.vq, 1)
}

// listen has a queue listen. One that is broken has its error to be asked for.
func listen(broken *error, m *queue.Memory, vq queue.Device, after int) (more bool) {
	if *broken != nil {
		return true
	}
	err := gone(broken, m.Guard(func() error {
		more = vq.Listen(after)
		return nil
	}))
	return more || err != nil
}

// suppress ends it.
func suppress(broken *error, m *queue.Memory, vq queue.Device) {
	if *broken == nil {
		_ = gone(broken, m.Guard(func() error {
			vq.Suppress()
			return nil
		}))
	}
}

// Awake ends what Listen began.
func (p *DevicePair) Awake() {
	q := &p.tx
	if q.taken == 0 {
		q.mu.Lock()
		defer q.mu.Unlock()
	}
	if q.vq != nil {
		suppress(&q.err, q.memory, q.vq)
	}
}

// ListenRoom asks for OnKick when so many receive buffers are posted, after Deliver has found too few; more than one is a wish, as in queue.Device.Listen. It answers
// true when they are posted already, or when the driver has kicked since: then OnKick may not be called, and the caller has to deliver instead of sleeping. AwakeRoom ends
// the asking. Both belong to the goroutine that delivers.
//
// To wait for half of the buffers that the driver has in all spares both ends most of the kicks and wakings: a driver posts what it has got back in small pieces. This package's
// driver kicks before it sleeps with less than half posted (Pair.Listen); whoever does not know the driver waits for one.
func (p *DevicePair) ListenRoom(posted int) bool {
	q := &p.rx
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.vq != nil && (q.kicked.Load() || listen(&q.err, q.memory, q.vq, posted-(q.have-q.next)))
}

// AwakeRoom ends what ListenRoom began.
func (p *DevicePair) AwakeRoom() {
	p.rx.mu.Lock()
	defer p.rx.mu.Unlock()
	if p.rx.vq != nil {
		suppress(&p.rx.err, p.rx.memory, p.rx.vq)
	}
}

// frame makes a frame of a chain.
func (q *deviceTx) frame(f *packet.Frame, c *queue.Chain) bool {
	if len(c.Out) == 1 && len(c.Out[0]) >= q.hdr+packet.EtherLen {
		b := c.Out[0]
		f.Hdr.Decode(b)
		c.Out[0] = b[q.hdr:]
		f.Bufs = c.Out
		f.Len = len(b) - q.hdr
	} else if !q.gather(f, c) {
		return false
	}
	if f.Len > MaxFrame {
		q.stats.Long++
		return false
	}
	if f.Hdr.Flags|f.Hdr.GSOType != 0 && !headerFits(&f.Hdr, f.Len, hostAsGuest(q.features)) {
		q.stats.BadHeader++
		return false
	}
	f.SetRoom(nil, 0)
	return true
}

// gather makes a frame of a chain whose header may be cut anywhere (2.7.4.2, 5.1.6.2).
func (q *deviceTx) gather(f *packet.Frame, c *queue.Chain) bool {
	var hdr [hashHdrLen]byte
	have := 0
	f.Bufs, f.Len = c.Out[:0], 0
	for _, b := range c.Out {
		if have < q.hdr {
			n := copy(hdr[have:q.hdr], b)
			have += n
			if b = b[n:]; len(b) == 0 {
				continue
			}
		}
		f.Bufs = append(f.Bufs, b)
		f.Len += len(b)
	}
	if f.Len < packet.EtherLen {
		q.stats.Short++
		return false
	}
	f.Hdr.Decode(hdr[:])
	return true
}

// hostAsGuest are the features by which the driver may send what the GUEST ones allow it to receive.
func hostAsGuest(f Features) (g Features) {
	for _, x := range []struct{ host, guest Features }{
		{Csum, GuestCsum}, {HostTSO4, GuestTSO4}, {HostTSO6, GuestTSO6}, {HostECN, GuestECN}, {HostUSO, GuestUSO4},
	} {
		if f.Has(x.host) {
			g |= x.guest
		}
	}
	return g
}

// Done gives all frames of the last Take back to the driver.
func (p *DevicePair) Done() error {
	q := &p.tx
	err := q.guard(q.finish)
	q.taken = 0
	q.moves.Add(1)
	q.mu.Unlock()
	return err
}

// finish returns what was taken.
func (q *deviceTx) finish() error {
	err := q.vq.Return(q.done[:q.taken])
	q.taken = 0
	if err != nil {
		return err
	}
	if q.vq.ShouldNotify() {
		q.stats.Calls++
		q.call()
	}
	return nil
}

// deviceRx is the driver's receive queue.
type deviceRx struct {
	mu         sync.Mutex
	vq         queue.Device
	memory     *queue.Memory
	call       func()
	hdr        int
	merge      bool
	chains     []queue.Chain // taken from the ring; those from next on are not used yet
	have, next int
	expected   int         // those before it were hinted at
	kicked     atomic.Bool // the driver has kicked since the ring was looked at for buffers
	done       [maxTaken]queue.Done
	ndone      int
	hash       uint32 // of the frame that is being put, for HASH_REPORT
	report     uint16
	stats      DeviceStats
	err        error // the driver has taken memory away
}

// Deliver copies frames to the driver, in order, and answers how many there were buffers for; the driver sees all of them at once. A frame that is
// longer than the driver's buffers is counted and goes no further, as if it was delivered. An error says that the queue is broken.
func (p *DevicePair) Deliver(frames []packet.Frame) (n int, err error) {
	q := &p.rx
	q.mu.Lock()
	defer q.mu.Unlock()
	s := p.d.state.Load()
	if q.vq == nil || s == nil || p.Index >= s.pairs {
		return 0, nil
	}
	if q.err != nil {
		return 0, q.err
	}
	err = gone(&q.err, q.memory.Guard(func() (err error) {
		n, err = q.deliver(s, frames)
		return err
	}))
	q.stats.Delivered += uint64(n)
	return n, err
}

// deliver is Deliver with the lock held.
func (q *deviceRx) deliver(s *controlState, frames []packet.Frame) (n int, err error) {
	plain := !s.filters && s.vlans == nil || s.modes[Promisc] && s.vlans == nil
	q.expect(len(frames))
	for n < len(frames) {
		f := &frames[n]
		if !plain && !s.passes(f) {
			q.stats.Filtered++
			n++
			continue
		}
		if f.Hdr.Flags|f.Hdr.GSOType != 0 && !headerFits(&f.Hdr, f.Len, s.offloads) {
			q.stats.NotOffloaded++
			n++
			continue
		}
		if q.hdr == hashHdrLen {
			q.hash, q.report = 0, 0
			if s.rss != nil {
				q.hash, q.report = hashOf(f, s.rss.Types, s.rss.Key)
			}
		}
		ok, e := q.put(f)
		if e != nil {
			err = e
			break
		}
		if !ok {
			q.stats.NoBuffer++
			break
		}
		n++
	}
	if e := q.flush(); e != nil && err == nil {
		err = e
	}
	return n, err
}

// expect hints at the buffers of the next n frames and of as many behind them, so that those come while these are filled.
func (q *deviceRx) expect(n int) {
	end := min(q.next+2*n, q.have)
	for i := max(q.next, q.expected); i < end; i++ {
		if in := q.chains[i].In; len(in) > 0 {
			prefetch.Write(in[0][:min(len(in[0]), prefetch.Frame)])
		}
	}
	q.expected = max(end, q.expected)
}

// flush returns what was filled.
func (q *deviceRx) flush() error {
	if q.ndone == 0 {
		return nil
	}
	err := q.vq.Return(q.done[:q.ndone])
	q.ndone = 0
	if err == nil && q.vq.ShouldNotify() {
		q.stats.Calls++
		q.call()
	}
	return err
}

// untake puts back the chains that were taken and not used.
func (q *deviceRx) untake() {
	if q.have > q.next {
		_ = q.vq.Untake(q.have - q.next) // they are the last ones, and in flight
	}
	q.have, q.next = 0, 0
}

// room sees to it that the chains from next on have n bytes, and answers how many chains that takes; 0 says that there are too few.
func (q *deviceRx) room(n int) (count int, err error) {
	for again := true; ; again = false {
		left := n
		for count = 0; q.next+count < q.have; {
			left -= int(q.chains[q.next+count].InLen)
			count++
			if left <= 0 || !q.merge {
				return count, nil
			}
		}
		if !again {
			return 0, nil
		}
		// What is filled has to be returned before the next Take, which ends the life of its slices; the rest goes back to be taken again.
		if err := q.flush(); err != nil {
			return 0, err
		}
		q.untake()
		q.expected = 0
		if q.kicked.Load() {
			q.kicked.Store(false) // before the look: what is posted after it is kicked for again
		}
		if q.have, err = q.vq.Take(q.chains); q.have == 0 {
			return 0, err
		}
	}
}

// put copies one frame into as many buffers as it needs. False says that there are too few.
func (q *deviceRx) put(f *packet.Frame) (bool, error) {
	total := q.hdr + f.Len
	if q.next < q.have && q.ndone < len(q.done) && q.fits(f, &q.chains[q.next]) {
		return true, nil
	}
	count, err := q.room(total)
	if count == 0 {
		return false, err
	}
	if q.ndone+count > len(q.done) {
		if err := q.flush(); err != nil {
			return false, err
		}
	}
	c := &q.chains[q.next]
	if count == 1 && int(c.InLen) < total {
		q.stats.TooLong++
		return true, nil // the buffer is there for the next one
	}
	if count == 1 && q.fits(f, c) {
		return true, nil
	}
	hdr := f.Hdr
	hdr.NumBuffers = uint16(count)
	q.scatter(f, &hdr, count, total)
	return true, nil
}

// fits copies a frame into the next chain, if that is of one piece with room for all of it.
func (q *deviceRx) fits(f *packet.Frame, c *queue.Chain) bool {
	total := q.hdr + f.Len
	if len(c.In) != 1 || total > len(c.In[0]) || q.hdr != plainHdrLen {
		return false
	}
	dst := c.In[0]
	hdr := f.Hdr
	hdr.NumBuffers = 1
	hdr.Encode(dst)
	at := plainHdrLen
	for _, b := range f.Bufs {
		at += copy(dst[at:], b)
	}
	q.done[q.ndone] = queue.Done{ID: c.ID, Len: uint32(total)}
	q.ndone++
	q.next++
	return true
}

// scatter copies a frame into count chains, of any pieces: all but the last are filled.
func (q *deviceRx) scatter(f *packet.Frame, hdr *packet.NetHdr, count, total int) {
	var head [hashHdrLen]byte
	hdr.Encode(head[:])
	binary.LittleEndian.PutUint32(head[plainHdrLen:], q.hash)
	binary.LittleEndian.PutUint16(head[plainHdrLen+4:], q.report)
	src, bufs := head[:q.hdr], f.Bufs
	for k := range count {
		c := &q.chains[q.next+k]
		n := min(total, int(c.InLen))
		total -= n
		q.done[q.ndone] = queue.Done{ID: c.ID, Len: uint32(n)}
		q.ndone++
		for _, dst := range c.In {
			for n > 0 && len(dst) > 0 {
				for len(src) == 0 {
					src, bufs = bufs[0], bufs[1:]
				}
				k := copy(dst[:min(n, len(dst))], src)
				dst, src, n = dst[k:], src[k:], n-k
			}
		}
	}
	q.next += count
}

// Stats are the counters of both queues. Not while the pair is being used by another goroutine.
func (p *DevicePair) Stats() DeviceStats {
	s := p.rx.stats
	t := &p.tx.stats
	s.Taken, s.Short, s.Long, s.BadHeader, s.Calls = t.Taken, t.Short, t.Long, t.BadHeader, s.Calls+t.Calls
	return s
}
