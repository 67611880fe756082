package vhostnet_test

import (
	"bytes"
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/vhostnet"
)

// TestShortFramesAlone: a short frame that is alone goes to the TAP by a call of its own, unless the kernel has not sent another one yet, which it would overtake. Several, and long ones,
// go through the ring.
func TestShortFramesAlone(t *testing.T) {
	tap, guest := newTAP(t)
	r := newRig(t, vhostnet.Config{TAP: tap})
	defer r.q.Close()
	frame := func(n uint32, length int) []byte {
		b := numbered(n, length)
		b[12], b[13] = 0x88, 0xb5
		return b
	}
	send := func(frames ...[]byte) {
		t.Helper()
		for _, b := range frames {
			if !r.q.Send(&link.Out{Head: b[:60], Payload: [][]byte{b[60:]}}) {
				t.Fatal("full")
			}
		}
		r.q.Flush()
	}
	fromRing := func(want []byte) {
		t.Helper()
		if f, ok := r.Take(); !ok || !bytes.Equal(f.Data, want) {
			t.Fatalf("the ring has %d bytes (%t), want %d", len(f.Data), ok, len(want))
		}
	}
	fromTAP := func(want []byte) {
		t.Helper()
		if got := guest.receive(t); !bytes.Equal(got, want) {
			t.Fatalf("the TAP has %d bytes, want %d", len(got), len(want))
		}
		if f, ok := r.Take(); ok {
			t.Fatalf("the ring has %d bytes too", len(f.Data))
		}
	}
	for range 3 {
		send(frame(1, 1400))
		fromTAP(frame(1, 1400))
		send(frame(2, 66), frame(3, 1400))
		send(frame(4, 70)) // it would overtake those
		fromRing(frame(2, 66))
		fromRing(frame(3, 1400))
		send(frame(5, 70)) // ... and this one that one
		fromRing(frame(4, 70))
		fromRing(frame(5, 70))
		send(frame(6, 60_000))
		fromRing(frame(6, 60_000))
		send(frame(7, 70))
		fromTAP(frame(7, 70))
	}
	if c := r.q.Counters(); c.Past != 6 || c.Writes < c.Past+c.Kicks || c.Refused != 0 {
		t.Errorf("%d frames past the ring, %d kicks, %d writes, %d frames refused", c.Past, c.Kicks, c.Writes, c.Refused)
	}
}
