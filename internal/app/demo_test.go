package app

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestDemoServer sends requests, good and bad, and looks at the first line and the end of what comes back.
func TestDemoServer(t *testing.T) {
	s, err := serveDemo(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, tc := range []struct{ name, request, status, body string }{
		{"greeting", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.0 200 OK", "takes one.\n"},
		{"upload", "PUT /x HTTP/1.1\r\ncontent-length: 9\r\n\r\n123456789", "HTTP/1.0 200 OK", "received 9 bytes, CRC-32C e3069283\n"},
		{"upload that ends early", "PUT /x HTTP/1.1\r\nContent-Length: 9\r\n\r\n", "HTTP/1.0 200 OK", "received 0 bytes, CRC-32C 00000000\n"},
		{"upload that asks first", "PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na", "HTTP/1.1 100 Continue", "CRC-32C c1d04330\n"},
		{"upload of no length", "PUT /x HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", "HTTP/1.0 411 Length Required", ""},
		{"another method", "POST /x HTTP/1.1\r\n\r\n", "HTTP/1.0 405 Method Not Allowed", ""},
		{"no request", "hello\r\n\r\n", "", ""},
		{"a line too long", "GET /" + strings.Repeat("x", 5000) + " HTTP/1.0\r\n\r\n", "", ""},
		{"a negative length", "PUT / HTTP/1.0\r\nContent-Length: -1\r\n\r\n", "", ""},
		{"a header too long", "GET / HTTP/1.0\r\n" + strings.Repeat("A: b\r\n", 101) + "\r\n", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := net.Dial("tcp", s.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, err = io.WriteString(c, tc.request)
			if err == nil {
				err = c.(*net.TCPConn).CloseWrite()
			}
			// The server may have reset the connection over a bad request before all of it was sent.
			if err != nil && tc.status != "" {
				t.Fatal(err)
			}
			r := bufio.NewReader(c)
			status, _ := r.ReadString('\n') // the end, for a bad request
			body, _ := io.ReadAll(r)        // or a reset, when the server has not read everything
			if strings.TrimSpace(status) != tc.status || !strings.HasSuffix(string(body), tc.body) {
				t.Errorf("%q and %q, want %q and %q", status, body, tc.status, tc.body)
			}
		})
	}
}

// TestDemoServerEnds checks that connections that do nothing do not keep the server.
func TestDemoServerEnds(t *testing.T) {
	s, err := serveDemo(netip.IPv6Loopback())
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET"); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

// TestDemoFile checks that the file is what its checksum says, and not the same everywhere.
func TestDemoFile(t *testing.T) {
	f := newDemoFile()
	if f.checksum() != newDemoFile().checksum() {
		t.Error("two processes have two files")
	}
	r, w := io.Pipe()
	go func() {
		_, err := f.WriteTo(w)
		w.CloseWithError(err)
	}()
	sum, n, err := checksumOf(r)
	if err != nil || n != demoFileSize || sum != f.checksum() {
		t.Errorf("read %s (%v), want %s", describeFile(n, sum), err, describeFile(demoFileSize, f.checksum()))
	}
}
