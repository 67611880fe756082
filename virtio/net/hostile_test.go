package net

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/virtio/queue"
)

// TestHostileDevice: what a device may write into buffers and lengths (rows 20 to 25). A frame that cannot be is counted and gone, alone; what breaks a rule
// of merging takes the queue out of use, and says so in every call.
func TestHostileDevice(t *testing.T) {
	hdr := func(h packet.NetHdr) []byte {
		b := make([]byte, plainHdrLen, 2000)
		h.Encode(b)
		return append(b, pattern(200, 1)...)
	}
	csum := func(start, offset uint16) packet.NetHdr {
		return packet.NetHdr{Flags: packet.FlagNeedsCsum, CsumStart: start, CsumOffset: offset, NumBuffers: 1}
	}
	gso := func(kind uint8, size uint16, flags uint8) packet.NetHdr {
		return packet.NetHdr{Flags: flags, GSOType: kind, GSOSize: size, NumBuffers: 1}
	}
	for _, c := range []struct {
		name   string
		hdr    packet.NetHdr
		len    uint32 // that the device says; 0: all
		count  func(s *ReceiveStats) uint64
		broken bool
	}{
		{name: "fine", hdr: csum(100, 98), count: func(s *ReceiveStats) uint64 { return s.Frames }},
		{name: "any hdr_len", hdr: packet.NetHdr{HdrLen: 65535, NumBuffers: 1}, count: func(s *ReceiveStats) uint64 { return s.Frames }},
		{name: "unknown flags", hdr: packet.NetHdr{Flags: 0xf0, NumBuffers: 1}, count: func(s *ReceiveStats) uint64 { return s.Frames }},
		{name: "no header", hdr: csum(0, 0), len: 11, count: func(s *ReceiveStats) uint64 { return s.Short }},
		{name: "nothing written", hdr: csum(0, 0), len: 1, count: func(s *ReceiveStats) uint64 { return s.Short }},
		{name: "only a header", hdr: packet.NetHdr{NumBuffers: 1}, len: 12, count: func(s *ReceiveStats) uint64 { return s.Short }},
		{name: "13 bytes of a frame", hdr: packet.NetHdr{NumBuffers: 1}, len: 25, count: func(s *ReceiveStats) uint64 { return s.Short }},
		{name: "checksum one beyond", hdr: csum(100, 99), count: func(s *ReceiveStats) uint64 { return s.BadHeader }},
		{name: "checksum far away", hdr: csum(65535, 65535), count: func(s *ReceiveStats) uint64 { return s.BadHeader }},
		{name: "GSO unknown", hdr: gso(7, 100, 1), count: func(s *ReceiveStats) uint64 { return s.BadHeader }},
		{name: "GSO of size 0", hdr: gso(packet.GSOTCPv4, 0, 1), count: func(s *ReceiveStats) uint64 { return s.BadHeader }},
		{name: "GSO without a checksum", hdr: gso(packet.GSOTCPv4, 100, 0), count: func(s *ReceiveStats) uint64 { return s.BadHeader }},
		{name: "GSO that was not negotiated", hdr: gso(packet.GSOUDPL4, 100, 1), count: func(s *ReceiveStats) uint64 { return s.BadHeader }},
		{name: "a tunnel", hdr: gso(packet.GSOTCPv4|0x60, 100, 1), count: func(s *ReceiveStats) uint64 { return s.BadHeader }},
		{name: "ECN alone", hdr: gso(packet.GSOECN, 0, 1), count: func(s *ReceiveStats) uint64 { return s.BadHeader }},
		{name: "no buffers", hdr: packet.NetHdr{NumBuffers: 0}, broken: true},
		{name: "more buffers than came", hdr: packet.NetHdr{NumBuffers: 3}, broken: true},
		{name: "65535 buffers", hdr: packet.NetHdr{NumBuffers: 65535}, broken: true},
	} {
		for _, format := range []Features{0, RingPacked} {
			for _, copyBreak := range []int{-1, 1000} {
				r := newRig(t, DeviceConfig{}, DriverConfig{Features: promiscuous | format, CopyBreak: copyBreak})
				vq := r.device.Pairs()[0].rx.vq
				var chains [2]queue.Chain
				if n, err := vq.Take(chains[:]); n != 2 || err != nil {
					t.Fatal(n, err)
				}
				b := hdr(c.hdr)
				copy(chains[0].In[0], b)
				n := uint32(len(b))
				if c.len > 0 {
					n = c.len
				}
				if err := vq.Return([]queue.Done{{ID: chains[0].ID, Len: n}}); err != nil {
					t.Fatal(err)
				}
				var frames [4]packet.Frame
				p := r.driver.Pairs()[0]
				_, err := p.Receive(frames[:])
				if c.broken {
					if !errors.Is(err, ErrBroken) {
						t.Errorf("%s: %v", c.name, err)
					}
					if _, err = p.Receive(frames[:]); !errors.Is(err, ErrBroken) {
						t.Errorf("%s: the next call answers %v", c.name, err)
					}
				} else if s := p.ReceiveStats(); err != nil || c.count(&s) != 1 {
					t.Errorf("%s: %v, %+v", c.name, err, s)
				}
				if err := r.driver.Close(t.Context()); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				if in := p.Pool.InUse(); in != 0 {
					t.Errorf("%s: %d pages leaked", c.name, in)
				}
			}
		}
	}
}

