package worker_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/linktest"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// tape is the fuzzer's input, read from front to back; behind its end are zeros.
type tape struct{ b []byte }

func (t *tape) byte() byte {
	if len(t.b) == 0 {
		return 0
	}
	v := t.b[0]
	t.b = t.b[1:]
	return v
}

func (t *tape) u16() uint16 { return uint16(t.byte())<<8 | uint16(t.byte()) }

func (t *tape) u32() uint32 { return uint32(t.u16())<<16 | uint32(t.u16()) }

func (t *tape) bytes(n int) []byte {
	n = min(n, len(t.b))
	v := t.b[:n]
	t.b = t.b[n:]
	return v
}

// choose reads an index below n.
func (t *tape) choose(n int) int { return int(t.byte()) % n }

// A tape begins with a byte that says how frames are cut into pieces, and one with these bits.
const (
	optPlain    = 1 << iota // a link without offloads
	optSmallMTU             // of 1500 bytes
	optCapture
	optNoTCP
	optNoUDP
	optNoICMP
	optPending  // connects wait for the tape
	optFewPages // for what the guest has not acknowledged
)

// What a tape says then, one byte each, with what follows it.
const (
	opRaw      = iota // virtio-net header, length, that many bytes of a frame
	opTemplate        // which, whether checksums are made right, edits: offset and value until offset 0
	opSegment         // connection, flags, sequence and acknowledgement relative to what is right, window, payload, options
	opUDP             // ends, payload, segment size
	opPeer            // socket, what its peer does, how much
	opInbound         // TCP or UDP, peer
	opFail            // call, error, how often
	opLink            // full, refuse
	opTime            // power of two of microseconds
	opMany            // repeat the segment before with a rising sequence number
	numFuzzOps
)

// maxFuzzFlows is so small that the table fills up.
const maxFuzzFlows = 6

// fuzzRun is one run of a tape.
type fuzzRun struct {
	*rig
	tape
	templates [][]byte
	conns     [4]*fuzzConn
	segment   layers.TCP // the last one
	listeners [2]*hosttest.Socket
	full      bool // the link
	few       bool // pages
}

// fuzzConn is the guest's view of a connection, as far as it takes to make segments that fit.
type fuzzConn struct {
	local, remote netip.AddrPort
	seq, ack      uint32
}

// templates are valid frames of every kind that the worker knows.
func templates() [][]byte {
	syn := layers.TCP{SYN: true, Seq: 1, Window: 1000, Options: (&guestConn{mss: 1460, scale: 7, times: true, r: &rig{host: hosttest.New()}}).synOptions()}
	all := [][]byte{arpFrame(gw4), solicitFrame(gw6), routerSolicitFrame()}
	for _, to := range []netip.Addr{server4, server6, gw4, gw6} {
		guest := at(like(to), 4000)
		all = append(all, tcpFrame(guest, at(to, 80), syn, nil), tcpFrame(guest, at(to, 80), layers.TCP{ACK: true, Seq: 2}, []byte("data")),
			udpFrame(guest, at(to, 53), []byte("question")), echoFrame(guest.Addr(), to, 1, 1, []byte("ping")))
	}
	for _, to := range []netip.AddrPort{at(server4, 53), at(server6, 53)} {
		guest := at(like(to.Addr()), 4000)
		refused, code := refusedLike(to.Addr())
		long, narrow := tooBigLike(to.Addr())
		about := udpFrame(to, guest, []byte("answer"))
		all = append(all, reportFrame(about, refused, code, 0), reportFrame(tcpFrame(at(to.Addr(), 80), guest, syn, nil), long, narrow, 1400))
	}
	for _, group := range []netip.Addr{mdns4, mdns6} {
		all = append(all, groupFrame(group, true), groupFrame(group, false), udpFrame(at(like(group), 5353), at(group, 5353), []byte("query")))
	}
	return all
}

