package hosttest_test

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"golang.org/x/sys/unix"
)

// complaints collects what Check says.
type complaints []string

func (c *complaints) Helper() {}
func (c *complaints) Errorf(format string, args ...any) {
	*c = append(*c, fmt.Sprintf(format, args...))
}

// connected is a host and one established connection on it, which is watched under token 1.
func connected(t *testing.T) (*hosttest.Host, *hosttest.Socket) {
	t.Helper()
	h := hosttest.New()
	fd, err := h.ConnectTCP(hostsock.Origin{}, there)
	if err != 0 {
		t.Fatal(err)
	}
	if err := h.Watch(fd, 1); err != 0 {
		t.Fatal(err)
	}
	h.Last().Establish()
	if got := poll(h); len(got) != 1 || !got[0].Out {
		t.Fatalf("events %+v", got)
	}
	return h, h.Last()
}

func poll(h *hosttest.Host) []hostsock.Event {
	events := make([]hostsock.Event, 16)
	return events[:h.Wait(events, 0)]
}

// sendTo sends one datagram.
func sendTo(h hostsock.Host, fd int, bufs [][]byte, to netip.AddrPort) hostsock.Errno {
	_, err := h.SendDatagrams(fd, []hostsock.Datagram{{Bufs: bufs, Peer: to}})
	return err
}

// recvFrom takes one datagram.
func recvFrom(h hostsock.Host, fd int, buf []byte) (int, netip.AddrPort, hostsock.Errno) {
	msgs := []hostsock.Datagram{{Bufs: [][]byte{buf}}}
	if _, err := h.RecvDatagrams(fd, msgs); err != 0 {
		return 0, netip.AddrPort{}, err
	}
	return msgs[0].Len, msgs[0].Peer, 0
}

func TestVirtualTime(t *testing.T) {
	h := hosttest.New()
	events := make([]hostsock.Event, 4)
	if n := h.Wait(events, 1000); n != 0 || h.Now() != 1000 {
		t.Errorf("Wait = %d at %d", n, h.Now())
	}
	if n := h.Wait(events, -1); n != 0 || h.Now() != 1000 || h.Idle() != 1 {
		t.Errorf("a Wait for nothing = %d at %d, idle %d", n, h.Now(), h.Idle())
	}
	fd, _ := h.ConnectTCP(hostsock.Origin{}, there)
	h.Watch(fd, 42)
	s := h.Socket(fd)
	var order []string
	h.At(5000, func() { order = append(order, "second"); s.Establish() })
	h.At(3000, func() { order = append(order, "first") })
	h.At(5000, func() { order = append(order, "third") })
	h.At(9000, func() { order = append(order, "too late") })
	if n := h.Wait(events, 1000); n != 0 || h.Now() != 2000 {
		t.Errorf("Wait = %d at %d", n, h.Now())
	}
	if n := h.Wait(events, -1); n != 1 || h.Now() != 5000 || events[0] != (hostsock.Event{Token: 42, Out: true}) {
		t.Errorf("Wait = %d at %d, %+v", n, h.Now(), events[0])
	}
	if diff := cmp.Diff([]string{"first", "second", "third"}, order); diff != "" {
		t.Error(diff)
	}
	h.Advance(100_000)
	if h.Now() != 105_000 || len(order) != 4 {
		t.Errorf("at %d after %v", h.Now(), order)
	}
	h.At(0, func() { order = append(order, "at once") })
	if poll(h); len(order) != 5 || h.Now() != 105_000 {
		t.Errorf("at %d after %v", h.Now(), order)
	}
	h.Close(fd)
	h.Check(t)
}

