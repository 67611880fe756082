package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// PortStream takes streams whose every byte is checked, over IPv4 and IPv6.
const PortStream = 7300

const (
	// period is the length of the pattern that streams carry: a prime, so that bytes moved by any number of segments,
	// pages or powers of two are seen.
	period = 1<<20 + 7
	// chunkSize is how much of the pattern is written at once, in bytes.
	chunkSize = 64 << 10
	// unsent is how many bytes a sender's socket holds back unsent, so that little is left to be carried after its time.
	unsent = 256 << 10
	// drainLimit is how long what is on its way after the time of a stream is waited for. On a slow way with deep buffers, which two
	// connections one behind the other have, that is not for the last byte.
	drainLimit = 20 * time.Second
	// stallLimit is how long before the end of that time the last bytes may have come: longer, and the stream is stuck. One of 64 that share
	// 50 Mbit/s in segments of 64 KiB and loses the same one a few times has nothing for seconds, the kernel's own too.
	stallLimit = drainLimit * 3 / 4
	// reportLimit is how long the receiver's report may take, after that.
	reportLimit = 10 * time.Second
	// streamDialLimit allows for some lost SYNs.
	streamDialLimit = 20 * time.Second
)

// pattern holds the period, and the beginning of the next for chunks that reach beyond it.
var pattern = sync.OnceValue(func() []byte {
	p := make([]byte, period+chunkSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p[:period]) // never fails
	copy(p[period:], p)
	return p
})

// Streams is a number of TCP connections that carry data one way for a time.
type Streams struct {
	Server   netip.Addr // that a [StreamServer] listens at
	Count    int
	Download bool // the server sends
	Duration time.Duration
}

// Streamed is what became of Streams.
type Streamed struct {
	Bytes int64 // received and right, all streams together
	// BitsPerSecond is what the receiver got within the duration. What it got later, while the sender was finishing, is
	// checked but does not count.
	BitsPerSecond float64
	Wrong         int    // streams of which bytes were wrong, missing or too many
	Cut           int    // streams still on their way when they were no longer waited for, right as far as they had come
	Stuck         int    // of them, those of which nothing had come for 15 s
	Example       string // says of one of them what was wrong
}

// Run opens the connections, then sends over all at once. An error is one of connections; wrong bytes and streams that are stuck are a result.
func (s Streams) Run() (Streamed, error) {
	conns, err := s.open()
	if err != nil {
		return Streamed{}, err
	}
	outcomes, errs := make([]outcome, s.Count), make([]error, s.Count)
	var wg sync.WaitGroup
	for i, conn := range conns {
		wg.Go(func() {
			defer conn.Close()
			o := order{download: s.Download, stream: uint32(i), duration: s.Duration}
			if outcomes[i], errs[i] = o.request(conn); errs[i] != nil {
				errs[i] = fmt.Errorf("stream %d of %d: %w", i+1, s.Count, errs[i])
			}
		})
	}
	wg.Wait()
	return s.sum(outcomes), firstOf(errs)
}

// sum is what became of all.
func (s Streams) sum(outcomes []outcome) (sum Streamed) {
	var within int64
	for _, o := range outcomes {
		sum.Bytes += o.bytes
		within += o.within
		if o.cut {
			sum.Cut++
		}
		if o.stuck {
			sum.Stuck++
		}
		if o.wrong != "" {
			sum.Wrong++
			sum.Example = o.wrong
		}
	}
	sum.BitsPerSecond = float64(within) * 8 / s.Duration.Seconds()
	return sum
}

// firstOf returns the first error, and how many there are: those of many streams are alike.
func firstOf(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) < 2 {
		return errors.Join(errs...)
	}
	return fmt.Errorf("%w; and %d more", errs[0], len(errs)-1)
}

