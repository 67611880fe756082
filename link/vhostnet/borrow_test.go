package vhostnet_test

import (
	"bytes"
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/vhostnet"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/vhost/kernel"
)

// TestBorrowedPayload: payload in whole pages is sent from there, with a reference to each page until the kernel is done with it, or the rings are; short payload, such as lies
// elsewhere, and what would take three descriptors is copied.
func TestBorrowedPayload(t *testing.T) {
	pool, err := pagepool.New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	}()
	r := newRig(t, vhostnet.Config{})
	defer r.q.Close()
	if err := r.q.Borrow(pool); err != nil {
		t.Fatal(err)
	}
	head := bytes.Repeat([]byte{1}, 66)
	behind := func(room int, payload ...[]byte) (want []byte) {
		t.Helper()
		if !r.q.Send(&link.Out{Head: head, Payload: payload, Room: room}) {
			t.Fatal("full")
		}
		r.q.Flush()
		return append(bytes.Clone(head), bytes.Join(payload, nil)...)
	}
	send := func(payload ...[]byte) []byte { return behind(0, payload...) }
	check := func(want []byte, pieces int) {
		t.Helper()
		_, data, n, ok := r.Twin.Take()
		if !ok || !bytes.Equal(data, want) || n != pieces {
			t.Fatalf("%t, %d bytes in %d pieces; want %d in %d", ok, len(data), n, len(want), pieces)
		}
	}
	pg, ok := pool.Get()
	other, ok2 := pool.Get()
	if !ok || !ok2 {
		t.Fatal("no pages")
	}
	for i, b := range [][]byte{pool.Bytes(pg), pool.Bytes(other)} {
		for k := range b {
			b[k] = byte(k*7 + k>>8 + i)
		}
	}
	want := behind(100, pool.Bytes(pg)[100:40_000], pool.Bytes(other)[:8000])
	pool.Put(pg)
	pool.Put(other)
	if n := pool.InUse(); n != 2 {
		t.Fatalf("%d pages in use while the kernel has the frame, want 2", n)
	}
	check(want, 2)
	r.q.Flush()
	if n := pool.InUse(); n != 0 {
		t.Errorf("%d pages in use when the frame is sent", n)
	}

	// The headers go in front of the payload where there is room for them, unless a frame that is on its way has others there.
	pg, _ = pool.Get()
	want = behind(100, pool.Bytes(pg)[100:40_000])
	again := behind(100, pool.Bytes(pg)[100:40_000])
	check(want, 1)
	check(again, 2)
	r.q.Flush()
	check(behind(100, pool.Bytes(pg)[100:65_536]), 1)
	check(behind(50, pool.Bytes(pg)[100:40_000]), 2)
	check(behind(100, pool.Bytes(pg)[30_000:40_000], pool.Bytes(pg)[50_000:60_000], pool.Bytes(pg)[10_000:15_000]), 1)
	pool.Put(pg)
	r.q.Flush()
	if n := pool.InUse(); n != 0 {
		t.Errorf("%d pages in use when the frames are sent", n)
	}

	pg, _ = pool.Get()
	other, _ = pool.Get()
	check(send(pool.Bytes(pg)[100:40_000], pool.Bytes(other)[:8000]), 1)
	check(send(pool.Bytes(pg)[100:60_000], pool.Bytes(other)[:5570]), 2)
	pool.Put(other)
	check(send(pool.Bytes(pg)[:1448]), 1)
	check(send(make([]byte, 30_000)), 1)
	check(send(pool.Bytes(pg)[:20_000], make([]byte, 20_000)), 1)
	check(send(pool.Bytes(pg)[:9000], pool.Bytes(pg)[9000:18000], pool.Bytes(pg)[18000:27000], pool.Bytes(pg)[27000:36000]), 1)

	send(pool.Bytes(pg)[:50_000])
	pool.Put(pg)
	r.Break(kernel.TX)
	var frames [1]packet.Frame
	for r.q.Counters().Rebuilds == 0 {
		r.wait(t)
		if n, err := r.q.Receive(frames[:]); n != 0 || err != nil {
			t.Fatal(n, err)
		}
	}
	if n := pool.InUse(); n != 0 {
		t.Errorf("%d pages in use after the rings that had them", n)
	}
	pg, _ = pool.Get()
	check(send(pool.Bytes(pg)[:50_000]), 2)
	pool.Put(pg)
	r.q.Flush()
}
