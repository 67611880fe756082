package options

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Limits of the values.
const (
	minMTU4 = 68   // RFC 791 section 3.2
	minMTU6 = 1280 // RFC 8200 section 5
	maxName = 15   // IFNAMSIZ of linux/if.h, without the final zero
	maxHost = 253  // RFC 1035 section 2.3.4, as text without the root's dot
	// maxLabel is the same section's for one label.
	maxLabel = 63
)

// parseAddr reads an address of a host: not a group, not the unspecified or limited broadcast address, without a zone.
func parseAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, errors.New("not an IPv4 or IPv6 address")
	case addr.Zone() != "":
		return netip.Addr{}, errors.New("an address without an interface is needed here; leave out what follows the %")
	case addr.Is4In6():
		return netip.Addr{}, fmt.Errorf("an IPv4 address in IPv6 clothes; write %s", addr.Unmap())
	case addr.IsUnspecified(), addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, errors.New("not the address of one host")
	}
	return addr, nil
}

// parseOverload reads what becomes of datagrams for which there is no room: whether they are dropped.
func parseOverload(text string) (drop bool, err error) {
	switch text {
	case "drop":
		return true, nil
	case "backpressure":
		return false, nil
	}
	return false, errors.New("drop or backpressure")
}

// maxMulticast is how many ports --multicast takes: each costs a descriptor for each group that is joined.
const maxMulticast = 8

// parseMulticast reads the ports of --multicast.
func parseMulticast(text string) (ports []uint16, err error) {
	for word := range strings.SplitSeq(text, ",") {
		port, err := parsePort(word)
		if err != nil {
			return nil, err
		}
		if slices.Contains(ports, port) {
			return nil, fmt.Errorf("port %d is there twice", port)
		}
		ports = append(ports, port)
	}
	if len(ports) > maxMulticast {
		return nil, fmt.Errorf("%d ports; at most %d", len(ports), maxMulticast)
	}
	return ports, nil
}

// parseGuestAddr reads an address that a host on a link may have.
func parseGuestAddr(text string) (netip.Addr, error) {
	addr, err := parseAddr(text)
	if err == nil && addr.IsLoopback() {
		return netip.Addr{}, errors.New("a loopback address cannot be used on a link")
	}
	return addr, err
}

// parsePrefix reads ADDR[/PLEN]. Without a length IPv6 gets 64 and IPv4 that of its class; hasLen says which it was.
func parsePrefix(text string) (prefix netip.Prefix, hasLen bool, err error) {
	host, length, hasLen := strings.Cut(text, "/")
	addr, err := parseGuestAddr(host)
	if err != nil {
		return netip.Prefix{}, false, err
	}
	if !hasLen {
		return netip.PrefixFrom(addr, defaultLen(addr)), false, nil
	}
	bits, err := parseNumber(length, 1, int64(addr.BitLen()))
	if err != nil {
		return netip.Prefix{}, false, fmt.Errorf("prefix length: %w", err)
	}
	return netip.PrefixFrom(addr, int(bits)), true, nil
}

// defaultLen is the prefix length of an address that was given without one.
func defaultLen(addr netip.Addr) int {
	if addr.Is6() {
		return 64
	}
	switch first := addr.As4()[0]; {
	case first < 128:
		return 8
	case first < 192:
		return 16
	default:
		return 24
	}
}

