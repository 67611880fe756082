package net

import (
	"encoding/binary"
	"testing"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/virtio/queue"
)

// wire is a command as FuzzControl reads it: how it is cut, room for the reply, the length of the rest; then class, command and data.
func wire(cut, room byte, class, cmd uint8, data ...byte) []byte {
	b := []byte{cut, room}
	b = binary.LittleEndian.AppendUint16(b, uint16(2+len(data)))
	return append(append(b, class, cmd), data...)
}

// FuzzControl: whatever commands a driver gives, however they are cut and however little room there is for the answer, the device's state stays one that it can work
// with, and a command that it has refused has changed nothing (row 47 of the hostile inputs).
func FuzzControl(f *testing.F) {
	le16 := func(v ...uint16) (b []byte) {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint16(b, x)
		}
		return b
	}
	rss := append(append([]byte{63, 0, 0, 0}, le16(3, 2, 0, 1, 2, 3, 4)...), 40)
	rss = append(rss, make([]byte, 40)...)
	for _, seed := range [][]byte{
		{},
		wire(0, 1, classRX, 0, 1),
		wire(1, 1, classRX, 5, 2),
		wire(3, 1, classMAC, 1, 2, 0, 0, 0, 0, 1),
		wire(2, 1, classMAC, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 1, 0, 0, 0, 1, 0, 94, 0, 0, 1),
		wire(0, 1, classMAC, 0, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9),
		wire(0, 0, classVLAN, 0, 255, 15),
		wire(0, 1, classVLAN, 1, 0, 16),
		wire(0, 1, classAnnounce, 0),
		wire(0, 1, classMQ, 0, 4, 0),
		wire(0, 1, classMQ, 0, 0, 0),
		wire(5, 1, classMQ, 1, rss...),
		wire(0, 1, classMQ, 1, rss[:20]...),
		wire(0, 1, classOffloads, 0, 2, 0, 0, 0, 0, 0, 0, 0),
		wire(0, 9, classCoal, 3, 7, 0, 0, 0),
		append(wire(0, 1, classCoal, 2, 7, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0), wire(1, 9, classCoal, 3, 7, 0, 0, 0)...),
		append(wire(0, 1, classMQ, 1, rss...), wire(0, 8, classCoal, 3, 255, 255, 0, 0)...),
	} {
		f.Add(seed, uint64(0))
		f.Add(seed, uint64(RSS|CtrlMACAddr))
	}
	const pairs = 4
	f.Fuzz(func(t *testing.T, b []byte, without uint64) {
		features := Accept(everything|HashReport, (everything|HashReport)&^Features(without)|Version1|CtrlVQ)
		d, err := NewDevice(DeviceConfig{Config: Config{MTU: 1500, MaxPairs: pairs}})
		if err != nil {
			t.Fatal(err)
		}
		d.features = features
		d.state.Store(initialState(features, &d.config))
		frame := append(make([]byte, 0, 256), b...)
		frame = frame[:max(packet.EtherLen, min(len(frame), 200))]
		seen := packet.Frame{Bufs: [][]byte{frame}, Len: len(frame)}
		for len(b) >= 4 {
			size, room, n := int(b[0])+1, int(b[1]), int(binary.LittleEndian.Uint16(b[2:]))
			n = min(n, len(b)-4)
			command := b[4 : 4+n]
			b = b[4+n:]
			answer := make([]byte, room)
			c := queue.Chain{Out: cut(command, size), InLen: uint32(room)}
			if room > 0 {
				c.In = cut(answer, size)
			}
			before := d.state.Load()
			written := d.serve(&c)
			after := d.state.Load()
			if int(written) > room || written > 9 {
				t.Fatalf("%x: %d bytes of answer in room for %d", command, written, room)
			}
			if written == 1 && answer[0] == ackErr && after != before {
				t.Fatalf("%x was refused, and has changed the state", command)
			}
			if after.pairs < 1 || after.pairs > pairs || len(after.coal) != 2*pairs || after.offloads&^features != 0 || (after.vlans == nil) != (before.vlans == nil) {
				t.Fatalf("%x: %+v", command, after)
			}
			if r := after.rss; r != nil && (len(r.Table) < 1 || !isPowerOf2(len(r.Table)) || int(r.MaxTx) > pairs) {
				t.Fatalf("%x: %+v", command, r)
			}
			after.passes(&seen)
			if p := d.Steer(&seen); p < 0 || p >= after.pairs {
				t.Fatalf("%x: pair %d of %d", command, p, after.pairs)
			}
		}
	})
}
