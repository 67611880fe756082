package vasta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock"
	"golang.org/x/sys/unix"
)

// Conn is a TCP connection between this program and the guest, made by Network.Dial or accepted by a Listener. It is a net.Conn that may be half closed
// (CloseWrite); a reset by the guest is read as syscall.ECONNRESET, and closing it while received bytes are unread resets the guest's end.
//
// Below it is a pair of sockets, of which a worker has the other end: no address or port of the host's is used, and nobody else can reach it.
type Conn struct {
	pair          *net.UnixConn
	local, remote *net.TCPAddr
	reset         atomic.Bool // the worker has ended the connection other than in order
}

var _ net.Conn = (*Conn)(nil)

// LocalAddr is the address by which the guest knows this end.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the guest's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.pair.Read(b)
	if errors.Is(err, io.EOF) && c.reset.Load() {
		err = &net.OpError{Op: "read", Net: "tcp", Source: c.local, Addr: c.remote, Err: os.NewSyscallError("read", unix.ECONNRESET)}
	}
	return n, c.named(err)
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.pair.Write(b)
	return n, c.named(err)
}

// Close implements net.Conn.
func (c *Conn) Close() error { return c.named(c.pair.Close()) }

// CloseRead ends reading; what the guest sends from then on resets its end.
func (c *Conn) CloseRead() error { return c.named(c.pair.CloseRead()) }

// CloseWrite ends writing: the guest reads the end of the stream, and may go on writing.
func (c *Conn) CloseWrite() error { return c.named(c.pair.CloseWrite()) }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.named(c.pair.SetDeadline(t)) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.named(c.pair.SetReadDeadline(t)) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.named(c.pair.SetWriteDeadline(t)) }

// named gives an error of the pair the addresses of the connection.
func (c *Conn) named(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		e.Net, e.Source, e.Addr = "tcp", c.local, c.remote
	}
	return err
}

// newPair makes a connection and the descriptor of the worker's end.
func (n *Network) newPair(local, remote netip.AddrPort) (c *Conn, fd int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		// As much as may be had: it is what is between us and the worker. It cannot fail.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, pairBuffer)
	}
	f := os.NewFile(uintptr(fds[0]), "vasta")
	defer f.Close()
	u, err := net.FileConn(f)
	if err != nil {
		_ = unix.Close(fds[1])
		return nil, -1, err
	}
	c = &Conn{pair: u.(*net.UnixConn), local: net.TCPAddrFromAddrPort(local), remote: net.TCPAddrFromAddrPort(remote)}
	n.inner.add(fds[1], c)
	return c, fds[1], nil
}

// pairBuffer is how many bytes each direction of a pair may hold; the kernel's limit for ordinary users is less (net.core.wmem_max).
const pairBuffer = 1 << 20

// Dial connects to a port of the guest's: network is "tcp", "tcp4" or "tcp6", and address the guest's with a port, as "10.0.2.15:80"; without a host, as
// ":80", it is the guest's first address. The guest sees a connection from its router; Config.Policy is not asked. Dial waits until the guest has accepted,
// as long as ctx allows and Run runs.
//
// The error is a *net.OpError, which wraps the reason: syscall.ECONNREFUSED, syscall.ETIMEDOUT, ErrClosed, or the cause of ctx.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, to, err := n.dial(ctx, network, address)
	if err != nil {
		e := &net.OpError{Op: "dial", Net: network, Err: err}
		if to.IsValid() {
			e.Addr = net.TCPAddrFromAddrPort(to)
		}
		return nil, e
	}
	return c, nil
}

func (n *Network) dial(ctx context.Context, network, address string) (c *Conn, to netip.AddrPort, err error) {
	p := n.currentPlan()
	if to, err = guestAddr(p, network, address); err != nil {
		return nil, to, err
	}
	from := p.mapping.Gateway[familyOf(to.Addr())]
	if !from.IsValid() {
		return nil, to, errors.New("the guest has no network of this family")
	}
	if err := context.Cause(ctx); err != nil {
		return nil, to, err
	}
	// The ports of other connections from the router's address are not known: those of host peers that are shown as it, and our own.
	const tries = 64
	for range tries {
		local := netip.AddrPortFrom(from, uint16(firstClientPort+rand.IntN(65536-firstClientPort)))
		c, err = n.dialFrom(ctx, local, to)
		if !errors.Is(err, unix.EADDRINUSE) {
			return c, to, err
		}
	}
	return nil, to, err
}

// firstClientPort is where the ports begin that connections are made from (RFC 6335, 6).
const firstClientPort = 49152

func (n *Network) dialFrom(ctx context.Context, local, to netip.AddrPort) (*Conn, error) {
	c, fd, err := n.newPair(local, to)
	if err != nil {
		return nil, err
	}
	m := n.members[rand.IntN(len(n.members))]
	outcome := make(chan hostsock.Errno, 1)
	var refused hostsock.Errno
	err = n.do(ctx, m, func() { refused = m.worker.Connect(fd, local, to, func(e hostsock.Errno) { outcome <- e }) })
	if err == nil && refused != 0 {
		err = refused
	}
	if err != nil { // the worker's end is still ours
		n.inner.take(fd)
		return nil, errors.Join(err, unix.Close(fd), c.Close())
	}
	select {
	case e := <-outcome:
		if e == 0 {
			return c, nil
		}
		err = os.NewSyscallError("connect", e)
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-n.over:
		err = ErrClosed
	}
	_ = n.do(context.WithoutCancel(ctx), m, func() { m.worker.GiveUp(local, to) }) // fails when the network has ended, and the flow with it
	_ = c.Close()
	return nil, err
}