func (s Streams) open() ([]*net.TCPConn, error) {
	conns, errs := make([]*net.TCPConn, s.Count), make([]error, s.Count)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(s.Server, PortStream).String(), streamDialLimit)
			if err == nil {
				conns[i] = c.(*net.TCPConn)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := firstOf(errs); err != nil {
		for _, c := range conns {
			if c != nil {
				_ = c.Close() // unused
			}
		}
		return nil, err
	}
	return conns, nil
}

// order is what a client asks the server for, in the first bytes of a connection.
type order struct {
	download bool
	stream   uint32 // says where in the pattern the stream begins
	duration time.Duration
}

const orderSize = 16

func (o order) bytes() []byte {
	b := make([]byte, orderSize)
	if o.download {
		b[0] = 1
	}
	binary.BigEndian.PutUint32(b[4:], o.stream)
	binary.BigEndian.PutUint64(b[8:], uint64(o.duration))
	return b
}

func readOrder(r io.Reader) (order, error) {
	b := make([]byte, orderSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return order{}, err
	}
	return order{b[0] == 1, binary.BigEndian.Uint32(b[4:]), time.Duration(binary.BigEndian.Uint64(b[8:]))}, nil
}

// outcome is what the receiver of one stream says.
type outcome struct {
	bytes  int64  // right ones
	within int64  // of them, those that came within the duration
	cut    bool   // the last byte was not waited for
	stuck  bool   // the same, and nothing had come for stallLimit
	wrong  string // what was wrong, "" for nothing
}

// request is the client's part.
func (o order) request(conn *net.TCPConn) (outcome, error) {
	end := time.Now().Add(o.duration + drainLimit)
	if err := conn.SetDeadline(end); err != nil {
		return outcome{}, err
	}
	if _, err := conn.Write(o.bytes()); err != nil {
		return outcome{}, err
	}
	if o.download {
		return o.receive(conn)
	}
	// A sender that is still stuck with its last bytes hears from the receiver how far they came.
	if err := o.send(conn); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return outcome{}, err
	}
	if err := conn.SetDeadline(end.Add(reportLimit)); err != nil {
		return outcome{}, err
	}
	return readOutcome(conn)
}

// serve is the server's part.
func (o order) serve(conn *net.TCPConn) error {
	if o.download {
		return o.send(conn)
	}
	got, err := o.receive(conn)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(reportLimit)); err != nil {
		return err
	}
	_, err = conn.Write(got.report())
	return err
}

// send writes the pattern in chunks, each after its length, for the duration, and a length of 0 at the end.
func (o order) send(conn *net.TCPConn) error {
	if err := holdBack(conn); err != nil {
		return err
	}
	p, at := pattern(), o.begin()
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], chunkSize)
	for end := time.Now().Add(o.duration); time.Now().Before(end); {
		chunk := net.Buffers{length[:], p[at : at+chunkSize]}
		if _, err := chunk.WriteTo(conn); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		at = (at + chunkSize) % period
	}
	if _, err := conn.Write(make([]byte, len(length))); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return conn.CloseWrite()
}

// holdBack keeps what is not sent yet with the program.
func holdBack(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
	})
	return errors.Join(err, optErr)
}

// begin is where in the pattern the stream begins. The two directions of a stream differ.
func (o order) begin() int {
	at := int(o.stream) * 7919
	if o.download {
		at += period / 2
	}
	return at % period
}

// receive reads and checks what send sends, to the end of the connection.
func (o order) receive(r io.Reader) (got outcome, err error) {
	p, at := pattern(), o.begin()
	last := time.Now() // when something came
	end := last.Add(o.duration)
	var length [4]byte
	buf := make([]byte, chunkSize)
	for {
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return got.ended(err, last)
		}
		switch n := binary.BigEndian.Uint32(length[:]); {
		case n == 0:
			return got.atEnd(r)
		case n != chunkSize:
			got.wrong = fmt.Sprintf("a chunk of %d bytes after %d right ones", n, got.bytes)
			return got, nil
		}
		for filled := 0; filled < chunkSize; {
			n, err := r.Read(buf[filled:])
			if !bytes.Equal(buf[filled:filled+n], p[at+filled:at+filled+n]) {
				got.wrong = fmt.Sprintf("wrong bytes after %d right ones", got.bytes)
				return got, nil
			}
			filled += n
			got.bytes += int64(n)
			if n > 0 {
				last = time.Now()
			}
			if last.Before(end) {
				got.within += int64(n)
			}
			if err != nil && filled < chunkSize {
				return got.ended(err, last)
			}
		}
		at = (at + chunkSize) % period
	}
}

