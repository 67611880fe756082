package mem_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/link/mem"
	"github.com/vasta-net/vasta/link/virtio"
	"github.com/vasta-net/vasta/packet"
	virtionet "github.com/vasta-net/vasta/virtio/net"
	"golang.org/x/sys/unix"
)

// end is the other end of the queue that linktest examines.
type end struct {
	t *testing.T
	link.Queue
}

func (e end) Give(hdr packet.NetHdr, frame []byte) {
	if !e.Send(&link.Out{Hdr: hdr, Payload: [][]byte{frame}}) {
		e.t.Fatal("the ring is full")
	}
	e.Flush()
}

func (e end) Take() (linktest.Frame, bool) {
	var frames [1]packet.Frame
	n, err := e.Receive(frames[:])
	if err != nil {
		e.t.Fatal(err)
	}
	if n == 0 {
		return linktest.Frame{}, false
	}
	return linktest.Frame{Hdr: frames[0].Hdr, Data: bytes.Join(frames[0].Bufs, nil)}, true
}

func (e end) Leave() {
	if err := e.Close(); err != nil {
		e.t.Error(err)
	}
}

// pair is a link whose ends are closed with the test, if they are not before.
func pair(t testing.TB) (network *virtio.Queue, guest *mem.Guest) {
	t.Helper()
	network, guest, err := mem.New(mem.Config{Offloads: mem.Offloads})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = guest.Close() // the test may have done so
		_ = network.Close()
	})
	return network, guest
}

func TestConforms(t *testing.T) {
	for _, c := range []struct {
		name   string
		driver virtionet.DriverConfig
	}{
		{"as it is", virtionet.DriverConfig{}},
		{"packed", virtionet.DriverConfig{Features: virtionet.RingPacked | virtionet.EventIdx | virtionet.MrgRxbuf}},
		{"no event index", virtionet.DriverConfig{Features: virtionet.MrgRxbuf}},
		{"big buffers", virtionet.DriverConfig{Features: virtionet.EventIdx | virtionet.IndirectDesc, Pages: 1024}},
		{"room for a hook", virtionet.DriverConfig{Headroom: 64, Tailroom: 64}},
	} {
		for _, name := range []string{"the network's end", "the guest's end"} {
			t.Run(c.name+", "+name, func(t *testing.T) {
				linktest.Conform(t, linktest.Kind{MaxFrame: mem.MaxFrame, Join: func(t *testing.T) (link.Queue, linktest.Peer) {
					network, guest, err := mem.New(mem.Config{Offloads: mem.Offloads, Driver: c.driver})
					if err != nil {
						t.Fatal(err)
					}
					var this, other link.Queue = network, guest
					if name == "the guest's end" {
						this, other = guest, network
					}
					t.Cleanup(func() { _ = other.Close() }) // the test may have done so
					return this, end{t, other}
				}})
			})
		}
	}
}

// TestTooLong: what no link carries is refused for good, and not given to the other end.
func TestTooLong(t *testing.T) {
	network, guest := pair(t)
	for _, out := range []link.Out{
		{Payload: [][]byte{make([]byte, mem.MaxFrame+1)}},
		{Head: make([]byte, link.MaxHead+1)},
	} {
		if !network.Send(&out) {
			t.Error("it may be sent again")
		}
	}
	network.Flush()
	if c := network.Counters(); c.Refused != 2 {
		t.Errorf("%d are counted", c.Refused)
	}
	var frames [1]packet.Frame
	if n, err := guest.Receive(frames[:]); n != 0 || err != nil {
		t.Errorf("Receive: %d, %v", n, err)
	}
}

// TestCloseLeavesTheRest: what was sent before the end is still received.
func TestCloseLeavesTheRest(t *testing.T) {
	network, guest := pair(t)
	for i := range 3 {
		network.Send(&link.Out{Head: numbered(i, 60)})
	}
	if err := network.Close(); err != nil {
		t.Fatal(err)
	}
	var frames [2]packet.Frame
	for _, want := range []int{2, 1} {
		if n, err := guest.Receive(frames[:]); n != want || err != nil {
			t.Fatalf("Receive: %d, %v; want %d", n, err, want)
		}
	}
	if n, err := guest.Receive(frames[:]); n != 0 || !errors.Is(err, link.ErrGone) {
		t.Errorf("Receive at the end: %d, %v", n, err)
	}
	if err := guest.Wait(t.Context()); err != nil {
		t.Errorf("Wait for an end that has come: %v", err)
	}
}

