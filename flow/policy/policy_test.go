package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/packet"
	"golang.org/x/net/dns/dnsmessage"
	"pgregory.net/rapid"
)

const second = int64(1e9)

// parsed reads rules, each with its verb, one a line.
func parsed(t testing.TB, text string) []Rule {
	t.Helper()
	rules, err := ReadRules(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func compiled(t testing.TB, text string) *Set {
	t.Helper()
	s, err := Compile(parsed(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// flowOf reads a flow: direction, protocol and the end outside, with the guest's port for inbound ones.
func flowOf(text string) *Flow {
	words := strings.Fields(text)
	f := &Flow{Inbound: words[0] == "in", Guest: netip.MustParseAddrPort("10.0.2.15:4000"), Peer: netip.MustParseAddrPort(words[2])}
	f.Proto = map[string]uint8{"tcp": packet.ProtoTCP, "udp": packet.ProtoUDP, "icmp": packet.ProtoICMP, "icmp6": packet.ProtoICMPv6}[words[1]]
	if f.Inbound {
		f.Guest = netip.AddrPortFrom(f.Guest.Addr(), f.Peer.Port())
	}
	f.Resolver = len(words) > 3
	return f
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		rules, flow, by string // by is the rule that decides, "" for none
	}{
		{"deny all", "out tcp 192.0.2.1:80", "deny all"},
		{"deny all", "in udp [2001:db8::1]:80", "deny all"},
		{"deny all", "out icmp6 [2001:db8::1]:7", "deny all"},
		{"deny out", "in tcp 192.0.2.1:80", ""},
		{"deny 10.0.0.0/8", "out tcp 10.255.255.255:80", "deny 10.0.0.0/8"},
		{"deny 10.0.0.0/8", "out tcp 11.0.0.0:80", ""},
		{"deny 10.0.0.0/8", "out tcp 9.255.255.255:80", ""},
		{"allow 10.1.0.0/16\ndeny 10.0.0.0/8", "out tcp 10.1.2.3:80", "allow 10.1.0.0/16"},
		{"deny 10.0.0.0/8\nallow 10.1.0.0/16\ndeny all", "out tcp 10.1.2.3:80", "deny 10.0.0.0/8"},
		{"allow tcp 80,443\ndeny all", "out tcp 192.0.2.1:443", "allow tcp 80,443"},
		{"allow tcp 80,443\ndeny all", "out udp 192.0.2.1:443", "deny all"},
		{"allow 1-1023\ndeny all", "out tcp 192.0.2.1:1023", "allow 1-1023"},
		{"allow 1-1023\ndeny all", "out tcp 192.0.2.1:1024", "deny all"},
		{"allow 1-1023\ndeny all", "out icmp 192.0.2.1:7", "deny all"},
		{"deny 0-0.example.com 80\nallow in tcp 8080 198.51.100.0/24\ndeny in", "in tcp 198.51.100.9:8080", "allow in tcp 198.51.100.0/24 8080"},
		{"allow in tcp 8080 198.51.100.0/24\ndeny in", "in tcp 203.0.113.9:8080", "deny in"},
		{"deny ::/0", "out tcp 192.0.2.1:80", ""},
		{"deny 0.0.0.0/0", "out tcp [2001:db8::1]:80", ""},
		{"deny 2001:db8::/32", "out tcp [2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:80", "deny 2001:db8::/32"},
		{"deny 2001:db8::/32", "out tcp [2001:db9::]:80", ""},
		{"deny 2001:db8::5", "out tcp [2001:db8::5]:80", "deny 2001:db8::5"},
		{"deny 2001:db8::5", "out tcp [2001:db8::6]:80", ""},
		{"deny 255.255.255.255,ffff::/16", "out udp 255.255.255.255:80", "deny 255.255.255.255,ffff::/16"},
		{"deny fe80::/10", "in tcp [fe80::1%3]:80", "deny fe80::/10"},
		{"deny 127.0.0.1", "out tcp 127.0.0.1:80", "deny 127.0.0.1"},
		{"deny all", "out udp 169.254.1.1:53 resolver", ""},
		{"deny udp 53", "out udp 169.254.1.1:53 resolver", ""},
		{"deny 0.0.0.0/0", "out udp 169.254.1.1:53 resolver", ""},
		{"deny tcp 169.254.1.1", "out udp 169.254.1.1:53 resolver", ""},
		{"allow udp 169.254.1.1 53\ndeny 169.254.0.0/16", "out udp 169.254.1.1:53 resolver", "allow udp 169.254.1.1 53"},
		{"allow udp 169.254.1.1 53\ndeny 169.254.0.0/16", "out tcp 169.254.1.1:53 resolver", "deny 169.254.0.0/16"},
	} {
		s := compiled(t, tc.rules)
		v := s.Judge(flowOf(tc.flow))
		if got := s.Name(v.Rule); got != tc.by || v.Denied != strings.HasPrefix(tc.by, "deny") {
			t.Errorf("%q: %s: %+v by %q, want %q", tc.rules, tc.flow, v, got, tc.by)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                     `a rule without a word; write "all" for everything`,
		"tpc 80":               `"tpc" is neither a direction (in, out), nor a protocol (tcp, udp, icmp), an address, a name with a dot, or ports`,
		"10.0.0.300":           `"10.0.0.300" is neither`,
		"10.0.0.0/33":          `"10.0.0.0/33" is neither`,
		"in out":               `"out": the direction is said already; leave it out for both`,
		"80-70":                `"80-70": ports are numbers from 1 to 65535, the lower one of a range first`,
		"0":                    `"0": ports are numbers from 1 to 65535, the lower one of a range first`,
		"80,":                  `"": ports are numbers from 1 to 65535, the lower one of a range first`,
		"65536":                `"65536": ports are`,
		"1-2-3":                `"1-2-3": ports are`,
		"icmp 80":              "icmp has no ports",
		"in www.example.com":   "names are for outbound flows; name the addresses of those that connect",
		"fe80::1%eth0":         `"fe80::1%eth0": write an IPv4 address as such, and an IPv6 address without an interface`,
		"::ffff:10.0.0.1":      `"::ffff:10.0.0.1": write an IPv4 address as such, and an IPv6 address without an interface`,
		"www.*.com":            `"www.*.com" is neither`,
		"ex ample..com":        `"ex" is neither`,
		"b\u00fccher.example":  "\"b\u00fccher.example\" is neither",
		"a." + long(250, 'b'):  `"a.`,
		"a." + long(64, 'b'):   `"a.`,
		"10.0.0.0/8,tcp,1.2.3": `"tcp" is neither`,
	} {
		_, err := ParseRule(true, text)
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q\n got %v\nwant %s", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"deny all\nblock 10.0.0.0/8":   `line 2: "block": a rule begins with allow or deny`,
		"# nothing\n\n deny 1.2.3.4 x": `line 3: "x" is neither`,
		"deny":                         `line 1: a rule without a word`,
	} {
		if _, err := ReadRules(strings.NewReader(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func long(n int, c byte) string { return strings.Repeat(string(c), n) }

// A rule that changes nothing is refused: whoever writes it means that the rest be denied.
func TestNoEffect(t *testing.T) {
	for _, text := range []string{"allow all", "allow tcp 80", "deny out\nallow in", "deny all\nallow 10.0.0.1", "allow in 80\ndeny out"} {
		if _, err := Compile(parsed(t, text)); err == nil || !strings.HasSuffix(err.Error(), "let --deny all follow to deny the rest") {
			t.Errorf("%q: %v", text, err)
		}
	}
	compiled(t, "")
	compiled(t, "allow 80\ndeny in") // it has an effect on one of its directions
}

// linear is the reference: the rules one after the other. learned are the addresses of names.
func linear(rules []Rule, f *Flow, learned func(rule int, a netip.Addr) bool) int32 {
	proto := map[uint8]int{packet.ProtoTCP: tcp, packet.ProtoUDP: udp, packet.ProtoICMP: icmp, packet.ProtoICMPv6: icmp}[f.Proto]
	port := f.Peer.Port()
	if f.Inbound {
		port = f.Guest.Port()
	}
	for i := range rules {
		r := &rules[i]
		if f.Inbound && !r.Inbound || !f.Inbound && !r.Outbound || ![]bool{r.TCP, r.UDP, r.ICMP}[proto] {
			continue
		}
		ports := len(r.Ports) == 0
		for _, p := range r.Ports {
			ports = ports || port >= p.First && port <= p.Last
		}
		hosts := len(r.Nets)+len(r.Names) == 0
		for _, p := range r.Nets {
			hosts = hosts || p.Contains(f.Peer.Addr())
		}
		if hosts = hosts || len(r.Names) > 0 && !f.Inbound && learned(i, f.Peer.Addr()); ports && hosts {
			return int32(i) + 1
		}
	}
	return 0
}

// anyAddr draws addresses that are often near each other and at the edges of prefixes.
func anyAddr(t *rapid.T) netip.Addr {
	if rapid.Bool().Draw(t, "IPv4") {
		b := [4]byte{}
		for i := range b {
			b[i] = rapid.SampledFrom([]byte{0, 1, 127, 128, 255}).Draw(t, "byte")
		}
		return netip.AddrFrom4(b)
	}
	b := [16]byte{}
	for _, i := range []int{0, 1, 7, 8, 9, 15} {
		b[i] = rapid.SampledFrom([]byte{0, 1, 127, 128, 255}).Draw(t, "byte")
	}
	if a := netip.AddrFrom16(b); !a.Is4In6() {
		return a
	}
	return netip.IPv6LinkLocalAllNodes()
}

var hostNames = []string{"a.example", "b.example", "x.a.example", "y.x.a.example", "c.test"}

func anyRule(t *rapid.T) Rule {
	r := Rule{Deny: rapid.Bool().Draw(t, "deny")}
	direction := rapid.IntRange(0, 2).Draw(t, "direction")
	r.Inbound, r.Outbound = direction != 0, direction != 1
	switch rapid.IntRange(0, 3).Draw(t, "protocol") {
	case 0:
		r.TCP = true
	case 1:
		r.UDP = true
	case 2:
		r.ICMP = true
	default:
		r.TCP, r.UDP, r.ICMP = true, true, true
	}
	for range rapid.IntRange(0, 2).Draw(t, "nets") {
		a := anyAddr(t)
		r.Nets = append(r.Nets, netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked())
	}
	if !r.Inbound {
		for range rapid.IntRange(0, 2).Draw(t, "names") {
			r.Names = append(r.Names, rapid.SampledFrom([]string{"", "*."}).Draw(t, "below")+rapid.SampledFrom(hostNames).Draw(t, "name"))
		}
	}
	if !r.ICMP {
		for range rapid.IntRange(0, 3).Draw(t, "ports") {
			first := rapid.Uint16Range(1, 12).Draw(t, "first")
			if rapid.IntRange(0, 3).Draw(t, "high") == 0 {
				first += 65535 - 12
			}
			r.Ports = append(r.Ports, PortRange{first, max(first, first+rapid.Uint16Range(0, 65535-first).Draw(t, "more")%4)})
		}
	}
	return r
}

// matches is whether a rule is about a name.
func matches(r *Rule, name string) bool {
	for _, n := range r.Names {
		domain, below := strings.CutPrefix(n, "*.")
		if n == name || below && strings.HasSuffix(name, "."+domain) {
			return true
		}
	}
	return false
}

// TestAgainstLinear holds the compiled rules against the rules one after the other, with names learned and forgotten meanwhile.
func TestAgainstLinear(t *testing.T) {
	type fact struct {
		name string
		addr netip.Addr
	}
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(anyRule), 0, 30).Draw(t, "rules")
		rules = append(rules, Rule{Deny: true, Inbound: true, Outbound: true, TCP: true, UDP: true, ICMP: true})
		s, err := Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		now := second
		known := map[fact]int64{}
		hits := map[int32]uint64{}
		for range 40 {
			if rapid.IntRange(0, 3).Draw(t, "step") == 0 {
				now += rapid.Int64Range(0, 30).Draw(t, "seconds") * second
				a, name, ttl := anyAddr(t), rapid.SampledFrom(hostNames).Draw(t, "asked"), rapid.Uint32Range(0, 60).Draw(t, "ttl")
				s.Learn(now, answerTo(t, name, []record{{name, ttl, a, ""}}))
				if outside(a) {
					known[fact{name, a}] = max(known[fact{name, a}], now+max(int64(ttl)*second, shortest))
				}
				continue
			}
			f := &Flow{Now: now, Inbound: rapid.Bool().Draw(t, "in"), Proto: rapid.SampledFrom([]uint8{1, 6, 17, 58}).Draw(t, "proto")}
			peer := anyAddr(t)
			for k := range known {
				if rapid.Bool().Draw(t, "known") {
					peer = k.addr
				}
				break
			}
			port := func() uint16 {
				return rapid.Uint16Range(1, 18).Draw(t, "port") + rapid.SampledFrom([]uint16{0, 65535 - 18}).Draw(t, "high")
			}
			f.Guest, f.Peer = netip.AddrPortFrom(netip.MustParseAddr("10.0.2.15"), port()), netip.AddrPortFrom(peer, port())
			want := linear(rules, f, func(rule int, a netip.Addr) bool {
				for k, until := range known {
					if k.addr == a && until > now && matches(&rules[rule], k.name) {
						return true
					}
				}
				return false
			})
			got := s.Judge(f)
			if got.Rule != want || want != 0 && got.Denied != rules[want-1].Deny {
				t.Fatalf("%+v: rule %d %q, want %d %q", *f, got.Rule, s.Name(got.Rule), want, s.Name(want))
			}
			hits[want]++
		}
		for i, c := range s.Counts() {
			if c.Flows != hits[int32(i)+1] {
				t.Fatalf("rule %d: %d flows counted, want %d", i+1, c.Flows, hits[int32(i)+1])
			}
		}
	})
}

// TestRuleText: what a rule prints gives the same rule.
func TestRuleText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRule(t)
		verb, text, _ := strings.Cut(r.String(), " ")
		again, err := ParseRule(verb == "deny", text)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
			t.Fatalf("%q reads as %+v (%v), was %+v", r.String(), again, err, r)
		}
	})
}

// record is one of an answer.
type record struct {
	name   string
	ttl    uint32
	addr   netip.Addr
	target string // of a CNAME
}

// answerTo makes the answer to a question for a name.
func answerTo(t interface{ Fatalf(string, ...any) }, asked string, records []record) []byte {
	name := func(s string) dnsmessage.Name { return dnsmessage.MustNewName(s + ".") }
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, Response: true},
		Questions: []dnsmessage.Question{{Name: name(asked), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	for _, r := range records {
		h := dnsmessage.ResourceHeader{Name: name(r.name), Class: dnsmessage.ClassINET, TTL: r.ttl}
		var body dnsmessage.ResourceBody
		switch {
		case r.target != "":
			body = &dnsmessage.CNAMEResource{CNAME: name(r.target)}
		case r.addr.Is4():
			body = &dnsmessage.AResource{A: r.addr.As4()}
		default:
			body = &dnsmessage.AAAAResource{AAAA: r.addr.As16()}
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: body})
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatalf("packing an answer: %v", err)
	}
	return b
}

func TestLearn(t *testing.T) {
	a, b, c := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8::3")
	s := compiled(t, "deny ads.example\nallow www.example.com,*.cdn.example 443\ndeny all")
	ask := func(now int64, addr netip.Addr, want bool) {
		t.Helper()
		f := flowOf("out tcp " + netip.AddrPortFrom(addr, 443).String())
		f.Now = now
		if v := s.Judge(f); v.Denied == want {
			t.Errorf("%v at %d s: %q", addr, now/second, s.Name(v.Rule))
		}
	}
	ask(second, a, false)
	s.Learn(second, answerTo(t, "WWW.Example.com", []record{{"www.example.com", 60, a, ""}, {"www.example.com", 60, c, ""}}))
	ask(second, a, true)
	ask(second, c, true)
	ask(second, b, false)
	if v := s.Judge(flowOf("out tcp 198.51.100.1:80")); !v.Denied {
		t.Error("another port of an address that was learned is open")
	}
	ask(60*second, a, true)
	ask(61*second, a, false)
	// A chain: the shortest time of it counts, and its names do not open what was not asked for, but close it.
	s.Learn(100*second, answerTo(t, "x.cdn.example", []record{{"x.cdn.example", 20, netip.Addr{}, "ads.example"}, {"ads.example", 600, b, ""}}))
	ask(100*second, b, false)
	s.Learn(100*second, answerTo(t, "y.cdn.example", []record{{"y.cdn.example", 20, netip.Addr{}, "z.test"}, {"z.test", 600, a, ""}}))
	ask(119*second, a, true)
	ask(120*second, a, false)
	s.Learn(200*second, answerTo(t, "z.test", []record{{"z.test", 20, netip.Addr{}, "www.example.com"}, {"www.example.com", 600, a, ""}}))
	ask(200*second, a, false)
	// Records of names that were not asked for, and addresses that no name may open.
	s.Learn(200*second, answerTo(t, "www.example.com", []record{{"z.test", 600, a, ""}}))
	ask(200*second, a, false)
	for _, bad := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1", "fe80::1", "169.254.1.1"} {
		addr := netip.MustParseAddr(bad)
		s.Learn(200*second, answerTo(t, "www.example.com", []record{{"www.example.com", 600, addr, ""}}))
		ask(200*second, addr.Unmap(), false)
	}
	// The name itself is not below itself.
	s.Learn(200*second, answerTo(t, "cdn.example", []record{{"cdn.example", 600, a, ""}}))
	ask(200*second, a, false)
}

// TestLearnBounded: there is an end to what is known, what has run out makes room, and what found none is counted.
func TestLearnBounded(t *testing.T) {
	s := compiled(t, "allow *.example\ndeny all")
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)}) }
	learn := func(now int64, i int) {
		s.Learn(now, answerTo(t, "a.example", []record{{"a.example", 60, addr(i), ""}}))
	}
	known := func() (n int) {
		for i := range s.names.known {
			n += len(s.names.known[i].addrs)
		}
		return n
	}
	const more = 1000
	for i := range maxLearned + more {
		learn(second, i)
	}
	if n := known(); n > maxLearned || uint64(n)+s.Unlearned() != maxLearned+more {
		t.Errorf("%d addresses are known, %d found no room", n, s.Unlearned())
	}
	before := s.Unlearned()
	for i := range more {
		learn(100*second, maxLearned+more+i)
	}
	if s.Unlearned() != before {
		t.Errorf("%d addresses find no room though all others have run out", s.Unlearned()-before)
	}
}