// TestHostileDriver: frames that a driver may send, cut in any way (rows 17, 21 to 25): what cannot be a frame is counted, returned and not seen; others are.
func TestHostileDriver(t *testing.T) {
	r := newRig(t, DeviceConfig{}, DriverConfig{Features: promiscuous, QueueSize: 256})
	p := r.driver.Pairs()[0]
	vq := p.tx.vq
	page, _ := p.Pool.Get()
	mem, addr := p.Pool.Bytes(page), p.Pool.Addr(page)
	dev := r.device.Pairs()[0]
	send := func(h packet.NetHdr, total int, cuts ...int) (seen int) {
		t.Helper()
		clear(mem)
		h.Encode(mem)
		copy(mem[plainHdrLen:], pattern(4000, 9))
		var out []queue.Segment
		at := 0
		for i := 0; at < total; i++ {
			n := total - at
			if i < len(cuts) {
				n = min(n, cuts[i])
			}
			out = append(out, queue.Segment{Addr: addr + uint64(at), Len: uint32(n)})
			at += n
		}
		if n, err := vq.Publish([]queue.Buffer{{Out: out}}); n != 1 {
			t.Fatal(n, err)
		}
		var frames [4]packet.Frame
		n, err := dev.Take(frames[:])
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			seen = frames[0].Len
			var b [4000]byte
			k := frames[0].CopyAt(b[:], 0)
			if want := pattern(4000, 9); string(b[:min(k, 3000)]) != string(want[:min(k, 3000)]) {
				t.Errorf("the frame of %d bytes, cut %v, has other bytes", total, cuts)
			}
			if err := dev.Done(); err != nil {
				t.Fatal(err)
			}
		}
		var used [1]queue.Used
		if n, err := vq.Reap(used[:]); n != 1 || err != nil {
			t.Fatalf("%d buffers came back: %v", n, err)
		}
		return seen
	}
	bytewise := make([]int, 40)
	for i := range bytewise {
		bytewise[i] = 1
	}
	plain := packet.NetHdr{}
	for _, c := range []struct {
		name  string
		hdr   packet.NetHdr
		total int
		cuts  []int
		seen  int
	}{
		{"whole", plain, 112, nil, 100}, {"header apart", plain, 112, []int{12}, 100}, {"header in 12 pieces", plain, 112, bytewise[:12], 100},
		{"all in single bytes", plain, 52, bytewise, 40}, {"header and a byte", plain, 112, []int{13}, 100}, {"11 and the rest", plain, 112, []int{11}, 100},
		{"a byte", plain, 1, nil, 0}, {"half a header", plain, 6, nil, 0}, {"a header", plain, 12, nil, 0}, {"a header in pieces", plain, 12, bytewise[:12], 0},
		{"13 bytes", plain, 25, nil, 0}, {"14 bytes", plain, 26, nil, 14}, {"14 bytes in pieces", plain, 26, bytewise, 14},
		{"too long", plain, 65536, nil, 65524},
		{"checksum beyond", packet.NetHdr{Flags: 1, CsumStart: 99, CsumOffset: 0}, 112, nil, 0},
		{"checksum at the end", packet.NetHdr{Flags: 1, CsumStart: 98, CsumOffset: 0}, 112, nil, 98 + 2},
		{"UDP GSO", packet.NetHdr{Flags: 1, GSOType: packet.GSOUDPL4, GSOSize: 10}, 112, nil, 0},
		{"GSO", packet.NetHdr{Flags: 1, GSOType: packet.GSOTCPv6, GSOSize: 10}, 112, nil, 100},
	} {
		if seen := send(c.hdr, c.total, c.cuts...); seen != c.seen {
			t.Errorf("%s: a frame of %d bytes is seen, want %d", c.name, seen, c.seen)
		}
	}
	s := dev.Stats()
	if s.Short != 5 || s.BadHeader != 2 || s.Taken != 11 {
		t.Errorf("%+v", s)
	}
	p.Pool.Put(page)
}

