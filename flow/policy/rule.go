// Package policy decides which flows there may be. Rules are in an order, and the first one that matches a flow decides; a flow that none matches
// is allowed.
//
// [ParseRule] reads a rule, [Compile] makes a [Set] of them, whose Judge takes about as long for thousands of rules as for a few. The addresses of a rule
// that names hosts are learned from the answers of our own forwarder of DNS ([Set.Learn]), for as long as those say.
//
// It makes no system call and knows no clock. A Set may be used by several workers at a time.
package policy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Rule is one rule. Of each kind of condition at least one has to hold; where there is none of a kind, it holds.
type Rule struct {
	Deny              bool
	Inbound, Outbound bool // at least one is true
	TCP, UDP, ICMP    bool // at least one is true
	// Nets are the addresses outside: of whom the guest connects to, or who connects to it. Names are host names of the same, in small letters; "*.x" is
	// everything below x, and not x. Both nil: every address.
	Nets  []netip.Prefix
	Names []string
	// Ports are those that are connected to: outside for outbound flows, the guest's for inbound ones.
	Ports []PortRange
}

// PortRange is the ports from First to Last.
type PortRange struct{ First, Last uint16 }

// Limits of what is read.
const (
	maxRules = 100_000
	maxLine  = 64 << 10
)

// ParseRule reads what follows --allow or --deny: words in any order, each a direction (in, out), protocols (tcp, udp, icmp), addresses with or without
// a prefix length, names, ports, or "all" for no condition; those of one kind with commas between them.
func ParseRule(deny bool, text string) (Rule, error) {
	r := Rule{Deny: deny}
	words := strings.Fields(strings.ToLower(text))
	if len(words) == 0 {
		return r, errors.New(`a rule without a word; write "all" for everything`)
	}
	for _, word := range words {
		if err := r.word(word); err != nil {
			return r, err
		}
	}
	if !r.Inbound && !r.Outbound {
		r.Inbound, r.Outbound = len(r.Names) == 0, true
	}
	if r.Inbound && len(r.Names) > 0 {
		return r, errors.New("names are for outbound flows; name the addresses of those that connect")
	}
	if r.ICMP && len(r.Ports) > 0 {
		return r, errors.New("icmp has no ports")
	}
	if !r.TCP && !r.UDP && !r.ICMP {
		r.TCP, r.UDP, r.ICMP = true, true, len(r.Ports) == 0
	}
	return r, nil
}

// word takes one word of a rule.
func (r *Rule) word(word string) error {
	list := strings.Split(word, ",")
	switch {
	case word == "all":
		return nil
	case isAll(list, "in", "out"):
		if r.Inbound || r.Outbound {
			return fmt.Errorf("%q: the direction is said already; leave it out for both", word)
		}
		r.Inbound, r.Outbound = slices.Contains(list, "in"), slices.Contains(list, "out")
		return nil
	case isAll(list, "tcp", "udp", "icmp"):
		for _, p := range list {
			r.TCP, r.UDP, r.ICMP = r.TCP || p == "tcp", r.UDP || p == "udp", r.ICMP || p == "icmp"
		}
		return nil
	case !strings.ContainsFunc(word, func(c rune) bool { return c != ',' && c != '-' && (c < '0' || c > '9') }):
		for _, text := range list {
			ports, err := parsePorts(text)
			if err != nil {
				return err
			}
			r.Ports = append(r.Ports, ports)
		}
		return nil
	}
	for _, text := range list {
		if err := r.host(text); err != nil {
			return err
		}
	}
	return nil
}

// isAll says whether every word of a list is one of a few.
func isAll(list []string, of ...string) bool {
	return !slices.ContainsFunc(list, func(word string) bool { return !slices.Contains(of, word) })
}