// thousand makes rules of all sorts, so many, with one behind them that denies the rest.
func thousand(n int) string {
	var b strings.Builder
	for i := range n {
		switch i % 4 {
		case 0:
			fmt.Fprintf(&b, "deny 10.%d.%d.0/24 %d\n", i/256%256, i%256, i+1)
		case 1:
			fmt.Fprintf(&b, "deny tcp 2001:db8:%x::/48\n", i)
		case 2:
			fmt.Fprintf(&b, "deny udp %d-%d\n", i+1, i+10)
		default:
			fmt.Fprintf(&b, "deny host%d.example\n", i)
		}
	}
	b.WriteString("allow 198.51.100.0/24\ndeny all\n")
	return b.String()
}

func TestJudgeDoesNotAllocate(t *testing.T) {
	s := compiled(t, thousand(1000))
	s.Learn(second, answerTo(t, "host3.example", []record{{"host3.example", 60, netip.MustParseAddr("203.0.113.9"), ""}}))
	var judge Judge = s
	for _, text := range []string{"out tcp 198.51.100.7:80", "out tcp [2001:db8:5::1]:80", "out udp 203.0.113.9:53", "in tcp 10.0.4.1:80"} {
		f := flowOf(text)
		f.Now = second
		if n := testing.AllocsPerRun(100, func() { judge.Judge(f) }); n != 0 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	for _, n := range []int{0, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := compiled(b, thousand(n))
			flows := []*Flow{flowOf("out tcp 198.51.100.7:80"), flowOf("out tcp 10.3.8.1:80"), flowOf("out tcp [2001:db8:5::1]:80")}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				s.Judge(flows[i%len(flows)])
				i++
			}
		})
	}
}

