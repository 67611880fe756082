package dns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/vasta-net/vasta/stats"
	"golang.org/x/net/dns/dnsmessage"
	"pgregory.net/rapid"
)

// TestForward: a query is answered by the first resolver, with the guest's identifier and under ours.
func TestForward(t *testing.T) {
	w := newWorld(t, 2)
	if r := w.ask(0x1234, "known.example."); r != stats.None {
		t.Fatal(r)
	}
	w.run(2 * millisecond)
	w.wantCodes(dnsmessage.RCodeSuccess)
	w.wantSent(1, 0)
	if !bytes.Equal(w.answered[0], response(t, knownQuery(0x1234), 0)) || w.clients[0] != guest {
		t.Errorf("%x for %v", w.answered[0], w.clients[0])
	}
	if w.ids[0x1234] != 0 {
		t.Error("the guest's identifier left the house")
	}
	w.idle()
}

func knownQuery(id uint16) []byte { return newQuery(id, "known.example.") }

// TestFailover: the loss of the first resolver costs what is under way a fraction of a second, and later queries nothing.
func TestFailover(t *testing.T) {
	for _, b := range []behaviour{{silent: true}, {refuses: true, after: millisecond}} {
		w := newWorld(t, 2)
		w.behave = func(s netip.AddrPort) behaviour {
			if s == resolvers[0] {
				return b
			}
			return behaviour{after: millisecond}
		}
		w.ask(1, "a.example.")
		w.run(500 * millisecond)
		w.wantCodes(dnsmessage.RCodeSuccess)
		w.wantSent(1, 1)
		for i := range uint16(9) {
			w.ask(2+i, "b.example.")
			w.run(2 * millisecond)
		}
		if len(w.answered) != 10 {
			t.Errorf("%d answers", len(w.answered))
		}
		w.wantSent(1, 10)
		w.run(2 * second) // the silent one is asked again beside the other, and answers now
		w.behave = func(netip.AddrPort) behaviour { return behaviour{after: millisecond} }
		w.ask(20, "c.example.")
		w.run(2 * millisecond)
		w.wantSent(2, 11)
		w.ask(21, "d.example.")
		w.run(2 * millisecond)
		w.wantSent(3, 11)
		if len(w.answered) != 12 {
			t.Errorf("%d answers", len(w.answered))
		}
		w.idle()
	}
}

// TestLoad is 10,000 queries a second whose first resolver is silent: none is lost, and none takes longer than a second.
func TestLoad(t *testing.T) {
	w := newWorld(t, 2)
	w.behave = func(s netip.AddrPort) behaviour { return behaviour{silent: s == resolvers[0], after: millisecond} }
	const n, each = 20000, second / 10000
	for i := range n {
		if r := w.ask(uint16(i), "known.example."); r != stats.None {
			t.Fatalf("query %d: %v", i, r)
		}
		w.run(each)
	}
	w.run(second - each)
	if len(w.answered) != n || w.stats.DNSFailed != 0 {
		t.Errorf("%d answers of %d, %d failed", len(w.answered), n, w.stats.DNSFailed)
	}
	if w.stats.DNSRetries > 4200 {
		t.Errorf("%d retries: the silence of the resolver was not noticed", w.stats.DNSRetries)
	}
	if w.most > 2*maxSockets {
		t.Errorf("%d sockets at once", w.most)
	}
	if w.opened < 5 {
		t.Errorf("%d sockets for %d queries: ports are used for long", w.opened, n)
	}
	w.idle()
}

// TestNobody: a query that nobody answers is answered by the forwarder, before the guest asks again.
func TestNobody(t *testing.T) {
	for servers, attempts := range map[int]int{1: 4, 2: 5, 3: 6} {
		w := newWorld(t, servers)
		w.behave = func(netip.AddrPort) behaviour { return behaviour{silent: true} }
		w.ask(7, "a.example.")
		w.run(3 * second)
		w.wantCodes()
		w.run(2 * second)
		w.wantCodes(dnsmessage.RCodeServerFailure)
		if n := w.sent[resolvers[0]] + w.sent[resolvers[1]] + w.sent[resolvers[2]]; n < 3 || n > attempts {
			t.Errorf("%d resolvers: %d attempts", servers, n)
		}
		if identifier(w.answered[0]) != 7 {
			t.Errorf("answer %x", w.answered[0])
		}
		w.idle()
	}
}

