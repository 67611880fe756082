package hosttest_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"golang.org/x/sys/unix"
)

// These tests play the same scenes with the twin and with the kernel's sockets over loopback, write down what the code under
// test would see, and compare.

// world is a host and the other side of one of its sockets.
type world interface {
	host() hostsock.Host
	connect() int     // begins to connect to a listener that accepts
	established() int // a connection
	refused() int     // begins to connect to where nobody listens
	accepted() int    // a connection that came in through a listener
	datagrams() int   // a connected UDP socket
	nobody() int      // a UDP socket connected to where nobody is

	deliver(data string) // the peer's side of the last socket
	deliverUrgent(data byte)
	end()
	reset()
	drain() // reads all that was sent
	unreachable()
	close()
}

// twin is the world of the twin.
type twin struct{ h *hosttest.Host }

var (
	here  = netip.MustParseAddrPort("127.0.0.1:1")
	there = netip.MustParseAddrPort("127.0.0.1:2")
)

// fullAt is the space of the twin's sockets; the kernel's is larger, and the scenes do not tell how large.
const fullAt = 100_000

func (w *twin) host() hostsock.Host { return w.h }

func (w *twin) open(do func(s *hosttest.Socket)) int {
	w.h.OnOpen = func(s *hosttest.Socket) hostsock.Errno {
		s.SetSpace(fullAt)
		do(s)
		return 0
	}
	fd, _ := w.h.ConnectTCP(hostsock.Origin{}, there)
	w.h.OnOpen = nil
	return fd
}

func (w *twin) connect() int     { return w.open((*hosttest.Socket).Establish) }
func (w *twin) established() int { return w.connect() }
func (w *twin) refused() int {
	return w.open(func(s *hosttest.Socket) { s.Refuse(unix.ECONNREFUSED) })
}

func (w *twin) accepted() int {
	l, _ := w.h.ListenTCP(here, "", false)
	w.h.Last().Inbound(there, here).SetSpace(fullAt)
	fd, _, _ := w.h.Accept(l)
	w.h.Close(l)
	return fd
}

func (w *twin) datagrams() int {
	fd, _ := w.h.OpenUDP(hostsock.Origin{}, there, false)
	return fd
}

func (w *twin) nobody() int          { return w.datagrams() }
func (w *twin) deliver(data string)  { w.h.Last().Deliver([]byte(data)) }
func (w *twin) deliverUrgent(b byte) { w.h.Last().DeliverUrgent(b) }
func (w *twin) end()                 { w.h.Last().End() }
func (w *twin) reset()               { w.h.Last().Reset(unix.ECONNRESET) }
func (w *twin) drain()               { w.h.Last().SetSpace(fullAt) }
func (w *twin) unreachable()         { w.h.Last().Unreachable(unix.ECONNREFUSED) }
func (w *twin) close()               {}

// kernel is the world of the machine.
type kernel struct {
	t    *testing.T
	s    *hostsock.System
	peer int // descriptor of the other side
}

func (w *kernel) host() hostsock.Host { return w.s }

func (w *kernel) must(err hostsock.Errno) {
	w.t.Helper()
	if err != 0 {
		w.t.Fatal(err)
	}
}

func (w *kernel) listen() (int, netip.AddrPort) {
	w.t.Helper()
	l, err := w.s.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), "", false)
	w.must(err)
	return l, w.name(l)
}

func (w *kernel) name(fd int) netip.AddrPort {
	w.t.Helper()
	sa, err := unix.Getsockname(fd)
	if err != nil {
		w.t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
}

func (w *kernel) pair() (client, server int) {
	w.t.Helper()
	l, at := w.listen()
	defer w.s.Close(l)
	client, err := w.s.ConnectTCP(hostsock.Origin{}, at)
	w.must(err)
	server, _, err = w.s.Accept(l)
	w.must(err)
	return client, server
}

func (w *kernel) connect() int { return w.established() }

func (w *kernel) established() (fd int) {
	fd, w.peer = w.pair()
	return fd
}

func (w *kernel) accepted() (fd int) {
	w.peer, fd = w.pair()
	return fd
}

func (w *kernel) refused() int {
	l, at := w.listen()
	w.s.Close(l)
	fd, err := w.s.ConnectTCP(hostsock.Origin{}, at)
	w.must(err)
	return fd
}

func (w *kernel) datagrams() int {
	var err hostsock.Errno
	w.peer, err = w.s.OpenUDP(hostsock.Origin{Addr: netip.MustParseAddrPort("127.0.0.1:0")}, netip.AddrPort{}, false)
	w.must(err)
	fd, err := w.s.OpenUDP(hostsock.Origin{}, w.name(w.peer), false)
	w.must(err)
	if err := unix.Connect(w.peer, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(w.name(fd).Port())}); err != nil {
		w.t.Fatal(err)
	}
	return fd
}

