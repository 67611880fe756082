// Package relay is the yardstick for user-mode relays: it passes TCP connections
// on with splice(2), so that no byte is copied to user space. Each direction of a
// connection has a thread of its own that blocks in the kernel, which was
// measured to be no slower than the runtime's poller; pipes of the default size
// cost a third of the throughput.
package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// pipeSize is the capacity, in bytes, asked for each pipe: the most an
// unprivileged process may have.
const pipeSize = 1 << 20

// Serve accepts connections from ln and passes each on to target, until ln is
// closed; it then returns nil. Connections that are open at that moment go on.
// One that cannot be passed on is closed.
func Serve(ln *net.TCPListener, target netip.AddrPort) error {
	for {
		conn, err := ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("relay: accept: %w", err)
		}
		go func() {
			defer conn.Close()
			out, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(target))
			if err != nil {
				return
			}
			defer out.Close()
			join(conn, out)
		}()
	}
}

// join passes bytes between two connections, both ways, until both directions
// have ended. The end of one direction is passed on as a half-close; a reset ends
// both connections in order.
func join(a, b *net.TCPConn) {
	var wg sync.WaitGroup
	for _, pair := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		wg.Go(func() {
			if pass(pair[0], pair[1]) != nil {
				shutdown(a, b) // a broken direction breaks the connection
				return
			}
			_ = pair[1].CloseWrite() // fails only when the connection is gone
		})
	}
	wg.Wait()
}

// shutdown ends both connections for reading too, which wakes the thread that
// blocks on them; Close alone would not.
func shutdown(conns ...*net.TCPConn) {
	for _, c := range conns {
		_ = c.CloseRead()
		_ = c.CloseWrite()
	}
}

// pass moves bytes from src to dst until src ends.
func pass(src, dst *net.TCPConn) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	// File duplicates the descriptor and makes it blocking.
	in, err := src.File()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := dst.File()
	if err != nil {
		return err
	}
	defer out.Close()
	return splice(int(in.Fd()), int(out.Fd()))
}

// splice moves bytes between two blocking sockets until in ends.
func splice(in, out int) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	if _, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		return fmt.Errorf("pipe of %d bytes: %w", pipeSize, err)
	}
	for {
		n, err := move(in, pipe[1], pipeSize)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		for n > 0 {
			m, err := move(pipe[0], out, int(n))
			if err != nil {
				return err
			}
			n -= m
		}
	}
}

func move(from, to, max int) (int64, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, max, unix.SPLICE_F_MOVE)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
