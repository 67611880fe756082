// Package dhcp answers a guest's DHCP and DHCPv6 messages. There is one guest and one address of each family for it, so
// a server is a function of its configuration: it keeps no leases.
//
// It is sans-IO: it is given the payload of one UDP datagram and gives back that of the answer; gateway makes frames of
// it. A server changes nothing of its own by answering, so that several workers may share one. It allocates, a few
// times per message of its own protocol.
package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/rfc1035label"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// Lease is how long a client may use its address before it asks again. It is short enough that a client learns of a change of
// the host within half of it, by its renewal.
const Lease = time.Hour

// maxLease bounds the lease time that a DHCP client asks for.
const maxLease = 24 * time.Hour

// MaxMessage bounds a message in bytes: what an Ethernet frame of 1500 bytes carries.
const MaxMessage = 1500 - 28

// Names is what both protocols tell of names.
type Names struct {
	DNS    []netip.Addr // resolvers, of the protocol's family
	Search []string     // domains to search
	Host   string       // the guest's own name without a domain; "" for none
	FQDN   string       // and with one
}

// check refuses what the encoders of the library would take as it is.
func (n *Names) check() error {
	for _, d := range n.Search {
		if !IsDomain(strings.TrimSuffix(d, ".")) {
			return fmt.Errorf("search domain %q is not a domain name in ASCII", d)
		}
	}
	if n.Host != "" && (!IsDomain(n.Host) || strings.Contains(n.Host, ".")) {
		return fmt.Errorf("host name %q is not one label of a domain name in ASCII", n.Host)
	}
	if n.FQDN != "" && !IsDomain(strings.TrimSuffix(n.FQDN, ".")) {
		return fmt.Errorf("host name %q is not a domain name in ASCII", n.FQDN)
	}
	return nil
}

// IsDomain reports whether a name, without its final dot, keeps to the lengths of RFC 1035, 2.3.4, and to ASCII.
func IsDomain(name string) bool {
	const maxName, maxLabel = 253, 63
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel {
			return false
		}
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f {
			return false
		}
	}
	return len(name) <= maxName
}

// labels are names in the form of RFC 1035, 3.1, without compression.
func labels(names ...string) *rfc1035label.Labels {
	l := rfc1035label.NewLabels()
	for _, n := range names {
		l.Labels = append(l.Labels, strings.TrimSuffix(n, "."))
	}
	return l
}

// ips are addresses in the form of the library.
func ips(addrs []netip.Addr) []net.IP {
	out := make([]net.IP, len(addrs))
	for i, a := range addrs {
		out[i] = a.AsSlice()
	}
	return out
}
