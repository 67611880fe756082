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
	"github.com/vasta-net/vasta/packet"
)

// end is the other end of the queue that linktest examines.
type end struct {
	t *testing.T
	*mem.Queue
}

func (e end) Give(hdr packet.NetHdr, frame []byte) {
	if !e.Send(&link.Out{Hdr: hdr, Payload: [][]byte{frame}}) {
		e.t.Fatal("the ring is full")
	}
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
func pair(t testing.TB) (network, guest *mem.Queue) {
	t.Helper()
	network, guest, err := mem.New(mem.Offloads)
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
	for _, name := range []string{"the one end", "the other end"} {
		t.Run(name, func(t *testing.T) {
			linktest.Conform(t, linktest.Kind{MaxFrame: mem.MaxFrame, Join: func(t *testing.T) (link.Queue, linktest.Peer) {
				network, guest, err := mem.New(mem.Offloads)
				if err != nil {
					t.Fatal(err)
				}
				if name == "the other end" {
					network, guest = guest, network
				}
				t.Cleanup(func() { _ = guest.Close() }) // the test may have done so
				return network, end{t, guest}
			}})
		})
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
		network.Send(&link.Out{Head: []byte{byte(i)}})
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
	time.AfterFunc(time.Millisecond, func() { network.Send(&link.Out{Head: []byte{1}}) })
	if err := guest.Wait(t.Context()); err != nil {
		t.Errorf("Wait for a frame: %v", err)
	}
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

// TestWaitForRoom: whoever found no room is woken when there is, even if it has looked for frames meanwhile.
func TestWaitForRoom(t *testing.T) {
	network, guest := pair(t)
	out := link.Out{Payload: [][]byte{make([]byte, 60_000)}}
	for network.Send(&out) {
	}
	var frames [link.MaxBatch]packet.Frame
	drain := func() {
		for {
			if n, err := guest.Receive(frames[:]); err != nil {
				t.Fatal(err)
			} else if n == 0 {
				return
			}
		}
	}
	drained := make(chan struct{})
	time.AfterFunc(time.Millisecond, func() {
		drain()
		close(drained)
	})
	if err := network.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	<-drained
	for network.Send(&out) {
	}
	drain()
	if n, err := network.Receive(frames[:]); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if err := network.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestManySenders: frames of several goroutines in both directions at once, through a ring that is full most of the time, by sleeping and
// waking alone. Each sender's come whole and in order.
func TestManySenders(t *testing.T) {
	const senders, each = 3, 1500
	network, guest := pair(t)
	var all sync.WaitGroup
	for _, q := range []*mem.Queue{network, guest} {
		for s := range senders {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(s), 1))
				b := make([]byte, 20_000)
				for i := range each {
					f := b[:12+rng.IntN(len(b)-12)]
					binary.LittleEndian.PutUint32(f[4:], uint32(i))
					f[8] = byte(s)
					f[len(f)-1] = byte(i)
					binary.LittleEndian.PutUint32(f, crc32.ChecksumIEEE(f[4:]))
					cut := rng.IntN(len(f))
					out := link.Out{Head: f[:min(cut, link.MaxHead)], Payload: [][]byte{f[min(cut, link.MaxHead):cut], f[cut:]}}
					for !q.Send(&out) {
						time.Sleep(10 * time.Microsecond) // Wait has one caller, and that is the receiver
					}
				}
			})
		}
		all.Go(func() {
			var next [senders]uint32
			var frames [link.MaxBatch]packet.Frame
			for n := 0; n < senders*each; {
				got, err := q.Receive(frames[:])
				if err != nil {
					t.Error(err)
					return
				}
				for _, f := range frames[:got] {
					b := f.Bufs[0]
					s := b[8]
					if crc32.ChecksumIEEE(b[4:]) != binary.LittleEndian.Uint32(b) || binary.LittleEndian.Uint32(b[4:]) != next[s] {
						t.Errorf("frame %d of sender %d is damaged or out of order", next[s], s)
						return
					}
					next[s]++
				}
				if n += got; got < len(frames) && n < senders*each {
					if err := q.Wait(t.Context()); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
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
				if n, err := guest.Receive(frames[:]); n != 1 || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
