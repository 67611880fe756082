package app

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
)

// demoFileSize is the length of the demonstration's file in bytes: long enough for a few tenths of a second.
const demoFileSize = 512 << 20

// demoFile is the content of the file: a block of random bytes again and again, the same in every process. The block's length is
// odd, so that no loss of whole pages leaves the file as it was.
type demoFile struct {
	block []byte
}

func newDemoFile() *demoFile {
	f := &demoFile{block: make([]byte, 1<<20-1)}
	source := rand.NewPCG(0, 0)
	for b := f.block; len(b) > 0; {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], source.Uint64())
		b = b[copy(b, word[:]):]
	}
	return f
}

// WriteTo implements io.WriterTo.
func (f *demoFile) WriteTo(w io.Writer) (n int64, err error) {
	for n < demoFileSize && err == nil {
		var k int
		k, err = w.Write(f.block[:min(int64(len(f.block)), demoFileSize-n)])
		n += int64(k)
	}
	return n, err
}

// castagnoli is the CRC-32C that processors have instructions for: what it costs does not show in the speeds.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC-32C of the file.
func (f *demoFile) checksum() uint32 {
	sum := crc32.New(castagnoli)
	_, _ = f.WriteTo(sum) // a hash takes everything
	return sum.Sum32()
}

// checksumOf is the CRC-32C and the length of what r still has.
func checksumOf(r io.Reader) (sum uint32, n int64, err error) {
	h := crc32.New(castagnoli)
	n, err = io.CopyBuffer(h, onlyReader{r}, make([]byte, 256<<10))
	return h.Sum32(), n, err
}

// onlyReader hides every other method, such that io.CopyBuffer uses its buffer.
type onlyReader struct{ io.Reader }

// demoServer is a small HTTP/1.0 server, which curl can talk to as well:
//
//	GET /file   the demonstration's file
//	PUT /...    takes a file, and answers with its length and CRC-32C
//	GET /...    a greeting
type demoServer struct {
	listener net.Listener
	file     *demoFile
	mu       sync.Mutex
	open     map[net.Conn]struct{} // nil once the server is closed
	running  sync.WaitGroup
}

// serveDemo starts the server on a port of its own.
func serveDemo(at netip.Addr) (*demoServer, error) {
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		return nil, fmt.Errorf("demo: cannot listen on the host's loopback: %w", err)
	}
	s := &demoServer{listener: l, file: newDemoFile(), open: make(map[net.Conn]struct{})}
	s.running.Go(s.accept)
	return s, nil
}

func (s *demoServer) port() uint16 {
	return s.listener.Addr().(*net.TCPAddr).AddrPort().Port()
}

// close ends the server and its connections.
func (s *demoServer) close() error {
	err := s.listener.Close()
	s.mu.Lock()
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for c := range open {
		c.Close()
	}
	s.running.Wait()
	return err
}

func (s *demoServer) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return // closed; nothing else ends a demonstration's listener
		}
		s.mu.Lock()
		if s.open == nil {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.open[c] = struct{}{}
		s.mu.Unlock()
		s.running.Go(func() {
			_ = s.answer(c) // its peer sees what went wrong: the stream ends early
			s.mu.Lock()
			delete(s.open, c)
			s.mu.Unlock()
			c.Close()
		})
	}
}

// answer serves the one request of a connection.
func (s *demoServer) answer(c net.Conn) error {
	r := bufio.NewReader(c)
	method, path, length, expect, err := readRequest(r)
	if err != nil {
		return err
	}
	if expect && length >= 0 {
		if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return err
		}
	}
	switch {
	case method == "PUT" && length < 0:
		_, err = io.WriteString(c, "HTTP/1.0 411 Length Required\r\nContent-Length: 0\r\n\r\n")
		return err
	case method == "PUT":
		sum, n, err := checksumOf(io.LimitReader(r, length))
		if err != nil {
			return err
		}
		return respond(c, "received "+describeFile(n, sum)+"\n")
	case method != "GET":
		_, err = io.WriteString(c, "HTTP/1.0 405 Method Not Allowed\r\nAllow: GET, PUT\r\nContent-Length: 0\r\n\r\n")
		return err
	case path == "/file":
		if _, err := fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n", demoFileSize); err != nil {
			return err
		}
		_, err = s.file.WriteTo(c)
		return err
	}
	return respond(c, "Hello from the host. GET /file is a file, and PUT takes one.\n")
}

func respond(w io.Writer, text string) error {
	_, err := fmt.Fprintf(w, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	return err
}

// describeFile is how server and client name a file that they have seen.
func describeFile(n int64, sum uint32) string { return fmt.Sprintf("%d bytes, CRC-32C %08x", n, sum) }

// maxHeader bounds the lines of a request's or an answer's header.
const maxHeader = 100

// readRequest reads the header of a request. length is that of the body, -1 when it is not given, and expect says that the client waits for
// leave to send it (RFC 9110, 10.1.1).
func readRequest(r *bufio.Reader) (method, path string, length int64, expect bool, err error) {
	first, err := readLine(r)
	if err != nil {
		return "", "", 0, false, err
	}
	words := strings.Fields(first)
	if len(words) != 3 {
		return "", "", 0, false, errors.New("demo: not a request of HTTP")
	}
	length, expect, err = readHeader(r)
	return words[0], words[1], length, expect, err
}

// readHeader reads header lines up to the empty one. length and expect are as for readRequest.
func readHeader(r *bufio.Reader) (length int64, expect bool, err error) {
	length = -1
	for range maxHeader {
		line, err := readLine(r)
		if err != nil || line == "" {
			return length, expect, err
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "content-length":
			if length, err = strconv.ParseInt(value, 10, 64); err != nil || length < 0 {
				return 0, false, fmt.Errorf("demo: a body of %q bytes", value)
			}
		case "expect":
			expect = strings.EqualFold(value, "100-continue")
		}
	}
	return 0, false, fmt.Errorf("demo: more than %d header lines", maxHeader)
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n') // longer than the buffer is an error
	return strings.TrimRight(string(line), "\r\n"), err
}
