package tap_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/tap"
	"github.com/vasta-net/vasta/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestFramesFromTheGuest(t *testing.T) {
	cases := []struct {
		name       string
		size, gso  int
		wantHdrLen uint16
	}{
		{"small", 5, 0, 0},
		{"MTU 65520", 65520 - 40, 0, 0},
		{"64 KiB of GSO", 65535 - 54, 1460, 54}, // more than gso_max_size, and the kernel cuts it
		{"64 KiB of GSO at a large MTU", 65535 - 54, 32000, 54},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			q, g := newLink(t)
			hdr, frame := tcpFrame(guestMAC, gatewayMAC, c.size, c.gso)
			g.send(hdr, frame)
			f := receiveOne(t, q)
			if len(f.Bufs) != 1 || f.Len != len(frame) || !bytes.Equal(f.Bufs[0], frame) {
				t.Fatalf("%d bytes in %d pieces arrived, or others than the %d that were sent", f.Len, len(f.Bufs), len(frame))
			}
			want := hdr
			want.HdrLen = c.wantHdrLen // the kernel says it for GSO frames only
			f.Hdr.NumBuffers = 0       // left over in the kernel's header, without meaning on a TAP
			if diff := cmp.Diff(want, f.Hdr); diff != "" {
				t.Errorf("virtio-net header (-want +got):\n%s", diff)
			}
			var frames [1]packet.Frame
			if n, err := q.Receive(frames[:]); n != 0 || err != nil {
				t.Errorf("Receive with nothing left = %d, %v", n, err)
			}
			if got := q.Counters(); got != (link.Counters{Reads: 3}) { // frame, nothing, nothing
				t.Errorf("counters %+v", got)
			}
		})
	}
}

func TestFramesToTheGuest(t *testing.T) {
	for _, c := range []struct {
		name      string
		size, gso int
	}{
		{"small", 5, 0},
		{"MTU 65520", 65520 - 40, 0},
		{"64 KiB of GSO", 65535 - 40, 1460},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, g := newLink(t)
			hdr, frame := tcpFrame(gatewayMAC, guestMAC, c.size, c.gso)
			out := link.Out{Hdr: hdr, Head: frame[:54]}
			for rest := frame[54:]; len(rest) > 0; {
				n := min(4096, len(rest))
				out.Payload = append(out.Payload, rest[:n])
				rest = rest[n:]
			}
			if !q.Send(&out) {
				t.Fatal("Send: the queue is full")
			}
			q.Flush()
			got, data := g.receive()
			if !bytes.Equal(data, frame) {
				t.Fatalf("%d bytes arrived, or others than the %d that were sent", len(data), len(frame))
			}
			if got.GSOType != hdr.GSOType || got.GSOSize != hdr.GSOSize || got.Flags != hdr.Flags ||
				got.CsumStart != hdr.CsumStart || got.CsumOffset != hdr.CsumOffset {
				t.Errorf("virtio-net header %+v arrived, %+v was sent", got, hdr)
			}
			if got := q.Counters(); got != (link.Counters{Writes: 1}) {
				t.Errorf("counters %+v", got)
			}
		})
	}
}

func TestBatchesGrow(t *testing.T) {
	q, g := newLink(t)
	for _, room := range []int{2, 20, 3, 100} {
		sizes := make([]int, min(room, 64)+1)
		for i := range sizes {
			sizes[i] = 65000 - i
			hdr, frame := tcpFrame(guestMAC, gatewayMAC, sizes[i], 1460)
			g.send(hdr, frame)
		}
		frames := make([]packet.Frame, room)
		seen := 0
		for _, want := range []int{len(sizes) - 1, 1, 0} {
			n, err := q.Receive(frames)
			if n != want || err != nil {
				t.Fatalf("Receive with room for %d = %d, %v; want %d", room, n, err, want)
			}
			for i := range frames[:n] {
				_, want := tcpFrame(guestMAC, gatewayMAC, sizes[seen], 1460)
				if f := &frames[i]; !bytes.Equal(f.Bufs[0], want) {
					t.Fatalf("frame %d: %d bytes, or others than were sent", seen, f.Len)
				}
				seen++
			}
		}
	}
}

