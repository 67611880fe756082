package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/vasta-net/vasta/virtio/queue"
	"golang.org/x/sys/unix"
)

// MaxSize is the largest ring: a split one, the only format that the kernel has.
const MaxSize = queue.MaxSize

// Config is what a device is made from.
type Config struct {
	Calls Calls // the device's from New on
	TAP   int   // stays the caller's, and open as long as the device is
	Call  int   // an eventfd that the kernel writes to when a ring has something for the driver; the caller's

	// Workers gives each ring a thread of the kernel's, where its vhost-net can (6.1 and 6.12 cannot), instead of one for both.
	Workers bool
	// BusyPoll is how long the kernel's thread looks for more before it sleeps, in whole microseconds; 0: not at all.
	BusyPoll time.Duration
}

// Device is a device of two rings, RX and TX. Kick may be called from one goroutine and Trouble from another; nothing else runs beside the other methods.
type Device struct {
	calls    Calls
	config   Config
	offered  uint64
	workers  bool // each ring has a thread of its own
	features uint64
	regions  []Region
	rings    [2]queue.Ring
	attached [2]bool
	kicks    [2]int // eventfds
	errs     [2]int
	running  bool
	closed   bool
}

// New takes a device into possession.
func New(c Config) (d *Device, err error) {
	d = &Device{calls: c.Calls, config: c, kicks: [2]int{-1, -1}, errs: [2]int{-1, -1}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := c.Calls.SetOwner(); err != nil {
		return d, fmt.Errorf("vhost-net: cannot become the owner of the device: %w (a descriptor serves once, and one process)", err)
	}
	if d.offered, err = c.Calls.Features(); err != nil {
		return d, fmt.Errorf("vhost-net: cannot read the features: %w", err)
	}
	for ring := range d.kicks {
		for _, fd := range []*int{&d.kicks[ring], &d.errs[ring]} {
			if *fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
				return d, fmt.Errorf("vhost-net: cannot make an eventfd: %w", err)
			}
		}
	}
	if c.Workers {
		d.workers = d.addWorkers() == nil
	}
	return d, nil
}