// solicitFrame is a neighbour solicitation for an address.
func solicitFrame(target netip.Addr) []byte {
	frame := serialize(guest6, netip.MustParseAddr("ff02::1:ff00:1"), layers.IPProtocolICMPv6,
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)},
		&layers.ICMPv6NeighborSolicitation{TargetAddress: target.AsSlice(),
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: guestMAC[:]}}})
	return onLink(frame)
}

func routerSolicitFrame() []byte {
	return onLink(serialize(guest6, netip.MustParseAddr("ff02::2"), layers.IPProtocolICMPv6,
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeRouterSolicitation, 0)}, &layers.ICMPv6RouterSolicitation{}))
}

// onLink gives an IPv6 frame the hop limit of messages that no router forwards; the checksum does not cover it.
func onLink(frame []byte) []byte {
	frame[packet.EtherLen+7] = 255
	return frame
}

// play runs the tape to its end, or as long as a run may be.
func (r *fuzzRun) play() {
	for n := 0; len(r.b) > 0 && n < 200; n++ {
		switch r.choose(numFuzzOps) {
		case opRaw:
			var hdr packet.NetHdr
			var b [packet.NetHdrLen]byte
			copy(b[:], r.bytes(len(b)))
			hdr.Decode(b[:])
			r.link.Inject(hdr, r.bytes(int(r.u16())))
		case opTemplate:
			r.template()
		case opSegment:
			r.tcpSegment()
		case opMany:
			for range r.byte() {
				r.segment.Seq++
				c := r.conns[0]
				r.inject(tcpFrame(c.local, c.remote, r.segment, nil))
			}
		case opUDP:
			r.udp()
		case opPeer:
			r.peer()
		case opInbound:
			peer := at([]netip.Addr{server4, server6, guest4, gw6}[r.choose(4)], 1+uint16(r.byte()))
			if r.choose(2) == 0 {
				r.listeners[0].Inbound(peer, at(guest4, 8000))
			} else {
				r.listeners[1].DeliverFrom(make([]byte, r.u16()), peer)
			}
		case opFail:
			op := hosttest.Op(r.choose(int(hosttest.OpenGroup) + 1))
			r.host.Fail(op, fuzzErrors[r.choose(len(fuzzErrors))], r.choose(64))
		case opLink:
			r.full = r.choose(4) == 1
			r.link.SetFull(r.full)
			r.link.Refuse(r.choose(16))
		case opTime:
			d := int64(1000) << r.choose(28)
			if r.full || r.few { // the worker looks every millisecond, which would take long
				d = min(d, second)
			}
			r.run(d)
		}
		r.check()
	}
}

var fuzzErrors = []hostsock.Errno{0, unix.EAGAIN, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, unix.EMFILE, unix.ENOBUFS, unix.ENOMEM,
	unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EACCES, unix.EADDRNOTAVAIL, unix.EADDRINUSE, unix.EMSGSIZE, unix.EINVAL, unix.ENOTCONN, unix.ETIMEDOUT,
	unix.ECONNABORTED, unix.EIO}

// template sends one of the valid frames with a few bytes changed.
func (r *fuzzRun) template() {
	frame := append([]byte(nil), r.templates[r.choose(len(r.templates))]...)
	right := r.byte()
	for range 16 {
		i := int(r.u16()) % len(frame)
		if i == 0 {
			break
		}
		frame[i] = r.byte()
	}
	hdr := packet.NetHdr{}
	if right&1 != 0 { // nobody looks at the checksums then
		hdr.Flags = packet.FlagDataValid
	}
	if right&2 != 0 && frame[12] == 0x08 {
		fixIPv4(frame)
	}
	if right&4 != 0 {
		hdr.Flags = packet.FlagNeedsCsum
		hdr.CsumStart, hdr.CsumOffset = uint16(r.byte()), uint16(r.byte())
		hdr.GSOType, hdr.GSOSize = r.byte(), r.u16()
	}
	if right&8 != 0 {
		frame = frame[:int(r.u16())%len(frame)]
	}
	r.link.Inject(hdr, frame)
}

