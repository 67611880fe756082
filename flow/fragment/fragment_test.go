package fragment_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/vasta-net/vasta/flow/fragment"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"pgregory.net/rapid"
)

// original is a packet that a guest cuts.
type original struct {
	v6   bool
	id   uint32
	data []byte // behind the IP header
}

func newOriginal(v6 bool, id uint32, n int) original {
	data := make([]byte, n)
	rng := rand.New(rand.NewPCG(uint64(id), 7))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return original{v6, id, data}
}

// piece is the frame of one fragment, [from, to) of the data.
func (o original) piece(from, to int, more bool) []byte {
	b := make([]byte, packet.EtherLen, packet.EtherLen+packet.IPv6Len+packet.FragmentLen+to-from)
	if o.v6 {
		binary.BigEndian.PutUint16(b[12:], packet.EtherIPv6)
		ip := make([]byte, packet.IPv6Len+packet.FragmentLen)
		ip[0], ip[6], ip[7] = 0x60, packet.ProtoFragment, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(packet.FragmentLen+to-from))
		ip[8], ip[24] = 0xfd, 0xfd
		packet.PutFragment(ip[packet.IPv6Len:], packet.ProtoUDP, o.id, from, more)
		b = append(b, ip...)
	} else {
		binary.BigEndian.PutUint16(b[12:], packet.EtherIPv4)
		ip := make([]byte, packet.IPv4Len)
		ip[0], ip[8], ip[9], ip[12], ip[16] = 0x45, 64, packet.ProtoUDP, 192, 198
		packet.Fragmented(ip, uint16(o.id), from, to-from, more)
		b = append(b, ip...)
	}
	return append(b, o.data[from:to]...)
}

// add gives a frame to the table. It has to be a fragment.
func add(t testing.TB, table *fragment.Table, now int64, frame []byte) (*packet.Frame, stats.Reason) {
	t.Helper()
	var p packet.Packet
	f := packet.Frame{Bufs: [][]byte{frame}, Len: len(frame)}
	if r := p.Parse(&f); r != stats.Fragment {
		t.Fatalf("the frame is dropped as %v", r)
	}
	return table.Add(now, &p)
}

// check compares what was put together with what was cut.
func (o original) check(t testing.TB, whole *packet.Frame) {
	t.Helper()
	b := bytes.Join(whole.Bufs, nil)
	head := packet.EtherLen + packet.IPv4Len
	if o.v6 {
		head = packet.EtherLen + packet.IPv6Len
	}
	if len(b) != whole.Len || len(b) != head+len(o.data) || !bytes.Equal(b[head:], o.data) {
		t.Fatalf("%d bytes, want %d; or their content is wrong", len(b), head+len(o.data))
	}
	ip := b[packet.EtherLen:head]
	if o.v6 {
		if ip[6] != packet.ProtoUDP || int(binary.BigEndian.Uint16(ip[4:])) != len(o.data) {
			t.Fatalf("header % x", ip)
		}
		return
	}
	var p packet.Packet
	if r := p.Parse(whole); r != stats.BadChecksum && r != stats.BadTransport && r != stats.None { // the data is no datagram
		t.Fatalf("the packet is dropped as %v", r)
	}
}