// host takes an address, a prefix or a name.
func (r *Rule) host(text string) error {
	prefix, err := netip.ParsePrefix(text)
	zone := ""
	if err != nil {
		var addr netip.Addr
		if addr, err = netip.ParseAddr(text); err == nil {
			prefix, zone = netip.PrefixFrom(addr, addr.BitLen()), addr.Zone()
		}
	}
	switch {
	case err == nil && (zone != "" || prefix.Addr().Is4In6()):
		return fmt.Errorf("%q: write an IPv4 address as such, and an IPv6 address without an interface", text)
	case err == nil:
		r.Nets = append(r.Nets, prefix.Masked())
		return nil
	}
	name := strings.TrimSuffix(text, ".")
	domain, below := strings.CutPrefix(name, "*.")
	if !isName(domain) || !below && !strings.Contains(domain, ".") {
		return fmt.Errorf("%q is neither a direction (in, out), nor a protocol (tcp, udp, icmp), an address, a name with a dot, or ports", text)
	}
	r.Names = append(r.Names, name)
	return nil
}

// isName says whether text is a host name and no misspelt address (RFC 1035, 2.3.4; underscores are in use). The caller sees to it that there is a dot,
// so that no misspelt word counts as a name.
func isName(text string) bool {
	if len(text) > 253 || strings.Trim(text, "0123456789./") == "" {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		other := func(c rune) bool { return c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') }
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, other) {
			return false
		}
	}
	return true
}

func parsePorts(text string) (PortRange, error) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	first, err := strconv.ParseUint(low, 10, 16)
	if err == nil {
		var last uint64
		if last, err = strconv.ParseUint(high, 10, 16); err == nil && first <= last && first > 0 {
			return PortRange{uint16(first), uint16(last)}, nil
		}
	}
	return PortRange{}, fmt.Errorf("%q: ports are numbers from 1 to 65535, the lower one of a range first", text)
}

// String gives the rule as ParseRule reads it, behind "allow" or "deny".
func (r *Rule) String() string {
	words := []string{"allow"}
	if r.Deny {
		words[0] = "deny"
	}
	if r.Inbound != r.Outbound {
		words = append(words, pick(r.Inbound, "in", "out"))
	}
	var protocols, ports []string
	for _, p := range []struct {
		has  bool
		name string
	}{{r.TCP, "tcp"}, {r.UDP, "udp"}, {r.ICMP, "icmp"}} {
		if p.has {
			protocols = append(protocols, p.name)
		}
	}
	if len(protocols) < 3 && (r.ICMP || !r.TCP || !r.UDP || len(r.Ports) == 0) {
		words = append(words, strings.Join(protocols, ","))
	}
	hosts := make([]string, 0, len(r.Nets)+len(r.Names))
	for _, p := range r.Nets {
		hosts = append(hosts, pick(p.IsSingleIP(), p.Addr().String(), p.String()))
	}
	if hosts = append(hosts, r.Names...); len(hosts) > 0 {
		words = append(words, strings.Join(hosts, ","))
	}
	for _, p := range r.Ports {
		ports = append(ports, pick(p.First == p.Last, strconv.Itoa(int(p.First)), fmt.Sprintf("%d-%d", p.First, p.Last)))
	}
	if len(ports) > 0 {
		words = append(words, strings.Join(ports, ","))
	}
	if len(words) == 1 {
		words = append(words, "all")
	}
	return strings.Join(words, " ")
}

func pick(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

// ReadRules reads rules, one a line, each behind "allow" or "deny". What follows a "#" is a remark.
func ReadRules(in io.Reader) (rules []Rule, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		if len(words) == 0 {
			continue
		}
		if len(rules) == maxRules {
			return nil, fmt.Errorf("line %d: there may be %d rules at most", n, maxRules)
		}
		verb := strings.ToLower(words[0])
		if verb != "allow" && verb != "deny" {
			return nil, fmt.Errorf("line %d: %q: a rule begins with allow or deny", n, words[0])
		}
		rule, err := ParseRule(verb == "deny", strings.Join(words[1:], " "))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		rules = append(rules, rule)
	}
	return rules, lines.Err()
}
