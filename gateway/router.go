package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vasta-net/vasta/gateway/dhcp"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The time between two unsolicited advertisements should be random between these two (RFC 4861, 6.2.4).
const (
	AdvertiseMin = 200 * time.Second
	AdvertiseMax = 600 * time.Second
)

// MaxLifetime is the longest lifetime of a default router (RFC 8319).
const MaxLifetime = 65535 * time.Second

// formerLifetime is how long connections from a former address may go on: an advertisement cannot cut it shorter (RFC 4862, 5.5.3 e).
const formerLifetime = 2 * time.Hour

// hopLimit is the one that a guest is told to send with.
const hopLimit = 64

// Router is what router advertisements say. The prefixes are those of the guest's addresses: each /64 is on the
// link, may be configured from, and never expires, but for those of former addresses. Nor do the resolvers and the search list.
type Router struct {
	Lifetime time.Duration // as a default router, up to MaxLifetime; 0: it is none
	MTU      uint32        // of the link, in bytes; 0: not advertised
	DNS      []netip.Addr  // IPv6 addresses of resolvers (RFC 8106)
	Search   []string      // domains to search; advertised only with resolvers
}

// Advertise emits an unsolicited router advertisement to all nodes; nothing if they are switched off.
func (g *Gateway) Advertise(emit func(frame []byte)) {
	if len(g.ra) > 0 {
		g.multicast(g.ra, emit)
	}
}

// encode makes the message of a gateway of the given configuration; its checksum is zero.
func (r *Router) encode(c *Config) ([]byte, error) {
	if r.Lifetime < 0 || r.Lifetime > MaxLifetime {
		return nil, fmt.Errorf("lifetime %v is not between 0 and %v", r.Lifetime, MaxLifetime)
	}
	if r.MTU != 0 && r.MTU < header.IPv6MinimumMTU {
		return nil, fmt.Errorf("MTU %d is below %d, the least for IPv6", r.MTU, header.IPv6MinimumMTU)
	}
	ra := ndp.RouterAdvertisement{CurrentHopLimit: hopLimit, RouterLifetime: r.Lifetime}
	if c.DHCP6 != nil { // RFC 4861, 4.2: addresses are to be had by DHCPv6, and everything else
		ra.ManagedConfiguration, ra.OtherConfiguration = c.DHCP6.Addr.IsValid(), true
	}
	add := func(o ndp.Option) { ra.Options = append(ra.Options, o) }
	advertised := map[netip.Prefix]bool{}
	for i, a := range slices.Concat(c.Guest, c.Former) {
		if !a.Is6() || a.Is4In6() || a.IsLinkLocalUnicast() {
			continue
		}
		p := netip.PrefixFrom(a, 64).Masked()
		if advertised[p] {
			continue
		}
		advertised[p] = true
		valid, preferred := ndp.Infinity, ndp.Infinity
		if i >= len(c.Guest) {
			valid, preferred = formerLifetime, 0
		}
		add(&ndp.PrefixInformation{
			PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true,
			ValidLifetime: valid, PreferredLifetime: preferred, Prefix: p.Addr(),
		})
	}
	if r.MTU != 0 {
		add(ndp.NewMTU(r.MTU))
	}
	add(&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr(c.MAC[:])})
	if len(r.DNS) > 0 {
		if err := r.addResolvers(add); err != nil {
			return nil, err
		}
	}
	b, err := ndp.MarshalMessage(&ra)
	if err != nil {
		return nil, err
	}
	if len(b) > maxMessage {
		return nil, errTooLong
	}
	return b, nil
}

var errTooLong = fmt.Errorf("more resolvers, search domains and prefixes than fit in %d bytes, which pass any link", maxMessage)

// addResolvers adds the options that tell of resolvers and search domains. The library that encodes them checks
// neither names nor lengths.
func (r *Router) addResolvers(add func(ndp.Option)) error {
	size := 0
	for _, a := range r.DNS {
		if !a.Is6() || a.Is4In6() || !usable(a) {
			return fmt.Errorf("%v is not the IPv6 address of a resolver", a)
		}
		size += len(a.AsSlice())
	}
	names := make([]string, len(r.Search))
	for i, d := range r.Search {
		names[i] = strings.TrimSuffix(d, ".")
		if !dhcp.IsDomain(names[i]) {
			return fmt.Errorf("search domain %q is not a domain name in ASCII", d)
		}
		size += len(names[i])
	}
	if size > maxMessage {
		return errTooLong
	}
	add(&ndp.RecursiveDNSServer{Lifetime: ndp.Infinity, Servers: r.DNS})
	if len(names) > 0 {
		add(&ndp.DNSSearchList{Lifetime: ndp.Infinity, DomainNames: names})
	}
	return nil
}
