package worker

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/dns"
	"github.com/vasta-net/vasta/flow/tcp"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// dnsPort is the port that the forwarder answers at.
const dnsPort = 53

// dnsConnect is how long a resolver may take to accept a connection before the next one is tried, in nanoseconds.
const dnsConnect = int64(1e9)

// dnsState is how names are resolved for the guest. Datagrams go through the forwarder, whose sockets are flows of a kind of their own;
// connections are flows like any other, which try one resolver after the other.
type dnsState struct {
	*dns.Forwarder
	at       []netip.Addr // the addresses that the guest asks
	buf      []byte       // private copy of a query; made by the first one
	serial   uint16       // of the keys of its flows
	timer    *flowSlot    // whose timer is the forwarder's; nil as long as it needs none
	refused  []int32      // sockets of which it turned out, while something was sent, that an earlier datagram was refused
	connects []dnsAttempt // connections that wait for their resolver, the longest first

	// What is received into, and sent from, while a call lasts.
	in     [dnsBatch]hostsock.Datagram
	bufs   [dnsBatch][1][]byte
	pages  [dnsBatch]pagepool.Page
	room   int
	out    [1]hostsock.Datagram
	outBuf [1][]byte
}

// dnsBatch is how many messages are received from a resolver with one system call.
const dnsBatch = 8

type dnsAttempt struct {
	index int32
	gen   uint32
	due   int64
}

// SetNaming says at which addresses of the guest's network questions are answered, and which resolvers of the host are asked for it, the
// most wanted first. It is called before Run, or through Do.
func (w *Worker) SetNaming(at []netip.Addr, resolvers []netip.AddrPort) {
	d := &w.dns
	if d.Forwarder == nil {
		var seed [32]byte
		binary.NativeEndian.PutUint64(seed[:], w.Seed)
		d.Forwarder = dns.New(w, w.Stats, seed)
	}
	d.at = slices.Clone(at)
	d.SetServers(w.now, resolvers)
	w.dnsSettle()
}

// forDNS reports whether an end is the forwarder's.
func (w *Worker) forDNS(dst netip.AddrPort) bool {
	return dst.Port() == dnsPort && slices.Contains(w.dns.at, dst.Addr())
}

// dnsInput gives the datagram in w.pkt, or the several of size bytes each, to the forwarder.
func (w *Worker) dnsInput(size int) {
	if w.dns.buf == nil {
		w.dns.buf = make([]byte, dns.MaxQuery)
	}
	c := dns.Client{Guest: netip.AddrPortFrom(w.pkt.Src, w.pkt.SrcPort), At: w.pkt.Dst}
	n := w.pkt.PayloadLen()
	for off := 0; ; off += size {
		r := stats.BadDNS
		if length := min(size, n-off); length <= len(w.dns.buf) {
			w.pkt.Frame.CopyAt(w.dns.buf[:length], w.pkt.L4+packet.UDPLen+off)
			r = w.dns.Ask(w.now, c, w.dns.buf[:length])
		}
		if r != stats.None {
			w.Stats.Drop(r)
		}
		if off+size >= n {
			break
		}
	}
	w.dnsSettle()
}

// dnsRead gives what arrived through one of the forwarder's sockets to it for the rest of its turn, and reports the work that was and whether
// there may be more.
func (w *Worker) dnsRead(f *flowSlot) (cost int, again bool) {
	d := &w.dns
	room := d.receiveRoom(w.Send)
	if room == 0 {
		w.Stats.Drop(stats.NoBuffers)
		w.noMemory = true
		return 0, true
	}
	defer d.returnRoom(w.Send)
	again = true
	for again && cost < f.deficit {
		n, err := w.Host.RecvDatagrams(f.fd, d.in[:room])
		cost += frameWork
		if err == unix.EAGAIN {
			f.readable, again = false, false
			break
		}
		if err != 0 {
			w.Stats.Drop(openReason(err))
			d.Unreachable(w.now, f.index)
			if f.failures++; f.failures == maxFailures { // it does nothing but fail: its queries are others' now, and it ends with its time
				f.readable, f.failures, again = false, 0, false
			}
			continue
		}
		f.failures = 0
		for i := range d.in[:n] {
			cost += d.in[i].Len + datagramWork
			w.dnsReceived(f, &d.in[i])
		}
		if n < room {
			f.readable, again = false, false
		}
	}
	w.dnsSettle()
	return cost, again
}