// addWorkers gives each ring a thread.
func (d *Device) addWorkers() error {
	for ring := range d.kicks {
		id, err := d.calls.NewWorker()
		if err == nil {
			err = d.calls.AttachVringWorker(ring, id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Offered are the features that the kernel offers, by the bits of virtio.
func (d *Device) Offered() uint64 { return d.offered }

// Workers says whether each ring has a thread of its own.
func (d *Device) Workers() bool { return d.workers }

// SetFeatures sets the features for the next Start.
func (d *Device) SetFeatures(f uint64) error {
	if d.running {
		return fmt.Errorf("vhost-net: features cannot change while the rings run")
	}
	if err := d.calls.SetFeatures(f); err != nil {
		return fmt.Errorf("vhost-net: the kernel refuses the features %#x of %#x: %w", f, d.offered, err)
	}
	d.features = f
	return nil
}

// Map makes memory known to the kernel, by the address that it has in this process, which is the answer. It must stay mapped until Unmap, or Close.
func (d *Device) Map(mem []byte, _ int) (uint64, error) {
	if len(d.regions) == maxRegions {
		return 0, fmt.Errorf("vhost-net: more than %d regions of memory", maxRegions)
	}
	r := Region{address(mem), mem}
	d.regions = append(d.regions, r)
	if err := d.remap(); err != nil {
		d.regions = d.regions[:len(d.regions)-1]
		return 0, err
	}
	return r.Addr, nil
}

// Unmap takes back what Map has answered.
func (d *Device) Unmap(addr uint64, _ []byte) error {
	for i, r := range d.regions {
		if r.Addr == addr {
			d.regions = append(d.regions[:i], d.regions[i+1:]...)
			return d.remap()
		}
	}
	return fmt.Errorf("vhost-net: nothing is mapped at %#x", addr)
}

// remap gives a device that runs its table of memory anew.
func (d *Device) remap() error {
	if !d.running {
		return nil
	}
	return d.setMemTable()
}

func (d *Device) setMemTable() error {
	if err := d.calls.SetMemTable(d.regions); err != nil {
		return fmt.Errorf("vhost-net: the kernel refuses a table of %d regions of memory: %w", len(d.regions), err)
	}
	return nil
}

// Attach sets a ring for the next Start.
func (d *Device) Attach(ring int, r queue.Ring) error {
	switch {
	case ring != RX && ring != TX:
		return fmt.Errorf("vhost-net: there is no ring %d", ring)
	case r.Format != queue.Split:
		return errors.New("vhost-net: the kernel has no packed rings")
	case r.Size > MaxSize:
		return fmt.Errorf("vhost-net: a ring of %d descriptors: at most %d", r.Size, MaxSize)
	}
	d.rings[ring], d.attached[ring] = r, true
	return nil
}

// Start has the kernel serve both rings, from their beginning.
func (d *Device) Start() (err error) {
	if !d.attached[RX] || !d.attached[TX] {
		return errors.New("vhost-net: started without its rings")
	}
	if err := d.setMemTable(); err != nil {
		return err
	}
	for ring := range d.rings {
		if err := d.setRing(ring); err != nil {
			return err
		}
	}
	d.running = true
	for ring := range d.rings {
		if err := d.calls.SetBackend(ring, d.config.TAP); err != nil {
			return errors.Join(fmt.Errorf("vhost-net: the kernel does not serve ring %d on the TAP: %w", ring, err), d.Stop())
		}
	}
	return nil
}

// setRing tells the kernel of a ring.
func (d *Device) setRing(ring int) error {
	r := &d.rings[ring]
	for _, step := range [...]struct {
		what string
		set  func() error
	}{
		{"size", func() error { return d.calls.SetVringNum(ring, r.Size) }},
		{"position", func() error { return d.calls.SetVringBase(ring, 0) }},
		{"place", func() error { return d.calls.SetVringAddr(ring, r.Areas) }},
		{"kick descriptor", func() error { return d.calls.SetVringKick(ring, d.kicks[ring]) }},
		{"call descriptor", func() error { return d.calls.SetVringCall(ring, d.config.Call) }},
		{"error descriptor", func() error { return d.calls.SetVringErr(ring, d.errs[ring]) }},
	} {
		if err := step.set(); err != nil {
			return fmt.Errorf("vhost-net: the kernel refuses the %s of ring %d: %w", step.what, ring, err)
		}
	}
	if d.config.BusyPoll > 0 {
		// A kernel without it (before Linux 4.7) sleeps at once, which is only slower.
		_ = d.calls.SetVringBusyPoll(ring, int(d.config.BusyPoll.Microseconds()))
	}
	return nil
}

// Stop ends Start: when it returns, the kernel touches neither ring any more, nor what lies in them.
func (d *Device) Stop() (err error) {
	if !d.running {
		return nil
	}
	for ring := range d.rings {
		if e := d.calls.SetBackend(ring, -1); e != nil {
			err = errors.Join(err, fmt.Errorf("vhost-net: cannot stop ring %d: %w", ring, e))
		}
	}
	if err == nil {
		d.running = false
	}
	d.attached = [2]bool{}
	return err
}

// Kick has the kernel look at a ring. It neither waits nor allocates.
func (d *Device) Kick(ring int) { signal(d.kicks[ring]) }

// Troubles are eventfds, of RX and TX, that become readable when the kernel has found a ring that it cannot go on with. They stay the device's.
func (d *Device) Troubles() [2]int { return d.errs }

// Close stops the rings and gives the device back. A second Close does nothing and returns fs.ErrClosed.
func (d *Device) Close() (err error) {
	if d.closed {
		return fs.ErrClosed
	}
	stopErr := d.Stop()
	if err = d.calls.Close(); err != nil { // else that has ended the device, whatever Stop has met
		err = errors.Join(stopErr, fmt.Errorf("vhost-net: close: %w", err))
	}
	d.closed, d.running = true, false
	for ring := range d.kicks {
		for _, fd := range []int{d.kicks[ring], d.errs[ring]} {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	}
	return err
}