// TestAllRefuse: when it is known that nobody will answer, the guest is told at once.
func TestAllRefuse(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"ICMP errors": func(w *world) {
			w.behave = func(netip.AddrPort) behaviour { return behaviour{refuses: true, after: millisecond} }
		},
		"no way": func(w *world) {
			for _, s := range resolvers {
				w.down[s] = true
			}
		},
		"no sockets":   func(w *world) { w.lost = true },
		"no resolvers": func(w *world) { w.f.SetServers(w.now, nil) },
	} {
		w := newWorld(t, 3)
		spoil(w)
		for i := range uint16(3) {
			w.ask(i, "a.example.")
			w.run(5 * millisecond)
			if len(w.answered) != int(i)+1 {
				t.Errorf("%s: %d answers after query %d", name, len(w.answered), i)
			}
		}
		w.wantCodes(dnsmessage.RCodeServerFailure, dnsmessage.RCodeServerFailure, dnsmessage.RCodeServerFailure)
		w.idle()
	}
}

// TestServerFailure: a resolver's own failure is the guest's only when all have failed.
func TestServerFailure(t *testing.T) {
	for _, code := range []dnsmessage.RCode{dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused, dnsmessage.RCodeNotImplemented} {
		w := newWorld(t, 2)
		w.behave = func(s netip.AddrPort) behaviour {
			if s == resolvers[0] {
				return behaviour{code: code}
			}
			return behaviour{after: millisecond}
		}
		w.ask(1, "a.example.")
		w.run(2 * millisecond)
		w.wantCodes(dnsmessage.RCodeSuccess)
		w.behave = func(netip.AddrPort) behaviour { return behaviour{code: code} }
		w.ask(2, "a.example.")
		w.run(2 * millisecond)
		w.wantCodes(dnsmessage.RCodeSuccess, code)
		w.idle()
	}
	w := newWorld(t, 2)
	w.behave = func(netip.AddrPort) behaviour { return behaviour{code: dnsmessage.RCodeNameError} }
	w.ask(1, "a.example.")
	w.run(2 * millisecond)
	w.wantCodes(dnsmessage.RCodeNameError) // that is an answer
	w.wantSent(1, 0)
}

// TestSlow: a resolver that takes its time is not given up while it answers.
func TestSlow(t *testing.T) {
	w := newWorld(t, 1)
	w.behave = func(netip.AddrPort) behaviour { return behaviour{after: 1400 * millisecond} }
	w.ask(1, "a.example.")
	w.run(1450 * millisecond)
	w.wantCodes(dnsmessage.RCodeSuccess)
	w.wantSent(1)
}

// TestSetServers: queries under way are asked again of the new resolvers, and the answers of the old ones are not waited for.
func TestSetServers(t *testing.T) {
	w := newWorld(t, 1)
	w.behave = func(s netip.AddrPort) behaviour { return behaviour{silent: s == resolvers[0], after: millisecond} }
	for i := range uint16(100) {
		w.ask(i, "a.example.")
	}
	w.f.SetServers(w.now, resolvers[1:2])
	w.run(2 * millisecond)
	if len(w.answered) != 100 || len(w.open) != 1 {
		t.Errorf("%d answers, %d sockets", len(w.answered), len(w.open))
	}
	opened := w.opened
	w.f.SetServers(w.now, resolvers[1:2]) // nothing new
	w.ask(1, "a.example.")
	w.run(2 * millisecond)
	if w.opened != opened {
		t.Error("the same resolvers again have cost the socket")
	}
	w.idle()
}

// TestFull: queries beyond those that may be under way are refused, and there is room again afterwards.
func TestFull(t *testing.T) {
	w := newWorld(t, 1)
	w.behave = func(netip.AddrPort) behaviour { return behaviour{silent: true} }
	for i := range MaxPending {
		if r := w.ask(uint16(i), "a.example."); r != stats.None {
			t.Fatalf("query %d: %v", i, r)
		}
	}
	if r := w.ask(1, "a.example."); r != stats.DNSFull {
		t.Errorf("one more: %v", r)
	}
	w.wantCodes(dnsmessage.RCodeServerFailure)
	w.run(5 * second)
	if len(w.answered) != MaxPending+1 {
		t.Errorf("%d answers", len(w.answered))
	}
	w.behave = func(netip.AddrPort) behaviour { return behaviour{} }
	if r := w.ask(1, "a.example."); r != stats.None {
		t.Error(r)
	}
	w.idle()
}

