package net

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vasta-net/vasta/packet"
)

// rig is a driver and a device joined in this process.
type rig struct {
	device *Device
	driver *Driver
}

// common are the features of every test but for the receive mode.
const common = Version1 | EventIdx | Csum | HostTSO4 | HostTSO6 | MAC | MTU | Status

// modes are the features that ask for a receive mode.
var modes = []struct {
	Mode
	Features
}{
	{Small, GuestCsum}, {Mergeable, GuestCsum | MrgRxbuf}, {Mergeable, GuestCsum | GuestTSO4 | GuestTSO6 | MrgRxbuf}, {Big, GuestCsum | GuestTSO4 | GuestTSO6},
}

func newRig(t testing.TB, dev DeviceConfig, c DriverConfig) *rig {
	t.Helper()
	if dev.Config.MTU == 0 {
		dev.Config.MTU = 1500
	}
	device, err := NewDevice(dev)
	if err != nil {
		t.Fatal(err)
	}
	c.Transport = device
	driver, err := NewDriver(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := driver.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return &rig{device, driver}
}

// pattern is a frame of n bytes that names its number in every byte.
func pattern(n int, number uint32) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(uint32(i)*7 + number*31 + number>>8)
	}
	return b
}

// cut cuts b into pieces of at most n bytes.
func cut(b []byte, n int) (bufs [][]byte) {
	for ; len(b) > n; b = b[n:] {
		bufs = append(bufs, b[:n])
	}
	return append(bufs, b)
}

// noise is what frames are cut from: frames of different numbers begin at different places of it.
var noise = pattern(MaxFrame+1<<12, 1)

// frameOf is the frame with a number, of n bytes. It must not be written to.
func frameOf(n, number int) []byte { return noise[number*61%(1<<12):][:n] }

// same says whether a frame is b.
func same(f *packet.Frame, b []byte) bool {
	if f.Len != len(b) {
		return false
	}
	for _, p := range f.Bufs {
		if len(p) > len(b) || !bytes.Equal(p, b[:len(p)]) {
			return false
		}
		b = b[len(p):]
	}
	return len(b) == 0
}

// sizes are frame lengths from the shortest to limit: all around what has an edge, and every parts-th of the others, so that all parts together have all.
func sizes(limit, part, parts int) (list []int) {
	for n := packet.EtherLen; n <= limit; n++ {
		if n < 300 || n > limit-40 || n%1536 > 1500 || n%4096 > 4060 || n%parts == part {
			list = append(list, n)
		}
	}
	return list
}

// TestFramesBothWays: frames of every size that a mode carries, both ways, in batches, compared byte for byte; with every ring format, and with room around them. The ring
// formats share the sizes among them.
func TestFramesBothWays(t *testing.T) {
	rings := []Features{0, RingPacked, IndirectDesc, RingPacked | IndirectDesc, InOrder, RingPacked | InOrder | IndirectDesc}
	for _, m := range modes {
		for i, ring := range rings {
			for k, room := range []int{0, 64} {
				t.Run(fmt.Sprintf("%v,%v,room=%d", m.Mode, m.Features|ring, room), func(t *testing.T) {
					features := common | m.Features | ring
					r := newRig(t, DeviceConfig{}, DriverConfig{Features: features, Headroom: room, Tailroom: room})
					if r.driver.Mode() != m.Mode {
						t.Fatalf("mode %v", r.driver.Mode())
					}
					limit := goodFrame
					if m.Mode != Small {
						limit = MaxFrame
					}
					part, parts := 2*i+k, 2*len(rings)
					toDriver(t, r, sizes(limit, part, parts))
					toDevice(t, r, sizes(MaxFrame, part, parts))
				})
			}
		}
	}
}

// toDriver has the device deliver frames and compares what the driver receives.
func toDriver(t *testing.T, r *rig, sizes []int) {
	t.Helper()
	dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
	frames := make([]packet.Frame, 16)
	in := make([]packet.Frame, 0, 7)
	for sent, got := 0, 0; got < len(sizes); {
		in = in[:0]
		for i := sent; i < min(sent+7, len(sizes)); i++ {
			b := frameOf(sizes[i], i)
			in = append(in, packet.Frame{Bufs: cut(b, 1+len(b)/(1+i%5)), Len: len(b)})
		}
		n, err := dev.Deliver(in)
		if err != nil {
			t.Fatal(err)
		}
		sent += n
		n, err = drv.Receive(frames)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			t.Fatalf("nothing is received after %d frames of %d; %+v", got, len(sizes), drv.ReceiveStats())
		}
		for i := range frames[:n] {
			if f := &frames[i]; !same(f, frameOf(sizes[got], got)) {
				t.Fatalf("frame %d of %d bytes has %d, or others", got, sizes[got], f.Len)
			}
			got++
		}
	}
}