// TestAnyOrder: packets that are cut anywhere, whose fragments come in any order, mixed and several times, are put together.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var table fragment.Table
		type part struct {
			of    int
			frame []byte
		}
		var packets []original
		var parts []part
		for i := range rapid.IntRange(1, 5).Draw(r, "packets") {
			o := newOriginal(rapid.Bool().Draw(r, "v6"), uint32(i), rapid.SampledFrom([]int{9, 100, 1481, 9000, 65507, 65515}).Draw(r, "length"))
			packets = append(packets, o)
			step := rapid.SampledFrom([]int{8, 64, 1480, 32768}).Draw(r, "step")
			if step < len(o.data)/100 {
				step = 1480
			}
			for from := 0; from < len(o.data); {
				to := min(from+8*rapid.IntRange(1, step/8).Draw(r, "units"), len(o.data))
				if from == 0 && to == len(o.data) {
					to = 8
				}
				parts = append(parts, part{i, o.piece(from, to, to < len(o.data))})
				from = to
			}
		}
		for range rapid.IntRange(0, 5).Draw(r, "twice") {
			parts = append(parts, parts[rapid.IntRange(0, len(parts)-1).Draw(r, "which")])
		}
		parts = rapid.Permutation(parts).Draw(r, "order")
		done := make([]bool, len(packets))
		for _, p := range parts {
			whole, reason := add(t, &table, 1, p.frame)
			switch {
			case whole != nil: // twice, if all of it came twice
				packets[p.of].check(t, whole)
				done[p.of] = true
			case reason != stats.None && reason != stats.Fragment:
				r.Fatalf("dropped as %v", reason)
			}
			if rapid.Bool().Draw(r, "release") {
				table.Release()
			}
		}
		for i, ok := range done {
			if !ok {
				r.Fatalf("packet %d was not put together", i)
			}
		}
	})
}

// TestBad: fragments that no sender makes spoil their packet, and no other.
func TestBad(t *testing.T) {
	o := newOriginal(false, 1, 4000)
	other := newOriginal(false, 2, 2000)
	for _, c := range []struct {
		name   string
		frames [][]byte
		want   []stats.Reason
	}{
		{"overlap", [][]byte{o.piece(0, 1600, true), o.piece(1592, 4000, false)}, []stats.Reason{stats.None, stats.BadFragment}},
		{"overlap from before", [][]byte{o.piece(1600, 4000, false), o.piece(0, 1608, true)}, []stats.Reason{stats.None, stats.BadFragment}},
		{"what follows an overlap", [][]byte{o.piece(0, 1600, true), o.piece(8, 1608, true), o.piece(1600, 4000, false)},
			[]stats.Reason{stats.None, stats.BadFragment, stats.BadFragment}},
		{"the same twice", [][]byte{o.piece(0, 1600, true), o.piece(0, 1600, true)}, []stats.Reason{stats.None, stats.Fragment}},
		{"a part of what has come", [][]byte{o.piece(0, 1600, true), o.piece(8, 800, true)}, []stats.Reason{stats.None, stats.Fragment}},
		{"two ends", [][]byte{o.piece(1600, 4000, false), o.piece(1600, 3000, false)}, []stats.Reason{stats.None, stats.BadFragment}},
		{"beyond the end", [][]byte{o.piece(800, 1600, false), o.piece(1600, 2400, true)}, []stats.Reason{stats.None, stats.BadFragment}},
		{"an end before what has come", [][]byte{o.piece(1600, 2400, true), o.piece(800, 1600, false)}, []stats.Reason{stats.None, stats.BadFragment}},
		{"not a multiple of 8", [][]byte{o.piece(0, 1001, true)}, []stats.Reason{stats.BadFragment}},
		{"empty", [][]byte{o.piece(8, 8, true)}, []stats.Reason{stats.BadFragment}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var table fragment.Table
			add(t, &table, 1, other.piece(1000, 2000, false))
			for i, frame := range c.frames {
				if whole, got := add(t, &table, 1, frame); whole != nil || got != c.want[i] {
					t.Errorf("fragment %d: whole %t, dropped as %v, want %v", i, whole != nil, got, c.want[i])
				}
			}
			whole, _ := add(t, &table, 1, other.piece(0, 1000, true))
			if whole == nil {
				t.Fatal("the other packet was lost")
			}
			other.check(t, whole)
		})
	}
}

// TestTooLong: what would reach beyond the longest packet is refused (the "ping of death").
func TestTooLong(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		var table fragment.Table
		frame := newOriginal(v6, 1, 1480).piece(0, 1480, false)
		if v6 {
			binary.BigEndian.PutUint16(frame[packet.EtherLen+packet.IPv6Len+2:], 65528)
		} else {
			packet.Fragmented(frame[packet.EtherLen:][:packet.IPv4Len], 1, 65528, 1480, false)
		}
		if whole, got := add(t, &table, 1, frame); whole != nil || got != stats.BadFragment {
			t.Errorf("v6 %t: whole %t, dropped as %v", v6, whole != nil, got)
		}
	}
}

