package linktest

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// Peer is the guest's end of a queue that Conform examines.
type Peer interface {
	// Give sends a frame to the queue.
	Give(hdr packet.NetHdr, frame []byte)
	// Take is the next frame that the queue has sent; false when none waits.
	Take() (Frame, bool)
	// Leave ends the guest's end.
	Leave()
}

// Kind says what Conform may ask of a link.
type Kind struct {
	// Join makes a queue and its other end. The queue is closed by Conform.
	Join func(t *testing.T) (link.Queue, Peer)
	// NoHeaders: the link carries no virtio-net header.
	NoHeaders bool
	// MaxFrame is the longest frame in bytes that the link carries.
	MaxFrame int
}

// Conform checks what link.Queue promises, for one kind of link.
func Conform(t *testing.T, k Kind) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Kind)
	}{
		{"frames from the guest", fromGuest}, {"frames to the guest", toGuest}, {"readable", readable}, {"borrowed", borrowed}, {"full", full},
		{"gone", gone}, {"no allocation", noAllocation},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, k) })
	}
}

// join is k.Join for a test that closes the queue at its end.
func (k *Kind) join(t *testing.T) (link.Queue, Peer) {
	t.Helper()
	q, p := k.Join(t)
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		if err := q.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a second Close: %v", err)
		}
	})
	return q, p
}

// numbered is a frame that tells its number and length in every byte.
func numbered(number, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(number*7 + i*31 + i>>8)
	}
	return b
}

// header is a virtio-net header that tells its number. A frame that ends before the places it names has none: links may look at that.
func (k *Kind) header(number, size int) packet.NetHdr {
	if k.NoHeaders || size < 54 {
		return packet.NetHdr{}
	}
	return packet.NetHdr{Flags: packet.FlagNeedsCsum, GSOType: packet.GSOTCPv4, HdrLen: 54, GSOSize: uint16(1000 + number), CsumStart: 34, CsumOffset: 16}
}

// sizes are lengths of frames, each of them twice.
func (k *Kind) sizes() (all []int) {
	for _, n := range []int{packet.EtherLen, 60, 63, 64, 65, 1514, 4096, 9000, 65000, k.MaxFrame} {
		all = append(all, min(n, k.MaxFrame), min(n, k.MaxFrame))
	}
	return all
}

