package worker_test

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// The guard and the benchmark of the rule that frames cost no heap memory. Everything around the worker is made such that it
// does not allocate either: a link and a host of a few lines each, and a guest that patches its one frame.

// steadyLink is a link whose frames the test lays out itself.
type steadyLink struct {
	waiting []packet.Frame
	next    int
	sent    int64 // payload bytes
	lastSeq uint32
}

func (l *steadyLink) Fd() int { return 1000 }

func (l *steadyLink) Receive(frames []packet.Frame) (int, error) {
	n := copy(frames, l.waiting[l.next:])
	l.next += n
	return n, nil
}

func (l *steadyLink) Send(out *link.Out) bool {
	if out.Head[packet.EtherLen+9] == packet.ProtoTCP {
		l.lastSeq = binary.BigEndian.Uint32(out.Head[packet.EtherLen+packet.IPv4Len+4:])
	}
	for _, b := range out.Payload {
		l.sent += int64(len(b))
	}
	return true
}

func (l *steadyLink) Flush() {}

func (l *steadyLink) Features() link.Features {
	return link.Features{Csum: true, TSO4: true, TSO6: true, USO: true}
}

func (l *steadyLink) Counters() link.Counters { return link.Counters{} }
func (l *steadyLink) Close() error            { return nil }

// steadyHost has one socket, which takes everything, and gives give bytes, as a stream or as datagrams, whenever it is polled.
// The methods that it does not have are not called.
type steadyHost struct {
	hostsock.Host
	link  *steadyLink
	token uint64 // of the socket
	now   int64
	ready bool // the socket has had its first event
	give  int
	left  int // of give, until the next Wait
	taken int64

	query  [steadyQuery]byte // the last datagram sent, when it is of that length: RecvDatagrams gives it back as a response, once
	queued bool
}

// steadyFd is the one socket.
const steadyFd = 7

func (h *steadyHost) LimitUnsent(int) hostsock.Errno { return 0 }

func (h *steadyHost) Watch(fd int, token uint64) hostsock.Errno {
	if fd == steadyFd {
		h.token = token
	}
	return 0
}

func (h *steadyHost) Wait(events []hostsock.Event, _ int64) (n int) {
	if h.link.next < len(h.link.waiting) {
		events[n] = hostsock.Event{In: true} // the link's token is 0
		n++
	}
	if h.token == 0 {
		return n
	}
	h.left = h.give
	if !h.ready || h.give > 0 || h.queued {
		h.ready = true
		events[n] = hostsock.Event{Token: h.token, Out: true, In: h.give > 0 || h.queued}
		n++
	}
	return n
}

func (h *steadyHost) ConnectTCP(hostsock.Origin, netip.AddrPort) (int, hostsock.Errno) {
	return steadyFd, 0
}

func (h *steadyHost) OpenUDP(hostsock.Origin, netip.AddrPort, bool) (int, hostsock.Errno) {
	return steadyFd, 0
}

func (h *steadyHost) ConnectResult(int) hostsock.Errno            { return 0 }
func (h *steadyHost) Abort(int)                                   {}
func (h *steadyHost) Close(int)                                   {}
func (h *steadyHost) QueueErrors(int, bool, bool) hostsock.Errno  { return 0 }
func (h *steadyHost) DontFragment(int, bool, bool) hostsock.Errno { return 0 }

func (h *steadyHost) Send(_ int, bufs [][]byte) (n int, _ hostsock.Errno) {
	for _, b := range bufs {
		n += len(b)
	}
	h.taken += int64(n)
	return n, 0
}

func (h *steadyHost) SendDatagrams(fd int, msgs []hostsock.Datagram) (int, hostsock.Errno) {
	for i := range msgs {
		if b := msgs[i].Bufs; len(b[0]) == steadyQuery {
			h.query, h.queued = [steadyQuery]byte(b[0]), true
		}
		h.Send(fd, msgs[i].Bufs)
	}
	return len(msgs), 0
}

func (h *steadyHost) Recv(_ int, bufs [][]byte) (n int, _ hostsock.Errno) {
	for _, b := range bufs {
		n += len(b)
	}
	if n = min(n, h.left); n == 0 {
		return 0, unix.EAGAIN
	}
	h.left -= n
	return n, 0
}

func (h *steadyHost) RecvDatagrams(_ int, msgs []hostsock.Datagram) (n int, _ hostsock.Errno) {
	if h.queued {
		h.query[2] |= 0x80
		msgs[0].Len, h.queued = copy(msgs[0].Bufs[0], h.query[:]), false
		return 1, 0
	}
	for n < len(msgs) && h.left >= steadyDatagram {
		msgs[n].Len = steadyDatagram
		h.left -= steadyDatagram
		n++
	}
	if n == 0 {
		return 0, unix.EAGAIN
	}
	return n, 0
}

