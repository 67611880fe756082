package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// pattern is the content of every stream: the same random block again and again. Its length is a prime, so that no loss,
// repetition or exchange of whole segments leaves a stream as it was.
var pattern = func() []byte {
	b := make([]byte, 1048573)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}()

// sendPattern writes the bytes [from, to) of the pattern.
func sendPattern(w io.Writer, from, to int64) error {
	for from < to {
		b := pattern[from%int64(len(pattern)):]
		n, err := w.Write(b[:min(int64(len(b)), to-from)])
		if err != nil {
			return fmt.Errorf("writing at offset %d: %w", from, err)
		}
		from += int64(n)
	}
	return nil
}

// checker reads and compares. It takes whatever size of reads, and remembers the offset.
type checker struct {
	r   io.Reader
	off int64
	buf []byte
}

func newChecker(r io.Reader) *checker { return &checker{r: r, buf: make([]byte, 256<<10)} }

// read checks exactly n more bytes.
func (c *checker) read(n int64) error {
	for n > 0 {
		got, err := c.r.Read(c.buf[:min(n, int64(len(c.buf)))])
		if e := c.compare(c.buf[:got]); e != nil {
			return e
		}
		n -= int64(got)
		if err != nil && n > 0 {
			return fmt.Errorf("at offset %d, %d bytes before the end: %w", c.off, n, err)
		}
	}
	return nil
}

// end checks that the stream ends here, at total bytes.
func (c *checker) end(total int64) error {
	if err := c.read(total - c.off); err != nil {
		return err
	}
	n, err := c.r.Read(c.buf[:1])
	if n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("behind the last byte: %d bytes and %v, want the end", n, err)
	}
	return nil
}

// mismatch is a byte that is not what was sent.
type mismatch struct{ off int64 }

func (m *mismatch) Error() string { return fmt.Sprintf("byte %d of the stream is wrong", m.off) }

func (c *checker) compare(got []byte) error {
	for len(got) > 0 {
		want := pattern[c.off%int64(len(pattern)):]
		n := min(len(want), len(got))
		if !bytes.Equal(want[:n], got[:n]) {
			for i := range n {
				if want[i] != got[i] {
					return &mismatch{c.off + int64(i)}
				}
			}
		}
		c.off += int64(n)
		got = got[n:]
	}
	return nil
}

// serve listens on a port of its own and gives every connection to handle; an error of handle fails the test. It
// returns the port.
func serve(t *testing.T, ns *lab.Namespace, a netip.Addr, handle func(c *net.TCPConn) error) uint16 {
	t.Helper()
	return serveAt(t, ns, netip.AddrPortFrom(a, 0), handle)
}

func serveAt(t *testing.T, ns *lab.Namespace, a netip.AddrPort, handle func(c *net.TCPConn) error) uint16 {
	t.Helper()
	l, err := ns.Listen("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	go func() {
		defer close(done)
		running := make(chan struct{}, 1024)
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			running <- struct{}{}
			go func() {
				defer func() { <-running }()
				defer c.Close()
				if err := errors.Join(c.SetDeadline(time.Now().Add(time.Minute)), handle(c.(*net.TCPConn))); err != nil {
					t.Errorf("server at %s: %v", l.Addr(), err)
				}
			}()
		}
		for range cap(running) { // wait for all of them
			running <- struct{}{}
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// source serves n bytes of the pattern and the end.
func source(n int64) func(*net.TCPConn) error {
	return func(c *net.TCPConn) error {
		if err := sendPattern(c, 0, n); err != nil {
			return err
		}
		return c.CloseWrite()
	}
}

// sink takes n bytes of the pattern and the end, and says so with one byte.
func sink(n int64) func(*net.TCPConn) error {
	return func(c *net.TCPConn) error {
		if err := newChecker(c).end(n); err != nil {
			return err
		}
		_, err := c.Write([]byte{'!'})
		return err
	}
}

// dial connects from a namespace, with a deadline on everything.
func dial(ns *lab.Namespace, a netip.Addr, port uint16) (*net.TCPConn, error) {
	c, err := ns.Dial("tcp", at(a, port), dialLimit)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), c.SetDeadline(time.Now().Add(time.Minute))
}

func mustDial(t *testing.T, ns *lab.Namespace, a netip.Addr, port uint16) *net.TCPConn {
	t.Helper()
	c, err := dial(ns, a, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// download fetches n bytes from a source.
func download(ns *lab.Namespace, a netip.Addr, port uint16, n int64) error {
	c, err := dial(ns, a, port)
	if err != nil {
		return err
	}
	defer c.Close()
	return newChecker(c).end(n)
}

// upload sends n bytes to a sink and waits until it has them.
func upload(ns *lab.Namespace, a netip.Addr, port uint16, n int64) error {
	c, err := dial(ns, a, port)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := errors.Join(sendPattern(c, 0, n), c.CloseWrite()); err != nil {
		return err
	}
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return fmt.Errorf("the sink's answer: %w", err)
	}
	return nil
}

// parallel runs fn n times at once and fails with every error.
func parallel(t *testing.T, n int, fn func(i int) error) {
	t.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- fn(i) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// snmp reads a counter of a namespace's TCP, such as RetransSegs.
func snmp(t *testing.T, ns *lab.Namespace, name string) int64 {
	t.Helper()
	return tcpCounter(t, ns, "Tcp", name)
}

// tcpExt reads a counter that only Linux has, such as TCPOFOQueue.
func tcpExt(t *testing.T, ns *lab.Namespace, name string) int64 {
	t.Helper()
	return tcpCounter(t, ns, "TcpExt", name)
}

func tcpCounter(t *testing.T, ns *lab.Namespace, protocol, name string) (v int64) {
	t.Helper()
	if err := ns.Do(func() (err error) { v, err = readSNMP(protocol, name); return err }); err != nil {
		t.Fatal(err)
	}
	return v
}
