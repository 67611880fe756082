package net

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/virtio/queue"
)

// DriverConfig is what a driver is made from. What is zero has the default that is named.
type DriverConfig struct {
	Transport Transport
	Features  Features // those that the driver wants, of those it can (Supported); 0: all but RSS and HASH_REPORT

	Pairs     int // queue pairs to make room for; 0: as many as the device has
	QueueSize int // descriptors in each ring; 0: 256, or the device's limit if that is less
	// TransmitSize is the number of descriptors in transmit rings, where those are to be another size; 0: QueueSize.
	TransmitSize int

	// Headroom and Tailroom are the room around each received frame, for the hook, in bytes. Without headroom the buffers of a long frame join up
	// where they lie side by side.
	Headroom, Tailroom int
	// CopyBreak is the longest frame that is copied out of its buffer, in bytes, so that the buffer is posted again as it is; 0: 128, below 0: none. The copy costs those who
	// only look at a frame's first cache line the transfer of the others from the device's processor (128 bytes: 13.4 Mpps without, 9.9 with), and gains those who read it all the
	// way through the pool (9.4 without, 9.9 with; 64 bytes: no difference). A hook looks before the copy is made, and what it drops or sends back is not copied.
	CopyBreak int
	// Buffer is the length of mergeable buffers, header included, in bytes; 0: it follows the mean length of frames.
	Buffer int

	// Arena is where the pools have their pages from, not mapped yet; nil: an arena of the driver's own. Pages is the most that a pair takes; 0: as many as
	// leave room for frames to be sent when each receive buffer keeps a page from being free.
	Arena *pagepool.Arena
	Pages int
	// Memory makes the arenas that the driver owns: one for the rings, and one for the pages unless Arena is given; nil: pagepool.NewArena.
	Memory func(bytes int) (*pagepool.Arena, error)

	// Buffers is where a pair's receive buffers come from, in memory of Arena; nil: the pair's pool. It is for comparing the pool with something else.
	Buffers func(pair int) Buffers

	// Wake is called, from any goroutine, when there are frames for a pair that has called Listen, or room for one that has called ListenSend; nil: all pairs poll.
	Wake func(pair int)

	// Hook sees every received frame of a pair first. Redirect copies a frame that a hook redirects; false says that the target has no room.
	Hook     func(pair int) packet.Hook
	Redirect func(target int, f *packet.Frame) bool
}

// Supported are the features that the driver can use.
const Supported = Version1 | IndirectDesc | EventIdx | RingPacked | InOrder | Csum | GuestCsum | MTU | MAC | GuestTSO4 | GuestTSO6 | GuestECN |
	HostTSO4 | HostTSO6 | HostECN | GuestUSO4 | GuestUSO6 | HostUSO | MrgRxbuf | Status | SpeedDuplex |
	CtrlVQ | CtrlRX | CtrlRXExtra | CtrlVLAN | CtrlMACAddr | GuestAnnounce | MQ | CtrlGuestOffloads | RSS | HashReport | NotfCoal | VQNotfCoal

// usual are the features that the driver asks for when it is not told: the hash in each header is for those who use it.
const usual = Supported &^ (RSS | HashReport)

const (
	defaultQueueSize = 256
	defaultCopyBreak = 128
	// txPages is the room in a pair's pool for frames on their way to the device, in pages: 64 of the longest.
	txPages = 128
)

// Driver is the driver of one device.
type Driver struct {
	t        Transport
	features Features
	mode     Mode
	config   Config
	arena    *pagepool.Arena
	owned    bool            // the arena goes with the driver
	rings    *pagepool.Arena // for the rings, and the tables of indirect descriptors
	pairs    []*Pair
	control  *control // nil: none was negotiated
	down     atomic.Bool
}

// Pair is a queue pair. It belongs to one goroutine.
type Pair struct {
	Index int
	// Pool is where the pair's buffers come from. It is the pair's goroutine's, like the pair.
	Pool *pagepool.Pool

	d        *Driver
	rx       receiver
	tx       transmitter
	hook     packet.Hook
	verdicts []packet.Verdict
	redirect func(target int, f *packet.Frame) bool
	bounced  []Out            // what a hook sends back of a batch
	rest     []pagepool.Piece // ... and the pieces behind its heads
}

