package netns

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// tunPath is the TUN/TAP driver's device.
const tunPath = "/dev/net/tun"

// vnetHeaderLen is the size in bytes of struct virtio_net_hdr_mrg_rxbuf (linux/virtio_net.h), in front of each frame. The
// form with num_buffers is the one vhost-net and VIRTIO_F_VERSION_1 use.
const vnetHeaderLen = 12

// Offloads of TUNSETOFFLOAD (linux/if_tun.h) that the TAP offers to its namespace.
const (
	tunFUSO  = unix.TUN_F_USO4 | unix.TUN_F_USO6 // Linux 6.2
	tunFBase = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
)

// openTAP makes the interface called name in the calling thread's network namespace and opens queues descriptors on it:
// non-blocking, close-on-exec, with vnet header and all the offloads that the kernel has. The send buffer limit is left at its
// default, without a limit, which vhost-net's batching needs.
//
// With backpressure, and a kernel that has it, the interface holds back what its full queue has no room for, instead of dropping it.
func openTAP(name string, queues int, backpressure bool) (fds []int, offloads uint32, holdsBack bool, err error) {
	defer func() {
		if err != nil {
			closeAll(fds)
			fds = nil
		}
	}()
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for range queues {
		fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fds, 0, false, tunOpenError(err)
		}
		fds = append(fds, fd)
		if backpressure && hasBackpressure(fd) {
			flags |= iffBackpressure
		}
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return fds, 0, false, fmt.Errorf("interface name %q: at most 15 bytes are allowed", name)
		}
		ifr.SetUint16(flags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return fds, 0, false, tapCreateError(name, err)
		}
	}
	// Both settings belong to the interface: the first queue's descriptor sets them for all.
	if err := unix.IoctlSetPointerInt(fds[0], unix.TUNSETVNETHDRSZ, vnetHeaderLen); err != nil {
		return fds, 0, false, fmt.Errorf("setting the vnet header of TAP %s to %d bytes: %w", name, vnetHeaderLen, err)
	}
	offloads = tunFBase | tunFUSO
	err = unix.IoctlSetInt(fds[0], unix.TUNSETOFFLOAD, int(offloads))
	if errors.Is(err, unix.EINVAL) {
		offloads = tunFBase
		err = unix.IoctlSetInt(fds[0], unix.TUNSETOFFLOAD, int(offloads))
	}
	if err != nil {
		return fds, 0, false, fmt.Errorf("setting the offloads of TAP %s to %#x: %w", name, offloads, err)
	}
	return fds, offloads, flags&iffBackpressure != 0, nil
}

// iffBackpressure is IFF_BACKPRESSURE (include/uapi/linux/if_tun.h, Linux 7.3).
const iffBackpressure = 0x0080

// hasBackpressure asks the driver for its flags.
func hasBackpressure(fd int) bool {
	features, err := unix.IoctlGetInt(fd, unix.TUNGETFEATURES)
	return err == nil && features&iffBackpressure != 0
}

func tunOpenError(err error) error {
	_, cure := tunOpenCause(err)
	return fmt.Errorf("opening %s: %w: %s", tunPath, err, cure)
}

func tapCreateError(name string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("creating TAP %s: %w: the name is taken or no interface name: choose another one", name, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("creating TAP %s: %w: CAP_NET_ADMIN is missing in the network namespace: join it with the user namespace that owns it", name, err)
	}
	return fmt.Errorf("creating TAP %s: %w", name, err)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
