package load

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// dialers is how many connections a crowd opens at a time.
const dialers = 32

// Crowd is a number of open connections, each of which has carried a byte both
// ways and is idle since.
type Crowd struct {
	conns []net.Conn
}

// Gather opens n connections to server. When one fails, all are closed. The
// process needs a descriptor for each.
func Gather(server netip.Addr, n int) (*Crowd, error) {
	c := &Crowd{conns: make([]net.Conn, n)}
	var next atomic.Int64
	var failed atomic.Pointer[error] // the first
	var wg sync.WaitGroup
	for range dialers {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				conn, err := greet(server, PortsHold[i%len(PortsHold)])
				if err != nil {
					err = fmt.Errorf("connection %d of %d: %w", i+1, n, err)
					failed.CompareAndSwap(nil, &err)
					return
				}
				c.conns[i] = conn
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		c.Close()
		return nil, *err
	}
	return c, nil
}

// greet opens a connection and exchanges a byte over it.
func greet(server netip.Addr, port uint16) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp4", netip.AddrPortFrom(server, port).String(), replyTimeout)
	if err != nil {
		return nil, err
	}
	err = conn.SetDeadline(time.Now().Add(replyTimeout))
	buf := []byte{1}
	if err == nil {
		_, err = conn.Write(buf)
	}
	if err == nil {
		_, err = conn.Read(buf)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Close closes all connections.
func (c *Crowd) Close() {
	for _, conn := range c.conns {
		if conn != nil {
			_ = conn.Close() // nothing is left to be written
		}
	}
}
