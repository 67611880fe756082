package dns

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/vasta-net/vasta/stats"
	"golang.org/x/net/dns/dnsmessage"
)

const (
	millisecond = int64(1e6)
	second      = int64(1e9)
)

var (
	guest = Client{Guest: netip.MustParseAddrPort("10.0.2.15:5353"), At: netip.MustParseAddr("169.254.1.1")}
	// resolvers are of both families: which one a guest asks by does not matter.
	resolvers = []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[2001:db8::53]:53"), netip.MustParseAddrPort("127.0.0.53:53"),
	}
)

// world is the network around a forwarder, in virtual time.
type world struct {
	t        TB
	f        *Forwarder
	stats    stats.Worker
	now      int64
	open     map[int32]netip.AddrPort // sockets
	next     int32
	opened   int
	most     int                     // sockets open at once
	down     map[netip.AddrPort]bool // cannot be reached: sending fails
	behave   func(server netip.AddrPort) behaviour
	events   []event
	sent     map[netip.AddrPort]int
	ids      map[uint16]int // of queries sent
	answered [][]byte
	clients  []Client
	lost     bool // no socket is to be had
}

type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// behaviour is what a resolver does with a query.
type behaviour struct {
	after   int64 // until the answer
	silent  bool
	refuses bool // there is nobody: an ICMP error comes back
	code    dnsmessage.RCode
}

type event struct {
	at     int64
	socket int32
	msg    []byte // nil: an ICMP error
}

func newWorld(t TB, servers int) *world {
	w := &world{
		t: t, now: second, open: map[int32]netip.AddrPort{}, down: map[netip.AddrPort]bool{}, sent: map[netip.AddrPort]int{}, ids: map[uint16]int{},
		behave: func(netip.AddrPort) behaviour { return behaviour{after: millisecond} },
	}
	w.f = New(w, &w.stats, [32]byte{1})
	w.f.SetServers(w.now, resolvers[:servers])
	return w
}

func (w *world) OpenResolver(server netip.AddrPort) (int32, bool) {
	if w.lost {
		return 0, false
	}
	w.next++
	w.open[w.next] = server
	w.opened++
	w.most = max(w.most, len(w.open))
	return w.next, true
}

func (w *world) CloseResolver(socket int32) {
	if _, ok := w.open[socket]; !ok {
		w.t.Fatalf("socket %d is closed twice", socket)
	}
	delete(w.open, socket)
}

func (w *world) SendQuery(socket int32, msg []byte) bool {
	server, ok := w.open[socket]
	if !ok {
		w.t.Fatalf("a query through socket %d, which is closed", socket)
	}
	if w.down[server] {
		return false
	}
	w.sent[server]++
	w.ids[identifier(msg)]++
	b := w.behave(server)
	switch {
	case b.silent:
	case b.refuses:
		w.events = append(w.events, event{at: w.now + b.after, socket: socket})
	default:
		w.events = append(w.events, event{at: w.now + b.after, socket: socket, msg: response(w.t, msg, b.code)})
	}
	return true
}

func (w *world) SendAnswer(c *Client, msg []byte) {
	w.answered = append(w.answered, bytes.Clone(msg))
	w.clients = append(w.clients, *c)
}

// run lets d nanoseconds pass.
func (w *world) run(d int64) {
	w.t.Helper()
	end := w.now + d
	for steps := 0; ; steps++ {
		if steps > 200000 {
			w.t.Fatalf("the forwarder does not come to rest")
		}
		at, ok := w.f.Next()
		first := -1
		for i := range w.events {
			if first < 0 || w.events[i].at < w.events[first].at {
				first = i
			}
		}
		switch {
		case first >= 0 && w.events[first].at <= end && (!ok || w.events[first].at <= at):
			e := w.events[first]
			w.events[first] = w.events[len(w.events)-1]
			w.events = w.events[:len(w.events)-1]
			w.now = max(w.now, e.at)
			if _, alive := w.open[e.socket]; !alive {
				continue
			}
			if e.msg == nil {
				w.f.Unreachable(w.now, e.socket)
			} else {
				w.f.Answer(w.now, e.socket, e.msg)
			}
		case ok && at <= end:
			w.now = max(w.now, at)
			w.f.Timeout(w.now)
		default:
			w.now = end
			return
		}
	}
}

// ask asks for a name.
func (w *world) ask(id uint16, name string) stats.Reason {
	return w.f.Ask(w.now, guest, newQuery(id, name))
}

// idle checks that nothing is left when there was nothing to do for a while.
func (w *world) idle() {
	w.t.Helper()
	w.run(30 * second)
	if _, ok := w.f.Next(); ok || w.f.Pending() != 0 || len(w.open) != 0 || w.f.queries != nil {
		w.t.Errorf("%d queries, %d sockets, a timer %v, and memory for %d", w.f.Pending(), len(w.open), ok, len(w.f.queries))
	}
}

// codes are the response codes of the answers so far, which have to be well-formed.
func (w *world) codes() (codes []dnsmessage.RCode) {
	w.t.Helper()
	for _, b := range w.answered {
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil || !m.Response {
			w.t.Fatalf("answer %x: %v", b, err)
		}
		codes = append(codes, m.RCode)
	}
	return codes
}

func newQuery(id uint16, name string) []byte {
	b, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func response(t TB, query []byte, code dnsmessage.RCode) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		t.Fatalf("a resolver gets %x: %v", query, err)
	}
	m.Response, m.RCode = true, code
	b, err := m.Pack()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return b
}

// wantCodes checks what the guest was told.
func (w *world) wantCodes(want ...dnsmessage.RCode) {
	w.t.Helper()
	if got := w.codes(); !slices.Equal(got, want) {
		w.t.Errorf("answers %v, want %v", got, want)
	}
}

func (w *world) wantSent(want ...int) {
	w.t.Helper()
	got := make([]int, 0, len(want))
	for i := range want {
		got = append(got, w.sent[resolvers[i]])
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("resolvers got %v queries, want %v", got, want)
	}
}