// TestScribble: while frames go both ways on two pairs, somebody writes into the rings of the first one and into all buffers (rows 13, 15, 45, 46, 49). The second pair's
// rings are left alone: it goes on. The process lives, and everything can be closed; nothing hangs.
func TestScribble(t *testing.T) {
	for round, format := range []Features{0, RingPacked, InOrder, RingPacked | InOrder | IndirectDesc} {
		features := Supported&^(HashReport|RingPacked|InOrder|IndirectDesc) | format
		r := newRig(t, DeviceConfig{Config: Config{MTU: 1500, MaxPairs: 2}}, DriverConfig{Features: features, QueueSize: 64})
		if err := errors.Join(r.driver.SetPairs(t.Context(), 2), r.driver.SetRXMode(t.Context(), Promisc, true)); err != nil {
			t.Fatal(err)
		}
		var stop atomic.Bool
		var all sync.WaitGroup
		var got [2]atomic.Uint64
		var broken [2]atomic.Bool
		for i := range 2 {
			drv, dev := r.driver.Pairs()[i], r.device.Pairs()[i]
			all.Go(func() {
				var frames [16]packet.Frame
				for !stop.Load() {
					n, err := drv.Receive(frames[:])
					broken[i].Store(err != nil)
					got[i].Add(uint64(n))
					for k := range frames[:n] {
						var b [100]byte
						frames[k].CopyAt(b[:], 0)
						drv.SendCopy(&frames[k])
					}
				}
			})
			all.Go(func() {
				var frames [16]packet.Frame
				f := []packet.Frame{{Bufs: [][]byte{pattern(3000, 5)}, Len: 3000}, {Bufs: [][]byte{pattern(100, 6)}, Len: 100}}
				for !stop.Load() {
					dev.Deliver(f)
					if n, _ := dev.Take(frames[:]); n > 0 {
						for k := range frames[:n] {
							var b [100]byte
							frames[k].CopyAt(b[:], 0)
						}
						if err := dev.Done(); err != nil && i == 1 {
							t.Error(err)
						}
					}
				}
			})
		}
		rng := rand.New(rand.NewPCG(uint64(round), 1))
		rings, pages := r.driver.rings.Memory()[:2*ringBlock(features, 64)], r.driver.arena.Memory()[:1<<20]
		from := [2]uint64{}
		for began := time.Now(); time.Since(began) < 200*time.Millisecond; {
			for range 100 {
				rings[rng.IntN(len(rings))] = byte(rng.Uint32())
				pages[rng.IntN(len(pages))] = byte(rng.Uint32())
			}
			if from[1] == 0 && time.Since(began) > 100*time.Millisecond {
				from[1] = got[1].Load()
			}
		}
		// Headers of the second pair's frames are scribbled on too: what it may lose for that is the queue, by num_buffers; its rings go on until then.
		for deadline := time.Now().Add(5 * time.Second); got[1].Load() == from[1] && !broken[1].Load() && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		stop.Store(true)
		all.Wait()
		if got[1].Load() <= from[1] && !broken[1].Load() {
			t.Errorf("%v: the second pair stands still after %d frames", format, got[1].Load())
		}
		if err := r.driver.Close(t.Context()); err != nil {
			t.Errorf("%v: %v", format, err)
		}
	}
}