// fixIPv4 makes the checksum of an IPv4 header right, as far as there is one.
func fixIPv4(frame []byte) {
	if len(frame) < packet.EtherLen+packet.IPv4Len {
		return
	}
	ip := frame[packet.EtherLen:]
	n := min(max(int(ip[0]&0xf)*4, packet.IPv4Len), len(ip))
	ip[10], ip[11] = 0, 0
	sum := uint32(0)
	for i := 0; i+1 < n; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
}

// tcpSegment sends a segment that fits one of the connections more or less.
func (r *fuzzRun) tcpSegment() {
	c := r.conns[r.choose(len(r.conns))]
	f := r.byte()
	t := layers.TCP{FIN: f&1 != 0, SYN: f&2 != 0, RST: f&4 != 0, PSH: f&8 != 0, ACK: f&16 != 0, URG: f&32 != 0}
	wild := f&64 != 0
	if wild {
		t.Seq, t.Ack = c.seq+r.u32(), c.ack+r.u32()
	} else { // near by
		t.Seq, t.Ack = c.seq+uint32(int32(int8(r.byte()))*100), c.ack
	}
	t.Window = r.u16()
	n := int(r.u16())
	if t.SYN {
		n %= 3
	}
	if o := r.bytes(r.choose(40) &^ 3); f&128 != 0 && len(o)%4 == 0 {
		for len(o) > 0 { // as they are: the worker has to find out
			t.Options = append(t.Options, layers.TCPOption{OptionType: layers.TCPOptionKind(o[0]), OptionLength: o[1], OptionData: o[2:4]})
			o = o[4:]
		}
	} else if t.SYN {
		t.Options = (&guestConn{mss: 65460, scale: int(c.local.Port() % 4 * 4), times: c.local.Port()&1 != 0, r: r.rig}).synOptions()
	}
	payload := make([]byte, min(n, 65000))
	frame := tcpFrame(c.local, c.remote, t, payload)
	hdr := packet.NetHdr{}
	if len(payload) > 1400 {
		hdr = offload(c.local.Addr(), c.remote.Addr(), frame, 1400)
	}
	r.link.Inject(hdr, frame)
	r.segment = t
	if !wild && !t.RST {
		c.seq = t.Seq + uint32(len(payload))
		if t.SYN || t.FIN {
			c.seq++
		}
	}
}

func (r *fuzzRun) udp() {
	to := []netip.Addr{server4, server6, gw4, dns6}[r.choose(4)]
	guest := at(like(to), 1+uint16(r.byte()))
	frame := udpFrame(guest, at(to, 1+uint16(r.byte())), make([]byte, min(int(r.u16()), 65400)))
	hdr := packet.NetHdr{}
	if size := r.u16(); size != 0 {
		hdr = offload(guest.Addr(), to, frame, size)
	}
	r.link.Inject(hdr, frame)
}

// peer lets something happen to one of the host's sockets.
func (r *fuzzRun) peer() {
	open := r.host.Sockets()
	s := open[r.choose(len(open))]
	if s.Closed() || s.Kind == hosttest.Listener {
		return
	}
	what, n := r.byte(), int(r.u16())
	switch what % 11 {
	case 0:
		s.Establish()
	case 1:
		s.Refuse(fuzzErrors[1+n%(len(fuzzErrors)-1)])
	case 2, 3:
		s.Deliver(make([]byte, n))
	case 4:
		s.End()
	case 5:
		s.Reset(unix.ECONNRESET)
	case 6:
		s.SetSpace(n)
	case 7:
		s.Unreachable(fuzzErrors[n%len(fuzzErrors)])
	case 8:
		s.Echo = true
	case 9:
		s.Spurious()
	case 10:
		e := hostsock.SendError{Err: fuzzErrors[1+n%(len(fuzzErrors)-1)], Type: r.byte(), Code: r.byte(), Info: uint32(n), Peer: s.Peer}
		e.From = []netip.Addr{{}, server4, server6, guest4}[r.choose(4)]
		e.Data = make([]byte, n%2000)
		s.Answer(e)
	}
}