// TestForged: what does not come through the socket of the query, or is not an answer to it, is not believed.
func TestForged(t *testing.T) {
	w := newWorld(t, 2)
	var real []byte
	var through int32
	w.behave = func(netip.AddrPort) behaviour { return behaviour{after: 100 * millisecond} }
	w.ask(1, "Known.example.")
	real, through = w.events[0].msg, w.events[0].socket
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(real)) }
	for name, tc := range map[string]struct {
		socket int32
		msg    []byte
		want   stats.Reason
	}{
		"another socket":     {through + 1, real, stats.DNSNoQuery},
		"identifier":         {through, change(func(b []byte) []byte { b[1] ^= 1; return b }), stats.DNSNoQuery},
		"a query":            {through, change(func(b []byte) []byte { b[2] &^= 0x80; return b }), stats.BadDNS},
		"name":               {through, change(func(b []byte) []byte { b[14] ^= 1; return b }), stats.DNSNoQuery},
		"type":               {through, change(func(b []byte) []byte { b[len(b)-3] ^= 1; return b }), stats.DNSNoQuery},
		"no question":        {through, change(func(b []byte) []byte { b[5] = 0; return b[:12] }), stats.DNSNoQuery},
		"two questions":      {through, change(func(b []byte) []byte { b[5] = 2; return b }), stats.DNSNoQuery},
		"question cut short": {through, change(func(b []byte) []byte { return b[:len(b)-1] }), stats.DNSNoQuery},
		"short":              {through, real[:11], stats.BadDNS},
		"empty":              {through, nil, stats.BadDNS},
	} {
		if r := w.f.Answer(w.now, tc.socket, bytes.Clone(tc.msg)); r != tc.want || len(w.answered) != 0 {
			t.Errorf("%s: %v, %d answers", name, r, len(w.answered))
		}
	}
	// The case of letters is not kept by all resolvers.
	if r := w.f.Answer(w.now, through, change(func(b []byte) []byte { return append(b[:12], bytes.ToLower(b[12:])...) })); r != stats.None || len(w.answered) != 1 {
		t.Errorf("the answer: %v", r)
	}
	if r := w.f.Answer(w.now, through, bytes.Clone(real)); r != stats.DNSNoQuery {
		t.Errorf("the answer again: %v", r)
	}
}

// TestBadQueries: what has a header but no question is answered so, other things are not answered.
func TestBadQueries(t *testing.T) {
	w := newWorld(t, 1)
	good := knownQuery(9)
	for name, msg := range map[string][]byte{
		"empty": nil, "short": good[:11], "a response": response(t, good, 0), "long": make([]byte, MaxQuery+1),
	} {
		if r := w.f.Ask(w.now, guest, msg); r != stats.BadDNS || len(w.answered) > 0 {
			t.Errorf("%s: %v", name, r)
		}
	}
	pointer := slices.Clone(good)
	pointer[12] = 0xc0
	two := slices.Clone(good)
	two[5] = 2
	name := binary.BigEndian.AppendUint32(slices.Clone(good[:12]), 0)
	name = append(name[:12], bytes.Repeat([]byte("\x3f"+string(bytes.Repeat([]byte{'a'}, 63))), 5)...)
	for _, msg := range [][]byte{good[:12], good[:len(good)-1], pointer, two, append(name, 0, 0, 1, 0, 1)} {
		if r := w.f.Ask(w.now, guest, msg); r != stats.BadDNS {
			t.Errorf("%x: %v", msg, r)
		}
	}
	if codes := w.codes(); len(codes) != 5 || slices.ContainsFunc(codes, func(c dnsmessage.RCode) bool { return c != dnsmessage.RCodeFormatError }) {
		t.Errorf("answers %v", codes)
	}
	w.wantSent(0)
}

// TestIdentifiers: identifiers are spread and not repeated among queries under way.
func TestIdentifiers(t *testing.T) {
	w := newWorld(t, 1)
	w.behave = func(netip.AddrPort) behaviour { return behaviour{silent: true} }
	for range 10000 {
		w.ask(0, "a.example.")
	}
	var low int
	for id, n := range w.ids {
		if n > 1 {
			t.Fatalf("identifier %d is used %d times", id, n)
		}
		if id < 1<<15 {
			low++
		}
	}
	if len(w.ids) != 10000 || low < 4500 || low > 5500 {
		t.Errorf("%d identifiers, %d of them in the lower half", len(w.ids), low)
	}
}

// TestRefusedLate: a resolver that refuses the last attempt does not begin another one, which would end after the client's patience of 5 s.
func TestRefusedLate(t *testing.T) {
	w := newWorld(t, 2)
	start := w.now
	w.behave = func(s netip.AddrPort) behaviour { // the second refuses its second query
		return behaviour{silent: s == resolvers[0] || w.now < start+3*second, after: 101 * millisecond, refuses: true}
	}
	w.ask(7, "a.example.")
	w.run(4900 * millisecond)
	w.wantCodes(dnsmessage.RCodeServerFailure)
}

