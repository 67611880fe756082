package tap_test

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"

	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/tap"
	"github.com/vasta-net/vasta/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attach attaches a queue to its device, or detaches it.
func attach(t *testing.T, q *tap.Queue, on bool) {
	t.Helper()
	ifr, err := unix.NewIfreq("")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_DETACH_QUEUE)
	if on {
		ifr.SetUint16(unix.IFF_ATTACH_QUEUE)
	}
	if err := unix.IoctlIfreq(q.Fd(), unix.TUNSETQUEUE, ifr); err != nil {
		t.Fatal(err)
	}
}

// tcp6Frame is tcpFrame over IPv6. The flow label is what Linux gives the packets of a guest, and vasta does not give its own.
func tcp6Frame(src, dst net.HardwareAddr, label uint32) (packet.NetHdr, []byte) {
	hdr, v4 := tcpFrame(src, dst, 100, 0)
	frame := append(append(v4[:14:14], make([]byte, packet.IPv6Len)...), v4[34:]...)
	frame[12], frame[13] = 0x86, 0xdd
	ip := frame[14:]
	binary.BigEndian.PutUint32(ip[0:], 6<<28|label)
	binary.BigEndian.PutUint16(ip[4:], uint16(len(frame)-54))
	ip[6], ip[7] = packet.ProtoTCP, 64
	ip[8], ip[23], ip[24], ip[39] = 0xfd, 1, 0xfd, 2
	hdr.CsumStart, hdr.HdrLen = 54, 74
	return hdr, frame
}

// fromGuest has the guest send one frame of each of n flows, of which every other one is IPv6, and counts on which queue they come.
func fromGuest(t *testing.T, queues []*tap.Queue, g *guest, n int) (got []int) {
	t.Helper()
	for i := range n {
		hdr, frame := tcpFrame(guestMAC, gatewayMAC, 100, 0)
		if i%2 == 1 {
			hdr, frame = tcp6Frame(guestMAC, gatewayMAC, 0x12300+uint32(i))
		}
		binary.BigEndian.PutUint16(frame[hdr.CsumStart:], uint16(1000+i))
		g.send(hdr, frame)
	}
	got = make([]int, len(queues))
	for i, q := range queues {
		var frames [8]packet.Frame
		for {
			k, err := q.Receive(frames[:])
			if err != nil {
				t.Fatal(err)
			}
			if got[i] += k; k < len(frames) {
				break
			}
		}
	}
	return got
}

// answer sends a frame of the first n flows to the guest through a queue.
func answer(t *testing.T, q *tap.Queue, g *guest, n int) {
	t.Helper()
	for i := range n {
		hdr, frame := tcpFrame(gatewayMAC, guestMAC, 100, 0)
		copy(frame[26:30], []byte{192, 0, 2, 2}) // the addresses change places, and so do the ports
		copy(frame[30:34], []byte{192, 0, 2, 1})
		if i%2 == 1 {
			hdr, frame = tcp6Frame(gatewayMAC, guestMAC, 0)
			frame[14+23], frame[14+39] = 2, 1
		}
		binary.BigEndian.PutUint16(frame[hdr.CsumStart:], 2000)
		binary.BigEndian.PutUint16(frame[hdr.CsumStart+2:], uint16(1000+i))
		if out := (link.Out{Hdr: hdr, Head: frame}); !q.Send(&out) || q.Counters().Refused != 0 {
			t.Fatal("not sent")
		}
		g.receive()
	}
}

// TestSteering: the guest's frames come on the queue that wrote to their flow last, and spread over all queues before that. Workers rely on
// both.
func TestSteering(t *testing.T) {
	const flows = 100
	queues, g := newLinks(t, 4)
	for i, n := range fromGuest(t, queues, g, flows) {
		if n == 0 {
			t.Errorf("queue %d got none of %d new flows", i, flows)
		}
	}
	for _, chosen := range []int{2, 0} {
		answer(t, queues[chosen], g, flows)
		if got := fromGuest(t, queues, g, flows); got[chosen] != flows {
			t.Errorf("%v of %d flows that queue %d wrote to", got, flows, chosen)
		}
	}
}

// TestDetachedQueue: a queue that somebody detaches from the device gets nothing, may be written to all the same, teaches nothing by
// that, and gets frames again when it is attached. It learns of the end of the device like any other.
func TestDetachedQueue(t *testing.T) {
	const flows = 50
	queues, g := newLinks(t, 2)
	attach(t, queues[1], false)
	answer(t, queues[1], g, flows)
	if got := fromGuest(t, queues, g, flows); got[0] != flows || got[1] != 0 {
		t.Errorf("%v frames with the second queue detached, want all %d on the first", got, flows)
	}
	attach(t, queues[0], false)
	if got := fromGuest(t, queues, g, flows); got[0]+got[1] != 0 {
		t.Errorf("%v frames without a queue", got)
	}
	attach(t, queues[1], true)
	attach(t, queues[0], true)
	answer(t, queues[1], g, flows)
	if got := fromGuest(t, queues, g, flows); got[0] != 0 || got[1] != flows {
		t.Errorf("%v frames after the second queue was attached again, want all %d on it", got, flows)
	}
	attach(t, queues[1], false)
	l, err := netlink.LinkByName(device)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range queues {
		waitFor(t, q.Fd(), unix.POLLERR)
		if _, err := q.Receive(make([]packet.Frame, 1)); !errors.Is(err, link.ErrGone) {
			t.Errorf("queue %d of a device that is gone: %v", i, err)
		}
	}
}
