package worker_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vasta-net/vasta/flow/policy"
	"github.com/vasta-net/vasta/hostsock/hosttest"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/net/dns/dnsmessage"
)

// withRules is the edit of a worker's configuration that gives it rules.
func withRules(t testing.TB, text string) (*policy.Set, func(*worker.Config)) {
	t.Helper()
	rules, err := policy.ReadRules(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return s, func(c *worker.Config) { c.Policy = s }
}

// adminProhibited reports whether g is the ICMP error that says so.
func adminProhibited(g got) bool {
	if g.icmp4 != nil {
		return g.icmp4.TypeCode == layers.CreateICMPv4TypeCode(3, layers.ICMPv4CodeCommAdminProhibited)
	}
	return g.icmp6 != nil && g.icmp6.TypeCode == layers.CreateICMPv6TypeCode(1, layers.ICMPv6CodeAdminProhibited)
}

// refuses checks that a connection is refused at once.
func (r *rig) refuses(to netip.AddrPort) {
	r.t.Helper()
	c := r.dial(to)
	r.pump()
	c.refused()
}

// TestDeniedOut: a flow that a rule refuses is refused at once, by a reset or an ICMP error, without a socket, and counted.
func TestDeniedOut(t *testing.T) {
	set, edit := withRules(t, "deny 198.51.100.0/24,2001:db8:1::/48\ndeny 127.0.0.1,::1")
	for _, peer := range []netip.Addr{server4, server6, gw4, gw6} { // the gateway is the host's loopback
		t.Run(peer.String(), func(t *testing.T) {
			r := newRig(t, edit)
			guest := like(peer)
			r.inject(tcpFrame(at(guest, 4000), at(peer, 80), layers.TCP{SYN: true, Seq: 77}, nil))
			if g := r.only(); g.tcp == nil || flags(g.tcp) != "R." || g.tcp.Ack != 78 || g.from != at(peer, 80) {
				t.Errorf("TCP is answered by %v", g)
			}
			r.inject(udpFrame(at(guest, 4000), at(peer, 53), []byte("x")))
			if g := r.only(); !adminProhibited(g) {
				t.Errorf("UDP is answered by %v", g)
			}
			r.inject(echoFrame(guest, peer, 7, 1, nil))
			if g := r.only(); !adminProhibited(g) {
				t.Errorf("echo is answered by %v", g)
			}
			if n := len(r.host.Sockets()); n != 0 {
				t.Errorf("%d sockets were opened", n)
			}
			r.dropped(stats.PolicyDenied, 3)
			r.idle()
		})
	}
	if c := set.Counts(); c[0].Flows != 6 || c[1].Flows != 6 {
		t.Errorf("counted: %+v", c)
	}
}

// TestAllowedOut: what a rule lets through goes on, and only that.
func TestAllowedOut(t *testing.T) {
	_, edit := withRules(t, "allow out tcp 198.51.100.7 80\nallow out udp 2001:db8:1::7 123\ndeny all")
	r := newRig(t, edit)
	r.connect(at(server4, 80)).end()
	r.host.Last().End()
	r.pump()
	r.inject(udpFrame(at(guest6, 4000), at(server6, 123), []byte("x")))
	r.nothing()
	if n := len(r.sockets(hosttest.UDP)); n != 1 {
		t.Errorf("%d UDP sockets", n)
	}
	r.refuses(at(server4, 81))
	r.refuses(at(server6, 80))
	r.dropped(stats.PolicyDenied, 2)
}

// TestDeniedIn: a connection from outside that a rule refuses is reset at once, and the guest hears nothing; a datagram is dropped.
func TestDeniedIn(t *testing.T) {
	for _, workers := range []int{1, 2} {
		_, edit := withRules(t, "allow in 198.51.100.7 5000\nallow in 127.0.0.1 5001\ndeny in")
		var r *rig
		if workers == 1 {
			r = newRig(t, edit)
		} else {
			r = newCrew(t, workers, edit)
		}
		l := r.forward(at(netip.IPv6Unspecified(), 8000), 5000, false)
		other := r.forward(at(netip.IPv6Unspecified(), 8001), 5001, false)
		u := r.forward(at(netip.IPv6Unspecified(), 8000), 5000, true)
		for _, tc := range []struct {
			l       *hosttest.Socket
			peer    netip.Addr
			allowed bool
		}{
			{l, server4, true}, {l, server6, false}, {l, netip.MustParseAddr("127.0.0.1"), false},
			{other, netip.MustParseAddr("127.0.0.1"), true}, {other, server4, false},
		} {
			s := tc.l.Inbound(at(tc.peer, 7000), at(guest4, 8000))
			r.settle()
			if n := len(r.take()); s.Aborted() == tc.allowed || (n > 0) != tc.allowed {
				t.Errorf("%v: aborted %v, %d frames for the guest", tc.peer, s.Aborted(), n)
			}
		}
		u.DeliverFrom([]byte("denied"), at(server6, 7000))
		r.nothing()
		u.DeliverFrom([]byte("allowed"), at(server4, 7000))
		if g := r.only(); string(g.data) != "allowed" {
			t.Errorf("the guest gets %v", g)
		}
		if s := r.total(); s.Drops[stats.PolicyDenied] != 4 || s.UDPFlows != 1 {
			t.Errorf("%d denied, %d UDP flows", s.Drops[stats.PolicyDenied], s.UDPFlows)
		}
	}
}

// TestDeniedLog: refusals are logged with their rule, a few in a second, and how many more there were.
func TestDeniedLog(t *testing.T) {
	_, edit := withRules(t, "deny out udp 123")
	r := newRig(t, edit)
	for i := range uint16(100) {
		r.inject(udpFrame(at(guest4, 4000+i), at(server4, 123), nil))
	}
	r.settle()
	r.take()
	r.run(2 * second)
	r.inject(udpFrame(at(guest4, 4000), at(server4, 123), nil))
	r.settle()
	r.take()
	log := r.log.String()
	one := `rule="deny out udp 123" direction=out protocol=UDP guest=192.0.2.2:4000 peer=198.51.100.7:123`
	if n := strings.Count(log, "flow denied"); n < 2 || n > 20 || !strings.Contains(log, one) || !strings.Contains(log, "further flows were denied") {
		t.Errorf("%d lines:\n%s", n, log)
	}
	r.dropped(stats.PolicyDenied, 101)
}

// withAddress is the response to a query that names an address.
func withAddress(query []byte, a netip.Addr, ttl uint32) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		panic(err)
	}
	m.Response = true
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   &dnsmessage.AResource{A: a.As4()},
	}}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// TestNames: the way to a name is open once the forwarder has told the guest its address, over UDP or TCP, to all workers, and for as long as the answer
