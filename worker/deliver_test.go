package worker_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// cutFrame is a frame in pieces.
func cutFrame(hdr packet.NetHdr, b []byte) *packet.Frame {
	third := len(b) / 3
	return &packet.Frame{Hdr: hdr, Bufs: [][]byte{b[:third], b[third : 2*third], b[2*third:]}, Len: len(b)}
}

// partialUDP is a datagram's frame whose checksum is left to the link, and the same with the checksum.
func partialUDP(n int) (hdr packet.NetHdr, partial, whole []byte) {
	whole = serialize(guest4, server4, layers.IPProtocolUDP, &layers.UDP{SrcPort: 7, DstPort: 9}, gopacket.Payload(bytes.Repeat([]byte{0x5a}, n)))
	partial = bytes.Clone(whole)
	binary.BigEndian.PutUint16(partial[40:], packet.PseudoSum(guest4, server4, packet.ProtoUDP, 8+n))
	return packet.NetHdr{Flags: packet.FlagNeedsCsum, CsumStart: 34, CsumOffset: 6}, partial, whole
}

// TestDeliver: what becomes of a frame from elsewhere depends on its header, its length, and what the link carries.
func TestDeliver(t *testing.T) {
	partialHdr, partial, whole := partialUDP(501)
	gso := func(kind uint8, size uint16) packet.NetHdr {
		h := partialHdr
		h.GSOType, h.GSOSize, h.HdrLen = kind, size, 42
		return h
	}
	with := func(edit func(*packet.NetHdr)) packet.NetHdr {
		h := partialHdr
		edit(&h)
		return h
	}
	none, csum := link.Features{}, link.Features{Csum: true}
	long := make([]byte, 60000)
	for _, c := range []struct {
		name  string
		link  link.Features
		hdr   packet.NetHdr
		frame []byte
		why   stats.Reason
		sent  packet.NetHdr
		data  []byte // nil: frame
	}{
		{"plain", none, packet.NetHdr{}, whole, stats.None, packet.NetHdr{}, nil},
		{"of no known kind", none, packet.NetHdr{}, bytes.Repeat([]byte{0x88}, 60), stats.None, packet.NetHdr{}, nil},
		{"no more than a header", none, packet.NetHdr{}, whole[:packet.EtherLen], stats.None, packet.NetHdr{}, nil},
		{"as long as the link's packets, with a tag", none, packet.NetHdr{}, make([]byte, 1518), stats.None, packet.NetHdr{}, nil},
		{"a byte longer", none, packet.NetHdr{}, make([]byte, 1519), stats.LongFrame, packet.NetHdr{}, nil},
		{"nothing", none, packet.NetHdr{}, nil, stats.ShortFrame, packet.NetHdr{}, nil},
		{"less than a header", none, packet.NetHdr{}, whole[:packet.EtherLen-1], stats.ShortFrame, packet.NetHdr{}, nil},
		{"verified by somebody", csum, packet.NetHdr{Flags: packet.FlagDataValid, NumBuffers: 3}, whole, stats.None, packet.NetHdr{}, nil},
		{"partial checksum", csum, partialHdr, partial, stats.None, partialHdr, nil},
		{"partial checksum for a link without", none, partialHdr, partial, stats.None, packet.NetHdr{}, whole},
		{"partial checksum at the very end", none, with(func(h *packet.NetHdr) { h.CsumStart, h.CsumOffset = 500, uint16(len(partial)-502) }), partial, stats.None, packet.NetHdr{},
			func() []byte {
				b := bytes.Clone(partial)
				binary.BigEndian.PutUint16(b[len(b)-2:], ^sumOf(b[500:]))
				return b
			}()},
		{"partial checksum a byte beyond", none, with(func(h *packet.NetHdr) { h.CsumStart, h.CsumOffset = 500, uint16(len(partial)-501) }), partial, stats.BadVnetHeader, packet.NetHdr{}, nil},
		{"partial checksum far away", csum, with(func(h *packet.NetHdr) { h.CsumStart, h.CsumOffset = 0xffff, 0xffff }), partial, stats.BadVnetHeader, packet.NetHdr{}, nil},
		{"headers longer than the frame", csum, with(func(h *packet.NetHdr) { h.HdrLen = uint16(len(partial) + 1) }), partial, stats.BadVnetHeader, packet.NetHdr{}, nil},
		{"segments", allFeatures, gso(packet.GSOTCPv4|packet.GSOECN, 1448), long, stats.None, gso(packet.GSOTCPv4|packet.GSOECN, 1448), nil},
		{"segments for a link that cuts those of IPv6", link.Features{Csum: true, TSO6: true}, gso(packet.GSOTCPv4, 1448), long, stats.LongFrame, packet.NetHdr{}, nil},
		{"segments for a link that cuts those of IPv4", link.Features{Csum: true, TSO4: true}, gso(packet.GSOTCPv6, 1448), long, stats.LongFrame, packet.NetHdr{}, nil},
		{"datagrams for a link that cuts none", link.Features{Csum: true, TSO4: true, TSO6: true}, gso(packet.GSOUDPL4, 1448), long, stats.LongFrame, packet.NetHdr{}, nil},
		{"datagrams", allFeatures, gso(packet.GSOUDPL4, 1448), long, stats.None, gso(packet.GSOUDPL4, 1448), nil},
		{"segments of no length", allFeatures, gso(packet.GSOTCPv4, 0), long, stats.BadVnetHeader, packet.NetHdr{}, nil},
		{"segments without a checksum", allFeatures, packet.NetHdr{GSOType: packet.GSOTCPv4, GSOSize: 1448}, long, stats.BadVnetHeader, packet.NetHdr{}, nil},
		{"segments of no known kind", allFeatures, gso(3, 1448), long, stats.BadVnetHeader, packet.NetHdr{}, nil},
		{"congestion of nothing", allFeatures, gso(packet.GSOECN, 0), long, stats.BadVnetHeader, packet.NetHdr{}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRigOn(t, linktest.New(c.link), func(c *worker.Config) { c.MTU = 1500 })
			if !r.w.Deliver(cutFrame(c.hdr, c.frame)) {
				t.Fatal("it is not taken")
			}
			r.settle()
			all := r.link.Take()
			if c.why != stats.None {
				if r.dropped(c.why, 1); len(all) != 0 || r.stats.Delivered != 0 {
					t.Errorf("%d frames were sent", len(all))
				}
				return
			}
			if c.data == nil {
				c.data = c.frame
			}
			if len(all) != 1 || r.stats.Delivered != 1 || r.stats.TxFrames != 1 {
				t.Fatalf("%d frames were sent, %d dropped", len(all), r.stats.Dropped())
			}
			if !bytes.Equal(all[0].Data, c.data) || all[0].Hdr != c.sent {
				t.Errorf("%d bytes and %+v were sent", len(all[0].Data), all[0].Hdr)
			}
		})
	}
}