// parseNetmask reads an IPv4 mask, as 255.255.255.0 or as 24.
func parseNetmask(text string) (bits int, err error) {
	if !strings.Contains(text, ".") {
		n, err := parseNumber(text, 1, 32)
		return int(n), err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is4() {
		return 0, errors.New("not an IPv4 mask; write it as 255.255.255.0 or as 24")
	}
	mask := addr.As4()
	bits, size := net.IPv4Mask(mask[0], mask[1], mask[2], mask[3]).Size()
	if size == 0 || bits == 0 {
		return 0, errors.New("not a mask: its ones must be together at the front")
	}
	return bits, nil
}

// parseMAC reads the hardware address of one Ethernet interface.
func parseMAC(text string) (MAC, error) {
	bytes, err := net.ParseMAC(text)
	if err != nil || len(bytes) != len(MAC{}) {
		return MAC{}, errors.New("not an Ethernet address; write it as 9a:55:9a:55:9a:55")
	}
	mac := MAC(bytes)
	switch {
	case mac[0]&1 != 0:
		return MAC{}, errors.New("a group address; the lowest bit of the first byte must be 0")
	case mac == MAC{}:
		return MAC{}, errors.New("the zero address belongs to no interface")
	}
	return mac, nil
}

// parseIfName reads the name of an interface, by the kernel's rules for one.
func parseIfName(text string) (string, error) {
	switch {
	case text == "" || len(text) > maxName:
		return "", fmt.Errorf("the name of an interface has 1 to %d characters", maxName)
	case text == "." || text == ".." || strings.ContainsAny(text, "/: \t\n\v\f\r"):
		return "", errors.New("not the name of an interface")
	}
	return text, nil
}

// parseDomain reads a search domain of resolv.conf.
func parseDomain(text string) (string, error) {
	if text == "" || len(text) > maxHost || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "", fmt.Errorf("not a domain name; it has 1 to %d characters and no space", maxHost)
	}
	return text, nil
}

// parseHost reads a host name of one label, and parseFQDN one with a domain: RFC 1035, 2.3.1 and 2.3.4, and RFC 1123, 2.1.
func parseHost(text string) (string, error) {
	if strings.Contains(text, ".") || !isHost(text) {
		return "", fmt.Errorf("not a host name; it has 1 to %d letters, digits and inner dashes", maxLabel)
	}
	return text, nil
}

func parseFQDN(text string) (string, error) {
	if !isHost(strings.TrimSuffix(text, ".")) {
		return "", fmt.Errorf("not a domain name; its parts have 1 to %d letters, digits and inner dashes, and it has %d at most", maxLabel, maxHost)
	}
	return text, nil
}

func isHost(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	other := func(r rune) bool {
		return r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}
	return len(name) <= maxHost && !strings.ContainsFunc(name, other)
}

// parseNumber reads a decimal number from low to high.
func parseNumber(text string, low, high int64) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || int64(n) < low || int64(n) > high {
		return 0, fmt.Errorf("not a number from %d to %d", low, high)
	}
	return int64(n), nil
}

// parseSize reads a number of bytes, with K, M or G behind it for 2^10, 2^20 and 2^30.
func parseSize(text string, low, high int64) (int64, error) {
	shift := 0
	digits := text
	if n := len(text) - 1; n > 0 {
		switch text[n] {
		case 'K', 'k':
			shift, digits = 10, text[:n]
		case 'M', 'm':
			shift, digits = 20, text[:n]
		case 'G', 'g':
			shift, digits = 30, text[:n]
		}
	}
	n, err := parseNumber(digits, 0, high>>shift)
	if n <<= shift; err != nil || n < low {
		return 0, fmt.Errorf("not a size from %d to %d bytes; K, M or G may follow the number", low, high)
	}
	return n, nil
}

// parseCapture reads the name of a file for frames. What looks like ports is meant for another option, by people who know -p from other programs.
func parseCapture(text string) (string, error) {
	if _, err := ParsePorts(text); err == nil && strings.Contains(text, ":") {
		return "", fmt.Errorf("this is a file that frames are written to; to forward ports, say -t %s (for a file of that name, ./%s)", text, text)
	}
	return parseFile(text)
}

// parseFile reads the name of a file.
func parseFile(text string) (string, error) {
	if text == "" || strings.Contains(text, "\x00") {
		return "", errors.New("not the name of a file")
	}
	return text, nil
}

// parseNetNS reads a network namespace: a path, or a name that ip-netns(8) gave one.
func parseNetNS(text string) (string, error) {
	path, err := parseFile(text)
	if err != nil || strings.Contains(path, "/") {
		return path, err
	}
	if path == "." || path == ".." {
		return "", errors.New("not the name of a namespace")
	}
	return "/run/netns/" + path, nil
}