func TestWait(t *testing.T) {
	network, guest := pair(t)
	cause := errors.New("enough")
	ended, end := context.WithCancelCause(t.Context())
	time.AfterFunc(time.Millisecond, func() { end(cause) })
	if err := guest.Wait(ended); !errors.Is(err, cause) {
		t.Errorf("Wait under a context that ends: %v", err)
	}
	if err := guest.Wait(ended); !errors.Is(err, cause) {
		t.Errorf("Wait under one that has ended: %v", err)
	}
	sent := make(chan struct{})
	time.AfterFunc(time.Millisecond, func() {
		network.Send(&link.Out{Head: numbered(1, 60)})
		network.Flush()
		close(sent)
	})
	if err := guest.Wait(t.Context()); err != nil {
		t.Errorf("Wait for a frame: %v", err)
	}
	<-sent // the network's end belongs to one goroutine
	if err := guest.Wait(t.Context()); err != nil {
		t.Errorf("Wait for a frame that is there: %v", err)
	}
	var frames [2]packet.Frame
	if n, err := guest.Receive(frames[:]); n != 1 || err != nil {
		t.Errorf("Receive: %d, %v", n, err)
	}
	time.AfterFunc(time.Millisecond, func() { guest.Close() })
	if err := guest.Wait(t.Context()); !errors.Is(err, link.ErrGone) {
		t.Errorf("Wait at an end that is closed meanwhile: %v", err)
	}
	if err := guest.Wait(t.Context()); !errors.Is(err, link.ErrGone) {
		t.Errorf("Wait at an end that is closed: %v", err)
	}
}

// numbered is a frame that begins with its number.
func numbered(number, size int) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint32(b, uint32(number))
	return b
}

// waitFor waits until the queue's descriptor is readable, as an event loop does.
func waitFor(t *testing.T, q link.Queue) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(q.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 20_000)
		if n == 1 {
			return
		}
		if !errors.Is(err, unix.EINTR) {
			t.Fatalf("nothing has come for 20 s: %v", err)
		}
	}
}

// drain receives all frames that wait.
func drain(t *testing.T, q link.Queue) {
	t.Helper()
	var frames [link.MaxBatch]packet.Frame
	for {
		if n, err := q.Receive(frames[:]); err != nil {
			t.Fatal(err)
		} else if n == 0 {
			return
		}
	}
}

// TestRoom: whoever found no room is told when there is, even if it has looked for frames meanwhile.
func TestRoom(t *testing.T) {
	for _, size := range []int{60, 60_000} {
		network, guest := pair(t)
		out := link.Out{Payload: [][]byte{make([]byte, size)}}
		for range 2 {
			for network.Send(&out) {
			}
			if n, err := network.Receive(make([]packet.Frame, 1)); n != 0 || err != nil {
				t.Fatal(n, err)
			}
			drain(t, guest)
			waitFor(t, network)
			if drain(t, network); !network.Send(&out) {
				t.Fatal("there is no room")
			}
		}
		for range 2 {
			for guest.Send(&out) {
			}
			if n, err := guest.Receive(make([]packet.Frame, 1)); n > 1 || err != nil {
				t.Fatal(n, err)
			}
			drain(t, guest)
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				drain(t, network)
			}()
			for !guest.Send(&out) {
				if err := guest.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			<-drained
		}
	}
}

// readable says whether a queue's descriptor is, without waiting.
func readable(t *testing.T, q link.Queue) bool {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(q.Fd()), Events: unix.POLLIN}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n == 1
}