func TestFail(t *testing.T) {
	h := hosttest.New()
	for range 2 {
		h.Fail(hosttest.ConnectTCP, unix.EMFILE, 2)
	}
	for i, want := range []hostsock.Errno{unix.EMFILE, unix.EMFILE, 0} {
		fd, err := h.ConnectTCP(hostsock.Origin{}, there)
		if err != want || (fd >= 0) != (want == 0) {
			t.Errorf("call %d = %d, %v; want %v", i, fd, err, want)
		}
	}
	s := h.Last()
	s.Establish()
	s.Fail(hosttest.Send, unix.ENOBUFS, hosttest.Always)
	for range 3 {
		if _, err := h.Send(s.Fd(), [][]byte{{1}}); err != unix.ENOBUFS {
			t.Errorf("Send: %v", err)
		}
	}
	s.Fail(hosttest.Send, 0, 0)
	if n, err := h.Send(s.Fd(), [][]byte{{1}}); n != 1 || err != 0 {
		t.Errorf("Send after the failures = %d, %v", n, err)
	}
	if h.Calls(hosttest.ConnectTCP) != 3 || h.Calls(hosttest.Send) != 4 {
		t.Errorf("%d connects and %d sends counted", h.Calls(hosttest.ConnectTCP), h.Calls(hosttest.Send))
	}
	h.Close(s.Fd())

	h.OnOpen = func(s *hosttest.Socket) hostsock.Errno { return unix.ENETUNREACH }
	if fd, err := h.ConnectTCP(hostsock.Origin{}, there); err != unix.ENETUNREACH || fd != -1 {
		t.Errorf("ConnectTCP = %d, %v", fd, err)
	}
	if h.Open() != 0 {
		t.Errorf("%d sockets are open", h.Open())
	}
	h.Check(t) // a socket that was never opened need not be closed
}

func TestEveryMethodCanFail(t *testing.T) {
	h := hosttest.New()
	tcp, _ := h.ConnectTCP(hostsock.Origin{}, there)
	listener, _ := h.ListenTCP(here, "", false)
	h.Last().Inbound(there, here)
	udp, _ := h.OpenUDP(hostsock.Origin{}, there, false)
	h.Last().Deliver([]byte("x"))
	events := make([]hostsock.Event, 1)
	calls := map[hosttest.Op]func() hostsock.Errno{
		hosttest.Watch:         func() hostsock.Errno { return h.Watch(tcp, 1) },
		hosttest.ConnectTCP:    func() hostsock.Errno { _, err := h.ConnectTCP(hostsock.Origin{}, there); return err },
		hosttest.ConnectResult: func() hostsock.Errno { return h.ConnectResult(tcp) },
		hosttest.ListenTCP:     func() hostsock.Errno { _, err := h.ListenTCP(here, "", false); return err },
		hosttest.BindTCP:       func() hostsock.Errno { _, err := h.BindTCP(here, "", false); return err },
		hosttest.Listen:        func() hostsock.Errno { return h.Listen(listener) },
		hosttest.Unlisten:      func() hostsock.Errno { return h.Unlisten(listener) },
		hosttest.Accept:        func() hostsock.Errno { _, _, err := h.Accept(listener); return err },
		hosttest.Send:          func() hostsock.Errno { _, err := h.Send(tcp, [][]byte{{1}}); return err },
		hosttest.LimitUnsent:   func() hostsock.Errno { return h.LimitUnsent(tcp) },
		hosttest.Recv:          func() hostsock.Errno { _, err := h.Recv(tcp, [][]byte{make([]byte, 1)}); return err },
		hosttest.Peek:          func() hostsock.Errno { _, err := h.Peek(tcp); return err },
		hosttest.ShutdownWrite: func() hostsock.Errno { return h.ShutdownWrite(tcp) },
		hosttest.OpenUDP:       func() hostsock.Errno { _, err := h.OpenUDP(hostsock.Origin{}, there, false); return err },
		hosttest.SendDatagrams: func() hostsock.Errno { return sendTo(h, udp, [][]byte{{1}}, there) },
		hosttest.RecvDatagrams: func() hostsock.Errno { _, _, err := recvFrom(h, udp, make([]byte, 1)); return err },
		hosttest.OpenPing:      func() hostsock.Errno { _, err := h.OpenPing(1, there.Addr()); return err },
		hosttest.Wait: func() hostsock.Errno {
			h.Inject(hostsock.Event{In: true})
			if h.Wait(events, 0) == 0 {
				return unix.EIO
			}
			return 0
		},
	}
	for op := hosttest.Watch; op <= hosttest.OpenPing; op++ {
		t.Run(op.String(), func(t *testing.T) {
			before := h.Open()
			h.Fail(op, unix.EIO, 1)
			if err := calls[op](); err != unix.EIO {
				t.Errorf("answers %v", err)
			}
			if h.Open() != before {
				t.Errorf("%d sockets were open, now %d", before, h.Open())
			}
		})
	}
	if n, _, err := h.Accept(listener); err != 0 || h.Socket(n) == nil {
		t.Errorf("the connection is lost: %v", err)
	}
	for _, s := range h.Sockets() {
		h.Close(s.Fd())
	}
	h.Check(t)
}

