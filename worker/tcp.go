package worker

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/flow/tcp"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// smallRead is the longest read that is copied into shared fragments instead of keeping its page.
const smallRead = 2 * pagepool.FragSize

// tcpInput takes the TCP segment in w.pkt.
func (w *Worker) tcpInput() {
	if w.NoTCP {
		w.Stats.Drop(stats.Disabled)
		return
	}
	if r := w.seg.Parse(&w.pkt); r != stats.None {
		w.Stats.Drop(r)
		return
	}
	key := flow.NewKey(packet.ProtoTCP, netip.AddrPortFrom(w.pkt.Src, w.pkt.SrcPort), netip.AddrPortFrom(w.pkt.Dst, w.pkt.DstPort))
	if i, ok := w.table.Get(&key); ok {
		f := w.flows[i]
		if f.conn.State() != tcp.Closed || !w.tcpOutput(f) {
			w.tcpSegment(f)
			return
		}
		// A connection that was reset earlier in this batch has made room for the next one between the same ends. The SYN of
		// one that was refused may come again, though.
		if f.conn.InitialSequence() == w.seg.Seq {
			return
		}
	} else if w.foreign(&key) {
		return
	}
	if w.lingers(&key) {
		return
	}
	if w.seg.Flags&(tcp.SYN|tcp.ACK|tcp.RST|tcp.FIN) == tcp.SYN {
		w.tcpOpen(key)
		return
	}
	w.Stats.Drop(stats.TCPNoFlow)
	if w.seg.Flags&tcp.RST == 0 {
		w.resetUnknown()
	}
}

// tcpSegment gives w.seg to its flow. Payload that the host socket may take from the link's memory stays there until the
// end of the batch, so that several frames go to the host with one system call.
func (w *Worker) tcpSegment(f *flowSlot) {
	c := &f.conn
	if f.lent > 0 && (f.lent+len(w.seg.Payload) > maxLent || !w.seg.Plain()) {
		w.settle(f)
	}
	w.hears(f)
	w.arrived(f)
	if s := w.pkt.TOS &^ ecnBits; s != f.service && f.fd >= 0 {
		w.serve(f, s)
	}
	c.Input(&w.env, &w.seg)
	if f.half && f.readable {
		c.AckWithData()
	}
	if f.dialed {
		w.dialOver(f)
	}
	if f.lent == 0 {
		w.lenders = append(w.lenders, f.index)
	}
	f.lent += max(1, len(w.seg.Payload))
	w.makeDirty(f)
}

// ecnBits are those of the service byte that belong to a path's both ends (RFC 3168), which a connection through us has two of.
const ecnBits = 3

// serve has the host socket of f send with the service byte of the guest's segments: programs change it when they know what they are about to send.
func (w *Worker) serve(f *flowSlot, service uint8) {
	f.service = service
	_ = w.Host.SetTOS(f.fd, f.key.Family == flow.IPv6, service) // what is not a socket of TCP has none (inner.go)
}

// maxLent bounds the pieces that a flow borrows from the link in one batch: what one system call takes.
const maxLent = 64

// settleAll gives what the flows have borrowed in this batch, and the datagrams in it, to the host sockets.
func (w *Worker) settleAll() {
	for _, i := range w.lenders {
		if f := w.flows[i]; f.lent > 0 {
			w.settle(f)
		}
	}
	w.lenders = w.lenders[:0]
	w.flushUDP()
	w.parts.Release()
}

// settle gives what f has borrowed to its host socket; what that does not take, the flow copies.
func (w *Worker) settle(f *flowSlot) {
	f.lent = 0
	c := &f.conn
	taken := 0
	if b := c.Borrowed(); len(b) > 0 && f.writable {
		taken = w.hostSend(f, b)
	}
	c.Settle(&w.env, taken)
	w.sentBulk(f, taken)
	if f.spoke {
		f.spoke = false
		w.used(f)
	}
	if c.HeldBytes() > 0 && f.writable {
		w.drain(f)
	}
}

// hostSend offers the pieces, as many as one system call takes, to the host socket and returns how many bytes that took.
func (w *Worker) hostSend(f *flowSlot, bufs [][]byte) int {
	bufs = bufs[:min(len(bufs), maxLent)]
	want := 0
	for _, b := range bufs {
		want += len(b)
	}
	n, err := w.Host.Send(f.fd, bufs)
	switch err {
	case 0:
		if n < want {
			f.writable = false
		}
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		f.writable = false
		n = 0
	default:
		w.hostFailed(f, err)
		n = 0
	}
	return n
}