// TestMillionBadFrames: frames that cannot be are counted and no error is answered, so that there is nothing to log for each; a queue that is broken answers one and
// the same error however often it is asked, so that whoever logs can tell that it is not new (row 50).
func TestMillionBadFrames(t *testing.T) {
	const million = 1_000_000
	r := newRig(t, DeviceConfig{}, DriverConfig{Features: promiscuous, CopyBreak: -1})
	dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
	vq := dev.rx.vq
	var chains [64]queue.Chain
	var done [64]queue.Done
	var frames [64]packet.Frame
	bad := packet.NetHdr{Flags: packet.FlagNeedsCsum, CsumStart: 65535, NumBuffers: 1}
	for drv.ReceiveStats().BadHeader < million {
		n, err := vq.Take(chains[:])
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range chains[:n] {
			bad.Encode(c.In[0])
			done[i] = queue.Done{ID: c.ID, Len: 100}
		}
		if err := vq.Return(done[:n]); err != nil {
			t.Fatal(err)
		}
		if n, err := drv.Receive(frames[:]); n != 0 || err != nil {
			t.Fatal(n, err)
		}
	}
	// The other end: frames of 13 bytes.
	for dev.Stats().Short < million {
		var outs [32]Out
		for i := range outs {
			p, ok := drv.Pool.CutPiece(drv.HdrLen()+packet.EtherLen-1, false)
			if !ok {
				t.Fatal("no memory")
			}
			outs[i] = Out{Head: p}
		}
		if n, err := drv.Send(outs[:]); n != len(outs) || err != nil {
			t.Fatal(n, err)
		}
		if n, err := dev.Take(frames[:]); n != 0 || err != nil {
			t.Fatal(n, err)
		}
	}
	// And a rule that is broken.
	n, err := vq.Take(chains[:1])
	if n != 1 || err != nil {
		t.Fatal(n, err)
	}
	bad = packet.NetHdr{NumBuffers: 7}
	bad.Encode(chains[0].In[0])
	if err := vq.Return([]queue.Done{{ID: chains[0].ID, Len: 100}}); err != nil {
		t.Fatal(err)
	}
	_, first := drv.Receive(frames[:])
	if !errors.Is(first, ErrBroken) {
		t.Fatal(first)
	}
	for range million {
		if _, err := drv.Receive(frames[:]); err != first {
			t.Fatal(err)
		}
	}
}

// FuzzHeader: no header and no lengths make a driver or a device do more than count, in any mode.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{1, 1, 0, 0, 1, 0, 34, 0, 16, 0, 1, 0}, uint16(100), uint8(0))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0}, uint16(13), uint8(1))
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}, uint16(1499), uint8(3))
	f.Fuzz(func(t *testing.T, head []byte, n uint16, mode uint8) {
		m := modes[int(mode)%len(modes)]
		r := newRig(t, DeviceConfig{}, DriverConfig{Features: common | m.Features | IndirectDesc, QueueSize: 32})
		vq := r.device.Pairs()[0].rx.vq
		var chains [3]queue.Chain
		k, err := vq.Take(chains[:])
		if err != nil {
			t.Fatal(err)
		}
		var done []queue.Done
		for i, c := range chains[:k] {
			copy(c.In[0], head)
			done = append(done, queue.Done{ID: c.ID, Len: min(c.InLen, uint32(n)*uint32(i+1))})
		}
		if err := vq.Return(done); err != nil {
			t.Fatal(err)
		}
		var frames [8]packet.Frame
		p := r.driver.Pairs()[0]
		got, err := p.Receive(frames[:])
		if err != nil && !errors.Is(err, ErrBroken) {
			t.Fatal(err)
		}
		for i := range frames[:got] {
			if x := &frames[i]; x.Len < packet.EtherLen || x.Len > max(MaxFrame, goodFrame) || x.CopyAt(make([]byte, x.Len), 0) != x.Len {
				t.Fatalf("a frame of %d bytes", x.Len)
			}
		}
		if err := r.driver.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