// waits reports whether the queue's descriptor is readable, within the time.
func waits(t *testing.T, q link.Queue, milliseconds int) bool {
	t.Helper()
	if s, ok := q.(link.Sleeper); ok && !s.Sleep() {
		return true
	}
	fds := []unix.PollFd{{Fd: int32(q.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, milliseconds)
		if err == nil {
			return n == 1
		}
		if !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
}

// patience is how long a frame may take to come, in milliseconds.
const patience = 10_000

// received are the next n frames, copied.
func received(t *testing.T, q link.Queue, n int) (all []Frame) {
	t.Helper()
	var frames [link.MaxBatch]packet.Frame
	for len(all) < n {
		got, err := q.Receive(frames[:])
		if err != nil {
			t.Fatalf("Receive after %d of %d frames: %v", len(all), n, err)
		}
		for _, f := range frames[:got] {
			b := bytes.Join(f.Bufs, nil)
			if len(b) != f.Len {
				t.Fatalf("a frame of %d bytes says that it has %d", len(b), f.Len)
			}
			all = append(all, Frame{Hdr: f.Hdr, Data: b})
		}
		if (got == 0 || got < len(frames) && !q.Features().Again) && len(all) < n && !waits(t, q, patience) {
			t.Fatalf("%d of %d frames have come", len(all), n)
		}
	}
	return all
}

func fromGuest(t *testing.T, k Kind) {
	q, p := k.join(t)
	for i, size := range k.sizes() {
		p.Give(k.header(i, size), numbered(i, size))
		if i%3 == 0 {
			continue // two come together
		}
		for j, f := range received(t, q, 1+btoi(i%3 == 1)) {
			number := i - btoi(i%3 == 1) + j
			want := numbered(number, k.sizes()[number])
			if !bytes.Equal(f.Data, want) || f.Hdr != k.header(number, len(want)) {
				t.Fatalf("frame %d of %d bytes: %d bytes and %+v came", number, len(want), len(f.Data), f.Hdr)
			}
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func toGuest(t *testing.T, k Kind) {
	q, p := k.join(t)
	for i, size := range k.sizes() {
		b := numbered(i, size)
		head := b[:min(len(b), 54)]
		rest := b[len(head):]
		out := link.Out{Hdr: k.header(i, size), Head: head, Payload: [][]byte{rest[:len(rest)/3], rest[len(rest)/3:]}}
		if !q.Send(&out) {
			t.Fatalf("frame %d of %d bytes finds no room in an empty queue", i, size)
		}
		q.Flush()
		f, ok := p.Take()
		if !ok || !bytes.Equal(f.Data, b) || f.Hdr != k.header(i, size) {
			t.Fatalf("frame %d of %d bytes: %t, %d bytes and %+v came", i, size, ok, len(f.Data), f.Hdr)
		}
	}
}

func readable(t *testing.T, k Kind) {
	q, p := k.join(t)
	if received(t, q, 0); waits(t, q, 0) {
		t.Error("readable before the first frame")
	}
	for range 3 {
		for i := range 2 * link.MaxBatch {
			p.Give(k.header(i, 100), numbered(i, 100))
		}
		if !waits(t, q, patience) {
			t.Fatal("frames wait, and the descriptor is not readable")
		}
		received(t, q, 2*link.MaxBatch)
		var frames [link.MaxBatch]packet.Frame
		if n, err := q.Receive(frames[:]); n != 0 || err != nil {
			t.Fatalf("Receive of what is not there: %d, %v", n, err)
		}
		if waits(t, q, 0) {
			t.Error("readable after Receive has found nothing more")
		}
	}
}

func borrowed(t *testing.T, k Kind) {
	q, p := k.join(t)
	p.Give(k.header(0, 1000), numbered(0, 1000))
	if !waits(t, q, patience) {
		t.Fatal("no frame")
	}
	var frames [link.MaxBatch]packet.Frame
	n, err := q.Receive(frames[:])
	if n != 1 || err != nil {
		t.Fatalf("Receive: %d, %v", n, err)
	}
	for i := range 20 {
		p.Give(k.header(i, 1000), numbered(i+1, 1000))
	}
	if got := bytes.Join(frames[0].Bufs, nil); !bytes.Equal(got, numbered(0, 1000)) {
		t.Error("a frame has changed before the next Receive")
	}
	if got := received(t, q, 20); !bytes.Equal(got[19].Data, numbered(20, 1000)) {
		t.Error("the last frame has changed")
	}
}

func full(t *testing.T, k Kind) {
	q, p := k.join(t)
	b := numbered(0, min(30_000, k.MaxFrame))
	out := link.Out{Hdr: k.header(0, len(b)), Head: b[:54], Payload: [][]byte{b[54:]}}
	sent := 0
	for ; q.Send(&out); sent++ {
		q.Flush()
		if sent > 1e6 {
			t.Fatal("the queue never fills up")
		}
	}
	q.Flush()
	for i := range sent {
		f, ok := p.Take()
		if !ok || !bytes.Equal(f.Data, b) {
			t.Fatalf("frame %d of %d that were taken: %t, %d bytes", i, sent, ok, len(f.Data))
		}
		q.Flush()
	}
	if _, ok := p.Take(); ok {
		t.Error("a frame that was refused has come all the same")
	}
	if !q.Send(&out) {
		t.Error("full although everything was taken out")
	}
	if c := q.Counters(); c.Refused != 0 {
		t.Errorf("%d frames are counted as refused for good", c.Refused)
	}
}

func gone(t *testing.T, k Kind) {
	q, p := k.join(t)
	p.Give(k.header(0, 100), numbered(0, 100))
	if f := received(t, q, 1); !bytes.Equal(f[0].Data, numbered(0, 100)) {
		t.Error("the last frame has changed")
	}
	p.Leave()
	if !waits(t, q, patience) {
		t.Fatal("the descriptor does not tell of the end")
	}
	var frames [link.MaxBatch]packet.Frame
	if n, err := q.Receive(frames[:]); n != 0 || !errors.Is(err, link.ErrGone) {
		t.Errorf("Receive: %d, %v", n, err)
	}
	out := link.Out{Hdr: k.header(0, 60), Head: numbered(0, 60)}
	for range 2 {
		if !q.Send(&out) {
			t.Error("a frame to nobody may be sent again")
		}
		q.Flush()
	}
	if c := q.Counters(); c.Refused == 0 {
		t.Error("a frame to nobody is not counted")
	}
}

func noAllocation(t *testing.T, k Kind) {
	q, p := k.join(t)
	payload := [][]byte{numbered(0, min(20_000, k.MaxFrame-54))}
	out := link.Out{Hdr: k.header(0, 20_054), Head: numbered(0, 54), Payload: payload}
	if n := testing.AllocsPerRun(20, func() {
		if !q.Send(&out) {
			t.Fatal("full")
		}
		q.Flush()
	}); n != 0 {
		t.Errorf("%v allocations to send a frame", n)
	}
	for range 64 {
		p.Give(k.header(0, 1000), numbered(0, 1000))
	}
	var frames [1]packet.Frame
	if n := testing.AllocsPerRun(50, func() {
		if n, err := q.Receive(frames[:]); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations to receive a frame", n)
	}
}