// hostFailed ends a flow whose host socket reports an error.
func (w *Worker) hostFailed(f *flowSlot, err hostsock.Errno) {
	if err != unix.ECONNRESET && err != unix.EPIPE {
		w.Stats.Drop(stats.HostError)
	}
	f.writable, f.readable = false, false
	f.conn.HostFailed(&w.env)
	w.makeDirty(f)
}

// drain gives held bytes to the host socket until it is full or nothing is held.
func (w *Worker) drain(f *flowSlot) {
	c := &f.conn
	for f.writable && c.HeldBytes() > 0 {
		w.iov = c.Held(&w.env, w.iov[:0], maxLent)
		n := w.hostSend(f, w.iov)
		if n > 0 {
			w.used(f)
		}
		c.Drained(&w.env, n)
	}
}

// tcpOpen starts a flow for the SYN in w.seg: the guest gets its answer when the host has connected.
func (w *Worker) tcpOpen(key flow.Key) {
	guest := key.GuestAddrPort()
	resolve := w.forDNS(key.PeerAddrPort())
	to, ok := w.Map.Outbound(key.PeerAddrPort())
	if !ok && !resolve {
		w.Stats.Drop(stats.BadDestination)
		return
	}
	if resolve && !w.mayResolve(&key) || !resolve && !w.allowed(false, &key, to) {
		w.resetUnknown()
		return
	}
	if !w.admit() {
		w.refuseSyn(stats.BudgetSpent)
		return
	}
	f := w.begin(tcpFlow, key)
	if f == nil {
		return
	}
	w.Stats.TCPOpened++
	w.arrived(f)
	f.head = makeHeader(w.pkt.Dst, w.pkt.Src, packet.ProtoTCP, 0, hopLimit)
	f.service = w.pkt.TOS &^ ecnBits
	f.conn.FromGuest(&w.env, w.tcpConfig(guest, key.PeerAddrPort()), &w.seg)
	if resolve {
		w.dnsOpen(f)
		return
	}
	fd, err := w.connectHost(&key, to)
	if w.madeRoom(err) {
		fd, err = w.connectHost(&key, to)
	}
	if err == 0 {
		f.fd = fd
		err = w.Host.Watch(fd, token(tokenFlow, f.gen, f.index))
	}
	if err != 0 {
		w.connectFailed(f, err)
	}
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return forward.V4
	}
	return forward.V6
}

// tcpConfig derives what a connection needs to know from the link.
func (w *Worker) tcpConfig(guest, peer netip.AddrPort) tcp.Config {
	ipLen := packet.IPv4Len
	tso := w.feat.TSO4
	v6 := guest.Addr().Is6()
	if v6 {
		ipLen, tso = packet.IPv6Len, w.feat.TSO6
	}
	c := tcp.Config{MSS: alignedMSS(w.MTU - ipLen - packet.TCPLen), V6: v6, ISS: w.initialSequence(guest, peer)}
	c.TSBase = c.ISS * 0x9e3779b1
	if tso {
		c.MaxGSO = min(maxPacket-ipLen-packet.TCPLen, mostPayload)
	}
	return c
}

const (
	// timestamps is the length of that option in bytes (RFC 7323, appendix A).
	timestamps = 12
	// headRoom is what is left free of a page in front of what is read into it: two cache lines, into which go the headers of a frame with data, of 98 bytes at most (virtio-net's, those of
	// Ethernet and IPv6, and TCP's with timestamps). A link that sends from the page has one run of memory for all of the frame then.
	headRoom = 128
	// mostPayload is what the largest frame carries, in bytes before the timestamps option is taken off.
	mostPayload = pagepool.PageSize - headRoom + timestamps
)

// roomBefore is where in a page reading begins whose frames carry n bytes: at headRoom, or a few bytes before that when the frame has no timestamps.
func roomBefore(n int) int { return min(headRoom, pagepool.PageSize-n) }

// alignedMSS rounds a large MSS down such that the payload of a segment with timestamps is whole cache lines, and fits into a page behind headRoom. Copies of 64 KiB that
// start anywhere in a line cost the guest's kernel, and ours, a fifth more.
func alignedMSS(n int) int {
	const (
		large = 8 << 10
		line  = 64
	)
	if n < large {
		return n
	}
	return min((n-timestamps)/line*line+timestamps, mostPayload)
}

// initialSequence is RFC 6528's: a keyed hash of the ends, plus a clock of 4 microseconds.
func (w *Worker) initialSequence(guest, peer netip.AddrPort) uint32 {
	type ends struct {
		secret      uint64
		guest, peer netip.AddrPort
	}
	return uint32(maphash.Comparable(sequenceSeed, ends{w.Seed, guest, peer})) + uint32(w.now/4000)
}

