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
	// Free restricts the rule to the ports that are not in the range of those the host's kernel gives to clients, and that can be had:
	// that is how pasta reads "all" and lists of exclusions alone.
	Free bool
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

// overlaps says whether the kernel would have both rules listen on a port, which it lets only one socket do: their ports, their interfaces
// and their addresses have something in common, where none named means all of them.
func (r PortRule) overlaps(other PortRule) bool {
	return r.First <= other.Last && other.First <= r.Last &&
		(r.Interface == other.Interface || r.Interface == "" || other.Interface == "") && (r.hasAddr(other.Addr) || other.hasAddr(r.Addr))
}

// hasAddr says whether r listens on everything that addr stands for: one address, all of a family, or all.
func (r PortRule) hasAddr(addr netip.Addr) bool {
	return !r.Addr.IsValid() || r.Addr == addr || addr.IsValid() && r.Addr.IsUnspecified() && r.Addr.Is4() == addr.Is4()
}

// covers says whether r listens wherever other does, ports aside.
func (r PortRule) covers(other PortRule) bool {
	return r.hasAddr(other.Addr) && (r.Interface == "" || r.Interface == other.Interface)
}

// place is where the rule listens, for messages.
func (r PortRule) place() string {
	switch {
	case !r.Addr.IsValid() && r.Interface == "":
		return "every address"
	case r.Interface == "":
		return r.Addr.String()
	case !r.Addr.IsValid():
		return "interface " + r.Interface
	}
	return r.Addr.String() + "%" + r.Interface
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
//	list  = [ bind "/" ] ( "all" | item { "," item } )
//	bind  = address [ "%" interface ] | "%" interface     an IPv6 address may stand in brackets
//	item  = range [ ":" range ]                           host's ports, namespace's ports
//	      | "~" range                                     host's ports to leave out
//	range = port [ "-" port ]
//
// A list of exclusions alone means all ports but those. The rules it gives do not overlap.
func ParsePorts(list string) ([]PortRule, error) {
	var bind PortRule
	items := list
	if socket, rest, ok := strings.Cut(list, "/"); ok {
		if rest == "tcp" || rest == "udp" {
			return nil, fmt.Errorf("the option says which protocol it is; leave /%s out", rest)
		}
		var err error
		if bind, err = parseBind(socket); err != nil {
			return nil, err
		}
		items = rest
	}
	all := bind
	all.First, all.Last, all.Target, all.Free = 1, maxPort, 1, true
	if items == "all" {
		return []PortRule{all}, nil
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
		rules = []PortRule{all}
	}
	for _, hole := range excluded {
		rules = cut(rules, hole)
	}
	if len(rules) == 0 {
		return nil, errors.New("every port named is left out again")
	}
	return rules, nil
}

// cut leaves the ports of hole out of all rules.
func cut(rules []PortRule, hole PortRule) (rest []PortRule) {
	for _, rule := range rules {
		rest = append(rest, rule.without(hole.First, hole.Last)...)
	}
	return rest
}

// addRule adds a rule, or what of it is not among the rules yet. A port cannot lead to two ports, and cannot be listened on by two sockets
// unless they have addresses or interfaces of their own.
func addRule(rules []PortRule, rule PortRule) ([]PortRule, error) {
	added := []PortRule{rule}
	var kept []PortRule
	for _, earlier := range rules {
		if !rule.overlaps(earlier) {
			kept = append(kept, earlier)
			continue
		}
		port := max(rule.First, earlier.First)
		switch {
		case earlier.target(port) != rule.target(port):
			return nil, fmt.Errorf("port %d%s leads to port %d already and cannot lead to port %d%s as well",
				port, earlier.besides(rule), earlier.target(port), rule.target(port), rule.besides(earlier))
		case earlier.covers(rule):
			added = cut(added, earlier)
			kept = append(kept, earlier)
		case rule.covers(earlier):
			kept = append(kept, cut([]PortRule{earlier}, rule)...)
		default:
			return nil, fmt.Errorf("port %d is listened on at %s already, which includes some of %s; name addresses that have nothing in common",
				port, earlier.place(), rule.place())
		}
	}
	return append(kept, added...), nil
}

// besides names the place of r in a message about another rule, if that has another place.
func (r PortRule) besides(other PortRule) string {
	if r.place() == other.place() {
		return ""
	}
	return " of " + r.place()
}

// maxPort is the highest port number.
const maxPort = 65535

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
	if addr, ports, ok := addressInFront(item); ok {
		return PortRule{}, fmt.Errorf("an address stands before a slash; write %s/%s", addr, ports)
	}
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

// addressInFront takes apart what other programs write, an address and a colon before the ports.
func addressInFront(item string) (addr, ports string, ok bool) {
	if end := strings.Index(item, "]:"); end > 0 && item[0] == '[' {
		addr, ports = item[:end+1], item[end+2:]
	} else {
		addr, ports, _ = strings.Cut(item, ":")
	}
	_, err := parseBind(addr)
	return addr, ports, err == nil && ports != ""
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
	n, err := parseNumber(text, 1, maxPort)
	if err != nil {
		return 0, fmt.Errorf("%q is not a port: %w", text, err)
	}
	return uint16(n), nil
}
