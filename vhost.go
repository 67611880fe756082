package vasta

import (
	"errors"
	"fmt"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/vhostnet"
	"github.com/vasta-net/vasta/vhost/kernel"
	"golang.org/x/sys/unix"
)

// VHost says who moves the frames of an interface ([Sandbox], [Attach], [NetNS], [TAP]) between this process and the kernel: system calls, or the kernel's vhost-net over rings.
type VHost struct {
	Mode   VHostMode
	Tuning vhostnet.Tuning // measures of the rings; zero for the defaults
}

// VHostMode is when vhost-net is used.
type VHostMode uint8

// The modes.
const (
	VHostOff  VHostMode = iota
	VHostAuto           // where the device can be used
	VHostOn             // New fails where it cannot
)

// interfaceQueues makes queues of a TAP interface's descriptors, which it owns from then on.
func (c *Config) interfaceQueues(fds []int, f link.Features) ([]link.Queue, error) {
	if c.VHost.Mode == VHostOff {
		c.Log.Debug("frames go through the TAP", "reason", "vhost-net is not asked for")
		return tapQueues(fds, f)
	}
	queues, err := c.vhostQueues(fds, f)
	switch {
	case err == nil:
		c.Log.Debug("frames go through vhost-net", "device", kernel.Path, "queues", len(queues))
		return queues, closeAll(fds)
	case c.VHost.Mode == VHostOn:
		return nil, errors.Join(&VHostError{err}, closeAll(fds))
	}
	c.Log.Debug("frames go through the TAP", "reason", err)
	return tapQueues(fds, f)
}

// vhostQueues makes queues over copies of the descriptors, so that these are as they were when that fails.
func (c *Config) vhostQueues(fds []int, f link.Features) (queues []link.Queue, err error) {
	defer func() {
		if err != nil {
			for _, q := range queues {
				err = errors.Join(err, q.Close())
			}
			queues = nil
		}
	}()
	for _, fd := range fds {
		device, err := kernel.Open(kernel.Path)
		if err != nil {
			return queues, err
		}
		tap, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return queues, errors.Join(fmt.Errorf("a descriptor for vhost-net: %w", err), device.Close())
		}
		q, err := vhostnet.New(vhostnet.Config{TAP: tap, Offloads: f, Device: device, Tuning: c.VHost.Tuning, Log: c.Log})
		if err != nil {
			return queues, errors.Join(err, unix.Close(tap))
		}
		queues = append(queues, q)
	}
	return queues, nil
}

// vhostDescriptors are how many descriptors so many queues may need beside those of every worker.
func (c *Config) vhostDescriptors(queues int) int {
	if c.VHost.Mode == VHostOff {
		return 0
	}
	return queues * vhostDescriptors
}
