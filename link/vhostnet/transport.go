package vhostnet

import (
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/virtio"
	"github.com/vasta-net/vasta/vhost/kernel"
	virtionet "github.com/vasta-net/vasta/virtio/net"
	"github.com/vasta-net/vasta/virtio/queue"
)

// rings are the features that are the kernel's affair and that the driver uses. Among what is not: VHOST_NET_F_VIRTIO_NET_HDR (27), with which the TAP would
// have no header and no offloads.
const rings = virtionet.Version1 | virtionet.IndirectDesc | virtionet.EventIdx | virtionet.InOrder | virtionet.MrgRxbuf

// transport is a device of the kernel's as virtio/net's driver knows one: one queue pair without configuration, whose rings are vhost's and whose offloads
// are the TAP's.
type transport struct {
	*kernel.Device
	offloads virtionet.Features
}

var _ virtionet.Transport = (*transport)(nil)

func newTransport(d *kernel.Device, f link.Features) *transport {
	return &transport{Device: d, offloads: virtio.Wanted(f)}
}

// Offered implements virtionet.Transport.
func (t *transport) Offered() virtionet.Features {
	return virtionet.Features(t.Device.Offered())&rings | t.offloads
}

// ReadConfig implements virtionet.Transport: there is none.
func (t *transport) ReadConfig(p []byte, _ int) uint32 {
	clear(p)
	return 0
}

// QueueLimit implements virtionet.Transport.
func (t *transport) QueueLimit(i int) int {
	if i == kernel.RX || i == kernel.TX {
		return kernel.MaxSize
	}
	return 0
}

// Negotiate implements virtionet.Transport.
func (t *transport) Negotiate(f virtionet.Features) error { return t.SetFeatures(uint64(f & rings)) }

// Attach implements virtionet.Transport. The kernel calls by writing to the queue's eventfd.
func (t *transport) Attach(i int, r queue.Ring, _ func()) error { return t.Device.Attach(i, r) }

// Reset implements virtionet.Transport. A device that does not stop is closed: then it has stopped, too, and there is no other.
func (t *transport) Reset() error {
	if err := t.Stop(); err != nil {
		return t.Close()
	}
	return nil
}
