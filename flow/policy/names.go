package policy

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds of what is learned.
const (
	// shortest is how long an address is good at least, in nanoseconds: a program connects a while after it has asked.
	shortest = int64(10e9)
	// longest bounds what an answer may ask for.
	longest = int64(24 * 3600e9)
	// maxLearned bounds the addresses that are known at a time.
	maxLearned = 64 << 10
	shards     = 64
	// maxChain bounds the names that lead to an address.
	maxChain = 16
)

// names is what rules with names go by: which names they are about, and what is known of those.
type names struct {
	exact map[string][]int32 // rules by name, ascending
	below map[string][]int32 // rules by the name below which they are
	seed  maphash.Seed
	full  atomic.Uint64 // addresses that there was no room for
	known [shards]shard
}

// shard is some of the addresses. A look takes a lock for reading, and only a new flow takes a look.
type shard struct {
	mu    sync.RWMutex
	addrs map[netip.Addr][]lease // ascending by rule
	_     [64]byte
}

// lease says that an address is that of a rule, for a while.
type lease struct {
	rule  int32
	until int64
}

// makeNames returns nil if no rule has a name.
func makeNames(rules []Rule) *names {
	n := &names{exact: map[string][]int32{}, below: map[string][]int32{}, seed: maphash.MakeSeed()}
	for i := range rules {
		for _, name := range rules[i].Names {
			in := n.exact
			if domain, ok := strings.CutPrefix(name, "*."); ok {
				in, name = n.below, domain
			}
			in[name] = append(in[name], int32(i))
		}
	}
	if len(n.exact)+len(n.below) == 0 {
		return nil
	}
	for i := range n.known {
		n.known[i].addrs = map[netip.Addr][]lease{}
	}
	return n
}

func (n *names) shard(a netip.Addr) *shard {
	return &n.known[maphash.Comparable(n.seed, a)%shards]
}

// find returns the first rule before limit that is about a name of addr, limit if there is none.
func (n *names) find(rules []Rule, addr netip.Addr, port uint16, proto int, now int64, limit int32) int32 {
	s := n.shard(addr)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range s.addrs[addr] {
		if l.rule >= limit {
			break
		}
		if r := &rules[l.rule]; l.until > now && r.has(false, proto) && r.hasPort(port) {
			return l.rule
		}
	}
	return limit
}

// Learn takes an answer of the forwarder of DNS that is on its way to the guest, and notes the addresses in it for the rules that are about its names. A
// rule that allows goes by the name that was asked for, one that denies also by those it leads to (CNAME).
func (s *Set) Learn(now int64, answer []byte) {
	if s.names == nil {
		return
	}
	var p dnsmessage.Parser
	h, err := p.Start(answer)
	if err != nil || !h.Response || h.RCode != dnsmessage.RCodeSuccess {
		return
	}
	q, err := p.Question()
	if err != nil || q.Class != dnsmessage.ClassINET || p.SkipAllQuestions() != nil {
		return
	}
	s.names.answer(s.rules, now, plain(q.Name), &p)
}

// plain is a name in small letters, without its last dot.
func plain(name dnsmessage.Name) string {
	return strings.ToLower(strings.TrimSuffix(name.String(), "."))
}

// answer goes through the records of an answer. Those of a chain are in its order (RFC 1034, 4.3.2).
func (n *names) answer(rules []Rule, now int64, asked string, p *dnsmessage.Parser) {
	chain := []string{asked}
	numbers := n.about(nil, rules, asked, true)
	ttl := uint32(longest / 1e9)
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			return
		}
		owned := slices.Contains(chain, plain(h.Name))
		var addr netip.Addr
		switch h.Type {
		case dnsmessage.TypeCNAME:
			r, err := p.CNAMEResource()
			if err != nil {
				return
			}
			if target := plain(r.CNAME); owned && len(chain) < maxChain {
				chain = append(chain, target)
				numbers = n.about(numbers, rules, target, false)
				ttl = min(ttl, h.TTL)
			}
		case dnsmessage.TypeA:
			r, err := p.AResource()
			if err != nil {
				return
			}
			addr = netip.AddrFrom4(r.A)
		case dnsmessage.TypeAAAA:
			r, err := p.AAAAResource()
			if err != nil {
				return
			}
			addr = netip.AddrFrom16(r.AAAA).Unmap()
		default:
			if p.SkipAnswer() != nil {
				return
			}
		}
		if owned && outside(addr) {
			until := now + min(max(int64(min(ttl, h.TTL))*1e9, shortest), longest)
			for _, rule := range numbers {
				n.learn(now, addr, lease{rule, until})
			}
		}
	}
}

// outside reports whether an address may be learned from an answer: whoever answers for a name must not open the way to this machine with it.
func outside(a netip.Addr) bool {
	return a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

// about appends the rules that are about a name; only those that deny, unless it was asked for.
func (n *names) about(numbers []int32, rules []Rule, name string, asked bool) []int32 {
	add := func(more []int32) {
		for _, i := range more {
			if (asked || rules[i].Deny) && !slices.Contains(numbers, i) {
				numbers = append(numbers, i)
			}
		}
	}
	add(n.exact[name])
	for {
		_, domain, ok := strings.Cut(name, ".")
		if !ok {
			return numbers
		}
		name = domain
		add(n.below[name])
	}
}

// learn notes a lease, or prolongs it.
func (n *names) learn(now int64, addr netip.Addr, l lease) {
	s := n.shard(addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	leases := s.addrs[addr]
	k, found := slices.BinarySearchFunc(leases, l.rule, func(a lease, rule int32) int { return int(a.rule) - int(rule) })
	if found {
		leases[k].until = max(leases[k].until, l.until)
		return
	}
	if len(leases) == 0 && len(s.addrs) >= maxLearned/shards && !s.sweep(now) {
		n.full.Add(1)
		return
	}
	s.addrs[addr] = slices.Insert(leases, k, l)
}

// sweep forgets what is good no more, and reports whether there is room then.
func (s *shard) sweep(now int64) bool {
	for addr, leases := range s.addrs {
		if leases = slices.DeleteFunc(leases, func(l lease) bool { return l.until <= now }); len(leases) == 0 {
			delete(s.addrs, addr)
		} else {
			s.addrs[addr] = leases
		}
	}
	return len(s.addrs) < maxLearned/shards
}

// Unlearned is how many addresses were not learned because too many were known.
func (s *Set) Unlearned() uint64 {
	if s.names == nil {
		return 0
	}
	return s.names.full.Load()
}

// Names reports whether a rule has a name, so that Learn is of use.
func (s *Set) Names() bool { return s.names != nil }
