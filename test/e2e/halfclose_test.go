package e2e_test

import (
	"errors"
	"io"
	"net"
	"testing"
)

// halfCloseSize is long enough to take seconds, and many windows.
const halfCloseSize = 1 << 30

// TestHalfClose ends one direction and has the other go on for a GiB.
func TestHalfClose(t *testing.T) {
	r := start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		t.Run("download after the guest's end", func(t *testing.T) {
			port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
				if err := newChecker(c).end(1000); err != nil { // the server has seen the end ...
					return err
				}
				return errors.Join(sendPattern(c, 0, halfCloseSize), c.CloseWrite())
			})
			c := mustDial(t, r.Guest, f.far, port)
			if err := errors.Join(sendPattern(c, 0, 1000), c.CloseWrite(), newChecker(c).end(halfCloseSize)); err != nil {
				t.Error(err)
			}
		})
		t.Run("upload after the server's end", func(t *testing.T) {
			result := make(chan error, 1)
			port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
				err := errors.Join(sendPattern(c, 0, 1000), c.CloseWrite(), newChecker(c).end(halfCloseSize))
				result <- err
				return nil
			})
			c := mustDial(t, r.Guest, f.far, port)
			if err := newChecker(c).end(1000); err != nil { // the guest has seen the end ...
				t.Fatal(err)
			}
			if err := errors.Join(sendPattern(c, 0, halfCloseSize), c.CloseWrite(), <-result); err != nil {
				t.Error(err)
			}
		})
	})
	r.settle()
}

// TestCloseIsSeen checks that an end without data, at either side, is the other side's end.
func TestCloseIsSeen(t *testing.T) {
	r := start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
			_, err := io.Copy(io.Discard, c)
			return err
		})
		c := mustDial(t, r.Guest, f.far, port)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("%d bytes and %v, want the end", n, err)
		}
	})
	r.settle()
}
