package vasta_test

import (
	"bytes"
	"context"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/mem"
	"github.com/vasta-net/vasta/packet"
	"golang.org/x/sys/unix"
)

// TestGuestBehindMem: a guest's kernel whose frames this program carries between its TAP and link/mem, with their virtio-net headers: segments of 64 KiB
// pass whole, both ways, at an MTU of 1500.
func TestGuestBehindMem(t *testing.T) {
	inside := newSpace(t)
	var fd int
	var err error
	inside.do(func() { fd, err = openTAP("eth0") })
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, packet.NetHdrLen)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := mem.Offloads
	f.USO = false
	network, guest, err := mem.New(mem.Config{Offloads: f})
	if err != nil {
		t.Fatal(err)
	}
	c := plain()
	c.Guest.MTU = 1500
	n := running(t, c, vasta.Queues(network))
	carrier := carrier{device: os.NewFile(uintptr(fd), "eth0"), guest: guest}
	var carrying sync.WaitGroup
	carrying.Go(func() { carrier.toNetwork(t.Context()) })
	carrying.Go(func() { carrier.toGuest(t.Context()) })
	defer carrying.Wait()
	defer carrier.close()
	inside.do(func() {
		if err = configureTAP("eth0"); err == nil {
			err = setMTU("eth0", c.Guest.MTU)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := n.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go echo(l)
	want := bytes.Repeat([]byte("vasta"), 2_000_000)
	for _, address := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
		carrier.longest[0].Store(0)
		carrier.longest[1].Store(0)
		inside.comesBack(address, want)
		for to, longest := range map[string]int64{"network": carrier.longest[0].Load(), "guest": carrier.longest[1].Load()} {
			if longest < 20_000 {
				t.Errorf("%s: the longest frame to the %s had %d bytes: segments did not pass whole", address, to, longest)
			}
		}
	}
}

// carrier is a guest's kernel's end of link/mem.
type carrier struct {
	device  *os.File
	guest   *mem.Guest
	longest [2]atomic.Int64 // bytes of a frame to the network, and to the guest
}

func (c *carrier) close() {
	c.device.Close()
	c.guest.Close()
}

func (c *carrier) toNetwork(ctx context.Context) {
	b := make([]byte, packet.NetHdrLen+mem.MaxFrame)
	for {
		n, err := c.device.Read(b)
		if err != nil {
			return
		}
		out := link.Out{Payload: [][]byte{b[packet.NetHdrLen:n]}}
		out.Hdr.Decode(b)
		c.longest[0].Store(max(c.longest[0].Load(), int64(n)))
		for !c.guest.Send(&out) && ctx.Err() == nil {
		}
	}
}

func (c *carrier) toGuest(ctx context.Context) {
	var frames [link.MaxBatch]packet.Frame
	var b []byte
	for {
		n, err := c.guest.Receive(frames[:])
		if err != nil {
			return
		}
		for i := range frames[:n] {
			var hdr [packet.NetHdrLen]byte
			frames[i].Hdr.Encode(hdr[:])
			b = append(b[:0], hdr[:]...)
			for _, piece := range frames[i].Bufs {
				b = append(b, piece...)
			}
			c.longest[1].Store(max(c.longest[1].Load(), int64(len(b))))
			_, _ = c.device.Write(b) // the interface may not be up yet
		}
		if n < len(frames) {
			if err := c.guest.Wait(ctx); err != nil {
				return
			}
		}
	}
}