func FuzzParseRule(f *testing.F) {
	for _, seed := range []string{"all", "out tcp *.example.com 443", "in 10.0.0.0/8,2001:db8::/32 80,8000-8999", "icmp", "udp 53 169.254.1.1", "fe80::1%eth0", "1.2.3.4/40"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(true, text)
		if err != nil {
			return
		}
		if !r.Inbound && !r.Outbound || !r.TCP && !r.UDP && !r.ICMP {
			t.Fatalf("%q gives a rule about nothing: %+v", text, r)
		}
		printed := r.String()
		again, err := ParseRule(true, strings.TrimPrefix(printed, "deny "))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
			t.Fatalf("%q is %+v, prints %q, reads as %+v (%v)", text, r, printed, again, err)
		}
		if _, err := Compile([]Rule{r}); err != nil {
			t.Fatalf("%q does not compile: %v", text, err)
		}
	})
}

func FuzzLearn(f *testing.F) {
	f.Add(answerTo(f, "www.example.com", []record{{"www.example.com", 60, netip.MustParseAddr("198.51.100.1"), ""}}))
	f.Add(answerTo(f, "a.example.com", []record{{"a.example.com", 1, netip.Addr{}, "b.example.com"}, {"b.example.com", 60, netip.MustParseAddr("2001:db8::1"), ""}}))
	f.Add([]byte{0, 1, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0})
	s := compiled(f, "allow *.example.com\ndeny all")
	f.Fuzz(func(t *testing.T, answer []byte) {
		s.Learn(second, answer)
		for _, a := range []string{"127.0.0.1", "::1", "0.0.0.0", "255.255.255.255"} {
			flow := flowOf("out tcp " + netip.AddrPortFrom(netip.MustParseAddr(a), 80).String())
			flow.Now = second
			if a != "255.255.255.255" && !s.Judge(flow).Denied {
				t.Fatalf("%q opens %s", answer, a)
			}
		}
	})
}