// TestEveryQueryIsAnswered: whatever resolvers do, each query is answered exactly once and within 5 seconds, and nothing is left.
func TestEveryQueryIsAnswered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rapid.IntRange(0, 3).Draw(t, "servers"))
		w.behave = func(netip.AddrPort) behaviour {
			return behaviour{
				after: int64(rapid.IntRange(0, 3000).Draw(t, "after")) * millisecond, silent: rapid.IntRange(0, 2).Draw(t, "silent") == 0,
				refuses: rapid.IntRange(0, 4).Draw(t, "refuses") == 0, code: dnsmessage.RCode(rapid.SampledFrom([]int{0, 0, 2, 3, 5}).Draw(t, "code")),
			}
		}
		asked := map[uint16]int64{}
		n := rapid.IntRange(1, 30).Draw(t, "queries")
		for i := range uint16(n) {
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				w.f.SetServers(w.now, resolvers[:rapid.IntRange(0, 3).Draw(t, "servers")])
			case 1:
				s := rapid.SampledFrom(resolvers).Draw(t, "resolver")
				w.down[s] = !w.down[s]
			case 2:
				w.lost = !w.lost
			}
			asked[i] = w.now
			w.ask(i, "a.example.")
			w.run(int64(rapid.IntRange(0, 2000).Draw(t, "pause")) * millisecond)
			for id, at := range asked {
				if w.now-at > 5*second && !slices.ContainsFunc(w.answered, func(b []byte) bool { return identifier(b) == id }) {
					t.Fatalf("query %d was not answered within 5 s", id)
				}
			}
		}
		w.run(5 * second)
		seen := map[uint16]bool{}
		for _, b := range w.answered {
			if seen[identifier(b)] {
				t.Fatalf("query %d is answered twice", identifier(b))
			}
			seen[identifier(b)] = true
		}
		if len(seen) != n {
			t.Fatalf("%d of %d queries are answered", len(seen), n)
		}
		w.idle()
	})
}

// TestNoAllocations: with memory grown to the load, a query and its answer allocate nothing.
func TestNoAllocations(t *testing.T) {
	n := &quiet{}
	f := New(n, new(stats.Worker), [32]byte{})
	f.SetServers(1, resolvers[:2])
	q, a := knownQuery(1), response(t, knownQuery(1), 0)
	now := second
	round := func() {
		now += millisecond
		f.Ask(now, guest, q)
		copy(a, n.last[:2])
		f.Answer(now, 1, a)
	}
	round()
	if allocs := testing.AllocsPerRun(1000, round); allocs != 0 {
		t.Errorf("%v allocations for a query", allocs)
	}
	if n.answers < 1000 {
		t.Errorf("%d answers", n.answers)
	}
}

// quiet is a network that keeps the last query.
type quiet struct {
	last    [2]byte
	answers int
}

func (q *quiet) OpenResolver(netip.AddrPort) (int32, bool) { return 1, true }
func (q *quiet) CloseResolver(int32)                       {}
func (q *quiet) SendQuery(_ int32, msg []byte) bool        { q.last = [2]byte(msg); return true }
func (q *quiet) SendAnswer(*Client, []byte)                { q.answers++ }

// FuzzForwarder: whatever guest and resolvers send, answers are well-formed, and nothing is left.
func FuzzForwarder(f *testing.F) {
	f.Add(knownQuery(1), response(f, knownQuery(1), 0))
	f.Add(knownQuery(1), response(f, newQuery(1, "other.example."), 0))
	f.Add(knownQuery(1)[:12], []byte{})
	f.Fuzz(func(t *testing.T, q, a []byte) {
		w := newWorld(t, 0)
		w.f.SetServers(w.now, resolvers[:2])
		n := &capture{world: w}
		w.f.net = n
		w.f.Ask(w.now, guest, q)
		for socket := int32(1); socket <= w.next; socket++ {
			if len(a) >= 2 && n.last != nil {
				a = append(bytes.Clone(n.last[:2]), a[2:]...)
			}
			w.f.Answer(w.now, socket, a)
			w.f.Unreachable(w.now, socket)
		}
		w.run(5 * second)
		if len(w.answered) > 1 {
			t.Fatalf("%d answers", len(w.answered))
		}
		for _, b := range w.answered {
			if len(b) < headerLen || !isResponse(b) || identifier(b) != identifier(q) {
				t.Fatalf("answer %x to %x", b, q)
			}
		}
		w.idle()
	})
}

// capture is a world whose resolvers are silent, and that keeps the last query.
type capture struct {
	*world
	last []byte
}

func (c *capture) SendQuery(_ int32, msg []byte) bool {
	c.last = bytes.Clone(msg)
	return true
}
