package vhostnet_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/vhostnet"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/vhost/kernel"
	"golang.org/x/sys/unix"
)

// TestManyRebuilds: 200 times rings break under load. What arrives is right and in order, each time something does, and in the end nothing is held.
func TestManyRebuilds(t *testing.T) {
	vhostnet.SetShortLife(t, 0)
	pool, err := pagepool.New(4 << 20)
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	r := newRig(t, vhostnet.Config{Tuning: vhostnet.Tuning{Receive: 64, Transmit: 16, Buffer: 2048}})
	if err := r.q.Borrow(pool); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var frames [link.MaxBatch]packet.Frame
	given, seen, sent, taken := uint32(0), uint32(0), uint32(0), uint32(0)
	check := func(what string, b []byte, last *uint32) {
		n := uint32(b[14])<<24 | uint32(b[15])<<16 | uint32(b[16])<<8 | uint32(b[17])
		if n <= *last || !bytes.Equal(b, numbered(n, len(b))) {
			t.Fatalf("%s: number %d of %d bytes after %d, or others than it had", what, n, len(b), *last)
		}
		*last = n
	}
	for rebuild := range uint64(200) {
		hadSeen, hadTaken := seen, taken
		for round := 0; round < 20 || seen == hadSeen || taken == hadTaken; round++ {
			given++
			r.Give(packet.NetHdr{}, numbered(given, 60+rng.IntN(20_000)))
			n, err := r.q.Receive(frames[:])
			if err != nil {
				t.Fatal(err)
			}
			for i := range frames[:n] {
				check("from the guest", bytes.Join(frames[i].Bufs, nil), &seen)
			}
			pg, ok := pool.Get()
			if !ok {
				t.Fatal("the pages of frames that were sent do not come back")
			}
			size := 20 + rng.IntN(40_000)
			frame := numbered(sent+1, 54+size)
			room := 128 * rng.IntN(2)
			copy(pool.Bytes(pg)[room:], frame[54:])
			if r.q.Send(&link.Out{Head: frame[:54], Payload: [][]byte{pool.Bytes(pg)[room:][:size]}, Room: room}) {
				sent++
			}
			pool.Put(pg)
			r.q.Flush()
			for {
				f, ok := r.Take()
				if !ok {
					break
				}
				check("to the guest", f.Data, &taken)
			}
		}
		if rng.IntN(2) == 0 {
			r.Break(rng.IntN(2))
		} else {
			r.Corrupt(kernel.RX)
		}
		for r.q.Counters().Rebuilds == rebuild {
			r.wait(t)
			if _, err := r.q.Receive(frames[:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r.q.Direct() {
		t.Error("the queue goes on without rings")
	}
	r.Leave()
	if err := r.q.Close(); err != nil {
		t.Error(err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
}

// numbered is a frame that tells its number.
func numbered(n uint32, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(uint32(i)*13 + n)
	}
	b[14], b[15], b[16], b[17] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return b
}

// TestWithoutRings: rings that break as soon as they are made, or that cannot be made, end in the TAP alone, and frames pass.
func TestWithoutRings(t *testing.T) {
	for name, spoil := range map[string]func(r *rig){
		"new rings cannot be made": func(r *rig) { r.Fail("SetBackend", unix.EBADFD, 1000) },
		"they break at once":       func(*rig) {},
	} {
		t.Run(name, func(t *testing.T) {
			vhostnet.SetShortLife(t, time.Hour)
			tap, guest := newTAP(t)
			r := newRig(t, vhostnet.Config{TAP: tap})
			defer func() {
				if err := r.q.Close(); err != nil {
					t.Error(err)
				}
			}()
			spoil(r)
			var frames [8]packet.Frame
			for !r.q.Direct() {
				r.Break(kernel.RX)
				r.wait(t)
				if _, err := r.q.Receive(frames[:]); err != nil {
					t.Fatal(err)
				}
			}
			want := numbered(5, 900)
			want[12], want[13] = 0x88, 0xb5 // an EtherType for experiments, which the kernel leaves alone
			r.exchange(t, guest, want)
			if text := r.log.String(); strings.Count(text, "level=ERROR") != 1 {
				t.Errorf("log:\n%s", text)
			}
		})
	}
}