// dnsReceived gives the datagrams of one message to the forwarder.
func (w *Worker) dnsReceived(f *flowSlot, m *hostsock.Datagram) {
	b := m.Bufs[0]
	b = b[:min(m.Len, len(b))]
	size := m.Segment
	if size == 0 {
		size = max(len(b), 1)
	}
	for more := true; more; more = len(b) > 0 {
		n := min(size, len(b))
		if r := w.dns.Answer(w.now, f.index, b[:n]); r != stats.None {
			w.Stats.Drop(r)
		}
		b = b[n:]
	}
}

// receiveRoom gets pages to receive into, and reports how many messages there is room for.
func (d *dnsState) receiveRoom(pool *pagepool.Pool) (n int) {
	for n < dnsBatch {
		page, ok := pool.Get()
		if !ok {
			break
		}
		d.pages[n] = page
		d.bufs[n][0] = pool.Bytes(page)
		d.in[n].Bufs = d.bufs[n][:]
		n++
	}
	d.room = n
	return n
}

// returnRoom gives them back.
func (d *dnsState) returnRoom(pool *pagepool.Pool) {
	for _, page := range d.pages[:d.room] {
		pool.Put(page)
	}
}

// dnsTimeout is called when the forwarder's timer has run out.
func (w *Worker) dnsTimeout() {
	d := &w.dns
	d.Timeout(w.now)
	due := 0
	for ; due < len(d.connects) && d.connects[due].due <= w.now; due++ {
		a := d.connects[due]
		if f := w.flows[a.index]; f.kind == tcpFlow && f.gen == a.gen && f.conn.State() == tcp.Connecting {
			w.dnsReconnect(f) // where there is no other resolver, it goes on waiting
		}
	}
	d.connects = d.connects[:copy(d.connects, d.connects[due:])]
	w.dnsSettle()
}

// dnsSettle tells the forwarder what its sending has brought to light, and sets its timer.
func (w *Worker) dnsSettle() {
	d := &w.dns
	for len(d.refused) > 0 {
		socket := d.refused[0]
		d.refused = d.refused[:copy(d.refused, d.refused[1:])]
		d.Unreachable(w.now, socket)
	}
	at, ok := d.Next()
	if len(d.connects) > 0 && (!ok || d.connects[0].due < at) {
		at, ok = d.connects[0].due, true
	}
	switch {
	case ok:
		if d.timer == nil {
			d.timer = w.dnsFlow(netip.AddrPort{})
		}
		if d.timer != nil {
			w.wheel.Set(d.timer.index, at)
		}
	case d.timer != nil:
		w.dropFlow(d.timer)
		d.timer = nil
	}
}

