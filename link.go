package vasta

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/stream"
	"github.com/vasta-net/vasta/link/tap"
	"github.com/vasta-net/vasta/netns"
	"golang.org/x/sys/unix"
)

// Link is where a guest's frames come from and go to. It is made by Sandbox, Attach, NetNS, TAP, Socket or Queues, and used for one network.
type Link interface {
	// open makes the queues. On error everything is given back.
	open(c *Config, p *plan) (*end, error)
	// discard gives back what an unopened link owns.
	discard() error
}

// end is a link that was opened.
type end struct {
	queues []link.Queue
	name   string           // of an interface that was made here
	mac    netns.MAC        // zero when not known
	ns     *netns.Namespace // nil without one
	gone   <-chan struct{}  // closed when a namespace that was joined has ended; nil without one
	files  []int            // descriptors that are closed with the link
	closed chan struct{}    // nil, or closed by close
}

// close gives everything back but the first queues, which are owned by workers.
func (e *end) close(owned int) (err error) {
	for _, q := range e.queues[owned:] {
		err = errors.Join(err, q.Close())
	}
	if e.ns != nil {
		err = errors.Join(err, e.ns.Close())
	}
	if e.closed != nil {
		close(e.closed)
	}
	return errors.Join(err, closeAll(e.files))
}

func closeAll(fds []int) (err error) {
	for _, fd := range fds {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}

// Sandbox is a network namespace of its own, with user, mount and PID namespaces, for a command that Network.Namespace starts. No privilege is needed.
// What it needs of the program is said at package netns: main calls netns.StageMain first.
func Sandbox() Link { return sandbox{} }

type sandbox struct{}

func (sandbox) discard() error { return nil }

// open makes the namespaces in a thread that stays: the kernel ends them when the thread ends that has made them (PR_SET_PDEATHSIG), and a program's
// goroutines may end threads.
func (sandbox) open(c *Config, p *plan) (*end, error) {
	type result struct {
		end *end
		err error
	}
	opened := make(chan result)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		ns, err := netns.Create(p.inside)
		if err != nil {
			opened <- result{nil, err}
			return
		}
		e, err := c.namespaceEnd(ns)
		if err != nil {
			opened <- result{nil, err}
			return
		}
		closed := make(chan struct{})
		e.closed = closed
		opened <- result{e, nil}
		<-closed
	}()
	r := <-opened
	return r.end, r.err
}

// Attach is an existing network namespace, which gets an interface for as long as the network lives. What it needs of the program is said at package
// netns.
func Attach(t netns.Target) Link { return attach{target: t} }

// NetNS is Attach for the network namespace of a descriptor, which is the network's from then on.
func NetNS(fd int) Link {
	return attach{target: netns.Target{NetNS: fmt.Sprintf("/proc/self/fd/%d", fd)}, files: []int{fd}}
}

type attach struct {
	target netns.Target
	files  []int
}

func (a attach) discard() error { return closeAll(a.files) }

func (a attach) open(c *Config, p *plan) (*end, error) {
	p.inside.ResolvConf = nil // the mounts of a namespace that exists are its own affair
	ns, err := netns.Attach(a.target, p.inside)
	if err != nil {
		return nil, errors.Join(err, a.discard())
	}
	e, err := c.namespaceEnd(ns)
	if err != nil {
		return nil, errors.Join(err, a.discard())
	}
	e.gone, e.files = ns.Gone(), a.files
	return e, nil
}

// namespaceEnd makes the queues of a namespace's interface.
func (c *Config) namespaceEnd(ns *netns.Namespace) (*end, error) {
	t := ns.TAP()
	queues, err := c.interfaceQueues(t.FDs, link.Features{Csum: true, TSO4: true, TSO6: true, USO: t.USO()})
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &end{queues: queues, name: t.Name, mac: t.MAC, ns: ns}, nil
}

// tapQueues makes queues of descriptors, which it owns from then on.
func tapQueues(fds []int, f link.Features) (queues []link.Queue, err error) {
	for i, fd := range fds {
		q, err := tap.New(fd, f)
		if err != nil {
			for _, q := range queues {
				err = errors.Join(err, q.Close())
			}
			return nil, errors.Join(err, closeAll(fds[i:]))
		}
		queues = append(queues, q)
	}
	return queues, nil
}

// TAP is a TAP interface whose queues' descriptors are given, opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR, and the network's from then on. Its offloads and
// header are set here; addresses, routes and MTU (Config.Guest.MTU) are the caller's affair, or the guest's, by DHCP.
func TAP(fds ...int) Link { return tapLink{fds} }

type tapLink struct{ fds []int }

func (l tapLink) discard() error { return closeAll(l.fds) }

func (l tapLink) open(c *Config, p *plan) (*end, error) {
	if len(l.fds) == 0 {
		return nil, &ConfigError{"TAP", errors.New("no descriptor was given")}
	}
	f, err := tap.Offload(l.fds[0])
	if err != nil {
		return nil, errors.Join(err, l.discard())
	}
	queues, err := c.interfaceQueues(l.fds, f)
	if err != nil {
		return nil, err
	}
	return guestEnd(c, p, queues), nil
}

// Socket is a connected socket whose descriptor is the network's from then on: a stream socket that carries each frame behind its length in 4 bytes,
// the most significant first, as QEMU's -netdev stream and passt do, or a datagram or seqpacket socket with one frame in each message, as QEMU's -netdev dgram.
func Socket(fd int) Link { return socketLink{fd} }

type socketLink struct{ fd int }

func (l socketLink) discard() error { return unix.Close(l.fd) }

func (l socketLink) open(c *Config, p *plan) (*end, error) {
	q, err := stream.New(l.fd)
	if err != nil {
		return nil, errors.Join(err, l.discard())
	}
	return guestEnd(c, p, []link.Queue{q}), nil
}

// Queues is a link of one's own, as package link/mem has them: one queue for each worker. They are the network's from then on.
func Queues(q ...link.Queue) Link { return queuesLink{q} }

type queuesLink struct{ queues []link.Queue }

func (l queuesLink) discard() (err error) {
	for _, q := range l.queues {
		err = errors.Join(err, q.Close())
	}
	return err
}

func (l queuesLink) open(c *Config, p *plan) (*end, error) {
	if len(l.queues) == 0 {
		return nil, &ConfigError{"Queues", errors.New("no queue was given")}
	}
	return guestEnd(c, p, l.queues), nil
}

// guestEnd is a link whose other end is somebody else's.
func guestEnd(c *Config, p *plan, queues []link.Queue) *end {
	p.inside.ResolvConf = nil
	return &end{queues: queues, mac: c.Guest.MAC}
}