func TestShortWritesAndWhatWasSent(t *testing.T) {
	h, s := connected(t)
	s.SetSpace(10)
	s.MaxSend = 4
	var seen []string
	s.OnSend = func(b []byte) { seen = append(seen, string(b)) }
	for _, want := range []struct {
		n   int
		err hostsock.Errno
	}{{4, 0}, {4, 0}, {2, 0}, {0, unix.EAGAIN}} {
		n, err := h.Send(s.Fd(), [][]byte{[]byte("abc"), []byte("def")})
		if n != want.n || err != want.err {
			t.Fatalf("Send = %d, %v; want %d, %v", n, err, want.n, want.err)
		}
	}
	if s.Space() != 0 {
		t.Errorf("space %d", s.Space())
	}
	if got := poll(h); len(got) != 0 {
		t.Errorf("events %+v", got)
	}
	s.SetSpace(3)
	if got := poll(h); len(got) != 1 || !got[0].Out {
		t.Errorf("events %+v", got)
	}
	all := "abcdabcdab"
	sum := fnv.New64a()
	sum.Write([]byte(all))
	if string(s.Sent()) != all || s.SentBytes() != 10 || s.SentSum() != sum.Sum64() {
		t.Errorf("%q sent, %d bytes, sum %x", s.Sent(), s.SentBytes(), s.SentSum())
	}
	if diff := cmp.Diff([]string{"abcd", "abcd", "ab"}, seen); diff != "" {
		t.Error(diff)
	}
	s.TakeSent()
	if len(s.Sent()) != 0 || s.SentBytes() != 10 {
		t.Errorf("after TakeSent: %q, %d bytes", s.Sent(), s.SentBytes())
	}
	s.MaxSend = 0
	s.SetSpace(hosttest.Unlimited)
	many := make([][]byte, 70)
	for i := range many {
		many[i] = []byte{byte(i)}
	}
	if n, err := h.Send(s.Fd(), many); n != 64 || err != 0 {
		t.Errorf("Send of 70 pieces = %d, %v", n, err)
	}
	h.Abort(s.Fd())
	if !s.Aborted() || !s.Closed() {
		t.Error("the abort is not recorded")
	}
	h.Check(t)
}