// says.
func TestNames(t *testing.T) {
	for _, overTCP := range []bool{false, true} {
		for _, workers := range []int{1, 2} {
			t.Run(fmt.Sprintf("TCP %v, %d workers", overTCP, workers), func(t *testing.T) {
				_, edit := withRules(t, "allow *.example 80\ndeny all")
				var r *rig
				if workers == 1 {
					r = newRig(t, edit)
				} else {
					r = newCrew(t, workers, edit)
					r.crew.only = 0
					r.w.SetNaming([]netip.Addr{dns4}, []netip.AddrPort{at(resolver4, 53)})
				}
				r.refuses(at(server4, 80))
				query := dnsQuery(7, "www.example.")
				if overTCP {
					c := r.connect(at(dns4, 53))
					s := r.host.Last()
					delete(r.conns, [2]netip.AddrPort{c.local, c.remote}) // which expects other bytes
					answer := withAddress(query, server4, 100)
					answer = append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)
					s.Deliver(answer[:1])
					r.pump()
					s.Deliver(answer[1:20])
					r.pump()
					s.Deliver(bytes.Join([][]byte{answer[20:], answer[:5]}, nil)) // and the beginning of another one
					r.pump()
					r.conns[[2]netip.AddrPort{c.local, c.remote}] = c
					c.abort()
					r.pump()
				} else {
					r.inject(udpFrame(at(guest4, 5353), at(dns4, 53), query))
					r.settle()
					s, asked := r.toResolver(resolver4)
					s.Deliver(withAddress(asked, server4, 100))
					r.only()
				}
				if workers > 1 {
					r.crew.only = 1
				}
				r.connect(at(server4, 80)).abort()
				r.pump()
				r.refuses(at(server4, 81))
				r.run(101 * second)
				r.take()
				r.refuses(at(server4, 80))
			})
		}
	}
}

// TestDeniedResolver: a rule that names the forwarder's address closes it.
func TestDeniedResolver(t *testing.T) {
	_, edit := withRules(t, "deny 192.0.2.53")
	r := newRig(t, edit)
	r.inject(udpFrame(at(guest4, 5353), at(dns4, 53), dnsQuery(7, "www.example.")))
	if g := r.only(); !adminProhibited(g) {
		t.Errorf("a question is answered by %v", g)
	}
	r.refuses(at(dns4, 53))
	r.inject(udpFrame(at(guest6, 5353), at(dns6, 53), dnsQuery(7, "www.example.")))
	r.settle()
	r.toResolver(resolver4)
	r.dropped(stats.PolicyDenied, 2)
}