// Sizes of what a frame carries, in bytes.
const (
	steadySegment  = 65000
	steadyDatagram = 1400
	steadyRequest  = 100
	steadyQuery    = 17 // a question about the root
)

// steadyRig is a worker with one flow in full swing.
type steadyRig struct {
	w    *worker.Worker
	link *steadyLink
	host *steadyHost

	buf   []byte // the guest's frame
	iov   [1][]byte
	frame [2]packet.Frame
	seq   uint32
}

func newSteadyRig(tb testing.TB) *steadyRig {
	tb.Helper()
	l := &steadyLink{}
	h := &steadyHost{link: l, now: 1}
	block := new(stats.Worker)
	guest, router := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1")
	gw, err := gateway.New(gateway.Config{
		MAC: gateway.MAC{2, 1}, GuestMAC: gateway.MAC{2, 2}, Guest: []netip.Addr{guest}, Ours: []netip.Addr{router}, Stats: block,
	})
	if err != nil {
		tb.Fatal(err)
	}
	pool := func() *pagepool.Pool {
		p, err := pagepool.New(32 << 20)
		if err != nil {
			tb.Fatal(err)
		}
		return p
	}
	w, err := worker.New(worker.Config{
		Queue: l, Host: h, Gateway: gw, Stats: block, Hold: pool(), Send: pool(),
		Map: &forward.Map{Guest: [2]netip.Addr{guest}, Gateway: [2]netip.Addr{router}},
		MTU: 65520, MaxFlows: 10, Budget: 8 << 20, MaxWindow: 8 << 20, NearWindow: 1 << 20, MaxFlight: 4 << 20,
		KeepIdle: 1 << 62, UDPIdle: 1 << 62, UDPFirst: 1 << 62, ICMPIdle: 1 << 62,
		WakeFd: -1, Clock: func() int64 { return h.now }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		tb.Fatal(err)
	}
	r := &steadyRig{w: w, link: l, host: h, buf: make([]byte, 1<<16)}
	tb.Cleanup(func() {
		if err := w.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// step lets the worker run once, a millisecond later.
func (r *steadyRig) step() {
	r.host.now += 1e6
	r.w.Step(0)
}

// lay makes the guest's next frame: IPv4, so many bytes of transport header from head on, and n of payload. Its
// checksum is left to the link.
func (r *steadyRig) lay(proto byte, head []byte, n int) {
	const l4 = packet.EtherLen + packet.IPv4Len
	b := r.buf[:l4+len(head)+n]
	copy(b, []byte{2, 1, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0x08, 0, 0x45, 0})
	ip := b[packet.EtherLen:]
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[8], ip[9], ip[10], ip[11] = 64, proto, 0, 0
	copy(ip[12:], []byte{192, 0, 2, 2, 198, 51, 100, 1})
	var sum uint32
	for i := 0; i < packet.IPv4Len; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	copy(b[l4:], head)
	offset := uint16(16)
	if proto == packet.ProtoUDP {
		offset = 6
	}
	r.iov[0] = b
	r.frame[0] = packet.Frame{
		Hdr:  packet.NetHdr{Flags: packet.FlagNeedsCsum, CsumStart: l4, CsumOffset: offset},
		Bufs: r.iov[:], Len: len(b),
	}
	r.link.waiting, r.link.next = r.frame[:1], 0
}

// segment lays out a TCP segment.
func (r *steadyRig) segment(flags byte, seq, ack uint32, n int) {
	var head [20]byte
	binary.BigEndian.PutUint16(head[0:], 40000)
	binary.BigEndian.PutUint16(head[2:], 80)
	binary.BigEndian.PutUint32(head[4:], seq)
	binary.BigEndian.PutUint32(head[8:], ack)
	head[12], head[13] = 5<<4, flags
	binary.BigEndian.PutUint16(head[14:], 65535)
	r.lay(packet.ProtoTCP, head[:], n)
}

// Flags of a segment.
const (
	flagSYN = 0x02
	flagACK = 0x10
)

// open makes the TCP connection, and returns what our side's first byte is numbered.
func (r *steadyRig) open(tb testing.TB) uint32 {
	tb.Helper()
	r.segment(flagSYN, 0, 0, 0)
	for range 4 {
		r.step()
	}
	first := r.link.lastSeq + 1
	r.segment(flagACK, 1, first, 0)
	r.step()
	r.seq = 1
	if s := r.w.Snapshot(); s.TCPOpened != 1 || s.Dropped() != 0 {
		tb.Fatalf("the connection is not open: %+v", s)
	}
	return first
}

// steadyLoads are the loads in full swing: each returns a function that moves one frame or more, and how many bytes that are.
var steadyLoads = []struct {
	name  string
	start func(tb testing.TB, r *steadyRig) (move func(), bytes int64)
}{
	{"TCP from the guest", func(tb testing.TB, r *steadyRig) (func(), int64) {
		first := r.open(tb)
		return func() {
			r.segment(flagACK, r.seq, first, steadySegment)
			r.seq += steadySegment
			r.step()
			r.step() // an ACK may wait for the next
		}, steadySegment
	}},
	{"TCP to the guest", func(tb testing.TB, r *steadyRig) (func(), int64) {
		first := r.open(tb)
		r.host.give = steadySegment
		return func() {
			r.step()
			r.segment(flagACK, 1, first+uint32(r.link.sent), 0)
			r.step()
		}, steadySegment
	}},
	{"TCP request and response", func(tb testing.TB, r *steadyRig) (func(), int64) {
		first := r.open(tb)
		return func() {
			r.segment(flagACK, r.seq, first+uint32(r.link.sent), steadyRequest)
			r.seq += steadyRequest
			r.step()
			r.host.give = steadyRequest
			r.step()
			r.host.give = 0
		}, 2 * steadyRequest
	}},
	{"UDP from the guest", func(_ testing.TB, r *steadyRig) (func(), int64) {
		return func() {
			r.datagram()
			r.step()
		}, steadyDatagram
	}},
	{"UDP to the guest", func(_ testing.TB, r *steadyRig) (func(), int64) {
		r.datagram()
		r.step()
		r.host.give = 8 * steadyDatagram
		return r.step, 8 * steadyDatagram
	}},
	{"redirected and delivered", func(_ testing.TB, r *steadyRig) (func(), int64) {
		r.w.Hook = func(_ []packet.Frame, verdicts []packet.Verdict) {
			for i := range verdicts {
				verdicts[i] = packet.RedirectTo(1)
			}
		}
		r.w.Redirect = func(_ int, f *packet.Frame) bool { return r.w.Deliver(f) }
		return func() {
			r.datagram()
			r.step()
			r.step() // it was given to itself
		}, steadyDatagram - link.MaxHead + packet.EtherLen + packet.IPv4Len + packet.UDPLen
	}},
	{"DNS", func(_ testing.TB, r *steadyRig) (func(), int64) {
		r.w.SetNaming([]netip.Addr{netip.MustParseAddr("198.51.100.1")}, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53")})
		return func() {
			r.question()
			r.step()
			r.step()
		}, 2 * steadyQuery
	}},
}

// datagram lays out a UDP datagram.
func (r *steadyRig) datagram() {
	var head [packet.UDPLen]byte
	binary.BigEndian.PutUint16(head[0:], 40000)
	binary.BigEndian.PutUint16(head[2:], 53)
	binary.BigEndian.PutUint16(head[4:], packet.UDPLen+steadyDatagram)
	r.lay(packet.ProtoUDP, head[:], steadyDatagram)
}

// question lays out a DNS query.
func (r *steadyRig) question() {
	var b [packet.UDPLen + steadyQuery]byte
	binary.BigEndian.PutUint16(b[0:], 40000)
	binary.BigEndian.PutUint16(b[2:], 53)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	b[packet.UDPLen+5] = 1  // questions
	b[packet.UDPLen+14] = 2 // type NS
	b[packet.UDPLen+16] = 1 // class IN
	r.lay(packet.ProtoUDP, b[:], 0)
}

// moved is how many payload bytes have gone either way.
func (r *steadyRig) moved() int64 { return r.link.sent + r.host.taken }

func TestFramesDoNotAllocate(t *testing.T) {
	for _, load := range steadyLoads {
		t.Run(load.name, func(t *testing.T) {
			r := newSteadyRig(t)
			move, bytes := load.start(t, r)
			const moves = 1000
			all := func() {
				for range moves {
					move()
				}
			}
			all() // pools and slices grow to their size
			before := r.moved()
			// The average over whole loads: one allocation in a thousand frames shows.
			if n := testing.AllocsPerRun(5, all); n != 0 {
				t.Errorf("%v allocations in %d steps", n, moves)
			}
			if got := r.moved() - before; got < 5*moves*bytes {
				t.Errorf("%d bytes went through, want at least %d: the load has stopped", got, 5*moves*bytes)
			}
		})
	}
}

func BenchmarkFrames(b *testing.B) {
	for _, load := range steadyLoads {
		b.Run(load.name, func(b *testing.B) {
			r := newSteadyRig(b)
			move, bytes := load.start(b, r)
			for range 1000 {
				move()
			}
			b.ReportAllocs()
			b.SetBytes(bytes)
			for b.Loop() {
				move()
			}
		})
	}
}
