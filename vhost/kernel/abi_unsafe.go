package kernel

import (
	"unsafe"

	"github.com/vasta-net/vasta/virtio/queue"
	"golang.org/x/sys/unix"
)

// The binary interface of /dev/vhost-net. Structures and numbers are those of include/uapi/linux/vhost.h and vhost_types.h, of which each names its own.
// The rule that keeps the calls safe: a structure is a local variable that the call's argument list points to (package unsafe, rule 4), and the memory whose
// address the kernel keeps (regions, rings) is mapped outside the Go heap, by those who hand it in, for as long as the device may use it.

// Directions of an ioctl's argument (include/uapi/asm-generic/ioctl.h).
const (
	dirNone  = 0
	dirWrite = 1 << 30 // the kernel reads it
	dirRead  = 2 << 30 // the kernel writes it

	vhostVirtio = 0xAF << 8 // VHOST_VIRTIO
)

type (
	vringState struct{ index, num uint32 } // struct vhost_vring_state
	vringFile  struct {                    // struct vhost_vring_file
		index uint32
		fd    int32
	}
	vringAddr struct { // struct vhost_vring_addr
		index, flags           uint32
		desc, used, avail, log uint64
	}
	workerState struct{ id uint32 }         // struct vhost_worker_state
	vringWorker struct{ index, id uint32 }  // struct vhost_vring_worker
	memoryHead  struct{ n, padding uint32 } // struct vhost_memory, without its regions
	memory      struct {
		memoryHead
		regions [maxRegions]memoryRegion
	}
	memoryRegion struct { // struct vhost_memory_region
		guestAddr, size, userAddr, flags uint64
	}
)

// maxRegions is how many regions a table has at most: fewer than any kernel takes (max_mem_regions, 64).
const maxRegions = 8

// The requests.
const (
	reqGetFeatures       = dirRead | 8<<16 | vhostVirtio // number 0x00, as the next
	reqSetFeatures       = dirWrite | 8<<16 | vhostVirtio
	reqSetOwner          = dirNone | vhostVirtio | 0x01
	reqSetMemTable       = dirWrite | 8<<16 | vhostVirtio | 0x03
	reqNewWorker         = dirRead | 4<<16 | vhostVirtio | 0x08
	reqSetVringNum       = dirWrite | 8<<16 | vhostVirtio | 0x10
	reqSetVringAddr      = dirWrite | 40<<16 | vhostVirtio | 0x11
	reqSetVringBase      = dirWrite | 8<<16 | vhostVirtio | 0x12
	reqGetVringBase      = dirWrite | dirRead | 8<<16 | vhostVirtio | 0x12
	reqAttachVringWorker = dirWrite | 8<<16 | vhostVirtio | 0x15
	reqSetVringKick      = dirWrite | 8<<16 | vhostVirtio | 0x20
	reqSetVringCall      = dirWrite | 8<<16 | vhostVirtio | 0x21
	reqSetVringErr       = dirWrite | 8<<16 | vhostVirtio | 0x22
	reqSetVringBusyLoop  = dirWrite | 8<<16 | vhostVirtio | 0x23
	reqNetSetBackend     = dirWrite | 8<<16 | vhostVirtio | 0x30
)

// ioctl may wait for the device's thread, so the scheduler is told of it.
func (h *Handle) ioctl(request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(h.fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// SetOwner implements Calls. The owner is the address space of this process.
func (h *Handle) SetOwner() error { return h.ioctl(reqSetOwner, nil) }

// Features implements Calls.
func (h *Handle) Features() (f uint64, err error) {
	err = h.ioctl(reqGetFeatures, unsafe.Pointer(&f))
	return f, err
}

// SetFeatures implements Calls.
func (h *Handle) SetFeatures(f uint64) error { return h.ioctl(reqSetFeatures, unsafe.Pointer(&f)) }

// SetMemTable implements Calls.
func (h *Handle) SetMemTable(regions []Region) error {
	if len(regions) > maxRegions {
		return unix.E2BIG
	}
	m := memory{memoryHead: memoryHead{n: uint32(len(regions))}}
	for i, r := range regions {
		m.regions[i] = memoryRegion{guestAddr: r.Addr, size: uint64(len(r.Mem)), userAddr: r.Addr}
	}
	return h.ioctl(reqSetMemTable, unsafe.Pointer(&m))
}

func (h *Handle) vringState(request uintptr, ring int, num uint32) (uint32, error) {
	s := vringState{uint32(ring), num}
	err := h.ioctl(request, unsafe.Pointer(&s))
	return s.num, err
}

func (h *Handle) vringFile(request uintptr, ring, fd int) error {
	f := vringFile{uint32(ring), int32(fd)}
	return h.ioctl(request, unsafe.Pointer(&f))
}

// SetVringNum implements Calls.
func (h *Handle) SetVringNum(ring, size int) error {
	_, err := h.vringState(reqSetVringNum, ring, uint32(size))
	return err
}

// SetVringBase implements Calls.
func (h *Handle) SetVringBase(ring int, base uint32) error {
	_, err := h.vringState(reqSetVringBase, ring, base)
	return err
}

// VringBase implements Calls.
func (h *Handle) VringBase(ring int) (uint32, error) { return h.vringState(reqGetVringBase, ring, 0) }

// SetVringBusyPoll implements Calls.
func (h *Handle) SetVringBusyPoll(ring, microseconds int) error {
	_, err := h.vringState(reqSetVringBusyLoop, ring, uint32(microseconds))
	return err
}

// SetVringKick implements Calls.
func (h *Handle) SetVringKick(ring, fd int) error { return h.vringFile(reqSetVringKick, ring, fd) }

// SetVringCall implements Calls.
func (h *Handle) SetVringCall(ring, fd int) error { return h.vringFile(reqSetVringCall, ring, fd) }

// SetVringErr implements Calls.
func (h *Handle) SetVringErr(ring, fd int) error { return h.vringFile(reqSetVringErr, ring, fd) }

// SetBackend implements Calls.
func (h *Handle) SetBackend(ring, fd int) error { return h.vringFile(reqNetSetBackend, ring, fd) }

// SetVringAddr implements Calls.
func (h *Handle) SetVringAddr(ring int, a queue.Areas) error {
	v := vringAddr{index: uint32(ring), desc: address(a.Descriptor), used: address(a.Device), avail: address(a.Driver)}
	return h.ioctl(reqSetVringAddr, unsafe.Pointer(&v))
}

// NewWorker implements Calls.
func (h *Handle) NewWorker() (int, error) {
	var s workerState
	err := h.ioctl(reqNewWorker, unsafe.Pointer(&s))
	return int(s.id), err
}

// AttachVringWorker implements Calls.
func (h *Handle) AttachVringWorker(ring, id int) error {
	w := vringWorker{uint32(ring), uint32(id)}
	return h.ioctl(reqAttachVringWorker, unsafe.Pointer(&w))
}

// address is where memory lies in this process.
func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// signal adds one to an eventfd. It is raw: the descriptor is non-blocking. A counter that cannot take it is readable anyway.
func signal(fd int) {
	one := uint64(1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}