// sumOf is the Internet checksum's sum, not inverted, counted in the plainest way.
func sumOf(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// TestDeliverToFullLink: what the link has no room for waits, in its order and with its checksum made once, beside flows that have something to say too; the worker sleeps meanwhile.
func TestDeliverToFullLink(t *testing.T) {
	r := newRigOn(t, linktest.New(link.Features{}))
	hdr, partial, whole := partialUDP(100)
	const n = 20
	for i := range n {
		partial[len(partial)-1], whole[len(whole)-1] = byte(i), byte(i)
		if !r.w.Deliver(cutFrame(hdr, partial)) {
			t.Fatal("there is no room")
		}
	}
	r.link.SetFull(true)
	r.run(50 * millisecond) // it must not spin
	if all := r.link.Take(); len(all) != 0 {
		t.Fatalf("%d frames were sent to a full link", len(all))
	}
	r.link.SetFull(false)
	r.link.RefuseAfter(3)
	r.run(50 * millisecond)
	all := r.link.Take()
	if len(all) != n || r.stats.Delivered != n || r.stats.Dropped() != 0 {
		t.Fatalf("%d of %d frames were sent, %d dropped", len(all), n, r.stats.Dropped())
	}
	for i, f := range all {
		if f.Data[len(f.Data)-1] != byte(i) {
			t.Fatalf("frame %d is out of order", i)
		}
		if sum := packet.PseudoSum(guest4, server4, packet.ProtoUDP, 108); sumOf(append([]byte{byte(sum >> 8), byte(sum)}, f.Data[34:]...)) != 0xffff {
			t.Fatalf("frame %d has a wrong checksum", i)
		}
	}
}

// TestDeliverWakes: the first frame wakes the worker, which may sleep and know of no ring yet; then one does that comes while it sleeps, and none else.
func TestDeliverWakes(t *testing.T) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r := newRig(t, func(c *worker.Config) { c.WakeFd = fd })
	f := &packet.Frame{Bufs: [][]byte{make([]byte, 60)}, Len: 60}
	woken := func() uint64 {
		var b [8]byte
		if _, err := unix.Read(fd, b[:]); err != nil {
			return 0
		}
		return binary.NativeEndian.Uint64(b[:])
	}
	for _, want := range []uint64{1, 0, 0} {
		if !r.w.Deliver(f) || woken() != want {
			t.Errorf("a frame does not wake the worker %d times", want)
		}
	}
	r.settle()
	slept := false
	r.host.OnWait = func(timeout int64) {
		if timeout == 0 || slept {
			return
		}
		slept = true
		for _, want := range []uint64{1, 0} {
			if !r.w.Deliver(f) || woken() != want {
				t.Errorf("a frame does not wake the worker %d times while it sleeps", want)
			}
		}
	}
	r.run(millisecond)
	r.settle()
	if all := r.link.Take(); len(all) != 5 || !slept {
		t.Errorf("%d frames were sent; the worker has slept: %v", len(all), slept)
	}
}

