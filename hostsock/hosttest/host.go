// Package hosttest is a hostsock.Host in memory, for tests of what works with host sockets: unit, property and fuzz tests
// of workers and flows run on it without a network, in virtual time.
//
// The test plays the peers: it finds the sockets that were opened (Sockets, Last, Socket), decides what becomes of a connect
// (OnOpen, Socket.Establish, Socket.Refuse), limits what a socket takes (Socket.SetSpace), delivers data, ends and
// resets, and reads what was sent. Any call can be made to fail with any error (Fail). Wait reports
// readiness as an edge-triggered epoll set would: a socket on which something has happened is reported once, with all that is
// true of it by then. The package's tests hold it against the kernel's sockets.
//
//	h := hosttest.New()
//	h.OnOpen = func(s *hosttest.Socket) hostsock.Errno { s.Establish(); return 0 }
//	… run the code under test with h as its Host and h.Now as its clock …
//	h.Last().Deliver([]byte("hello"))
//	…
//	h.Check(t)
package hosttest

import (
	"fmt"
	"math"
	"net/netip"
	"sort"

	"github.com/vasta-net/vasta/hostsock"
)

// firstFd is where the numbers of the Host's own descriptors begin. Smaller ones are foreign: a link's, an eventfd's.
const firstFd = 1 << 20

// Op names a method of hostsock.Host.
type Op int

// The methods that can fail or are counted.
const (
	Watch Op = iota
	Wait
	ConnectTCP
	ConnectResult
	ListenTCP
	BindTCP
	Listen
	Unlisten
	Accept
	Send
	LimitUnsent
	Recv
	Peek
	ShutdownWrite
	OpenUDP
	SendDatagrams
	RecvDatagrams
	OpenPing
	DontFragment
	QueueErrors
	RecvError
	OpenGroup
	AdoptTCP
	AdoptUDP
	SetTOS
	numOps
)

var opNames = [numOps]string{"Watch", "Wait", "ConnectTCP", "ConnectResult", "ListenTCP", "BindTCP", "Listen", "Unlisten", "Accept", "Send", "LimitUnsent", "Recv", "Peek",
	"ShutdownWrite", "OpenUDP", "SendDatagrams", "RecvDatagrams", "OpenPing", "DontFragment", "QueueErrors", "RecvError", "OpenGroup", "AdoptTCP", "AdoptUDP", "SetTOS"}

// String is the method's name.
func (op Op) String() string { return opNames[op] }

// Always makes Fail last.
const Always = math.MaxInt

// failure is what the next calls of a method answer.
type failure struct {
	err   hostsock.Errno
	times int
}

// take answers the error of this call, 0 for none.
func (f *failure) take() hostsock.Errno {
	if f.times == 0 {
		return 0
	}
	if f.times != Always {
		f.times--
	}
	return f.err
}

// watched is one entry of the set of watched descriptors.
type watched struct {
	token  uint64
	socket *Socket // nil for a foreign descriptor
	queued bool    // waits in the ready list of its set
	view   *View   // the set; nil for the Host's own
}

// timed is one action of At.
type timed struct {
	at int64
	do func()
}

// Host is the scripted twin of hostsock.System. It is not safe for concurrent use: the code under test and the
// test take turns.
type Host struct {
	// OnOpen, if set, sees every socket before ConnectTCP, ListenTCP, OpenUDP or OpenPing returns. An errno other than 0
	// makes that call fail. Without it TCP connects stay pending, and everything else works.
	OnOpen func(s *Socket) hostsock.Errno
	// OnWait, if set, is called by each Wait before anything else happens.
	OnWait func(timeout int64)

	now      int64
	timed    []timed
	idle     int
	sockets  []*Socket // in the order of opening; Socket.fd is firstFd + index
	watched  map[int]*watched
	ready    []*watched
	injected []hostsock.Event
	fail     [numOps]failure
	calls    [numOps]int
	faults   []string
	port     uint16
}

var _ hostsock.Host = (*Host)(nil)

// New returns a host without sockets, at time 0.
func New() *Host {
	return &Host{watched: make(map[int]*watched), port: 40000}
}

// Now is the virtual time in nanoseconds. Only Wait and Advance move it.
func (h *Host) Now() int64 { return h.now }

// Advance moves the virtual time on by d nanoseconds and runs what At has planned up to then.
func (h *Host) Advance(d int64) { h.advanceTo(h.now + d) }

// At plans do for the time at, in nanoseconds; a time that has passed means now. do runs within Wait or Advance.
func (h *Host) At(at int64, do func()) {
	at = max(at, h.now)
	i := sort.Search(len(h.timed), func(i int) bool { return h.timed[i].at > at })
	h.timed = append(h.timed, timed{})
	copy(h.timed[i+1:], h.timed[i:])
	h.timed[i] = timed{at, do}
}

