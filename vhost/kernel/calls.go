package kernel

import "github.com/vasta-net/vasta/virtio/queue"

// Calls are the calls of one open /dev/vhost-net, each of which is one ioctl of include/uapi/linux/vhost.h. Handle makes them; a test may put a twin of it
// in its place (kerneltest). Rings are numbered RX and TX. Errors are errno values, perhaps wrapped.
type Calls interface {
	SetOwner() error
	Features() (uint64, error)
	SetFeatures(features uint64) error
	SetMemTable(regions []Region) error

	SetVringNum(ring, size int) error
	SetVringBase(ring int, base uint32) error
	VringBase(ring int) (base uint32, err error)
	SetVringAddr(ring int, areas queue.Areas) error
	SetVringKick(ring, fd int) error
	SetVringCall(ring, fd int) error
	SetVringErr(ring, fd int) error
	SetVringBusyPoll(ring, microseconds int) error

	// NewWorker starts another thread of the kernel's for rings of this device (Linux 6.4 has the call, and up to 6.12 at least its vhost-net does not take it).
	NewWorker() (id int, err error)
	AttachVringWorker(ring, id int) error

	// SetBackend gives a ring the TAP whose frames it carries, which starts it; -1 stops it: when that returns, the kernel touches the ring no more.
	SetBackend(ring, fd int) error

	Close() error
}

// Region is memory that rings and buffers may lie in: known to the driver and the kernel by the same addresses, those of this process.
type Region struct {
	Addr uint64 // of Mem in this process
	Mem  []byte
}

// The rings of a device, as seen from the driver.
const (
	RX = 0
	TX = 1
)