// NewDriver finds the device behind a transport, negotiates, and makes the queue pairs: pools and rings for all pairs that there can be,
// whichever are used now, so that enabling more of them later needs nothing that could fail. It leaves the device running, with buffers posted.
func NewDriver(c DriverConfig) (d *Driver, err error) {
	t := c.Transport
	if err := t.Reset(); err != nil {
		return nil, fmt.Errorf("virtio-net: reset: %w", err)
	}
	d = &Driver{t: t}
	wanted := c.Features
	if wanted == 0 {
		wanted = usual
	}
	d.features = Accept(t.Offered(), wanted&Supported)
	if err := d.features.Check(); err != nil {
		return nil, err
	}
	if err := t.Negotiate(d.features); err != nil {
		return nil, fmt.Errorf("virtio-net: the device refuses the features %v: %w", d.features, err)
	}
	d.mode = d.features.mode()
	d.config = readConfig(t)
	made := d
	defer func() {
		if err != nil {
			err = errors.Join(err, made.Close(context.Background()))
		}
	}()
	if err := d.make(c); err != nil {
		return nil, err
	}
	if err := t.Start(); err != nil {
		return nil, fmt.Errorf("virtio-net: start: %w", err)
	}
	for _, p := range d.pairs {
		p.rx.refill()
	}
	return d, nil
}

// make makes memory, rings and pairs.
func (d *Driver) make(c DriverConfig) error {
	pairs := 1
	if d.features&(MQ|RSS) != 0 {
		pairs = int(d.config.MaxPairs)
	}
	if c.Pairs > 0 {
		pairs = min(pairs, c.Pairs)
	}
	size := c.QueueSize
	if size == 0 {
		size = defaultQueueSize
	}
	limit := d.t.QueueLimit(rxIndex(0))
	if limit < 1 {
		return fmt.Errorf("virtio-net: the device has no receive queue")
	}
	size = min(size, limit)
	txSize := size
	if c.TransmitSize > 0 {
		txSize = min(c.TransmitSize, d.t.QueueLimit(txIndex(0)))
	}
	for _, n := range []int{size, txSize} {
		if !d.features.Has(RingPacked) && !isPowerOf2(n) {
			return fmt.Errorf("virtio-net: a split ring of %d descriptors; it has a power of two", n)
		}
	}
	mtu := 1500
	if d.features.Has(MTU) {
		mtu = int(d.config.MTU)
	}
	g := geometry(d.mode, d.features.hdrLen(), mtu, c.Headroom, c.Tailroom)
	if c.Buffer > 0 && d.mode == Mergeable {
		g.Data = c.Buffer
	}
	if d.mode == Mergeable && d.features&guestGSO != 0 && size*max(g.Data, maxMerge) < MaxFrame+d.features.hdrLen() {
		return fmt.Errorf("virtio-net: a ring of %d mergeable buffers holds no frame of %d bytes: use a larger ring, or no GSO", size, MaxFrame)
	}
	rx := receiverSlots(d.mode, d.features, size)
	pages := c.Pages
	if pages == 0 {
		// A buffer of one descriptor keeps one page from being free, a chain three.
		pages = rx*(1+2*btoi(d.mode == Big)) + 2 + txPages
	}
	block := ringBlock(d.features, max(size, txSize))
	if err := d.makeMemory(c, pairs, pages, block); err != nil {
		return err
	}
	for i := range pairs {
		p := &Pair{Index: i, d: d, redirect: c.Redirect}
		pool, err := pagepool.NewPool(pagepool.Config{Provider: d.arena, Pages: pages, Ring: 1024})
		if err != nil {
			return fmt.Errorf("virtio-net: pair %d: %w", i, err)
		}
		p.Pool = pool
		d.pairs = append(d.pairs, p)
		rxRing, err := d.ring(size, rxIndex(i), block)
		if err == nil {
			err = p.rx.init(d, p, rxRing, g, pages, c)
		}
		if err != nil {
			return fmt.Errorf("virtio-net: receive queue %d: %w", i, err)
		}
		txRing, err := d.ring(txSize, txIndex(i), block)
		if err == nil {
			err = p.tx.init(d, p, txRing, c.Wake)
		}
		if err != nil {
			return fmt.Errorf("virtio-net: transmit queue %d: %w", i, err)
		}
		if c.Hook != nil {
			p.hook = c.Hook(i)
		}
	}
	return d.makeControl(2 * pairs * block)
}

