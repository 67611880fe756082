package worker_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// dnsQuery is a question for addresses of a name.
func dnsQuery(id uint16, name string) []byte {
	b, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// dnsAnswer is a response to a query with so many bytes of text.
func dnsAnswer(query []byte, text int) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		panic(err)
	}
	m.Response, m.RecursionAvailable = true, true
	for ; text > 0; text -= 255 {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.TXTResource{TXT: []string{string(make([]byte, min(text, 255)))}},
		})
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// toResolver is the latest datagram to a resolver.
func (r *rig) toResolver(a netip.Addr) (s *hosttest.Socket, query []byte) {
	r.t.Helper()
	for _, s := range r.host.Sockets() {
		if d := s.Datagrams(); s.Peer == at(a, 53) && len(d) > 0 {
			return s, d[len(d)-1].Data
		}
	}
	r.t.Fatalf("%v was not asked", a)
	return nil, nil
}

// TestDNS: a question of either family reaches the first resolver, whatever its family, and the answer comes back from where was asked.
func TestDNS(t *testing.T) {
	for _, asked := range []netip.Addr{dns4, dns6} {
		t.Run(asked.String(), func(t *testing.T) {
			r := newRig(t)
			guest := at(like(asked), 5353)
			question := dnsQuery(7, "known.example.")
			r.inject(udpFrame(guest, at(asked, 53), question))
			r.settle()
			s, query := r.toResolver(resolver4)
			if !bytes.Equal(query[2:], question[2:]) || s.Local.Port() == 5353 {
				t.Errorf("%v sends %x for %x", s, query, question)
			}
			s.Deliver(dnsAnswer(query, 100))
			g := r.only()
			if g.from != at(asked, 53) || g.to != guest || !bytes.Equal(g.data, dnsAnswer(question, 100)) {
				t.Errorf("%v", g)
			}
			if n := len(r.host.Sockets()); n != 1 || r.stats.DNSQueries != 1 || r.stats.DNSAnswers != 1 || r.stats.UDPOpened != 0 {
				t.Errorf("%d sockets, %d queries, %d answers, %d UDP flows", n, r.stats.DNSQueries, r.stats.DNSAnswers, r.stats.UDPOpened)
			}
			r.run(20 * second)
			r.idle()
			if n := r.host.Open(); n > 2 { // the link and the wake-up
				t.Errorf("%d descriptors stay open", n)
			}
		})
	}
}

// TestDNSSockets: many questions need few descriptors.
func TestDNSSockets(t *testing.T) {
	r := newRig(t)
	for i := range 3000 {
		r.inject(udpFrame(at(guest4, 1024+uint16(i)), at(dns4, 53), dnsQuery(uint16(i), "known.example.")))
		if i%100 == 99 {
			r.settle()
		}
	}
	s, _ := r.toResolver(resolver4)
	if n := len(r.host.Sockets()); n != 1 || len(s.Datagrams()) != 3000 {
		t.Fatalf("%d sockets, %d queries", n, len(s.Datagrams()))
	}
	for _, d := range s.Datagrams() {
		s.Deliver(dnsAnswer(d.Data, 0))
	}
	r.settle()
	for i, g := range r.take() {
		if g.to.Port() != 1024+uint16(i) || !bytes.Equal(g.data, dnsAnswer(dnsQuery(uint16(i), "known.example."), 0)) {
			t.Fatalf("answer %d: %v", i, g)
		}
	}
	if r.stats.DNSAnswers != 3000 {
		t.Errorf("%d answers", r.stats.DNSAnswers)
	}
}

