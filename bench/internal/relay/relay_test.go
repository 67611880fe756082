package relay

import (
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

const deadline = 20 * time.Second

func listen(t *testing.T) (*net.TCPListener, netip.AddrPort) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, ln.Addr().(*net.TCPAddr).AddrPort()
}

// relayed returns the two ends of a connection that passes through a relay.
func relayed(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	target, targetAddr := listen(t)
	ln, addr := listen(t)
	done := make(chan error, 1)
	go func() { done <- Serve(ln, targetAddr) }()
	t.Cleanup(func() {
		ln.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	client, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	if server, err = target.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.TCPConn{client, server} {
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}

func TestBothDirectionsCarryEveryByte(t *testing.T) {
	const size = 64<<20 + 4321
	client, server := relayed(t)
	type result struct {
		sum [sha256.Size]byte
		err error
	}
	send := func(c *net.TCPConn, seed byte) <-chan result {
		ch := make(chan result, 1)
		go func() {
			h := sha256.New()
			src := rand.NewChaCha8([32]byte{seed})
			_, err := io.CopyN(io.MultiWriter(c, h), src, size)
			ch <- result{[sha256.Size]byte(h.Sum(nil)), errors.Join(err, c.CloseWrite())}
		}()
		return ch
	}
	receive := func(c *net.TCPConn) <-chan result {
		ch := make(chan result, 1)
		go func() {
			h := sha256.New()
			n, err := io.Copy(h, c)
			if n != size {
				err = errors.Join(err, io.ErrUnexpectedEOF)
			}
			ch <- result{[sha256.Size]byte(h.Sum(nil)), err}
		}()
		return ch
	}
	up, down := send(client, 1), send(server, 2)
	upped, downed := receive(server), receive(client)
	for name, pair := range map[string][2]<-chan result{"up": {up, upped}, "down": {down, downed}} {
		sent, got := <-pair[0], <-pair[1]
		if sent.err != nil || got.err != nil {
			t.Errorf("%s: sender %v, receiver %v", name, sent.err, got.err)
		}
		if sent.sum != got.sum {
			t.Errorf("%s: what arrived is not what was sent", name)
		}
	}
}

func TestHalfCloseLeavesTheOtherDirectionOpen(t *testing.T) {
	client, server := relayed(t)
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("server read %d, %v, want the end", n, err)
	}
	if _, err := io.WriteString(server, "late"); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); err != nil || string(got) != "late" {
		t.Errorf("client read %q, %v", got, err)
	}
}

func TestResetEndsBothConnections(t *testing.T) {
	client, server := relayed(t)
	if err := client.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("server read %d, %v, want the end", n, err)
	}
}

func TestUnreachableTargetClosesTheConnection(t *testing.T) {
	gone, goneAddr := listen(t)
	gone.Close()
	ln, addr := listen(t)
	go func() { _ = Serve(ln, goneAddr) }()
	client, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v", n, err)
	}
}
