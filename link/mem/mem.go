// Package mem is a link inside one process: a virtio-net driver and its device, joined by rings. A network has the driver's end as its link, and a program of
// Go's own holds the device's end and is the guest: with a TCP/IP stack, with a virtual machine's device behind it, or as a test that makes frames by hand.
//
//	network, guest, err := mem.New(mem.Config{Offloads: mem.Offloads})
//
// Both ends are link.Queues: whole Ethernet frames with a virtio-net header, GSO frames of 64 KiB and partial checksums among them, as far
// as Config says. A network of several workers gets a link for each.
//
// A frame is copied once each way, by Send, and read where it lies: in the buffers that the driver has posted, or in the piece that it was put into. Neither allocates
// or makes a system call; only who sleeps is woken by one. All the memory is the Go heap's, so that an end that is closed
// takes nothing away from under the other, and the race detector sees what happens.
package mem

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/virtio"
	"github.com/vasta-net/vasta/pagepool"
	virtionet "github.com/vasta-net/vasta/virtio/net"
)

// Offloads is everything: partial checksums, and segmentation of TCP and UDP left to the other end.
var Offloads = link.Features{Csum: true, TSO4: true, TSO6: true, USO: true}

// MaxFrame is the longest frame in bytes. A link whose receive buffers are small (Config.Driver) carries 1518 to the network.
const MaxFrame = virtionet.MaxFrame

// Config says what a link is like. The zero Config carries no offloads.
type Config struct {
	// Offloads are what the link carries, both ways.
	Offloads link.Features
	// Driver sets the rings, the receive buffers and the pool of the network's end, where the defaults are not wanted: a split ring with event indexes,
	// indirect tables and mergeable buffers. Features are those of the rings and the buffers; the offloads are added to them. Transport, Memory and Wake are New's.
	// For a hook that puts headers in front of frames (packet.Frame.Push) set Headroom: without it long frames are fewer, longer pieces.
	Driver virtionet.DriverConfig
}

// What a driver is like for which Config says nothing else.
const (
	rings     = virtionet.EventIdx | virtionet.IndirectDesc | virtionet.MrgRxbuf
	ringSize  = 512
	poolPages = 128 // 8 MiB: 4 for frames to the guest, up to 2 in receive buffers, and as much for pages that both are in
)

// New joins two ends. Each has to be closed.
func New(c Config) (network *virtio.Queue, guest *Guest, err error) {
	d := c.Driver
	if d.Features == 0 {
		d.Features = rings
	}
	if d.QueueSize == 0 {
		d.QueueSize = ringSize
	}
	if d.Pages == 0 {
		d.Pages = poolPages
	}
	d.Features |= virtionet.Version1 | virtio.Wanted(c.Offloads)
	device, err := virtionet.NewDevice(virtionet.DeviceConfig{Features: d.Features})
	if err != nil {
		return nil, nil, fmt.Errorf("link/mem: %w", err)
	}
	j := &joint{}
	j.open.Store(2)
	if err := j.network.open(); err != nil {
		return nil, nil, err
	}
	guest = &Guest{joint: j, pair: device.Pairs()[0], features: c.Offloads}
	if err := guest.bell.open(); err != nil {
		j.network.close()
		return nil, nil, err
	}
	guest.pair.OnKick = guest.bell.ring
	d.Transport, d.Memory, d.Pairs = device, onHeap, 1
	d.Wake = func(int) { j.network.ring() }
	if j.driver, err = virtionet.NewDriver(d); err != nil {
		j.network.close()
		guest.bell.close()
		return nil, nil, fmt.Errorf("link/mem: %w", err)
	}
	guest.half = j.driver.Pairs()[0].Posted() / 2
	if guest.listen() {
		guest.bell.ring()
	}
	return virtio.New(virtio.Config{
		Pair: j.driver.Pairs()[0], Fd: j.network.fd, Gone: &j.gone[1],
		Close: func() error {
			j.gone[0].Store(true)
			guest.bell.ring()
			j.network.close()
			return j.leave()
		},
	}), guest, nil
}

// onHeap makes an arena of ordinary memory.
func onHeap(bytes int) (*pagepool.Arena, error) {
	pages := (bytes + pagepool.PageSize - 1) / pagepool.PageSize
	return pagepool.NewRegion(make([]byte, pages*pagepool.PageSize))
}

// joint is what both ends have in common. It lasts until both are closed.
type joint struct {
	driver  *virtionet.Driver
	network bell
	gone    [2]atomic.Bool // the network's end, the guest's
	open    atomic.Int32   // ends
}

// leave is called by each end when it is closed.
func (j *joint) leave() error {
	if j.open.Add(-1) > 0 {
		return nil
	}
	ended, end := context.WithCancel(context.Background())
	end() // nobody else has pages
	if err := j.driver.Close(ended); err != nil {
		return fmt.Errorf("link/mem: %w", err)
	}
	return nil
}