// TestBounds: a guest that completes nothing takes a bounded number of packets, and what is old goes.
func TestBounds(t *testing.T) {
	var table fragment.Table
	for i := range uint32(10 * fragment.MaxPackets) {
		add(t, &table, int64(i), newOriginal(i%2 == 0, i, 100).piece(0, 8, true))
		if table.Len() > fragment.MaxPackets {
			t.Fatalf("%d incomplete packets", table.Len())
		}
	}
	add(t, &table, fragment.Lifetime*2, newOriginal(false, 9999, 100).piece(0, 8, true))
	if table.Len() != 1 {
		t.Errorf("%d incomplete packets after their lifetime", table.Len())
	}
	table.Trim()
	if table.Len() != 0 {
		t.Errorf("%d incomplete packets after Trim", table.Len())
	}
}

// TestBorrowed: packets that were put together stay as they are until Release.
func TestBorrowed(t *testing.T) {
	var table fragment.Table
	var wholes []*packet.Frame
	var all []original
	for i := range uint32(20) {
		o := newOriginal(i%2 == 0, i, 3000)
		add(t, &table, 1, o.piece(0, 1480, true))
		whole, _ := add(t, &table, 1, o.piece(1480, 3000, false))
		wholes, all = append(wholes, whole), append(all, o)
	}
	for i := range all {
		all[i].check(t, wholes[i])
	}
}

// TestNoAllocations: packets of two fragments need no memory once there was one.
func TestNoAllocations(t *testing.T) {
	var table fragment.Table
	o := newOriginal(false, 1, 65507)
	frames := []packet.Frame{}
	for _, b := range [][]byte{o.piece(0, 65496, true), o.piece(65496, 65507, false)} {
		frames = append(frames, packet.Frame{Bufs: [][]byte{b}, Len: len(b)})
	}
	var p packet.Packet
	if n := testing.AllocsPerRun(100, func() {
		for i := range frames {
			p.Parse(&frames[i])
			table.Add(1, &p)
		}
		table.Release()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzAdd: whatever comes as fragments, a packet is made of bytes that came, at their places.
func FuzzAdd(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		o := newOriginal(v6, 1, 3000)
		var script []byte
		for _, frame := range [][]byte{o.piece(0, 1480, true), o.piece(1480, 3000, false)} {
			script = append(binary.BigEndian.AppendUint16(script, uint16(len(frame))), frame...)
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		var table fragment.Table
		var p packet.Packet
		came := make(map[[2]int]bool) // offset and byte
		for now := int64(1); len(script) > 2; now += 1e9 {
			n := min(int(binary.BigEndian.Uint16(script)), len(script)-2)
			frame := packet.Frame{Bufs: [][]byte{script[2:][:n]}, Len: n}
			script = script[2+n:]
			if p.Parse(&frame) != stats.Fragment {
				continue
			}
			part := bytes.Join(frame.Append(nil, p.L4, p.L4Len), nil)
			for i, c := range part {
				came[[2]int{p.FragOffset + i, int(c)}] = true
			}
			whole, _ := table.Add(now, &p)
			if whole == nil {
				continue
			}
			b := bytes.Join(whole.Bufs, nil)
			if len(b) != whole.Len {
				t.Fatalf("%d bytes in a frame of %d", len(b), whole.Len)
			}
			for i, c := range b[len(whole.Bufs[0]):] {
				if !came[[2]int{i, int(c)}] {
					t.Fatalf("byte %d of the packet never came", i)
				}
			}
			if r := p.Parse(whole); r == stats.Fragment && !p.V6 || r == stats.BadIPChecksum || r == stats.ShortFrame {
				t.Fatalf("the packet is dropped as %v", r)
			}
			if now%2 == 0 {
				table.Release()
			}
		}
	})
}