// TestDNSFailover: when a resolver is silent, refuses, or cannot be reached, the next one answers.
func TestDNSFailover(t *testing.T) {
	for _, tc := range []struct {
		name  string
		edit  func(*rig)
		after func(*rig)
		limit int64
	}{
		{"silent", nil, nil, second},
		{"refused", nil, func(r *rig) { s, _ := r.toResolver(resolver4); s.Unreachable(unix.ECONNREFUSED) }, millisecond},
		{"no way", func(r *rig) { r.host.Fail(hosttest.OpenUDP, unix.ENETUNREACH, 1) }, nil, millisecond},
		{"no way to send", func(r *rig) { r.host.Fail(hosttest.SendDatagrams, unix.EHOSTUNREACH, 1) }, nil, millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			if tc.edit != nil {
				tc.edit(r)
			}
			question := dnsQuery(7, "known.example.")
			r.inject(udpFrame(at(guest4, 5353), at(dns4, 53), question))
			r.settle()
			if tc.after != nil {
				tc.after(r)
			}
			r.run(tc.limit)
			s, query := r.toResolver(resolver6)
			s.Deliver(dnsAnswer(query, 0))
			if g := r.only(); !bytes.Equal(g.data, dnsAnswer(question, 0)) {
				t.Errorf("%v", g)
			}
			if r.stats.DNSRetries > 1 || r.stats.DNSAnswers != 1 {
				t.Errorf("%d retries, %d answers", r.stats.DNSRetries, r.stats.DNSAnswers)
			}
		})
	}
}

// TestDNSNobody: a question that nobody answers gets an answer that says so.
func TestDNSNobody(t *testing.T) {
	for _, tc := range []struct {
		name   string
		edit   func(*rig)
		within int64
		why    stats.Reason
	}{
		{"silent", func(*rig) {}, 5 * second, stats.None},
		{"no descriptors", func(r *rig) { r.host.Fail(hosttest.OpenUDP, unix.EMFILE, hosttest.Always) }, 0, stats.NoDescriptors},
		{"no resolver", func(r *rig) { r.w.SetNaming([]netip.Addr{dns4}, nil) }, 0, stats.DNSNoServer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			tc.edit(r)
			r.inject(udpFrame(at(guest4, 5353), at(dns4, 53), dnsQuery(7, "known.example.")))
			r.run(tc.within)
			g := r.only()
			var m dnsmessage.Message
			if err := m.Unpack(g.data); err != nil || m.ID != 7 || !m.Response || m.RCode != dnsmessage.RCodeServerFailure || len(m.Questions) != 1 {
				t.Errorf("%v: %+v, %v", g, m, err)
			}
			if tc.why != stats.None && r.stats.Drops[tc.why] == 0 {
				t.Errorf("not counted as %v", tc.why)
			}
		})
	}
}

// TestDNSBad: what is no query, and what is no answer, is counted and goes no further.
func TestDNSBad(t *testing.T) {
	r := newRig(t)
	r.inject(udpFrame(at(guest4, 5353), at(dns4, 53), nil))
	r.inject(udpFrame(at(guest4, 5353), at(dns4, 53), make([]byte, 11)))
	r.inject(udpFrame(at(guest4, 5353), at(dns4, 53), make([]byte, 5000)))
	r.inject(udpFrame(at(guest4, 5353), at(dns4, 53), dnsAnswer(dnsQuery(1, "a."), 0)))
	r.nothing()
	r.dropped(stats.BadDNS, 4)
	r.inject(udpFrame(at(guest4, 5353), at(dns4, 53), dnsQuery(7, "known.example.")))
	r.settle()
	s, query := r.toResolver(resolver4)
	other := dnsQuery(0, "other.example.")
	copy(other, query[:2])
	wrongID := dnsAnswer(query, 0)
	wrongID[0] ^= 1
	s.Deliver(nil)
	s.Deliver(dnsAnswer(other, 0))
	s.Deliver(wrongID)
	r.nothing()
	r.dropped(stats.BadDNS, 5)
	r.dropped(stats.DNSNoQuery, 2)
	s.Deliver(dnsAnswer(query, 0))
	r.only()
}