// check lets the worker work, and checks what it says and what it has promised.
func (r *fuzzRun) check() {
	r.run(2 * millisecond)
	for _, g := range r.take() {
		if g.tcp == nil {
			continue
		}
		for _, c := range r.conns {
			if c.local == g.to && c.remote == g.from {
				c.ack = g.tcp.Seq + uint32(len(g.data))
				if g.tcp.SYN || g.tcp.FIN {
					c.ack++
				}
			}
		}
	}
	s := r.w.Snapshot()
	if s.Promised > s.Budget || s.Held > s.Promised {
		r.t.Fatalf("%d bytes are held, %d promised, of a budget of %d", s.Held, s.Promised, s.Budget)
	}
	if s.Flows != s.TCPFlows+s.UDPFlows+s.ICMPFlows+s.DNSFlows || s.Flows > maxFuzzFlows {
		r.t.Fatalf("%d flows: TCP %d, UDP %d, ICMP %d, DNS %d", s.Flows, s.TCPFlows, s.UDPFlows, s.ICMPFlows, s.DNSFlows)
	}
	for _, s := range r.host.Sockets() {
		s.TakeSent()
	}
}

// seeds are tapes that go far.
func seeds() (all [][]byte) {
	const syn, ack, fin, rst, psh = 2, 16, 1, 4, 8
	seg := func(conn, flags byte, n uint16) []byte {
		return []byte{opSegment, conn, flags, 0, 0xff, 0xff, byte(n >> 8), byte(n), 0}
	}
	sock := func(i, what byte, n uint16) []byte { return []byte{opPeer, i, what, byte(n >> 8), byte(n)} }
	var options byte
	s := func(parts ...[]byte) {
		tape := []byte{7, options}
		for _, p := range parts {
			tape = append(tape, p...)
		}
		all = append(all, tape)
	}
	first := byte(2) // the listeners come before
	open := func(conn byte) []byte { return append(seg(conn, syn, 0), seg(conn, ack, 0)...) }
	for conn := range byte(4) {
		s(open(conn), seg(conn, ack|psh, 60000), sock(first, 2, 50000), seg(conn, ack, 0), seg(conn, ack|fin, 0), sock(first, 4, 0), seg(conn, ack, 0))
		s(open(conn), sock(first, 6, 100), seg(conn, ack, 40000), seg(conn, ack, 10000), sock(first, 6, 30000), []byte{opTime, 20}, seg(conn, rst, 0))
		s(open(conn), sock(first, 5, 0), []byte{opLink, 1, 0}, seg(conn, ack, 100), []byte{opLink, 0, 0})
		s(open(conn), []byte{opSegment, conn, ack, 5, 0xff, 0xff, 1, 0, 0}, []byte{opSegment, conn, ack, 0xf6, 0xff, 0xff, 4, 0, 0})
	}
	s([]byte{opUDP, 0, 10, 52, 0, 100, 0, 0}, sock(first, 2, 1000), sock(first, 7, 2), []byte{opTime, 27}, []byte{opTime, 27})
	s([]byte{opUDP, 1, 10, 52, 0xf0, 0, 5, 0}, []byte{opFail, 10, 2, 3}, []byte{opUDP, 1, 10, 52, 0xf0, 0, 5, 0})
	s([]byte{opInbound, 0, 10, 0}, []byte{opInbound, 1, 10, 1, 0, 100}, []byte{opInbound, 2, 1, 0}, []byte{opFail, 5, 5, 3}, []byte{opInbound, 0, 11, 0}, []byte{opTime, 18})
	for bit := range 8 {
		options = 1 << bit
		s(open(1), sock(first, 0, 0), seg(1, ack|psh, 60000), sock(first, 2, 60000), sock(first, 2, 60000), seg(1, ack|fin, 0), seg(1, ack, 0),
			[]byte{opUDP, 0, 10, 52, 0, 100, 0, 0}, sock(first+1, 2, 1000), []byte{opTemplate, 6, 0, 0, 0}, []byte{opTime, 20})
		s(open(0), sock(first, 1, 1), seg(0, ack, 10))
	}
	options = 0
	ping := []byte{opTemplate, 6, 0, 0, 0}
	s(ping, sock(first, 8, 0), ping, sock(first, 7, 8), ping, sock(first, 2, 9), []byte{opTime, 27})
	s([]byte{opInbound, 0, 10, 0}, []byte{opSegment, 0, syn | ack, 0, 0xff, 0xff, 0, 0, 0}, sock(first, 2, 100), sock(first, 5, 0))
	for op := range byte(hosttest.OpenGroup) + 1 {
		for err := range byte(len(fuzzErrors)) {
			s([]byte{opFail, op, err, 2}, open(0), []byte{opUDP, 0, 10, 52, 0, 100, 0, 0}, ping, sock(first, 2, 100), seg(0, ack, 100),
				sock(first+1, 2, 100), sock(first+2, 2, 100), []byte{opUDP, 0, 10, 52, 0, 100, 0, 0}, ping, []byte{opInbound, 0, 10, 0},
				[]byte{opInbound, 0, 10, 1, 0, 9}, seg(0, ack|fin, 0), sock(first, 4, 0), []byte{opTime, 18})
		}
	}
	for i, frame := range templates() {
		s([]byte{opTemplate, byte(i), 0, 0, 0}, []byte{opTemplate, byte(i), 1, 0, 20, 9, 0, 0}, []byte{opTemplate, byte(i), 9, 0, 0, 0, 30})
		raw := append(make([]byte, 1+packet.NetHdrLen), byte(len(frame)>>8), byte(len(frame)))
		s(append(raw, frame...))
	}
	return all
}