func TestShortReads(t *testing.T) {
	h, s := connected(t)
	s.MaxRecv = 3
	s.Deliver([]byte("abcdef"))
	s.End()
	s.Deliver([]byte("nothing comes after the end"))
	if s.Unread() != 6 {
		t.Errorf("%d bytes are to be read", s.Unread())
	}
	var got bytes.Buffer
	buf := make([]byte, 100)
	for {
		n, err := h.Recv(s.Fd(), [][]byte{buf})
		if err != 0 {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		fmt.Fprintf(&got, "%s ", buf[:n])
	}
	if got.String() != "abc def " {
		t.Errorf("received %q", got.String())
	}
	if _, err := h.Recv(s.Fd(), nil); err != unix.EINVAL {
		t.Errorf("Recv into nothing: %v", err)
	}
	h.ShutdownWrite(s.Fd())
	if !s.WriteClosed() {
		t.Error("the shutdown is not recorded")
	}
	h.Close(s.Fd())
	if s.Aborted() || !s.Closed() {
		t.Error("the close is not recorded")
	}
	h.Check(t)
}

func TestListener(t *testing.T) {
	h := hosttest.New()
	l, err := h.ListenTCP(netip.MustParseAddrPort("[::]:80"), "eth0", true)
	if err != 0 {
		t.Fatal(err)
	}
	ls := h.Socket(l)
	if ls.Device != "eth0" || !ls.Dual || ls.Local.Port() != 80 {
		t.Errorf("listening at %+v", ls)
	}
	h.Watch(l, 5)
	if _, _, err := h.Accept(l); err != unix.EAGAIN {
		t.Errorf("Accept: %v", err)
	}
	first, second := ls.Inbound(there, here), ls.Inbound(here, there)
	first.Deliver([]byte("early"))
	if got := poll(h); len(got) != 1 || got[0] != (hostsock.Event{Token: 5, In: true}) {
		t.Errorf("events %+v", got)
	}
	conn, peer, err := h.Accept(l)
	if err != 0 || peer != there || first.Local != here || h.Socket(conn) != first || first.Fd() != conn {
		t.Errorf("Accept = %d, %v, %v", conn, peer, err)
	}
	h.Watch(conn, 6)
	if got := poll(h); len(got) != 1 || !got[0].In || !got[0].Out || got[0].Token != 6 {
		t.Errorf("events %+v", got)
	}
	h.Close(l)
	h.Close(conn)
	h.Check(t) // the second connection never had a descriptor
	if second.Closed() {
		t.Error("a connection that was not accepted was closed")
	}
}

// TestListenLater: a bound socket refuses connections until it listens, and again when it does not any more.
func TestListenLater(t *testing.T) {
	h := hosttest.New()
	l, err := h.BindTCP(netip.MustParseAddrPort("[::]:80"), "", true)
	if err != 0 {
		t.Fatal(err)
	}
	ls := h.Socket(l)
	if !ls.Inbound(there, here).Aborted() {
		t.Error("a socket that does not listen takes a connection")
	}
	if _, _, err := h.Accept(l); err != unix.EINVAL {
		t.Errorf("Accept before Listen: %v", err)
	}
	if err := h.Listen(l); err != 0 {
		t.Fatal(err)
	}
	waits := ls.Inbound(there, here)
	if waits.Aborted() {
		t.Error("a listening socket refuses a connection")
	}
	if err := h.Unlisten(l); err != 0 || !waits.Aborted() || !ls.Inbound(there, here).Aborted() {
		t.Errorf("Unlisten: %v, the waiting connection aborted: %v", err, waits.Aborted())
	}
	if err := h.Unlisten(l); err != unix.ENOTCONN {
		t.Errorf("Unlisten twice: %v", err)
	}
	h.Close(l)
	h.Check(t)
}

func TestOriginsAndEcho(t *testing.T) {
	h := hosttest.New()
	h.OnOpen = func(s *hosttest.Socket) hostsock.Errno { s.Echo = true; s.Establish(); return 0 }
	from := hostsock.Origin{Addr: netip.MustParseAddrPort("192.0.2.9:0"), Device: "eth1"}
	buf := make([]byte, 64)

	tcp, _ := h.ConnectTCP(from, there)
	a := h.Last()
	h.Send(tcp, [][]byte{[]byte("stream")})
	if n, err := h.Recv(tcp, [][]byte{buf}); string(buf[:n]) != "stream" || err != 0 {
		t.Errorf("TCP echo %q, %v", buf[:n], err)
	}
	udp, _ := h.OpenUDP(from, netip.AddrPort{}, true)
	b := h.Last()
	if a.Local.Addr() != from.Addr.Addr() || a.Local.Port() == 0 || a.Local == b.Local || a.Device != "eth1" || !b.Dual {
		t.Errorf("opened from %v and %v", a.Local, b.Local)
	}
	if err := sendTo(h, udp, [][]byte{[]byte("data"), []byte("gram")}, there); err != 0 {
		t.Fatal(err)
	}
	if n, peer, err := recvFrom(h, udp, buf); string(buf[:n]) != "datagram" || peer != there || err != 0 {
		t.Errorf("UDP echo %q from %v, %v", buf[:n], peer, err)
	}
	if diff := cmp.Diff([]hosttest.Datagram{{Data: []byte("datagram"), To: there}}, b.Datagrams(),
		cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y }), cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
		t.Error(diff)
	}
	for to, types := range map[string][2]byte{"192.0.2.1": {8, 0}, "2001:db8::1": {128, 129}} {
		ping, _ := h.OpenPing(77, netip.MustParseAddr(to))
		if h.Last().ID != 77 {
			t.Errorf("identifier %d", h.Last().ID)
		}
		if err := sendTo(h, ping, [][]byte{{types[0], 0, 0, 0, 0, 77, 0, 1}}, netip.AddrPort{}); err != 0 {
			t.Fatal(err)
		}
		if n, _, err := recvFrom(h, ping, buf); n != 8 || buf[0] != types[1] || err != 0 {
			t.Errorf("ping echo % x, %v", buf[:n], err)
		}
		h.Close(ping)
	}
	h.Close(tcp)
	h.Close(udp)
	h.Check(t)
}