// TestReceiver: a frame comes to the queue or to its receiver, whoever asks first, and the queue goes on when the receiver is closed.
func TestReceiver(t *testing.T) {
	q, g := newLink(t)
	other := q.Receiver()
	if other.Fd() != q.Fd() || other.Features() != q.Features() {
		t.Errorf("fd %d, features %+v; the queue's are %d, %+v", other.Fd(), other.Features(), q.Fd(), q.Features())
	}
	hdr, frame := tcpFrame(guestMAC, gatewayMAC, 100, 0)
	var none [1]packet.Frame
	for _, turn := range [][2]link.Queue{{other, q}, {q, other}} {
		g.send(hdr, frame)
		if f := receiveOne(t, turn[0]); !bytes.Equal(f.Bufs[0], frame) {
			t.Errorf("another frame arrived: % x", f.Bufs[0])
		}
		if n, err := turn[1].Receive(none[:]); n != 0 || err != nil {
			t.Errorf("Receive of the other one = %d, %v", n, err)
		}
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	g.send(hdr, frame)
	receiveOne(t, q)
}

// TestLearns: only a device that may have several queues has its driver remember which of them wrote to a flow.
func TestLearns(t *testing.T) {
	newNetns(t)
	for _, several := range []bool{false, true} {
		flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if several {
			flags |= unix.IFF_MULTI_QUEUE
		}
		q, err := tap.New(openTAP(t, flags, packet.NetHdrLen, unix.TUN_F_CSUM), link.Features{Csum: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := q.Features().Learns; got != several {
			t.Errorf("several queues %v: learns %v", several, got)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestFeaturesAndFd(t *testing.T) {
	newNetns(t)
	fd := openTAP(t, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR, packet.NetHdrLen, unix.TUN_F_CSUM)
	want := link.Features{Csum: true, USO: true}
	q, err := tap.New(fd, want)
	if err != nil {
		t.Fatal(err)
	}
	if q.Features() != want || q.Fd() != fd {
		t.Errorf("features %+v, fd %d", q.Features(), q.Fd())
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	if err := q.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a second Close: %v", err)
	}
	if n, err := q.Receive(make([]packet.Frame, 1)); n != 0 || err != link.ErrGone {
		t.Errorf("Receive after Close = %d, %v", n, err)
	}
}

func TestWrongDescriptors(t *testing.T) {
	for _, c := range []struct {
		name string
		fd   func(t *testing.T) int
		want string
	}{
		{"a pipe", func(t *testing.T) int {
			var p [2]int
			if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			unix.Close(p[1])
			return p[0]
		}, "not an attached TAP device"},
		{"no header", func(t *testing.T) int { return openTAP(t, unix.IFF_TAP|unix.IFF_NO_PI, 0, 0) }, "IFF_VNET_HDR"},
		{"a TUN", func(t *testing.T) int { return openTAP(t, unix.IFF_TUN|unix.IFF_NO_PI|unix.IFF_VNET_HDR, 12, 0) }, "IFF_TAP"},
		{"short header", func(t *testing.T) int {
			return openTAP(t, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR, 10, 0)
		}, "headers of 10 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			newNetns(t)
			fd := c.fd(t)
			defer func() {
				if err := unix.Close(fd); err != nil {
					t.Errorf("the descriptor did not stay ours: %v", err)
				}
			}()
			if _, err := tap.New(fd, link.Features{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New: %v, want %q", err, c.want)
			}
		})
	}
}

func TestGoneDevice(t *testing.T) {
	for _, first := range []string{"receive", "send"} {
		t.Run(first, func(t *testing.T) {
			q, _ := newLink(t)
			l, err := netlink.LinkByName(device)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkDel(l); err != nil {
				t.Fatal(err)
			}
			waitFor(t, q.Fd(), unix.POLLIN)
			hdr, frame := tcpFrame(gatewayMAC, guestMAC, 0, 0)
			out := link.Out{Hdr: hdr, Head: frame}
			if first == "send" {
				for range 2 {
					if !q.Send(&out) {
						t.Error("Send: full, which asks for another try")
					}
				}
				if got := q.Counters(); got != (link.Counters{Writes: 1, Refused: 2}) {
					t.Errorf("counters %+v", got)
				}
			}
			for range 2 {
				if n, err := q.Receive(make([]packet.Frame, 1)); n != 0 || err != link.ErrGone {
					t.Errorf("Receive = %d, %v; want ErrGone", n, err)
				}
			}
		})
	}
}

func TestDeviceThatIsDown(t *testing.T) {
	q, _ := newLink(t)
	l, err := netlink.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(l); err != nil {
		t.Fatal(err)
	}
	hdr, frame := tcpFrame(gatewayMAC, guestMAC, 0, 0)
	if !q.Send(&link.Out{Hdr: hdr, Head: frame}) {
		t.Error("Send to a device that is down: full, which asks for another try")
	}
	if got := q.Counters().Refused; got != 1 {
		t.Errorf("%d frames refused, want 1", got)
	}
	if n, err := q.Receive(make([]packet.Frame, 1)); n != 0 || err != nil {
		t.Errorf("Receive = %d, %v: a device that is down may come up again", n, err)
	}
}

func TestRefusedFrames(t *testing.T) {
	q, _ := newLink(t)
	hdr, frame := tcpFrame(gatewayMAC, guestMAC, 100, 0)
	wrong := hdr
	wrong.GSOType = 99
	beyond := hdr
	beyond.CsumStart = 60000
	outs := []link.Out{
		{Hdr: wrong, Head: frame},
		{Hdr: beyond, Head: frame},
		{Hdr: packet.NetHdr{}, Head: frame[:5]},
		{Hdr: hdr, Head: frame, Payload: make([][]byte, 1100)},
	}
	for i := range outs {
		if !q.Send(&outs[i]) {
			t.Errorf("frame %d: full, which asks for another try", i)
		}
		if got := q.Counters().Refused; got != uint64(i+1) {
			t.Errorf("frame %d: %d refused", i, got)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	q, g := newLink(t)
	hdr, frame := tcpFrame(gatewayMAC, guestMAC, 3000, 1460)
	out := link.Out{Hdr: hdr, Head: frame[:54], Payload: [][]byte{frame[54:1000], frame[1000:]}}
	frames := make([]packet.Frame, 8)
	from, data := tcpFrame(guestMAC, gatewayMAC, 3000, 1460)
	for range 150 {
		g.send(from, data)
	}
	got := 0
	if n := testing.AllocsPerRun(100, func() {
		if !q.Send(&out) {
			t.Error("Send: full")
		}
		n, err := q.Receive(frames[:1])
		if err != nil {
			t.Error(err)
		}
		got += n
	}); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
	if got != 101 {
		t.Errorf("%d frames received", got)
	}
}