var sequenceSeed = maphash.MakeSeed()

// connectFailed answers the guest's SYN according to why the host could not connect.
func (w *Worker) connectFailed(f *flowSlot, err hostsock.Errno) {
	reason := openReason(err)
	reset := reason != stats.HostUnreachable
	f.why = reason.String()
	w.Stats.Drop(reason)
	if w.talks {
		w.logRefused(f, err)
	}
	f.conn.Refuse(&w.env, reset)
	if !reset {
		w.unreachable(f, err)
	}
	w.makeDirty(f)
}

// tcpEvent acts on an event of a flow's host socket.
func (w *Worker) tcpEvent(f *flowSlot) {
	c := &f.conn
	if c.State() == tcp.Connecting {
		if !f.writable {
			return
		}
		if err := w.connectResult(f); err != 0 {
			if f.tries == 0 || !w.dnsReconnect(f) {
				w.connectFailed(f, err)
			}
			return
		}
		c.Connected()
		w.makeDirty(f)
		return
	}
	if f.ended {
		w.lighten(f)
	}
	w.notice(f)
	if f.writable && c.HeldBytes() > 0 {
		w.drain(f)
		w.makeDirty(f)
	}
	w.makeReady(f)
}

// connectResult is how connecting f's host socket has ended. A socket that may be written, and of which no event tells more, is connected.
func (w *Worker) connectResult(f *flowSlot) hostsock.Errno {
	if !f.failed && !f.ended {
		return 0
	}
	f.failed = false
	return w.Host.ConnectResult(f.fd)
}

// notice learns of an error of the host socket, or of its peer's end, where nobody reads who would: at the end of the stream, or while the
// guest takes nothing.
func (w *Worker) notice(f *flowSlot) {
	stalled := f.ended && f.conn.Stalled(&w.env)
	if f.failed && (f.eof || stalled) {
		f.failed = false
		if err := w.Host.ConnectResult(f.fd); err != 0 {
			w.hostFailed(f, err)
			return
		}
	}
	if !stalled || f.eof || f.peeked {
		return
	}
	n, err := w.Host.Peek(f.fd)
	switch {
	case err != 0 && err != unix.EAGAIN:
		w.hostFailed(f, err)
	case err == 0 && n == 0:
		f.readable, f.eof = false, true
		f.conn.HostEOF()
		w.makeDirty(f)
	default:
		f.peeked = true
	}
}

// tcpRead moves data from the host socket toward the guest, and reports the work that was and whether there is more to do soon. A flow
// that filled what it was given the last time gets several frames with one system call, as far as its turn goes.
func (w *Worker) tcpRead(f *flowSlot) (cost int, again bool) {
	c := &f.conn
	frames := 1
	if f.bulk {
		frames = min((f.deficit+frameBytes-1)/frameBytes, readFrames)
	}
	want := c.WantRead(&w.env, frames)
	if want == 0 {
		return 0, false
	}
	if !w.readPages((want + c.FrameLen() - 1) / c.FrameLen()) {
		return 0, true
	}
	want = min(want, len(w.pages)*c.FrameLen())
	w.iov = w.iov[:0]
	room := roomBefore(c.FrameLen())
	for left := want; left > 0; left -= c.FrameLen() {
		w.iov = append(w.iov, w.Send.Bytes(w.pages[len(w.iov)])[room:][:min(left, c.FrameLen())])
	}
	n, err := w.Host.Recv(f.fd, w.iov)
	cost = frameWork
	switch {
	case err == unix.EAGAIN:
		f.readable, f.bulk = false, false
	case err != 0:
		w.hostFailed(f, err)
	case n == 0:
		f.readable, f.eof = false, true
		c.HostEOF()
		w.used(f)
	default:
		f.peeked = false
		f.bulk = n >= c.FrameLen()
		if n < want && !f.ended {
			f.readable = false
		}
		cost += n
		if f.tries > 0 && w.judge.names != nil {
			w.overhear(f, n)
		}
		w.queueRead(c, n)
		w.used(f)
	}
	w.keepPages(1)
	if !w.tcpOutput(f) {
		w.makeDirty(f)
	}
	return cost, f.kind == tcpFlow && f.readable && c.WantRead(&w.env, 1) > 0
}

// queueRead gives the n bytes that were read into the first pages to the flow: pages as they are, little as a copy.
func (w *Worker) queueRead(c *tcp.Conn, n int) {
	room := roomBefore(c.FrameLen())
	if n <= smallRead && n <= c.FrameLen() && w.Send.Free() > 0 {
		c.HostBytes(&w.env, w.Send.Bytes(w.pages[0])[room:][:n])
		return
	}
	used := 0
	for ; n > 0; n -= c.FrameLen() {
		c.HostPage(w.pages[used], room, min(n, c.FrameLen()))
		used++
	}
	w.pages = w.pages[:copy(w.pages, w.pages[used:])]
}

