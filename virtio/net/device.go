package net

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/vasta-net/vasta/virtio/queue"
)

// DeviceConfig is what a device end is made from.
type DeviceConfig struct {
	Features  Features // to be offered; 0: Offerable
	Config    Config
	QueueSize int // the limit of each ring; 0: queue.MaxSize
}

// Offerable are the features that the device end can offer.
const Offerable = Supported

// Device is the device end of virtio-net in this process: it is the Transport of its driver. The methods of Transport may be called from any goroutine;
// each DevicePair belongs to one.
type Device struct {
	offered Features
	limit   int
	pairs   []*DevicePair
	// steering is nil with one pair.
	steering *steering

	mu         sync.Mutex
	config     Config
	generation uint32
	features   Features
	regions    []queue.Region
	rings      map[int]attached
	control    queue.Device
	running    bool

	state atomic.Pointer[controlState] // nil: no driver
}

// attached is a ring that the driver has attached.
type attached struct {
	ring queue.Ring
	call func()
}

// NewDevice makes a device, which is its own transport.
func NewDevice(c DeviceConfig) (*Device, error) {
	d := &Device{offered: c.Features, limit: c.QueueSize, config: c.Config, rings: map[int]attached{}}
	if d.offered == 0 {
		d.offered = Offerable
	}
	d.offered |= Version1
	if d.offered&(RSS|HashReport) != 0 {
		d.config.RSSMaxKey, d.config.RSSMaxIndirection, d.config.HashTypes = maxRSSKey, maxRSSIndirection, allHashes
	}
	if d.limit == 0 {
		d.limit = queue.MaxSize
	}
	pairs := max(1, int(c.Config.MaxPairs))
	switch {
	case d.offered&^Offerable != 0:
		return nil, fmt.Errorf("virtio-net device: cannot offer %v", d.offered&^Offerable)
	case pairs > 0x8000:
		return nil, fmt.Errorf("virtio-net device: %d queue pairs; at most 32768", pairs)
	case d.offered.Has(MTU) && c.Config.MTU < 68:
		return nil, fmt.Errorf("virtio-net device: an MTU of %d; at least 68", c.Config.MTU)
	}
	if err := d.offered.Check(); err != nil {
		return nil, fmt.Errorf("virtio-net device: %w", err)
	}
	d.config.MaxPairs = uint16(pairs)
	for i := range pairs {
		d.pairs = append(d.pairs, newDevicePair(d, i))
	}
	if pairs > 1 {
		d.steering = new(steering)
	}
	return d, nil
}

// Pairs are the queue pairs, all that there can be.
func (d *Device) Pairs() []*DevicePair { return d.pairs }

// Offered implements Transport.
func (d *Device) Offered() Features { return d.offered }

// ReadConfig implements Transport.
func (d *Device) ReadConfig(p []byte, off int) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.config.encode()
	if off < len(b) {
		copy(p, b[off:])
	}
	return d.generation
}

// QueueLimit implements Transport.
func (d *Device) QueueLimit(i int) int {
	switch {
	case i >= 0 && i < 2*len(d.pairs):
		return d.limit
	case i == 2*len(d.pairs) && d.offered.Has(CtrlVQ):
		return controlSize
	}
	return 0
}

// Negotiate implements Transport.
func (d *Device) Negotiate(f Features) error {
	if f&^d.offered != 0 {
		return fmt.Errorf("virtio-net device: %v was not offered", f&^d.offered)
	}
	if err := f.Check(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.features = f
	return nil
}

// Map implements Transport: addresses are offsets that are nobody's addresses, so that one that was not translated does not work by chance.
func (d *Device) Map(mem []byte, _ int) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	addr := uint64(1) << 40
	for _, r := range d.regions {
		addr = max(addr, r.Addr+uint64(len(r.Mem)))
	}
	addr = (addr + 1<<30) &^ (1<<30 - 1)
	d.regions = append(d.regions, queue.Region{Addr: addr, Mem: mem})
	return addr, d.remap()
}

// Unmap implements Transport.
func (d *Device) Unmap(addr uint64, _ []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, r := range d.regions {
		if r.Addr == addr {
			d.regions = append(d.regions[:i], d.regions[i+1:]...)
			return d.remap()
		}
	}
	return fmt.Errorf("virtio-net device: nothing is mapped at %#x", addr)
}

// remap gives a device that runs its table of memory anew.
func (d *Device) remap() error {
	if !d.running {
		return nil
	}
	m, err := queue.NewMemory(d.regions...)
	if err != nil {
		return err
	}
	for _, p := range d.pairs {
		p.setMemory(m)
	}
	return nil
}

// Attach implements Transport.
func (d *Device) Attach(i int, r queue.Ring, call func()) error {
	if d.QueueLimit(i) < r.Size {
		return fmt.Errorf("virtio-net device: queue %d of %d descriptors; the limit is %d", i, r.Size, d.QueueLimit(i))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rings[i] = attached{r, call}
	return nil
}

// Start implements Transport.
func (d *Device) Start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.features == 0 {
		return errors.New("virtio-net device: started before features were negotiated")
	}
	m, err := queue.NewMemory(d.regions...)
	if err != nil {
		return err
	}
	for i, p := range d.pairs {
		rx, ok := d.rings[rxIndex(i)]
		tx, ok2 := d.rings[txIndex(i)]
		if !ok || !ok2 {
			continue
		}
		if err := p.start(d.features, m, rx, tx); err != nil {
			return fmt.Errorf("virtio-net device: pair %d: %w", i, err)
		}
	}
	d.state.Store(initialState(d.features, &d.config))
	if c, ok := d.rings[d.controlIndex()]; ok && d.features.Has(CtrlVQ) {
		if d.control, err = queue.NewDevice(queue.DeviceConfig{Ring: c.ring, Memory: m}); err != nil {
			return fmt.Errorf("virtio-net device: control queue: %w", err)
		}
	}
	d.running = true
	return nil
}

// Kick implements Transport.
func (d *Device) Kick(i int) {
	if i >= 2*len(d.pairs) || i == 2 && d.features.Has(CtrlVQ) && d.features&(MQ|RSS) == 0 {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.serveControl()
		return
	}
	p := d.pairs[i/2]
	if i == rxIndex(p.Index) {
		p.rx.kicked.Store(true)
	}
	if p.OnKick != nil {
		p.OnKick()
	}
}

// Reset implements Transport. It waits for batches that a DevicePair has taken and not ended (Done).
func (d *Device) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pairs {
		p.stop()
	}
	if d.steering != nil {
		d.steering.forget()
	}
	clear(d.rings)
	d.features, d.running, d.control = 0, false, nil
	d.state.Store(nil)
	return nil
}
