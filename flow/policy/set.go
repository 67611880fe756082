package policy

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/vasta-net/vasta/packet"
)

// Flow is what is asked about: one that is about to begin.
type Flow struct {
	Now     int64 // nanoseconds, the clock of the workers
	Inbound bool  // the guest is connected to
	Proto   uint8 // as in the IP header
	// Guest is the guest's end, and Peer the end outside: the host's loopback as 127.0.0.1 or ::1, by whatever address the guest reaches it.
	Guest, Peer netip.AddrPort
	// Resolver: the guest asks our own forwarder of DNS.
	Resolver bool
}

// Verdict is the answer.
type Verdict struct {
	Denied bool
	Rule   int32 // the number of the rule that decided, from 1; 0 when none did
}

// Judge decides whether a flow may begin. It is asked once for each, from several goroutines; the Flow is only lent.
type Judge interface {
	Judge(f *Flow) Verdict
	// Name is a rule in words, for logs.
	Name(rule int32) string
}

// Set is compiled rules. Its methods may be called from several goroutines.
type Set struct {
	rules  []Rule
	texts  []string
	hits   []atomic.Uint64
	tables [2][protocols][2]table // by direction, protocol and family
	names  *names                 // nil: no rule has a name
	// resolver are the rules that name addresses: blanket ones leave the forwarder of DNS alone.
	resolver []int32
}

// Protocols, as indices.
const (
	tcp = iota
	udp
	icmp
	protocols
)

// none is the number of a rule that comes after all others.
const none = int32(1<<31 - 1)

// Compile makes a set of rules, in their order. It refuses a rule that can have no effect, because all after it allow too: whoever
// writes it means that the rest be denied.
func Compile(rules []Rule) (*Set, error) {
	if len(rules) > maxRules {
		return nil, fmt.Errorf("%d rules; there may be %d at most", len(rules), maxRules)
	}
	s := &Set{rules: rules, hits: make([]atomic.Uint64, len(rules))}
	var denies [2]bool // further on, by direction
	for i := len(rules) - 1; i >= 0; i-- {
		r := &rules[i]
		if r.Deny {
			denies[0], denies[1] = denies[0] || r.Outbound, denies[1] || r.Inbound
		} else if (!r.Outbound || !denies[0]) && (!r.Inbound || !denies[1]) {
			return nil, fmt.Errorf("%s: this changes nothing, because what no rule matches is allowed; let --deny all follow to deny the rest", r)
		}
	}
	for i := range rules {
		s.texts = append(s.texts, rules[i].String())
		if len(rules[i].Nets) > 0 {
			s.resolver = append(s.resolver, int32(i))
		}
	}
	for inbound := range 2 {
		for proto := range protocols {
			for family := range 2 {
				s.tables[inbound][proto][family] = makeTable(rules, inbound == 1, proto, family == 1)
			}
		}
	}
	s.names = makeNames(rules)
	return s, nil
}

// has says whether r is about flows of a direction and protocol.
func (r *Rule) has(inbound bool, proto int) bool {
	return (inbound && r.Inbound || !inbound && r.Outbound) && [protocols]bool{r.TCP, r.UDP, r.ICMP}[proto]
}

// hasPort says whether r is about a port.
func (r *Rule) hasPort(port uint16) bool {
	for _, p := range r.Ports {
		if p.First <= port && port <= p.Last {
			return true
		}
	}
	return len(r.Ports) == 0
}

// Judge implements [Judge].
func (s *Set) Judge(f *Flow) Verdict {
	proto := icmp
	switch f.Proto {
	case packet.ProtoTCP:
		proto = tcp
	case packet.ProtoUDP:
		proto = udp
	}
	addr, port, inbound := f.Peer.Addr().Unmap(), f.Peer.Port(), 0
	if f.Inbound {
		port, inbound = f.Guest.Port(), 1
	}
	var rule int32
	if f.Resolver {
		rule = s.named(addr, port, proto)
	} else {
		family := 0
		if addr.Is6() {
			family = 1
			addr = addr.WithZone("")
		}
		rule = s.tables[inbound][proto][family].find(addr, port)
		if s.names != nil && !f.Inbound {
			rule = s.names.find(s.rules, addr, port, proto, f.Now, rule)
		}
	}
	if rule == none {
		return Verdict{}
	}
	s.hits[rule].Add(1)
	return Verdict{s.rules[rule].Deny, rule + 1}
}

// named is the first rule that names the address of the forwarder of DNS: those for every address leave it alone, for without it no rule with a name
// would do anything.
func (s *Set) named(addr netip.Addr, port uint16, proto int) int32 {
	for _, i := range s.resolver {
		r := &s.rules[i]
		if !r.has(false, proto) || !r.hasPort(port) {
			continue
		}
		for _, p := range r.Nets {
			if p.Bits() > 0 && p.Contains(addr) {
				return i
			}
		}
	}
	return none
}

// Name implements [Judge].
func (s *Set) Name(rule int32) string {
	if rule < 1 || int(rule) > len(s.texts) {
		return ""
	}
	return s.texts[rule-1]
}

// Count is how many flows a rule has decided.
type Count struct {
	Rule  string `json:"rule"`
	Flows uint64 `json:"flows"`
}

// Counts are those of all rules, in their order.
func (s *Set) Counts() []Count {
	counts := make([]Count, len(s.rules))
	for i := range counts {
		counts[i] = Count{s.texts[i], s.hits[i].Load()}
	}
	return counts
}