// TestDNSLongAnswer: an answer that the link does not carry is cut, so that the guest asks over TCP.
func TestDNSLongAnswer(t *testing.T) {
	r := newRig(t, func(c *worker.Config) { c.MTU = 1280 })
	r.inject(udpFrame(at(guest6, 5353), at(dns6, 53), dnsQuery(7, "known.example.")))
	r.settle()
	s, query := r.toResolver(resolver4)
	s.Deliver(dnsAnswer(query, 2000))
	g := r.only()
	var m dnsmessage.Message
	if err := m.Unpack(g.data); err != nil || m.ID != 7 || !m.Truncated || len(m.Answers) != 0 || len(m.Questions) != 1 {
		t.Errorf("%v: %+v, %v", g, m, err)
	}
}

// TestDNSConnection: a connection is tried with one resolver after the other before the guest is refused.
func TestDNSConnection(t *testing.T) {
	refuse := func(s *hosttest.Socket) hostsock.Errno { s.Refuse(unix.ECONNREFUSED); return 0 }
	hang := func(*hosttest.Socket) hostsock.Errno { return 0 }
	unreachable := func(*hosttest.Socket) hostsock.Errno { return unix.ENETUNREACH }
	for _, tc := range []struct {
		name  string
		first func(*hosttest.Socket) hostsock.Errno
		limit int64
	}{{"refuses", refuse, 0}, {"cannot be reached", unreachable, 0}, {"hangs", hang, 1100 * millisecond}} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.host.OnOpen = func(s *hosttest.Socket) hostsock.Errno {
				if s.Peer == at(resolver4, 53) {
					return tc.first(s)
				}
				return establish(s)
			}
			r.inject(tcpFrame(at(guest4, 5000), at(dns4, 53), layers.TCP{SYN: true, Seq: 1}, nil))
			r.run(tc.limit)
			g := r.only()
			if g.tcp == nil || !g.tcp.SYN || !g.tcp.ACK {
				t.Fatalf("%v", g)
			}
			if s := r.host.Last(); s.Peer != at(resolver6, 53) || s.Closed() || r.host.Open() > 3 {
				t.Errorf("%v, of %d open descriptors", s, r.host.Open())
			}
		})
	}
	t.Run("all refuse", func(t *testing.T) {
		r := newRig(t)
		r.host.OnOpen = refuse
		r.inject(tcpFrame(at(guest4, 5000), at(dns4, 53), layers.TCP{SYN: true, Seq: 1}, nil))
		if g := r.only(); g.tcp == nil || !g.tcp.RST {
			t.Errorf("%v", g)
		}
		r.run(2 * second)
		r.idle()
	})
}

// TestSetNaming: a change of the resolvers holds from the next question on, and those under way are asked again.
func TestSetNaming(t *testing.T) {
	r := newRig(t)
	r.inject(udpFrame(at(guest4, 5353), at(dns4, 53), dnsQuery(7, "known.example.")))
	r.settle()
	r.w.SetNaming([]netip.Addr{gw4}, []netip.AddrPort{at(server4, 53)})
	r.run(millisecond)
	s, query := r.toResolver(server4)
	s.Deliver(dnsAnswer(query, 0))
	if g := r.only(); g.from != at(dns4, 53) {
		t.Errorf("%v", g)
	}
	if open := r.sockets(hosttest.UDP); len(open) != 1 {
		t.Errorf("%d sockets open", len(open))
	}
	r.inject(udpFrame(at(guest4, 5354), at(gw4, 53), dnsQuery(8, "known.example.")))
	r.settle()
	if n := len(s.Datagrams()); n != 2 {
		t.Errorf("%d queries to the new resolver", n)
	}
}

// TestDNSGSO: questions may come as one GSO frame.
func TestDNSGSO(t *testing.T) {
	r := newRig(t)
	query := dnsQuery(7, "known.example.")
	frame := udpFrame(at(guest4, 5353), at(dns4, 53), bytes.Repeat(query, 3))
	r.link.Inject(offload(guest4, dns4, frame, uint16(len(query))), frame)
	r.settle()
	s, _ := r.toResolver(resolver4)
	if n := len(s.Datagrams()); n != 3 {
		t.Errorf("%d queries", n)
	}
}