// TestDeliverFull: there is an end to what may wait, by number and by bytes, and what found no room is counted; what is longer than any frame is not copied at all; and nothing is
// taken any more when the worker has ended.
func TestDeliverFull(t *testing.T) {
	r := makeRig(t, linktest.New(allFeatures))
	defer r.close()
	fill := func(f *packet.Frame) (n int) {
		for r.w.Deliver(f) {
			n++
		}
		return n
	}
	small := &packet.Frame{Bufs: [][]byte{make([]byte, 60)}, Len: 60}
	if n := fill(small); n != 1024 {
		t.Errorf("%d frames may wait", n)
	}
	r.settle()
	large := &packet.Frame{Bufs: [][]byte{make([]byte, 65000)}, Len: 65000}
	if n := fill(large); n < 60 || n > 64 {
		t.Errorf("%d frames of 65000 bytes may wait", n)
	}
	if r.w.Deliver(&packet.Frame{Bufs: [][]byte{make([]byte, 65535+14+5)}, Len: 60}) {
		t.Error("a frame that is longer than any was taken")
	}
	r.settle()
	if s := r.w.Snapshot(); s.Drops[stats.DeliveryFull] != 2 || s.Drops[stats.LongFrame] != 1 || s.Dropped() != 3 || s.Delivered != uint64(len(r.link.Take())) {
		t.Errorf("%d frames were delivered, %d dropped as %v, %d as %v", s.Delivered, s.Drops[stats.DeliveryFull], stats.DeliveryFull, s.Drops[stats.LongFrame], stats.LongFrame)
	}
	r.w.Stop()
	if err := r.w.Run(); err != nil || r.w.Deliver(small) {
		t.Errorf("a frame is taken after the end: %v", err)
	}
}

// TestNeverDelivered: a worker to which nobody has delivered anything has ended all the same.
func TestNeverDelivered(t *testing.T) {
	r := makeRig(t, linktest.New(allFeatures))
	r.close()
	if r.w.Deliver(&packet.Frame{Bufs: [][]byte{make([]byte, 60)}, Len: 60}) {
		t.Error("a frame is taken after the end")
	}
}

// TestRedirect: a frame that a hook redirects goes, with its target and as the hook left it, to whom the configuration names, and to no flow; what that does not take is counted.
func TestRedirect(t *testing.T) {
	var targets []int
	var frames [][]byte
	r := newRig(t, func(c *worker.Config) {
		c.Hook = func(frames []packet.Frame, verdicts []packet.Verdict) {
			for i := range frames {
				frames[i].Bufs[0][0] = 0xee
				verdicts[i] = packet.RedirectTo(4095 - len(targets) - i)
			}
		}
		c.Redirect = func(target int, f *packet.Frame) bool {
			targets, frames = append(targets, target), append(frames, bytes.Join(f.Bufs, nil))
			return len(targets) != 2
		}
	})
	_, partial, _ := partialUDP(10)
	for range 3 {
		r.link.Inject(packet.NetHdr{}, partial)
	}
	r.nothing()
	partial[0] = 0xee
	for i, b := range frames {
		if targets[i] != 4095-i || !bytes.Equal(b, partial) {
			t.Errorf("frame %d went to %d, damaged: %v", i, targets[i], !bytes.Equal(b, partial))
		}
	}
	r.dropped(stats.RedirectRefused, 1)
	if s := r.stats; len(frames) != 3 || s.Redirected != 2 || s.RxFrames != 3 || s.Dropped() != 1 || s.UDPOpened != 0 {
		t.Errorf("of %d frames %d were redirected, %d dropped", s.RxFrames, s.Redirected, s.Dropped())
	}
}