// toDevice has the driver send frames, in one piece or more, and compares what the device takes.
func toDevice(t *testing.T, r *rig, sizes []int) {
	t.Helper()
	dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
	frames := make([]packet.Frame, 16)
	for sent, got := 0, 0; got < len(sizes); {
		for drv.Reclaim(); sent < min(len(sizes), got+100); sent++ {
			b := frameOf(sizes[sent], sent)
			out := Out{}
			head := min(len(b), 1+sent%2000)
			if head+drv.HdrLen() > 1<<16 || sent%3 == 0 {
				head = min(len(b), 1<<16-drv.HdrLen())
			}
			for i, part := range append([][]byte{b[:head]}, cut(b[head:], 1<<15)...) {
				if len(part) == 0 {
					continue
				}
				room := 0
				if i == 0 {
					room = drv.HdrLen()
				}
				piece, ok := drv.Pool.CutPiece(room+len(part), false)
				if !ok {
					t.Fatal("no memory")
				}
				copy(drv.Pool.PieceBytes(piece)[room:], part)
				if i == 0 {
					out.Head = piece
				} else {
					out.Rest = append(out.Rest, piece)
				}
			}
			n, err := drv.Send([]Out{out})
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				drv.Pool.Put(out.Head.Page)
				for _, p := range out.Rest {
					drv.Pool.Put(p.Page)
				}
				break
			}
		}
		n, err := dev.Take(frames)
		if err != nil {
			t.Fatal(err)
		}
		for i := range frames[:n] {
			if f := &frames[i]; !same(f, frameOf(sizes[got], got)) {
				t.Fatalf("frame %d of %d bytes has %d, or others", got, sizes[got], f.Len)
			}
			got++
		}
		if n == 0 {
			t.Fatalf("nothing is taken after %d frames of %d", got, len(sizes))
		}
		if err := dev.Done(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRingHolds: how many packets a ring of 256 descriptors holds (row S2).
func TestRingHolds(t *testing.T) {
	for _, c := range []struct {
		name     string
		features Features
		want     int
	}{
		{"big", GuestCsum | GuestTSO4, 12}, {"big, indirect", GuestCsum | GuestTSO4 | IndirectDesc, 256}, {"mergeable", MrgRxbuf, 256}, {"small", 0, 256},
	} {
		for _, format := range []Features{0, RingPacked} {
			r := newRig(t, DeviceConfig{}, DriverConfig{Features: common | c.features | format, QueueSize: 256})
			n := 0
			f := []packet.Frame{{Bufs: [][]byte{pattern(1500, 1)}, Len: 1500}}
			for {
				k, err := r.device.Pairs()[0].Deliver(f)
				if err != nil {
					t.Fatal(err)
				}
				if k == 0 {
					break
				}
				n++
			}
			if n != c.want || r.driver.Pairs()[0].Posted() != c.want {
				t.Errorf("%s, %v: a ring of 256 holds %d packets, want %d", c.name, format, n, c.want)
			}
		}
	}
}

// TestCut: frames cut for sending begin a cache line behind their headers, and go through as they are.
func TestCut(t *testing.T) {
	r := newRig(t, DeviceConfig{}, DriverConfig{Features: common})
	dev, drv := r.device.Pairs()[0], r.driver.Pairs()[0]
	frames := make([]packet.Frame, 100)
	for _, n := range []int{60, 64, 1514, 65500} {
		outs := make([]Out, 100)
		outs = outs[:drv.Cut(outs[:min(100, 100_000/n+1)], n)]
		if len(outs) == 0 {
			t.Fatal("no memory")
		}
		for i := range outs {
			b := drv.Pool.PieceBytes(outs[i].Head)
			if len(b) != drv.HdrLen()+n || n < 65000 && (int(outs[i].Head.Off)+drv.HdrLen())%64 != 0 {
				t.Fatalf("a frame of %d bytes lies at %+v", n, outs[i].Head)
			}
			copy(b[drv.HdrLen():], frameOf(n, i))
		}
		if sent, err := drv.Send(outs); err != nil || sent != len(outs) {
			t.Fatal(sent, err)
		}
		for seen := 0; seen < len(outs); {
			k, err := dev.Take(frames)
			if err != nil || k == 0 {
				t.Fatal(k, err)
			}
			for i := range frames[:k] {
				got := make([]byte, n)
				if frames[i].Len != n || frames[i].CopyAt(got, 0) != n || !bytes.Equal(got, frameOf(n, seen+i)) {
					t.Fatalf("frame %d of %d bytes has others", seen+i, n)
				}
			}
			seen += k
			if err := dev.Done(); err != nil {
				t.Fatal(err)
			}
		}
		drv.Reclaim()
	}
}