// TestRoomAtHalf: a guest that found no room is told when half of the ring is free, once, whether it looks for frames meanwhile or not.
func TestRoomAtHalf(t *testing.T) {
	const ring, batch = 256, 32
	network, guest, err := mem.New(mem.Config{Driver: virtionet.DriverConfig{QueueSize: ring}})
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	defer guest.Close()
	out := link.Out{Head: numbered(1, 200)} // above the copy-break
	var frames [batch]packet.Frame
	for range 5 {
		for guest.Send(&out) {
		}
		if n, err := guest.Receive(frames[:]); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		for free := -batch; free < ring-2*batch; { // the last batch is lent
			if n, err := network.Receive(frames[:]); n != batch || err != nil {
				t.Fatal(n, err)
			}
			if free += batch; readable(t, guest) != (free >= ring/2) {
				t.Fatalf("%d buffers are free, and the guest is told: %v", free, readable(t, guest))
			}
			if n, err := guest.Receive(frames[:0]); n != 0 || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := guest.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		drain(t, network)
	}
}

// TestRoomForLessThanHalf: a network that goes to sleep while its frames have more than half of the buffers tells a guest that waits for half what there is: each would
// wait for the other else.
func TestRoomForLessThanHalf(t *testing.T) {
	const ring = 8
	network, guest, err := mem.New(mem.Config{Driver: virtionet.DriverConfig{QueueSize: ring, Features: virtionet.EventIdx}})
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	defer guest.Close()
	out := link.Out{Head: numbered(1, 200)}
	for guest.Send(&out) {
	}
	var frames [ring]packet.Frame
	for _, take := range []int{3, ring} {
		if n, err := network.Receive(frames[:take]); n == 0 || err != nil {
			t.Fatal(n, err)
		}
	}
	for range 2 { // also when it has looked for frames meanwhile
		waitFor(t, guest)
		if n, err := guest.Receive(frames[:]); n != 0 || err != nil {
			t.Fatal(n, err)
		}
	}
	sent := 0
	for guest.Send(&out) {
		sent++
	}
	if sent != 3 {
		t.Errorf("there was room for %d", sent)
	}
}

// checked is the number and the sender of a frame that signed has made; false when it is damaged.
func checked(f *packet.Frame) (number uint32, sender byte, ok bool) {
	b := bytes.Join(f.Bufs, nil)
	return binary.LittleEndian.Uint32(b[4:]), b[8], crc32.ChecksumIEEE(b[4:]) == binary.LittleEndian.Uint32(b)
}

// signed is a frame in pieces, in b, with its number and sender, and a checksum over both and everything else.
func signed(rng *rand.Rand, b []byte, number int, sender byte) link.Out {
	f := b[:14+rng.IntN(len(b)-14)]
	binary.LittleEndian.PutUint32(f[4:], uint32(number))
	f[8] = sender
	f[len(f)-1] = byte(number)
	binary.LittleEndian.PutUint32(f, crc32.ChecksumIEEE(f[4:]))
	cut := rng.IntN(len(f))
	return link.Out{Head: f[:min(cut, link.MaxHead)], Payload: [][]byte{f[min(cut, link.MaxHead):cut], f[cut:]}}
}

// TestBothWays: an event loop at the network's end, and a goroutine that receives beside several that send at the guest's, through rings that are full most of the
// time, by sleeping and waking alone. Each sender's frames come whole and in order.
func TestBothWays(t *testing.T) {
	const senders, each = 3, 1500
	network, guest := pair(t)
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			rng, b := rand.New(rand.NewPCG(uint64(s), 1)), make([]byte, 20_000)
			for i := range each {
				for out := signed(rng, b, i, byte(s)); !guest.Send(&out); {
					time.Sleep(10 * time.Microsecond) // Wait has one caller, and that is the receiver
				}
			}
		})
	}
	all.Go(func() {
		var frames [link.MaxBatch]packet.Frame
		for n := 0; n < senders*each; {
			got, err := guest.Receive(frames[:])
			if err != nil {
				t.Error(err)
				return
			}
			for i := range frames[:got] {
				if number, _, ok := checked(&frames[i]); !ok || number != uint32(n) {
					t.Errorf("frame %d to the guest is damaged or out of order", n)
					return
				}
				n++
			}
			if got < len(frames) && n < senders*each {
				if err := guest.Wait(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		}
		for out := signed(rand.New(rand.NewPCG(8, 1)), make([]byte, 100), 0, senders); !guest.Send(&out); {
			time.Sleep(10 * time.Microsecond)
		}
	})
	var next [senders + 1]uint32 // the last is the receiver, which says that it has all
	var frames [link.MaxBatch]packet.Frame
	rng, b := rand.New(rand.NewPCG(9, 1)), make([]byte, 40_000)
	out := signed(rng, b, 0, 0)
	for sent, received := 0, 0; received < senders*each+1; {
		full := false
		for k := 0; k < 20 && sent < senders*each && !full; k++ {
			if full = !network.Send(&out); !full {
				sent++
				out = signed(rng, b, sent, 0)
			}
		}
		network.Flush()
		got, err := network.Receive(frames[:])
		if err != nil {
			t.Fatal(err)
		}
		for i := range frames[:got] {
			number, s, ok := checked(&frames[i])
			if !ok || int(s) >= len(next) || number != next[s] {
				t.Fatalf("frame %d of sender %d is damaged or out of order", number, s)
			}
			next[s]++
		}
		received += got
		if got < len(frames) && (full || sent == senders*each) && received < senders*each+1 {
			waitFor(t, network)
		}
	}
	all.Wait()
}

// BenchmarkFrame moves frames of 64 KiB, and of 64 bytes, from one end to the other.
func BenchmarkFrame(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
	}{{"64KiB", 65_000}, {"64B", 64}} {
		b.Run(c.name, func(b *testing.B) {
			network, guest := pair(b)
			out := link.Out{Head: make([]byte, 54), Payload: [][]byte{make([]byte, c.size-54)}}
			var frames [link.MaxBatch]packet.Frame
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			for b.Loop() {
				if !network.Send(&out) {
					b.Fatal("full")
				}
				network.Flush()
				if n, err := guest.Receive(frames[:]); n != 1 || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
