package options

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// PortRule forwards the ports First to Last of the host to as many ports of the namespace, of which the first is Target.
type PortRule struct {
	// Addr is the address of the host that is listened on; the zero Addr for all of them.
	Addr netip.Addr
	// Interface is the interface of the host that is listened on; empty for all of them.
	Interface string
	// First, Last and Target are port numbers, at least 1; First <= Last and Target+Last-First <= 65535.
	First, Last, Target uint16
}

// String gives the rule as ParsePorts reads it.
func (r PortRule) String() string {
	var b strings.Builder
	if r.Addr.IsValid() {
		b.WriteString(r.Addr.String())
	}
	if r.Interface != "" {
		b.WriteString("%" + r.Interface)
	}
	if b.Len() > 0 {
		b.WriteString("/")
	}
	fmt.Fprintf(&b, "%d-%d:%d-%d", r.First, r.Last, r.Target, r.Target+(r.Last-r.First))
	return b.String()
}

// sameSocket says whether both rules listen on the same address and interface.
func (r PortRule) sameSocket(other PortRule) bool {
	return r.Addr == other.Addr && r.Interface == other.Interface
}

// overlaps says whether the rules have a port of the host in common.
func (r PortRule) overlaps(other PortRule) bool {
	return r.sameSocket(other) && r.First <= other.Last && other.First <= r.Last
}

// target is the port of the namespace that the port of the host leads to.
func (r PortRule) target(port uint16) uint16 { return r.Target + (port - r.First) }

// without gives the parts of r whose ports lie outside first to last.
func (r PortRule) without(first, last uint16) []PortRule {
	if last < r.First || first > r.Last {
		return []PortRule{r}
	}
	var rest []PortRule
	if r.First < first {
		below := r
		below.Last = first - 1
		rest = append(rest, below)
	}
	if r.Last > last {
		above := r
		above.First, above.Target = last+1, r.target(last+1)
		rest = append(rest, above)
	}
	return rest
}

// ParsePorts reads one port list in pasta's grammar:
//
//	list  = [ bind "/" ] item { "," item }
//	bind  = address [ "%" interface ] | "%" interface     an IPv6 address may stand in brackets
//	item  = range [ ":" range ]                           host's ports, namespace's ports
//	      | "~" range                                     host's ports to leave out
//	range = port [ "-" port ]
//
// The rules it gives do not overlap. Lists that forward whatever there is ("all", "auto", and lists of exclusions
// alone) are refused.
func ParsePorts(list string) ([]PortRule, error) {
	var bind PortRule
	items := list
	if socket, rest, ok := strings.Cut(list, "/"); ok {
		var err error
		if bind, err = parseBind(socket); err != nil {
			return nil, err
		}
		items = rest
	}
	if items == "all" || items == "auto" {
		return nil, fmt.Errorf("vasta does not forward %q yet; name the ports", items)
	}
	var rules, excluded []PortRule
	for item := range strings.SplitSeq(items, ",") {
		exclusion, isExclusion := strings.CutPrefix(item, "~")
		if isExclusion {
			first, last, err := parseRange(exclusion)
			if err != nil {
				return nil, err
			}
			hole := PortRule{First: first, Last: last}
			for _, earlier := range excluded {
				if hole.overlaps(earlier) {
					return nil, fmt.Errorf("port %d is left out twice", max(first, earlier.First))
				}
			}
			excluded = append(excluded, hole)
			continue
		}
		rule, err := parseRule(bind, item)
		if err != nil {
			return nil, err
		}
		if rules, err = addRule(rules, rule); err != nil {
			return nil, err
		}
	}
	if len(rules) == 0 {
		return nil, errors.New("vasta does not forward every port but some yet; name the ports")
	}
	for _, hole := range excluded {
		var rest []PortRule
		for _, rule := range rules {
			rest = append(rest, rule.without(hole.First, hole.Last)...)
		}
		rules = rest
	}
	if len(rules) == 0 {
		return nil, errors.New("every port named is left out again")
	}
	return rules, nil
}

// addRule adds a rule, or what of it is not among the rules yet. A port cannot lead to two ports.
func addRule(rules []PortRule, rule PortRule) ([]PortRule, error) {
	added := []PortRule{rule}
	for _, earlier := range rules {
		if !rule.overlaps(earlier) {
			continue
		}
		port := max(rule.First, earlier.First)
		if earlier.target(port) != rule.target(port) {
			return nil, fmt.Errorf("port %d leads to port %d already and cannot lead to port %d as well", port, earlier.target(port), rule.target(port))
		}
		var rest []PortRule
		for _, part := range added {
			rest = append(rest, part.without(earlier.First, earlier.Last)...)
		}
		added = rest
	}
	return append(rules, added...), nil
}

// parseBind reads what stands in front of the slash.
func parseBind(text string) (bind PortRule, err error) {
	host, name, hasName := strings.Cut(text, "%")
	// In [address%interface] the bracket closes behind the interface.
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if hasName && strings.HasSuffix(name, "]") {
			host, name = inner, strings.TrimSuffix(name, "]")
		} else if closed, ok := strings.CutSuffix(inner, "]"); ok {
			host = closed
		}
	}
	if hasName {
		if bind.Interface, err = parseIfName(name); err != nil {
			return bind, fmt.Errorf("%q: %w", name, err)
		}
		if host == "" {
			return bind, nil
		}
	}
	if bind.Addr, err = netip.ParseAddr(host); err != nil || bind.Addr.IsMulticast() || bind.Addr.Is4In6() {
		return bind, fmt.Errorf("%q is not an address to listen on", text)
	}
	return bind, nil
}

// parseRule reads host ports and, behind a colon, as many ports of the namespace.
func parseRule(bind PortRule, item string) (PortRule, error) {
	host, guest, mapped := strings.Cut(item, ":")
	first, last, err := parseRange(host)
	if err != nil {
		return PortRule{}, err
	}
	rule := bind
	rule.First, rule.Last, rule.Target = first, last, first
	if mapped {
		target, targetLast, err := parseRange(guest)
		if err != nil {
			return PortRule{}, err
		}
		if targetLast-target != last-first {
			return PortRule{}, fmt.Errorf("%s: %d ports cannot lead to %d ports; both sides of the colon must have as many", item, int(last-first)+1, int(targetLast-target)+1)
		}
		rule.Target = target
	}
	return rule, nil
}

// parseRange reads a port, or two with a dash between them.
func parseRange(text string) (first, last uint16, err error) {
	low, high, isRange := strings.Cut(text, "-")
	if first, err = parsePort(low); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return first, first, nil
	}
	if last, err = parsePort(high); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("%s: the first port of a range is the lower one", text)
	}
	return first, last, nil
}

func parsePort(text string) (uint16, error) {
	n, err := parseNumber(text, 1, 65535)
	if err != nil {
		return 0, fmt.Errorf("%q is not a port: %w", text, err)
	}
	return uint16(n), nil
}