// dnsFlow takes a slot for a socket toward a resolver, or for the timer.
func (w *Worker) dnsFlow(server netip.AddrPort) *flowSlot {
	own := netip.AddrFrom16([16]byte{15: byte(w.ID + 1)}) // unlike that of any guest, and of any other worker
	if !server.IsValid() {
		server = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	w.dns.serial++
	return w.newFlow(dnsFlow, flow.Key{
		Guest: own.As16(), Peer: server.Addr().As16(), GuestPort: w.dns.serial, PeerPort: server.Port(), Family: flow.IPv6,
	})
}

// OpenResolver implements dns.Net.
func (w *Worker) OpenResolver(server netip.AddrPort) (socket int32, ok bool) {
	f := w.dnsFlow(server)
	if f == nil {
		w.Stats.Drop(stats.FlowTableFull)
		return 0, false
	}
	fd, err := w.Host.OpenUDP(w.resolverOrigin(server.Addr()), server, false) // from a random port, of the kernel's choice
	if err == 0 {
		f.fd, f.head.isIPv6 = fd, server.Addr().Is6()
		err = w.Host.Watch(fd, token(tokenFlow, f.gen, f.index))
	}
	if err != 0 {
		w.Stats.Drop(openReason(err))
		w.CloseResolver(f.index)
		return 0, false
	}
	return f.index, true
}

// resolverOrigin is where sockets toward a resolver start from. What is on this machine is not reached by a choice of address or interface.
func (w *Worker) resolverOrigin(a netip.Addr) hostsock.Origin {
	if a.IsLoopback() {
		return hostsock.Origin{}
	}
	return w.Origin[familyOf(a)]
}

// CloseResolver implements dns.Net.
func (w *Worker) CloseResolver(socket int32) {
	f := w.flows[socket]
	if f.fd >= 0 {
		w.Host.Close(f.fd)
	}
	w.dropFlow(f)
}

// SendQuery implements dns.Net.
func (w *Worker) SendQuery(socket int32, msg []byte) bool {
	f, d := w.flows[socket], &w.dns
	d.outBuf[0] = msg
	d.out[0] = hostsock.Datagram{Bufs: d.outBuf[:], V6: f.head.isIPv6}
	_, err := w.Host.SendDatagrams(f.fd, d.out[:])
	if err == unix.ECONNREFUSED { // for an earlier datagram; this one was not sent
		d.refused = append(d.refused, socket)
		w.Stats.Drop(stats.HostRefused)
		_, err = w.Host.SendDatagrams(f.fd, d.out[:])
	}
	d.outBuf[0] = nil
	if err == 0 {
		return true
	}
	reason := sendReason(err)
	w.Stats.Drop(reason)
	return reason == stats.SocketFull
}

// SendAnswer implements dns.Net. What is longer than the link carries is cut, so that the guest asks again over TCP.
func (w *Worker) SendAnswer(c *dns.Client, msg []byte) {
	if w.judge.names != nil {
		w.judge.names.Learn(w.now, msg)
	}
	w.tx.spare = makeHeader(c.At, c.Guest.Addr(), packet.ProtoUDP, 0, hopLimit)
	h := &w.tx.spare
	if int(h.len)-packet.EtherLen+packet.UDPLen+len(msg) > w.MTU {
		msg = dns.Truncate(msg)
	}
	w.tx.one[0] = msg
	if !w.udpFrame(h, dnsPort, c.Guest.Port(), w.tx.one[:], len(msg), len(msg)) {
		w.Stats.Drop(stats.LinkFull)
	}
}

// dnsOpen begins to connect a flow to the first choice among the resolvers.
func (w *Worker) dnsOpen(f *flowSlot) {
	if !w.dnsReconnect(f) {
		w.connectFailed(f, unix.ECONNREFUSED)
	}
}

// dnsReconnect connects a flow, which is not connected yet, to the next resolver, and reports whether there is one.
func (w *Worker) dnsReconnect(f *flowSlot) bool {
	for {
		server, ok := w.dns.Server(int(f.tries))
		if !ok {
			return false
		}
		f.tries++
		fd, err := w.Host.ConnectTCP(w.resolverOrigin(server.Addr()), server)
		if err != 0 {
			w.Stats.Drop(openReason(err))
			continue
		}
		if f.fd >= 0 {
			w.Host.Close(f.fd) // and with it events of the last attempt
		}
		f.fd, f.readable, f.writable, f.ended = fd, false, false, false
		if err = w.Host.Watch(fd, token(tokenFlow, f.gen, f.index)); err != 0 {
			w.Stats.Drop(openReason(err))
			continue
		}
		w.dns.connects = append(w.dns.connects, dnsAttempt{f.index, f.gen, w.now + dnsConnect})
		w.dnsSettle()
		return true
	}
}

// closeDNS gives back what is open toward resolvers.
func (w *Worker) closeDNS() {
	d := &w.dns
	if d.Forwarder != nil {
		d.Close()
	}
	if d.timer != nil {
		w.dropFlow(d.timer)
		d.timer = nil
	}
	d.connects = nil
}