// tcpOutput lets a flow send what is due and follows up on what that changed. It reports false when the link is full.
func (w *Worker) tcpOutput(f *flowSlot) bool {
	c := &f.conn
	w.tx.cur = &f.head
	w.tx.ports = [2]uint16{f.key.PeerPort, f.key.GuestPort}
	ok := c.Output(&w.env, w)
	if f.half && c.State() != tcp.SynSent {
		w.answeredHalf(f)
	}
	if c.ShutdownDue() {
		w.lighten(f)
		if err := w.Host.ShutdownWrite(f.fd); err != 0 && err != unix.ENOTCONN {
			w.hostFailed(f, err)
		}
		ok = c.Output(&w.env, w) && ok
	}
	if c.State() == tcp.Closed {
		if ok {
			w.tcpClose(f)
		}
		return ok
	}
	if w.env.Lazy && c.AckPending() && !f.inLate {
		f.inLate = true
		if len(w.late) == 0 {
			w.inside.late = w.now
		}
		w.late = append(w.late, f.index)
	}
	if at := c.Deadline(&w.env); at != 0 {
		w.wheel.Set(f.index, at)
	} else {
		w.wheel.Stop(f.index)
	}
	switch {
	case f.readable && c.WantRead(&w.env, 1) > 0:
		w.makeReady(f)
	case f.ended && !f.eof:
		w.notice(f)
	}
	return ok
}

// tcpClose gives a finished flow's socket and slot back.
func (w *Worker) tcpClose(f *flowSlot) {
	if f.fd >= 0 {
		if f.conn.Why() == tcp.Finished {
			w.Host.Close(f.fd)
		} else { // a socket that has failed may still be connected: its peer must not take this for the end of the stream
			w.Host.Abort(f.fd)
			w.Stats.TCPReset++
		}
	}
	w.Stats.TCPClosed++
	if rest, life, ok := f.conn.TimeWait(); ok {
		w.waits.add(f.key, rest, w.now+life)
	}
	w.dropFlow(f)
}

// lateRounds is how many looks at the events an ACK that was put off may wait.
const lateRounds = 4

// flushLate sends the ACKs that were put off.
func (w *Worker) flushLate() {
	w.lateAge = 0
	w.env.Lazy = false
	for _, i := range w.late {
		f := w.flows[i]
		f.inLate = false
		if f.kind == tcpFlow && f.conn.AckPending() && !w.tcpOutput(f) {
			w.makeDirty(f)
		}
	}
	w.late = w.late[:0]
	w.env.Lazy = true
	w.mark(w.inside.late)
	w.tickIfNoted()
}

// refuseSyn answers the SYN in w.seg with a reset, at once.
func (w *Worker) refuseSyn(why stats.Reason) {
	w.Stats.Drop(why)
	w.resetUnknown()
}

// resetUnknown answers the segment in w.seg, which belongs to no flow, with a reset (RFC 9293, 3.10.7.1).
func (w *Worker) resetUnknown() {
	w.tx.spare = makeHeader(w.pkt.Dst, w.pkt.Src, packet.ProtoTCP, 0, hopLimit)
	w.tx.cur = &w.tx.spare
	w.tx.ports = [2]uint16{w.pkt.DstPort, w.pkt.SrcPort}
	out := tcp.Out{Flags: tcp.RST}
	if w.seg.Flags&tcp.ACK != 0 {
		out.Seq = w.seg.Ack
	} else {
		out.Flags |= tcp.ACK
		out.Ack = w.seg.Seq + uint32(w.seg.Len)
		if w.seg.Flags&tcp.SYN != 0 {
			out.Ack++
		}
		if w.seg.Flags&tcp.FIN != 0 {
			out.Ack++
		}
	}
	if !w.SendTCP(nil, &out) {
		w.Stats.Drop(stats.LinkFull)
	}
}

// synPacket rebuilds the start of the guest's SYN for the quotation in an ICMP error: ports and sequence number.
func (f *flowSlot) synPacket(b []byte) {
	putPorts(b, f.key.GuestPort, f.key.PeerPort)
	binary.BigEndian.PutUint32(b[4:], f.conn.InitialSequence())
}

func putPorts(b []byte, src, dst uint16) {
	binary.BigEndian.PutUint16(b[0:], src)
	binary.BigEndian.PutUint16(b[2:], dst)
}
