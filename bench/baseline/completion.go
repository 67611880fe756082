package baseline

import (
	"errors"

	virtionet "github.com/vasta-net/vasta/virtio/net"
	"golang.org/x/sys/unix"
)

// Completion is how a sender learns that the kernel's vhost-net has sent its frames: the steps of the source of row S3 (pasta over vhost-net, 2025), of which the last
// is what link/vhostnet does.
type Completion int

// The steps.
const (
	Wait         Completion = iota // each flush sleeps until the kernel has sent all of it
	Poll                           // each flush asks with a system call, again and again, until it has
	Asynchronous                   // no flush waits for anything
)

func (c Completion) String() string { return [...]string{"wait", "poll", "asynchronous"}[c] }

// Flushed does what follows a flush. bell is the eventfd that the kernel calls.
func (c Completion) Flushed(p *virtionet.Pair, bell int) error {
	for c != Asynchronous {
		if p.Reclaim(); p.Unsent() == 0 {
			break
		}
		timeout := 0
		if c == Wait {
			if p.ListenSend() {
				continue
			}
			timeout = -1
		}
		fds := []unix.PollFd{{Fd: int32(bell), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, timeout); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if timeout < 0 {
			var count [8]byte
			_, _ = unix.Read(bell, count[:]) // it does not block
		}
	}
	return nil
}