// ended is the outcome of a stream that ended with err before its last chunk, and of which something came last at the time last.
func (got outcome) ended(err error, last time.Time) (outcome, error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		got.cut, got.stuck = true, time.Since(last) >= stallLimit
		return got, nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		got.wrong = fmt.Sprintf("the end after %d bytes, before the last", got.bytes)
		return got, nil
	}
	return got, fmt.Errorf("receive, after %d bytes: %w", got.bytes, err)
}

// atEnd checks that nothing comes after the last chunk.
func (got outcome) atEnd(r io.Reader) (outcome, error) {
	n, err := r.Read(make([]byte, 1))
	if n > 0 {
		got.wrong = fmt.Sprintf("more bytes after the last of %d", got.bytes)
	} else if !errors.Is(err, io.EOF) {
		return got, fmt.Errorf("receive, at the end: %w", err)
	}
	return got, nil
}

// Flags of a report.
const (
	reportCut = 1 << iota
	reportStuck
)

// report is the outcome as bytes; readOutcome is its reverse.
func (got outcome) report() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(got.bytes))
	b = binary.BigEndian.AppendUint64(b, uint64(got.within))
	var flags byte
	if got.cut {
		flags |= reportCut
	}
	if got.stuck {
		flags |= reportStuck
	}
	return append(append(b, flags), got.wrong...)
}

func readOutcome(r io.Reader) (outcome, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return outcome{}, fmt.Errorf("the server's report: %w", err)
	}
	if len(b) < 17 {
		return outcome{}, errors.New("the server closed the connection instead of reporting")
	}
	return outcome{
		bytes: int64(binary.BigEndian.Uint64(b)), within: int64(binary.BigEndian.Uint64(b[8:])),
		cut: b[16]&reportCut != 0, stuck: b[16]&reportStuck != 0, wrong: string(b[17:]),
	}, nil
}

// StreamServer serves [Streams] at all addresses of its namespace.
type StreamServer struct {
	listener net.Listener
	wg       sync.WaitGroup
}

// ListenStreams starts a server. The caller closes it.
func ListenStreams() (*StreamServer, error) {
	ln, err := net.Listen("tcp", fmt.Sprintf(":%d", PortStream))
	if err != nil {
		return nil, err
	}
	s := &StreamServer{listener: ln}
	s.wg.Go(func() {
		for {
			conn := accept(ln)
			if conn == nil {
				return
			}
			go answerOrder(conn.(*net.TCPConn))
		}
	})
	return s, nil
}

// Close stops taking connections; those open end by themselves.
func (s *StreamServer) Close() error {
	err := s.listener.Close()
	s.wg.Wait()
	return err
}

// answerOrder serves one connection. What fails, the client sees.
func answerOrder(conn *net.TCPConn) {
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(streamDialLimit)) != nil {
		return
	}
	o, err := readOrder(conn)
	if err != nil || conn.SetDeadline(time.Now().Add(o.duration+drainLimit)) != nil {
		return
	}
	err = o.serve(conn)
	if !o.download {
		if err == nil {
			_ = conn.CloseWrite() // the report is complete; what the client still sends is of no interest
			_, _ = io.Copy(io.Discard, conn)
		}
		return
	}
	if err != nil {
		return
	}
	// To close before the client has taken everything would reset the connection if it sent anything more.
	_, _ = io.Copy(io.Discard, conn)
}