// makeControl makes the control queue, behind the other rings.
func (d *Driver) makeControl(at int) error {
	if !d.features.Has(CtrlVQ) {
		return nil
	}
	l := queue.LayoutOf(format(d.features), controlSize)
	mem := d.rings.Memory()[at:]
	ring := queue.DriverConfig{Ring: queue.Ring{
		Format: format(d.features), Size: controlSize, Areas: l.Areas(mem),
		EventIdx: d.features.Has(EventIdx), Indirect: d.features.Has(IndirectDesc), InOrder: d.features.Has(InOrder),
	}}
	base, _ := d.rings.Base()
	if err := d.startControl(ring, mem[l.Len:l.Len+controlData+16], base+uint64(at+l.Len)); err != nil {
		return fmt.Errorf("virtio-net: control queue: %w", err)
	}
	return nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// makeMemory makes and maps the two regions: pages, and rings.
func (d *Driver) makeMemory(c DriverConfig, pairs, pages, block int) (err error) {
	newArena := c.Memory
	if newArena == nil {
		newArena = pagepool.NewArena
	}
	if d.arena = c.Arena; d.arena == nil {
		if d.arena, err = newArena(pairs * pages * pagepool.PageSize); err != nil {
			return fmt.Errorf("virtio-net: %w", err)
		}
		d.owned = true
	}
	if d.rings, err = newArena(roundUp(2*pairs*block+controlBlock, pagepool.PageSize)); err != nil {
		return fmt.Errorf("virtio-net: rings: %w", err)
	}
	for _, a := range []*pagepool.Arena{d.arena, d.rings} {
		if _, mapped := a.Base(); !mapped {
			if err := a.Map(d.t); err != nil {
				return fmt.Errorf("virtio-net: %w", err)
			}
		}
	}
	return nil
}

// ringBlock is the memory for one ring and its tables.
func ringBlock(f Features, size int) int {
	n := queue.LayoutOf(format(f), size).Len
	if f.Has(IndirectDesc) {
		n += size * tableLen(size) * 16
	}
	return roundUp(n, queue.CacheLine)
}

// controlBlock is the memory for the control queue and its commands.
const controlBlock = 16 << 10

// tableLen is the number of descriptors in an indirect table.
func tableLen(size int) int { return min(size, bigChain) }

func format(f Features) queue.Format {
	if f.Has(RingPacked) {
		return queue.Packed
	}
	return queue.Split
}

// ring makes the i-th ring, and attaches it.
func (d *Driver) ring(size, i, block int) (c queue.DriverConfig, err error) {
	l := queue.LayoutOf(format(d.features), size)
	mem := d.rings.Memory()[i*block : (i+1)*block]
	c.Ring = queue.Ring{
		Format: format(d.features), Size: size, Areas: l.Areas(mem),
		EventIdx: d.features.Has(EventIdx), Indirect: d.features.Has(IndirectDesc), InOrder: d.features.Has(InOrder),
	}
	if d.features.Has(IndirectDesc) && size > 1 {
		base, _ := d.rings.Base()
		c.Tables = queue.Tables{Mem: mem[l.Len:], Addr: base + uint64(i*block+l.Len), Segments: tableLen(size)}
	}
	return c, nil
}

// Features are those that were negotiated.
func (d *Driver) Features() Features { return d.features }

// Mode is the kind of receive buffers.
func (d *Driver) Mode() Mode { return d.mode }

// Config is the device's configuration as it was last read.
func (d *Driver) Config() Config { return d.config }

// Pairs are the queue pairs, all that there can be.
func (d *Driver) Pairs() []*Pair { return d.pairs }

// Down has all pairs stop: they receive and send nothing until Up. Buffers stay posted, and frames that the device has put into them wait. Any goroutine.
func (d *Driver) Down() { d.down.Store(true) }

// Up has them go on.
func (d *Driver) Up() { d.down.Store(false) }

// Close resets the device, takes all buffers back, and gives the memory back, once those who hold pages have given them back too; when the context ends
// first, the error says what is held and by whom, and the memory stays. The pairs' goroutines must have stopped.
func (d *Driver) Close(ctx context.Context) error {
	if d.control != nil {
		d.control.stop()
		d.control = nil
	}
	err := d.t.Reset()
	if err != nil {
		return fmt.Errorf("virtio-net: reset: %w", err) // a device that runs has the memory
	}
	for _, p := range d.pairs {
		p.rx.close()
		p.tx.close()
		if e := p.Pool.Shutdown(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("virtio-net: pair %d: %w", p.Index, e))
		}
	}
	if err != nil {
		return err
	}
	d.pairs = nil
	if d.rings != nil {
		err = d.rings.Close()
		d.rings = nil
	}
	if d.owned && d.arena != nil {
		err = errors.Join(err, d.arena.Close())
		d.arena = nil
	}
	return err
}