func (h *Host) advanceTo(t int64) {
	for len(h.timed) > 0 && h.timed[0].at <= t {
		next := h.timed[0]
		h.timed = h.timed[1:]
		h.now = max(h.now, next.at)
		next.do()
	}
	h.now = max(h.now, t)
}

// Fail makes the next calls of op fail with err, as many as times says (Always: all of them); 0 ends it. A failing call
// changes nothing. Wait cannot fail: it returns no events instead.
func (h *Host) Fail(op Op, err hostsock.Errno, times int) { h.fail[op] = failure{err, times} }

// Calls is how often op has been called.
func (h *Host) Calls(op Op) int { return h.calls[op] }

// Idle is how often Wait was asked to wait without limit although nothing could ever happen. Wait returns at once then, since a
// test would hang otherwise.
func (h *Host) Idle() int { return h.idle }

// Inject makes the next Wait report e as it stands: a spurious event, or one for a token that is gone.
func (h *Host) Inject(e hostsock.Event) { h.injected = append(h.injected, e) }

// Wake reports a foreign descriptor, for instance a link's, as readable.
func (h *Host) Wake(fd int) {
	if w := h.watched[fd]; w != nil && w.socket == nil {
		h.queue(w)
	}
}

// Sockets are all the sockets ever opened, in that order, the closed ones too.
func (h *Host) Sockets() []*Socket { return h.sockets }

// Last is the socket opened last, nil when there is none.
func (h *Host) Last() *Socket {
	if len(h.sockets) == 0 {
		return nil
	}
	return h.sockets[len(h.sockets)-1]
}

// Bare makes a socket as another program would hand it over, for AdoptTCP (a Listener) or AdoptUDP (UDP).
func (h *Host) Bare(kind Kind) (fd int) { return h.add(newSocket(kind)) }

// Socket is the socket of a descriptor, nil when there never was one.
func (h *Host) Socket(fd int) *Socket {
	if fd < firstFd || fd-firstFd >= len(h.sockets) {
		return nil
	}
	return h.sockets[fd-firstFd]
}

// Open is how many sockets are open.
func (h *Host) Open() (n int) {
	for _, s := range h.sockets {
		if s.end == stillOpen {
			n++
		}
	}
	return n
}

// TB is the part of testing.TB that Check needs; rapid.T has it too.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
}

// Check fails the test for each socket that is still open and for each call that no correct program makes: on a descriptor that
// is closed, never was open, or is of the wrong kind.
func (h *Host) Check(t TB) {
	t.Helper()
	for _, s := range h.sockets {
		if s.end == stillOpen {
			t.Errorf("hosttest: %v was never closed", s)
		}
	}
	for _, f := range h.faults {
		t.Errorf("hosttest: %s", f)
	}
}

// add gives a socket its descriptor.
func (h *Host) add(s *Socket) int {
	s.host, s.fd = h, firstFd+len(h.sockets)
	h.sockets = append(h.sockets, s)
	return s.fd
}

// open finishes the opening of s, which from and the test may still prevent.
func (h *Host) open(s *Socket, from hostsock.Origin) (int, hostsock.Errno) {
	s.Local, s.Device, s.Exclusive, s.Multicast = from.Addr, from.Device, from.Exclusive, from.Multicast
	s.TOS, s.TTL = from.TOS, from.TTL
	if s.Local.IsValid() && s.Local.Port() == 0 {
		s.Local = netip.AddrPortFrom(s.Local.Addr(), h.port)
		h.port++
	}
	fd := h.add(s)
	if h.OnOpen != nil {
		if err := h.OnOpen(s); err != 0 {
			s.end = neverOpened
			return -1, err
		}
	}
	return fd, 0
}

// begin counts a call of op on fd and answers the socket, or the error that the call has to return.
func (h *Host) begin(op Op, fd int, kinds ...Kind) (*Socket, hostsock.Errno) {
	h.calls[op]++
	s, err := h.find(op.String(), fd, kinds...)
	if err != 0 {
		return nil, err
	}
	if err := h.fail[op].take(); err != 0 {
		return nil, err
	}
	return s, s.fail[op].take()
}

// queue puts w into the ready list, unless it is there.
func (h *Host) queue(w *watched) {
	switch {
	case w.queued:
		return
	case w.view != nil:
		w.view.ready = append(w.view.ready, w)
	default:
		h.ready = append(h.ready, w)
	}
	w.queued = true
}

// fault remembers a call that no correct program makes.
func (h *Host) fault(format string, args ...any) {
	h.faults = append(h.faults, fmt.Sprintf(format, args...))
}
