package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// table finds the first rule for an address and a port, of those for one direction, protocol and family.
//
// The prefixes of rules are nested or apart. So the address space is cut into pieces, in each of which one prefix is the innermost; the prefixes
// around it follow by their parents. Each prefix has the ports of its rules, cut into ranges of which each has one first rule.
type table struct {
	starts []address // where the pieces begin, ascending; the first one is 0
	inner  []int32   // the innermost prefix of each piece; -1: there is none
	nets   []net
}

// net is one prefix.
type net struct {
	parent int32 // the prefix around it; -1: there is none
	best   int32 // the first of the rules here and in all around
	starts []uint16
	rules  []int32 // of the ranges of ports that begin there; none where there is none
}

// address is an IPv4 address in the upper bits, or an IPv6 address.
type address struct{ high, low uint64 }

func (a address) less(b address) bool { return a.high < b.high || a.high == b.high && a.low < b.low }

func compare(a, b address) int {
	switch {
	case a == b:
		return 0
	case a.less(b):
		return -1
	}
	return 1
}

func toAddress(a netip.Addr) address {
	if a.Is4() {
		b := a.As4()
		return address{high: uint64(binary.BigEndian.Uint32(b[:])) << 32}
	}
	b := a.As16()
	return address{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// behind is the first address behind a prefix; false when there is none.
func behind(p netip.Prefix) (address, bool) {
	a, bits := toAddress(p.Addr()), p.Bits()
	switch {
	case bits == 0:
		return address{}, false
	case bits <= 64:
		a.high += 1 << (64 - bits)
		a.low = 0
		return a, a.high != 0
	}
	was := a.low
	a.low += 1 << (128 - bits)
	if a.low < was {
		a.high++
	}
	return a, a != address{}
}

// makeTable compiles the rules that are about a direction, a protocol and a family.
func makeTable(rules []Rule, inbound bool, proto int, v6 bool) table {
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if v6 {
		everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	byNet := map[netip.Prefix][]int32{} // the rules of a prefix, ascending
	for i := range rules {
		r := &rules[i]
		if !r.has(inbound, proto) {
			continue
		}
		if len(r.Nets) == 0 && len(r.Names) == 0 {
			byNet[everywhere] = append(byNet[everywhere], int32(i))
		}
		for _, p := range r.Nets {
			if p.Addr().Is6() == v6 {
				byNet[p] = append(byNet[p], int32(i))
			}
		}
	}
	prefixes := make([]netip.Prefix, 0, len(byNet))
	for p := range byNet {
		prefixes = append(prefixes, p)
	}
	// The outer ones first where they begin at the same address.
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		if c := compare(toAddress(a.Addr()), toAddress(b.Addr())); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	t := table{starts: []address{{}}, inner: []int32{-1}}
	var around []int32 // the prefixes that the next one may be within, the innermost last
	leave := func() {
		last := around[len(around)-1]
		around = around[:len(around)-1]
		outer := int32(-1)
		if len(around) > 0 {
			outer = around[len(around)-1]
		}
		if at, ok := behind(prefixes[last]); ok {
			t.piece(at, outer)
		}
	}
	for i, p := range prefixes {
		for len(around) > 0 && !prefixes[around[len(around)-1]].Contains(p.Addr()) {
			leave()
		}
		n := net{parent: -1, best: byNet[p][0]}
		if len(around) > 0 {
			n.parent = around[len(around)-1]
			n.best = min(n.best, t.nets[n.parent].best)
		}
		n.starts, n.rules = cutPorts(rules, byNet[p])
		t.nets = append(t.nets, n)
		t.piece(toAddress(p.Addr()), int32(i))
		around = append(around, int32(i))
	}
	for len(around) > 0 {
		leave()
	}
	return t
}

// piece begins another piece; one of no length is taken over.
func (t *table) piece(at address, inner int32) {
	if last := len(t.starts) - 1; t.starts[last] == at {
		t.inner[last] = inner
		return
	}
	t.starts, t.inner = append(t.starts, at), append(t.inner, inner)
}

// cutPorts cuts the ports into ranges, each with the first of the rules for it.
func cutPorts(rules []Rule, numbers []int32) (starts []uint16, first []int32) {
	cuts := []int{0}
	for _, i := range numbers {
		for _, p := range rules[i].Ports {
			cuts = append(cuts, int(p.First), int(p.Last)+1)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	if cuts[len(cuts)-1] == 1<<16 {
		cuts = cuts[:len(cuts)-1]
	}
	first = make([]int32, len(cuts))
	open := make([]int, len(cuts)+1) // the next range, from each on, that no rule has taken yet; found by following it
	for k := range open {
		open[k] = k
	}
	for k := range first {
		first[k] = none
		starts = append(starts, uint16(cuts[k]))
	}
	next := func(k int) int {
		for open[k] != k {
			open[k] = open[open[k]]
			k = open[k]
		}
		return k
	}
	for _, i := range numbers {
		ports := rules[i].Ports
		if len(ports) == 0 {
			ports = []PortRange{{0, 1<<16 - 1}}
		}
		for _, p := range ports {
			from, _ := slices.BinarySearch(starts, p.First)
			for k := next(from); k < len(starts) && starts[k] <= p.Last; k = next(k) {
				first[k] = i
				open[k] = k + 1
			}
		}
	}
	return starts, first
}

// find returns the first rule for an address and a port, none if there is none.
func (t *table) find(addr netip.Addr, port uint16) int32 {
	a := toAddress(addr)
	low, high := 0, len(t.starts) // the piece is in [low, high)
	for high-low > 1 {
		if mid := (low + high) / 2; a.less(t.starts[mid]) {
			high = mid
		} else {
			low = mid
		}
	}
	best := none
	for n := t.inner[low]; n >= 0 && t.nets[n].best < best; n = t.nets[n].parent {
		best = min(best, t.nets[n].find(port))
	}
	return best
}

func (n *net) find(port uint16) int32 {
	low, high := 0, len(n.starts)
	for high-low > 1 {
		if mid := (low + high) / 2; port < n.starts[mid] {
			high = mid
		} else {
			low = mid
		}
	}
	return n.rules[low]
}
