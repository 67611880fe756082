// Package forward holds the rules by which addresses and ports are translated between a guest and the host.
package forward

import "net/netip"

// Map translates the ends of flows. Pairs are indexed by family: V4, V6. An invalid address switches a
// mapping off. A Map is read-only once a worker uses it.
type Map struct {
	// Loopback is the address that stands, inside, for the host's loopback address.
	Loopback [2]netip.Addr
	// GuestAlias is the address that stands, inside, for the host's own copy of the guest's address.
	GuestAlias [2]netip.Addr
	// Guest is the guest's address.
	Guest [2]netip.Addr
	// Gateway is the guest's router: what a peer is shown as, when its own address would mislead the guest.
	Gateway [2]netip.Addr
	// Broadcast is the broadcast address of the guest's network where that is the host's too.
	Broadcast netip.Addr
}

// The families of a pair.
const (
	V4 = 0
	V6 = 1
)

var loopback = [2]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// family of a valid address.
func family(a netip.Addr) int {
	if a.Is4() {
		return V4
	}
	return V6
}

// Outbound is where a flow that the guest directs at dst goes to on the host. ok is false when the address is one that no guest may reach:
// loopback, unspecified, multicast and broadcast addresses.
func (m *Map) Outbound(dst netip.AddrPort) (to netip.AddrPort, ok bool) {
	a := dst.Addr()
	if !reachable(a) || a == m.Broadcast {
		return netip.AddrPort{}, false
	}
	f := family(a)
	switch a {
	case m.Loopback[f]:
		return netip.AddrPortFrom(loopback[f], dst.Port()), true
	case m.GuestAlias[f]:
		return netip.AddrPortFrom(m.Guest[f], dst.Port()), true
	}
	return dst, true
}

// everybody is the limited broadcast address.
var everybody = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// IsBroadcast reports whether a is a broadcast address, of the guest's network or of any.
func (m *Map) IsBroadcast(a netip.Addr) bool {
	return a == everybody || a == m.Broadcast && a.IsValid()
}

func reachable(a netip.Addr) bool {
	return !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() && a != everybody
}

// Source reports whether a guest may use a as its own address.
func Source(a netip.Addr) bool { return reachable(a) }

// Inbound is what the guest sees of the host peer src. The host's loopback address and its copy of the guest's
// address are shown under their mapped addresses, or as the gateway. ok is false when there is nothing to show it as.
func (m *Map) Inbound(src netip.AddrPort) (from netip.AddrPort, ok bool) {
	a := src.Addr()
	f := family(a)
	switch {
	case a == loopback[f] && m.Loopback[f].IsValid():
		a = m.Loopback[f]
	case a == m.Guest[f] && m.GuestAlias[f].IsValid():
		a = m.GuestAlias[f]
	case !reachable(a) || a == m.Guest[f]:
		a = m.Gateway[f]
	}
	return netip.AddrPortFrom(a, src.Port()), a.IsValid()
}

// OtherLoopback is the loopback address of the family that a is not of.
func OtherLoopback(a netip.Addr) netip.Addr { return loopback[1-family(a)] }

// Port is one forwarded port: connections and datagrams that reach Listen on the host go to the guest's port To.
type Port struct {
	Listen netip.AddrPort
	// Inside: Listen is of the guest's namespace, at its loopback, and leads to the port To of the host's.
	Inside bool
	Dual   bool   // an unspecified IPv6 address listens for both families; Inside, there is the same port of the other family
	Device string // only through this interface; "" for any
	To     uint16
	// Deferred: the port refuses connections until it is known that the guest takes them.
	Deferred bool
	// Optional: the port may be somebody else's, and is passed over then.
	Optional bool
}

// Outer is where on the host an Inside port leads to.
func (p *Port) Outer() netip.AddrPort {
	return netip.AddrPortFrom(loopback[family(p.Listen.Addr())], p.To)
}
