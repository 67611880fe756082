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

// TestBorrowedPayload: payload in whole pages is sent from there, with a reference to each page until the kernel is done with it, or the rings are; short payload and such as lies
// elsewhere is copied.
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
	send := func(payload ...[]byte) (want []byte) {
		t.Helper()
		if !r.q.Send(&link.Out{Head: head, Payload: payload}) {
			t.Fatal("full")
		}
		r.q.Flush()
		return append(bytes.Clone(head), bytes.Join(payload, nil)...)
	}
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
	want := send(pool.Bytes(pg)[100:40_000], pool.Bytes(other)[:8000])
	pool.Put(pg)
	pool.Put(other)
	if n := pool.InUse(); n != 2 {
		t.Fatalf("%d pages in use while the kernel has the frame, want 2", n)
	}
	check(want, 3)
	r.q.Flush()
	if n := pool.InUse(); n != 0 {
		t.Errorf("%d pages in use when the frame is sent", n)
	}

	pg, _ = pool.Get()
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