// guestAddr reads an address of the guest's.
func guestAddr(p *plan, network, address string) (netip.AddrPort, error) {
	a, err := parseAddr(network, address)
	if err != nil {
		return a, err
	}
	if !a.Addr().IsUnspecified() {
		return a, nil
	}
	for f := range p.mapping.Guest {
		if g := p.mapping.Guest[f]; g.IsValid() && familyMatches(network, g) {
			return netip.AddrPortFrom(g, a.Port()), nil
		}
	}
	return netip.AddrPort{}, &net.AddrError{Err: "the guest has no address of this family", Addr: address}
}

// parseAddr reads "host:port" with numbers; no host is the unspecified address.
func parseAddr(network, address string) (netip.AddrPort, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return netip.AddrPort{}, fmt.Errorf("%w: %w", net.UnknownNetworkError(network), errors.ErrUnsupported)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return netip.AddrPort{}, &net.AddrError{Err: "the port is not a number from 1 to 65535", Addr: address}
	}
	a := netip.IPv6Unspecified()
	if host != "" {
		if a, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, &net.AddrError{Err: "the host is not an IP address; names mean nothing here", Addr: address}
		}
		a = a.Unmap()
	}
	if !a.IsUnspecified() && !familyMatches(network, a) {
		return netip.AddrPort{}, &net.AddrError{Err: "the address is not of the family of " + network, Addr: address}
	}
	return netip.AddrPortFrom(a, uint16(number)), nil
}

func familyMatches(network string, a netip.Addr) bool {
	return network == "tcp" || (network == "tcp4") == a.Is4()
}

// listenKey is what a listener is found by: no address stands for all of a family, V4 and V6 for which.
type listenKey struct {
	addr   netip.Addr
	family int
	port   uint16
}

// Listener accepts connections that the guest makes to an address of its network. It is a net.Listener.
type Listener struct {
	network *Network
	addr    *net.TCPAddr
	keys    []listenKey
	queue   chan *Conn
	closed  chan struct{}
	once    sync.Once
	mu      sync.Mutex // orders what is put into queue before closed, or after
}

var _ net.Listener = (*Listener)(nil)

// listenBacklog is how many connections may wait to be accepted; further ones are refused.
const listenBacklog = 128

// Listen takes the connections that the guest makes to the given address and port, whoever else has them, as "10.0.2.2:80" or, for any address, ":80". They do not
// leave this program, and Config.Policy is asked about them as about all others. Listening begins at once and ends with the listener, or with Close.
//
// The error is a *net.OpError, which wraps the reason: syscall.EADDRINUSE when a listener has the address, or ErrClosed.
func (n *Network) Listen(network, address string) (net.Listener, error) {
	l, err := n.listen(network, address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	return l, nil
}

func (n *Network) listen(network, address string) (*Listener, error) {
	a, err := parseAddr(network, address)
	if err != nil {
		return nil, err
	}
	l := &Listener{network: n, addr: net.TCPAddrFromAddrPort(a), queue: make(chan *Conn, listenBacklog), closed: make(chan struct{})}
	for f := range 2 {
		if a.Addr().IsUnspecified() && (network == "tcp" || (network == "tcp4") == (f == forward.V4)) {
			l.keys = append(l.keys, listenKey{family: f, port: a.Port()})
		}
	}
	if !a.Addr().IsUnspecified() {
		l.keys = []listenKey{{a.Addr(), familyOf(a.Addr()), a.Port()}}
	}
	in := n.inner
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return nil, ErrClosed
	}
	for _, k := range l.keys {
		if in.listeners[k] != nil {
			return nil, os.NewSyscallError("bind", unix.EADDRINUSE)
		}
	}
	for _, k := range l.keys {
		in.listeners[k] = l
	}
	in.listening.Add(1)
	return l, nil
}

// intercept answers the guest's connections that a listener has. It is called by the workers.
func (n *Network) intercept(guest, to netip.AddrPort) (fd int, err hostsock.Errno, ok bool) {
	in := n.inner
	if in.listening.Load() == 0 {
		return -1, 0, false
	}
	in.mu.Lock()
	l := in.listeners[listenKey{to.Addr(), familyOf(to.Addr()), to.Port()}]
	if l == nil {
		l = in.listeners[listenKey{netip.Addr{}, familyOf(to.Addr()), to.Port()}]
	}
	in.mu.Unlock()
	if l == nil {
		return -1, 0, false
	}
	c, fd, e := n.newPair(to, guest)
	if e != nil {
		errno, _ := errors.AsType[unix.Errno](e)
		return -1, max(errno, 1), true
	}
	if l.put(c) {
		return fd, 0, true
	}
	in.take(fd)
	_ = unix.Close(fd)
	_ = c.Close()
	return -1, unix.ECONNREFUSED, true
}

// put gives a connection to who accepts; false when too many wait, or nobody does.
func (l *Listener) put(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
		return false
	default:
	}
	select {
	case l.queue <- c:
		return true
	default:
		return false
	}
}

// Accept implements net.Listener. The guest has been answered already when a connection comes here.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }

// Close implements net.Listener. Connections that wait are closed; those that were accepted go on.
func (l *Listener) Close() error {
	err := error(&net.OpError{Op: "close", Net: "tcp", Addr: l.addr, Err: net.ErrClosed})
	l.once.Do(func() {
		err = nil
		in := l.network.inner
		in.mu.Lock()
		for _, k := range l.keys {
			delete(in.listeners, k)
		}
		in.listening.Add(-1)
		in.mu.Unlock()
		l.mu.Lock()
		close(l.closed)
		l.mu.Unlock()
		for {
			select {
			case c := <-l.queue:
				_ = c.Close()
				continue
			default:
			}
			return
		}
	})
	return err
}
