package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTransfer moves content both ways, alone and eight at once, over a long and a short MTU.
func TestTransfer(t *testing.T) {
	const size = 64 << 20
	for _, mtu := range []string{"65520", "1500"} {
		t.Run(mtu, func(t *testing.T) {
			r := start(t, "-m", mtu)
			bothFamilies(t, func(t *testing.T, f family) {
				far := serve(t, r.Inet, f.far, source(size))
				near := serve(t, r.Host, f.loopback, source(size))
				farSink := serve(t, r.Inet, f.far, sink(size))
				nearSink := serve(t, r.Host, f.loopback, sink(size))
				if err := errors.Join(
					download(r.Guest, f.far, far, size), download(r.Guest, f.gateway, near, size),
					upload(r.Guest, f.far, farSink, size), upload(r.Guest, f.gateway, nearSink, size),
				); err != nil {
					t.Error(err)
				}
				const part = size / 8
				farPart, nearPart := serve(t, r.Inet, f.far, source(part)), serve(t, r.Host, f.loopback, sink(part))
				parallel(t, 16, func(i int) error {
					if i%2 == 0 {
						return download(r.Guest, f.far, farPart, part)
					}
					return upload(r.Guest, f.gateway, nearPart, part)
				})
			})
			r.wantNothingSentAgain()
			// On a machine that leaves the guest without a processor for 200 ms the timer may run out; nothing else may resend.
			if c := r.settle(); c.TCP.Retransmits != 0 && c.TCP.Timeouts == 0 {
				t.Errorf("vasta sent %d segments again, without a timer that ran out", c.TCP.Retransmits)
			}
		})
	}
}

// TestCurl fetches with a program that knows nothing of the tests, running as the command.
func TestCurl(t *testing.T) {
	l := newLab(t)
	bothFamilies(t, func(t *testing.T, f family) {
		port := serve(t, l.Host, f.loopback, func(c *net.TCPConn) error {
			request := make([]byte, 4096)
			n, err := c.Read(request)
			if err != nil || !strings.HasPrefix(string(request[:n]), "GET /file ") {
				return fmt.Errorf("request %q: %w", request[:n], err)
			}
			_, err = fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\nthe content\n")
			return err
		})
		out := runVasta(t, l, 0, "-q", "--", "curl", "-sS", "--noproxy", "*", "http://"+at(f.gateway, port)+"/file")
		if out != "the content\n" {
			t.Errorf("curl got %q", out)
		}
	})
}

// TestNoMapGateway checks that the option closes the way to the host's loopback.
func TestNoMapGateway(t *testing.T) {
	r := start(t, "--no-map-gw")
	bothFamilies(t, func(t *testing.T, f family) {
		port := serve(t, r.Host, f.loopback, func(c *net.TCPConn) error {
			return fmt.Errorf("connection from %v", c.RemoteAddr())
		})
		began := time.Now()
		_, err := dial(r.Guest, f.gateway, port)
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) > time.Second {
			t.Errorf("connecting to the gateway: %v after %v, want refused by the real one", err, time.Since(began))
		}
		if _, err := dial(r.Guest, f.loopback, port); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the namespace's own loopback: %v", err)
		}
	})
}