// FuzzWorker plays tapes of hostile frames, of what peers do, of failures and of time to a worker. Whatever they say, it does not
// panic or spin, says only what can be understood, keeps its promises, and leaves nothing behind.
func FuzzWorker(f *testing.F) { fuzzWorker(f, func(*worker.Config) {}) }

// FuzzWorkerEndpoints is FuzzWorker with endpoints, multicast and a limit for each source.
func FuzzWorkerEndpoints(f *testing.F) {
	fuzzWorker(f, func(c *worker.Config) { c.EndpointIndependent, c.Multicast, c.SourceFlows = true, []uint16{5353}, 3 })
}

func fuzzWorker(f *testing.F, edit func(*worker.Config)) {
	for _, s := range seeds() {
		f.Add(s)
	}
	frames := templates()
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &fuzzRun{tape: tape{b}, templates: frames}
		cut, options := r.byte(), r.byte()
		features := allFeatures
		if options&optPlain != 0 {
			features = link.Features{}
		}
		q := linktest.New(features)
		if cut != 0 {
			q.Split(rand.New(rand.NewPCG(uint64(cut), 0)), 1+int(cut)%70)
		}
		r.rig = newRigOn(t, q, func(c *worker.Config) {
			c.MaxFlows, c.Budget, c.MaxFlight = maxFuzzFlows, 150<<10, 200<<10
			if options&optSmallMTU != 0 {
				c.MTU = 1500
			}
			if options&optCapture != 0 {
				c.Capture = func(worker.Direction, *packet.NetHdr, [][]byte) {}
			}
			c.NoTCP, c.NoUDP, c.NoICMP = options&optNoTCP != 0, options&optNoUDP != 0, options&optNoICMP != 0
			if r.few = options&optFewPages != 0; r.few {
				_ = c.Send.Close()
				c.Send = newPool(t, 5*pagepool.PageSize)
			}
			edit(c)
		})
		if options&optPending != 0 {
			r.host.OnOpen = nil
		}
		r.listeners[0] = r.forward(at(netip.IPv6Unspecified(), 8000), 5000, false)
		r.listeners[1] = r.forward(at(netip.IPv6Unspecified(), 8000), 5000, true)
		for i, to := range []netip.AddrPort{at(server4, 80), at(server6, 80), at(gw4, 81), at(dns6, 53)} {
			r.conns[i] = &fuzzConn{local: at(like(to.Addr()), uint16(4000+i)), remote: to, seq: 1000}
		}
		r.play()
	})
}