func TestFullDatagramSocket(t *testing.T) {
	h := hosttest.New()
	fd, _ := h.OpenUDP(hostsock.Origin{}, there, false)
	ping, _ := h.OpenPing(0, there.Addr())
	h.Watch(fd, 1)
	h.Watch(ping, 2)
	poll(h)
	h.Socket(fd).SetSpace(5)
	h.Socket(ping).SetSpace(5)
	for range 2 {
		if err := sendTo(h, fd, [][]byte{make([]byte, 6)}, netip.AddrPort{}); err != unix.EAGAIN {
			t.Errorf("SendTo beyond the space: %v", err)
		}
		if err := sendTo(h, ping, [][]byte{make([]byte, 6)}, netip.AddrPort{}); err != unix.EAGAIN {
			t.Errorf("a request beyond the space: %v", err)
		}
	}
	h.Socket(fd).SetSpace(6)
	h.Socket(ping).SetSpace(6)
	if got := poll(h); len(got) != 2 {
		t.Errorf("events %+v", got)
	}
	if err := sendTo(h, fd, [][]byte{make([]byte, 6)}, netip.AddrPort{}); err != 0 {
		t.Errorf("SendTo: %v", err)
	}
	if err := sendTo(h, fd, make([][]byte, 65), netip.AddrPort{}); err != unix.EMSGSIZE {
		t.Errorf("SendTo of 65 pieces: %v", err)
	}
	h.Close(fd)
	h.Close(ping)
	if fd, err := h.OpenUDP(hostsock.Origin{}, netip.AddrPort{}, true); err != unix.EINVAL {
		t.Errorf("OpenUDP without any address = %d, %v", fd, err)
	}
	alone, _ := h.OpenUDP(hostsock.Origin{Addr: here}, netip.AddrPort{}, false)
	if err := sendTo(h, alone, nil, netip.AddrPort{}); err != unix.EDESTADDRREQ {
		t.Errorf("SendTo nobody: %v", err)
	}
	h.Close(alone)
	h.Check(t)
}

func TestSpuriousAndForeignEvents(t *testing.T) {
	h, s := connected(t)
	const foreign = 3
	h.Wake(foreign) // not watched yet
	if err := h.Watch(foreign, 9); err != 0 {
		t.Fatal(err)
	}
	stale := hostsock.Event{Token: 12345, In: true, Hangup: true}
	s.Spurious()
	h.Wake(foreign)
	h.Wake(foreign)
	h.Inject(stale)
	want := []hostsock.Event{stale, {Token: 1, Out: true}, {Token: 9, In: true}}
	if diff := cmp.Diff(want, poll(h)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	s.Deliver([]byte("x"))
	h.Wake(foreign)
	one := make([]hostsock.Event, 1)
	if n := h.Wait(one, 0); n != 1 || one[0].Token != 1 {
		t.Errorf("Wait for one event = %d, %+v", n, one[0])
	}
	if n := h.Wait(one, 0); n != 1 || one[0].Token != 9 {
		t.Errorf("Wait for the other = %d, %+v", n, one[0])
	}
	s.Spurious()
	h.Close(s.Fd())
	s.Deliver([]byte("too late"))
	if got := poll(h); len(got) != 0 {
		t.Errorf("events after Close: %+v", got)
	}
	h.Check(t)
}

func TestCheckComplains(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(h *hosttest.Host, fd int)
		want string
	}{
		{"leak", func(h *hosttest.Host, fd int) { h.ListenTCP(here, "", false) }, "never closed"},
		{"use after close", func(h *hosttest.Host, fd int) { h.Close(fd); h.Send(fd, nil); h.Last() }, "Send on the closed TCP"},
		{"double close", func(h *hosttest.Host, fd int) { h.Close(fd); h.Abort(fd) }, "Abort on the closed"},
		{"foreign descriptor", func(h *hosttest.Host, fd int) { h.Recv(5, [][]byte{make([]byte, 1)}) }, "never opened here"},
		{"invented descriptor", func(h *hosttest.Host, fd int) { h.ConnectResult(fd + 1) }, "never opened here"},
		{"wrong kind", func(h *hosttest.Host, fd int) { h.Accept(fd) }, "Accept on TCP"},
		{"watched twice", func(h *hosttest.Host, fd int) { h.Watch(fd, 1); h.Watch(fd, 2) }, "is watched"},
		{"watch of a closed one", func(h *hosttest.Host, fd int) { h.Close(fd); h.Watch(fd, 1) }, "Watch on the closed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := hosttest.New()
			fd, _ := h.ConnectTCP(hostsock.Origin{}, there)
			c.do(h, fd)
			if !h.Socket(fd).Closed() {
				h.Close(fd)
			}
			var got complaints
			h.Check(&got)
			if len(got) != 1 || !strings.Contains(got[0], c.want) {
				t.Errorf("Check says %q, want one with %q", got, c.want)
			}
		})
	}
}
