package stream_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/link/stream"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// peer is the other end of a socket.
type peer struct {
	t    *testing.T
	fd   int
	kind int
}

func join(t *testing.T, kind int) (link.Queue, peer) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds { // room for the largest frames, and for a batch
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20); err != nil {
			t.Fatal(err)
		}
	}
	q, err := stream.New(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	p := peer{t, fds[1], kind}
	if err := unix.SetNonblock(p.fd, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p.fd) })
	return q, p
}

// Give may be called for more than the socket holds; nothing is lost here, because the tests give little at once.
func (p peer) Give(_ packet.NetHdr, frame []byte) {
	b := frame
	if p.kind == unix.SOCK_STREAM {
		b = append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
	}
	for len(b) > 0 {
		n, err := unix.Write(p.fd, b)
		if errors.Is(err, unix.EAGAIN) {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLOUT}}, -1)
			continue
		}
		if err != nil {
			p.t.Fatal(err)
		}
		b = b[n:]
	}
}

func (p peer) Take() (linktest.Frame, bool) {
	b := make([]byte, stream.MaxFrame+1)
	if p.kind != unix.SOCK_STREAM {
		n, err := unix.Read(p.fd, b)
		if errors.Is(err, unix.EAGAIN) {
			return linktest.Frame{}, false
		}
		if err != nil {
			p.t.Fatal(err)
		}
		return linktest.Frame{Data: b[:n]}, true
	}
	var length [4]byte
	if !p.fill(length[:]) {
		return linktest.Frame{}, false
	}
	b = b[:binary.BigEndian.Uint32(length[:])]
	if !p.fill(b) {
		p.t.Fatal("a part of a frame")
	}
	return linktest.Frame{Data: b}, true
}

// fill reads all of b, or nothing.
func (p peer) fill(b []byte) bool {
	for got := 0; got < len(b); {
		n, err := unix.Read(p.fd, b[got:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			p.t.Fatal(err)
		}
		got += n
	}
	return true
}

func (p peer) Leave() {
	if err := unix.Shutdown(p.fd, unix.SHUT_RDWR); err != nil {
		p.t.Error(err)
	}
}

func TestConforms(t *testing.T) {
	for name, kind := range map[string]int{"stream": unix.SOCK_STREAM, "seqpacket": unix.SOCK_SEQPACKET} {
		t.Run(name, func(t *testing.T) {
			linktest.Conform(t, linktest.Kind{
				Join: func(t *testing.T) (link.Queue, linktest.Peer) { return join(t, kind) }, NoHeaders: true, MaxFrame: stream.MaxFrame,
			})
		})
	}
}

// TestDatagramPeerComesBack: a datagram socket's peer may be away for a while; frames to it are lost, and counted.
func TestDatagramPeerComesBack(t *testing.T) {
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := listen(), listen()
	defer a.Close()
	from, to := a.LocalAddr().(*net.UDPAddr), b.LocalAddr().(*net.UDPAddr)
	a.Close()
	c, err := net.DialUDP("udp4", from, to)
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.File()
	c.Close()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(f.Fd()))
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	q, err := stream.New(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	b.Close()
	out := link.Out{Head: make([]byte, 60)}
	var frames [link.MaxBatch]packet.Frame
	for q.Counters().Refused == 0 { // the first is sent, the answer to it is the second's error or the reader's
		if !q.Send(&out) {
			t.Fatal("full")
		}
		if n, err := q.Receive(frames[:]); n != 0 || err != nil {
			t.Fatalf("Receive: %d, %v", n, err)
		}
	}
	if b, err = net.ListenUDP("udp4", to); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if !q.Send(&out) {
		t.Fatal("full")
	}
	if n, _, err := b.ReadFromUDP(make([]byte, 100)); n != 60 || err != nil {
		t.Errorf("who came back got %d bytes, %v", n, err)
	}
}

// TestBadFraming: lengths that no frame has.
func TestBadFraming(t *testing.T) {
	q, p := join(t, unix.SOCK_STREAM)
	defer q.Close()
	frame := bytes.Repeat([]byte{7}, 60)
	p.Give(packet.NetHdr{}, nil)        // shorter than a frame: passed over
	p.Give(packet.NetHdr{}, frame[:13]) // as well
	p.Give(packet.NetHdr{}, frame)
	if _, err := unix.Write(p.fd, binary.BigEndian.AppendUint32(nil, stream.MaxFrame+1)); err != nil {
		t.Fatal(err)
	}
	var frames [link.MaxBatch]packet.Frame
	n, err := q.Receive(frames[:])
	if n != 1 || err != nil || !bytes.Equal(frames[0].Bufs[0], frame) || q.Counters().Refused != 2 {
		t.Fatalf("Receive: %d, %v; refused %d", n, err, q.Counters().Refused)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(q.Fd()), Events: unix.POLLIN}}, 0); n != 1 || err != nil {
		t.Errorf("the descriptor does not tell of the end: %d, %v", n, err)
	}
	if n, err := q.Receive(frames[:]); n != 0 || !errors.Is(err, stream.ErrFraming) || !errors.Is(err, link.ErrGone) {
		t.Errorf("Receive behind it: %d, %v", n, err)
	}
}

// TestOffloadsAreRefused: what the socket cannot say of a frame, and so must not be needed.
func TestOffloadsAreRefused(t *testing.T) {
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET} {
		q, p := join(t, kind)
		for _, h := range []packet.NetHdr{{Flags: packet.FlagNeedsCsum}, {GSOType: packet.GSOTCPv4}} {
			if !q.Send(&link.Out{Hdr: h, Head: make([]byte, 60)}) {
				t.Error("it may be sent again")
			}
		}
		q.Flush()
		if _, ok := p.Take(); ok || q.Counters().Refused != 2 {
			t.Errorf("sent: %t; refused: %d", ok, q.Counters().Refused)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if q, err := stream.New(int(f.Fd())); err == nil {
		q.Close()
		t.Error("a file was taken for a socket")
	}
}

// FuzzStream: whatever bytes come in whatever pieces, the frames are those that a plain reader finds.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 0, 0, 14, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0, 0, 0, 1, 9, 0, 0, 0, 15}, uint8(3))
	f.Add(append([]byte{0, 0, 0, 60}, make([]byte, 60)...), uint8(200))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fds[1])
		q, err := stream.New(fds[0])
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		var got [][]byte
		var frames [link.MaxBatch]packet.Frame
		receive := func() bool {
			n, err := q.Receive(frames[:])
			for _, f := range frames[:n] {
				got = append(got, bytes.Clone(f.Bufs[0]))
			}
			return err == nil
		}
		open := true
		for rest := data; len(rest) > 0 && open; {
			n := min(len(rest), int(piece)+1, 4096)
			if _, err := unix.Write(fds[1], rest[:n]); err != nil {
				break // the queue has ended the link
			}
			rest = rest[n:]
			open = receive()
		}
		if err := unix.Shutdown(fds[1], unix.SHUT_WR); err == nil {
			for open {
				open = receive()
			}
		}
		var want [][]byte
		for r := bytes.NewReader(data); ; {
			var length [4]byte
			if _, err := io.ReadFull(r, length[:]); err != nil {
				break
			}
			n := binary.BigEndian.Uint32(length[:])
			if n > stream.MaxFrame {
				break
			}
			b := make([]byte, n)
			if _, err := io.ReadFull(r, b); err != nil {
				break
			}
			if n >= packet.EtherLen {
				want = append(want, b)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d frames, want %d", len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("frame %d: %x, want %x", i, got[i], want[i])
			}
		}
	})
}