func (w *kernel) nobody() int {
	fd := w.datagrams()
	w.close()
	return fd
}

func (w *kernel) deliver(data string) {
	if _, err := unix.Write(w.peer, []byte(data)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *kernel) deliverUrgent(data byte) {
	if err := unix.Sendto(w.peer, []byte{data}, unix.MSG_OOB, nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *kernel) end()   { w.must(w.s.ShutdownWrite(w.peer)) }
func (w *kernel) reset() { w.s.Abort(w.peer); w.peer = -1 }

func (w *kernel) drain() {
	buf := make([]byte, 1<<20)
	for range 1000 {
		if _, err := w.s.Recv(w.peer, [][]byte{buf}); err != 0 {
			return
		}
	}
}

func (w *kernel) unreachable() {} // the datagram itself has brought the error

func (w *kernel) close() {
	if w.peer >= 0 {
		w.s.Close(w.peer)
		w.peer = -1
	}
}

// story writes down what the code under test sees.
type story struct {
	world
	h   hostsock.Host
	fd  int
	log []string
}

func (s *story) note(format string, args ...any) { s.log = append(s.log, fmt.Sprintf(format, args...)) }

func (s *story) watch(fd int) {
	s.fd = fd
	if err := s.h.Watch(fd, 1); err != 0 {
		s.note("watch: %v", err)
	}
}

// wait notes what is reported by the next two waits; the second shows that nothing is reported twice.
func (s *story) wait() {
	events := make([]hostsock.Event, 4)
	for range 2 {
		n := s.h.Wait(events, 2e6)
		var said []string
		for _, e := range events[:n] {
			said = append(said, fmt.Sprintf("%+v", e))
		}
		s.note("wait: %s", strings.Join(said, " "))
	}
}

func (s *story) send(data string) {
	n, err := s.h.Send(s.fd, [][]byte{[]byte(data)})
	s.note("send: %d %v", n, err)
}

func (s *story) sendTo(data string) {
	s.note("sendto: %v", sendTo(s.h, s.fd, [][]byte{[]byte(data)}, netip.AddrPort{}))
}

func (s *story) recv(room int) {
	buf := make([]byte, room)
	n, err := s.h.Recv(s.fd, [][]byte{buf})
	s.note("recv: %q %v", buf[:n], err)
}

func (s *story) peek() {
	n, err := s.h.Peek(s.fd)
	s.note("peek: %d %v", n, err)
}

func (s *story) recvFrom(room int) {
	buf := make([]byte, room)
	n, _, err := recvFrom(s.h, s.fd, buf)
	s.note("recvfrom: %d %q %v", n, buf[:min(n, room)], err)
}

func (s *story) result() { s.note("result: %v", s.h.ConnectResult(s.fd)) }
func (s *story) shut()   { s.note("shutdown: %v", s.h.ShutdownWrite(s.fd)) }

// fill sends until the socket is full.
func (s *story) fill() {
	chunk := strings.Repeat("x", 30_000)
	for range 10_000 {
		if _, err := s.h.Send(s.fd, [][]byte{[]byte(chunk)}); err != 0 {
			s.note("full: %v", err)
			return
		}
	}
	s.note("never full")
}

var scenes = map[string]func(s *story){
	"connect": func(s *story) {
		s.watch(s.connect())
		s.wait()
		s.result()
		s.send("hello")
		s.wait()
	},
	"refused": func(s *story) {
		s.watch(s.refused())
		s.wait()
		s.result()
		s.result()
		s.recv(8)
		s.send("x")
		s.shut()
	},
	"refused, error met by reading": func(s *story) {
		s.watch(s.refused())
		s.wait()
		s.recv(8)
		s.recv(8)
	},
	"data": func(s *story) {
		s.watch(s.established())
		s.wait()
		s.recv(8)
		s.deliver("abc")
		s.wait()
		s.deliver("def")
		s.wait()
		s.recv(4)
		s.wait() // two bytes are left: no edge
		s.recv(4)
		s.recv(4)
	},
	"looked at": func(s *story) {
		s.watch(s.established())
		s.wait()
		s.peek()
		s.deliver("abc")
		s.wait()
		s.peek()
		s.recv(2)
		s.peek()
		s.recv(8)
		s.peek()
		s.deliver("last")
		s.end()
		s.wait()
		s.peek()
		s.recv(8)
		s.peek()
		s.recv(8)
	},
	"looked at, reset with data waiting": func(s *story) {
		s.watch(s.established())
		s.deliver("kept")
		s.reset()
		s.wait()
		s.peek()
		s.recv(8)
		s.peek()
		s.peek()
	},
	"urgent data": func(s *story) {
		s.watch(s.established())
		s.wait()
		s.deliver("before")
		s.deliverUrgent('!')
		s.deliver("after")
		s.wait()
		s.recv(16)
		s.wait() // no edge for the rest
		s.recv(16)
		s.recv(16)
		s.deliverUrgent('!')
		s.wait()
		s.recv(16)
		s.deliver("more")
		s.wait()
		s.recv(16)
	},
	"accepted, data came before Watch": func(s *story) {
		fd := s.accepted()
		s.deliver("early")
		s.watch(fd)
		s.wait()
		s.recv(8)
	},
	"the peer ends": func(s *story) {
		s.watch(s.established())
		s.wait()
		s.deliver("last")
		s.end()
		s.wait()
		s.recv(8)
		s.recv(8)
		s.recv(8)
		s.send("still open")
		s.shut()
		s.wait()
		s.send("closed")
	},
	"we end first": func(s *story) {
		s.watch(s.established())
		s.wait()
		s.shut()
		s.send("closed")
		s.deliver("answer")
		s.wait()
		s.recv(8)
		s.recv(8)
		s.end()
		s.wait()
		s.recv(8)
	},
	"reset": func(s *story) {
		s.watch(s.established())
		s.wait()
		s.reset()
		s.wait()
		s.result()
		s.recv(8)
		s.send("x")
		s.shut()
	},
	"reset with data waiting, met by reading": func(s *story) {
		s.watch(s.established())
		s.deliver("kept")
		s.reset()
		s.wait()
		s.recv(8)
		s.recv(8)
		s.recv(8)
		s.send("x")
	},
	"reset met by sending": func(s *story) {
		s.watch(s.established())
		s.reset()
		s.wait()
		s.send("x")
		s.send("x")
		s.recv(8)
	},
	"full": func(s *story) {
		s.watch(s.established())
		s.wait()
		s.fill()
		s.wait()
		s.deliver("meanwhile")
		s.wait()
		s.drain()
		s.wait()
		s.recv(16)
		s.send("again")
	},
	"datagrams": func(s *story) {
		s.watch(s.datagrams())
		s.wait()
		s.recvFrom(8)
		s.deliver("one")
		s.deliver("twotwo")
		s.deliver("")
		s.wait()
		s.recvFrom(8)
		s.recvFrom(2)
		s.recvFrom(8)
		s.recvFrom(8)
		s.sendTo(strings.Repeat("x", 65507))
		s.sendTo(strings.Repeat("x", 65508))
	},
	"datagram refused, met by receiving": func(s *story) {
		s.watch(s.nobody())
		s.wait()
		s.sendTo("x")
		s.unreachable()
		s.wait()
		s.recvFrom(8)
		s.recvFrom(8)
	},
	"datagram refused, met by sending": func(s *story) {
		s.watch(s.nobody())
		s.wait()
		s.sendTo("x")
		s.unreachable()
		s.wait()
		s.sendTo("y")
		s.recvFrom(8)
	},
}

func TestLikeTheKernel(t *testing.T) {
	for name, scene := range scenes {
		t.Run(name, func(t *testing.T) {
			sys, err := hostsock.NewSystem()
			if err != nil {
				t.Fatal(err)
			}
			defer sys.Release()
			k := &kernel{t: t, s: sys, peer: -1}
			real := &story{world: k, h: sys}
			scene(real)
			sys.Close(real.fd)
			k.close()

			w := &twin{hosttest.New()}
			told := &story{world: w, h: w.h}
			scene(told)
			w.h.Close(told.fd)
			w.h.Check(t)

			if diff := cmp.Diff(real.log, told.log); diff != "" {
				t.Errorf("the twin differs from the kernel (-kernel +twin):\n%s", diff)
			}
		})
	}
}
