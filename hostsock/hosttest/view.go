package hosttest

import (
	"github.com/vasta-net/vasta/hostsock"
	"golang.org/x/sys/unix"
)

// View is another event set over a Host's sockets: what each of several workers of one program has. A socket is watched in one of them. The
// virtual time is the Host's; Wait does not move it, since only the test knows what the other workers still have to do.
type View struct {
	*Host
	// Wanted is the timeout of the last Wait that had nothing to report: how long this worker would sleep.
	Wanted int64

	foreign map[int]*watched // descriptors that are not the host's
	ready   []*watched
}

var _ hostsock.Host = (*View)(nil)

// View makes another event set.
func (h *Host) View() *View { return &View{Host: h, foreign: make(map[int]*watched)} }

// Watch implements hostsock.Host.
func (v *View) Watch(fd int, token uint64) hostsock.Errno {
	if fd >= firstFd {
		return v.watch(fd, token, v)
	}
	v.calls[Watch]++
	if v.foreign[fd] != nil {
		v.fault("Watch on descriptor %d, which is watched", fd)
		return unix.EEXIST
	}
	v.foreign[fd] = &watched{token: token, view: v}
	return 0
}

// Unwatch implements hostsock.Host. An event that waits already is still reported.
func (v *View) Unwatch(fd int) {
	if fd >= firstFd {
		v.Host.Unwatch(fd)
		return
	}
	delete(v.foreign, fd)
}

// Wake reports a foreign descriptor as readable.
func (v *View) Wake(fd int) {
	if w := v.foreign[fd]; w != nil {
		v.queue(w)
	}
}

// Wait implements hostsock.Host, but for the waiting.
func (v *View) Wait(events []hostsock.Event, timeout int64) int {
	v.calls[Wait]++
	var n int
	if n, v.ready = collect(events, v.ready); n == 0 {
		v.Wanted = timeout
	}
	return n
}
