package vasta

import (
	"sync"
	"sync/atomic"

	"github.com/vasta-net/vasta/hostsock"
)

// inner is what Dial and Listen have open, by the workers' descriptors of it.
type inner struct {
	count     atomic.Int64 // of conns
	listening atomic.Int64 // of listeners; both so that networks without any do not take the lock
	mu        sync.Mutex
	conns     map[int]*Conn
	listeners map[listenKey]*Listener
	closed    bool
}

func newInner() *inner {
	return &inner{conns: make(map[int]*Conn), listeners: make(map[listenKey]*Listener)}
}

// add enters a connection whose other end the worker has under fd.
func (in *inner) add(fd int, c *Conn) {
	in.mu.Lock()
	in.conns[fd] = c
	in.mu.Unlock()
	in.count.Add(1)
}

// take removes and returns the connection of a descriptor that is about to be closed; nil when there is none.
func (in *inner) take(fd int) *Conn {
	if in.count.Load() == 0 {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.conns[fd]
	if c != nil {
		delete(in.conns, fd)
		in.count.Add(-1)
	}
	return c
}

// close ends the listeners. The connections end with the workers.
func (in *inner) close() {
	in.mu.Lock()
	in.closed = true
	var all []*Listener
	for _, l := range in.listeners {
		all = append(all, l)
	}
	in.mu.Unlock()
	for _, l := range all {
		_ = l.Close() // it may be closed already
	}
}

// host is the machine's sockets, and those of Dial and Listen, whose ends it tells apart: a pair of Unix sockets does not carry a reset by itself.
type host struct {
	*hostsock.System
	inner *inner
}

func newHost(in *inner) (*host, error) {
	s, err := hostsock.NewSystem()
	if err != nil {
		return nil, err
	}
	return &host{s, in}, nil
}

// Abort implements hostsock.Host.
func (h *host) Abort(fd int) {
	if c := h.inner.take(fd); c != nil {
		c.reset.Store(true)
	}
	h.System.Abort(fd)
}

// Close implements hostsock.Host.
func (h *host) Close(fd int) {
	h.inner.take(fd)
	h.System.Close(fd)
}
