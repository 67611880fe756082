package load

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is how often blocked server threads look whether they are to end.
const pollInterval = 200 * time.Millisecond

// backlog holds the connections of a burst.
const backlog = 1024

// Server answers the generators of this package at one address.
type Server struct {
	closed atomic.Bool
	wg     sync.WaitGroup
	lns    []net.Listener
}

// Listen starts a server at addr, on all the package's ports. The caller closes
// it.
func Listen(addr netip.Addr) (_ *Server, err error) {
	s := &Server{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("load server at %v: %w", addr, err), s.Close())
		}
	}()
	if err := s.serve(addr, unix.SOCK_STREAM, PortRR, s.acceptRR); err != nil {
		return nil, err
	}
	if err := s.serve(addr, unix.SOCK_DGRAM, PortUDP, s.answerDatagrams); err != nil {
		return nil, err
	}
	for _, port := range PortsCRR {
		if err := s.serve(addr, unix.SOCK_STREAM, port, s.acceptCRR); err != nil {
			return nil, err
		}
	}
	for _, port := range PortsHold {
		ln, err := net.Listen("tcp4", netip.AddrPortFrom(addr, port).String())
		if err != nil {
			return nil, err
		}
		s.lns = append(s.lns, ln)
		s.wg.Go(func() { hold(ln) })
	}
	ln, err := net.Listen("tcp4", netip.AddrPortFrom(addr, PortDatagrams).String())
	if err != nil {
		return nil, err
	}
	s.lns = append(s.lns, ln)
	s.wg.Go(func() { serveDatagrams(ln, addr) })
	return s, nil
}

// Close stops the server and waits for its threads. Idle connections that
// clients still hold stay open until the clients close them.
func (s *Server) Close() error {
	s.closed.Store(true)
	var errs []error
	for _, ln := range s.lns {
		errs = append(errs, ln.Close())
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

// serve binds a socket and runs loop on it on a thread of its own.
func (s *Server) serve(addr netip.Addr, kind int, port uint16, loop func(fd int)) error {
	// Accepted sockets inherit the timeout.
	fd, err := socket(kind, pollInterval)
	if err != nil {
		return err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, sockaddr(addr, port))
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("port %d: %w", port, err), unix.Close(fd))
	}
	s.wg.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer unix.Close(fd)
		loop(fd)
	})
	return nil
}

// accept waits for a connection; ok is false when the server is to end.
func (s *Server) accept(fd int) (conn int, ok bool) {
	for !s.closed.Load() {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err == nil {
			return conn, true
		}
		// A timeout, a signal, or a client that has gone already.
	}
	return -1, false
}

func (s *Server) acceptRR(fd int) {
	for {
		conn, ok := s.accept(fd)
		if !ok {
			return
		}
		s.wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			defer unix.Close(conn)
			// Without it a response would still leave at once: there is never
			// one unacknowledged.
			_ = unix.SetsockoptInt(conn, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
			s.echo(conn)
		})
	}
}

// echo answers every byte until the client ends, fails or the server closes.
func (s *Server) echo(conn int) {
	buf := make([]byte, 1)
	for !s.closed.Load() {
		n, err := unix.Read(conn, buf)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			continue
		case err != nil || n == 0:
			return
		}
		if _, err := unix.Write(conn, buf); err != nil {
			return
		}
	}
}

func (s *Server) acceptCRR(fd int) {
	for {
		conn, ok := s.accept(fd)
		if !ok {
			return
		}
		s.echo(conn)
		_ = unix.Close(conn)
	}
}

func (s *Server) answerDatagrams(fd int) {
	buf := make([]byte, 1<<16) // any datagram
	for !s.closed.Load() {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			continue // a timeout, a signal, or the ICMP error to an answer
		}
		_ = unix.Sendto(fd, buf[:n], 0, from) // a lost answer is the client's to count
	}
}

// accept returns the next connection, nil when ln is closed.
func accept(ln net.Listener) net.Conn {
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			return conn
		case errors.Is(err, net.ErrClosed):
			return nil
		}
		// Out of descriptors, most likely: the client sees its connection
		// refused or stuck and reports it.
		time.Sleep(pollInterval)
	}
}

// hold sends back what it gets on any number of connections until ln is closed.
func hold(ln net.Listener) {
	for {
		conn := accept(ln)
		if conn == nil {
			return
		}
		go func() {
			defer conn.Close()
			buf := make([]byte, 1024)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				if _, err := conn.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}
