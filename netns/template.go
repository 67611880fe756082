package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Template is what the host's own interfaces offer for the inside of a namespace.
type Template struct {
	// IfName is the name the TAP gets inside: the IPv4 template interface's, else the IPv6 one's, else [LocalIfName].
	IfName string
	// MTU is what the interfaces of both families carry, in bytes: the smaller of the two where they differ; 0 in local mode.
	MTU int
	// V4 and V6 are the address families.
	V4, V6 Family
	// Local says that the host has no network, and that the families hold pasta's local mode: link-local addresses
	// that reach nothing but the host's loopback.
	Local bool
}

// Family is one address family of a [Template].
type Family struct {
	// IfName is the host's interface, empty when the host does not have the family or in local mode.
	IfName string
	// Addrs are the interface's addresses without the link-local ones.
	Addrs []netip.Prefix
	// Routes are the interface's routes without those the kernel makes from the addresses.
	Routes []Route
	// Gateway is the guest's router: that of the default route, or the one of the local mode when the default route
	// has none (a point-to-point interface). The zero Addr: the family is not there.
	Gateway netip.Addr
}

// Enabled says whether the host has the family, or the local mode stands in for it.
func (f *Family) Enabled() bool { return f.Gateway.IsValid() }

// Addresses of the local mode, the same as pasta's.
var (
	LocalAddr4    = netip.MustParsePrefix("169.254.2.1/16")
	LocalGateway4 = netip.MustParseAddr("169.254.2.2")
	LocalGateway6 = netip.MustParseAddr("fe80::1")

	defaultRoute4 = netip.MustParsePrefix("0.0.0.0/0")
	defaultRoute6 = netip.MustParsePrefix("::/0")
)

// LocalTemplate returns the template of a host without a network.
func LocalTemplate() Template {
	return Template{
		IfName: LocalIfName,
		Local:  true,
		V4: Family{
			Addrs:   []netip.Prefix{LocalAddr4},
			Routes:  []Route{{Dst: defaultRoute4, Gateway: LocalGateway4}},
			Gateway: LocalGateway4,
		},
		V6: Family{
			Routes:  []Route{{Dst: defaultRoute6, Gateway: LocalGateway6}},
			Gateway: LocalGateway6,
		},
	}
}

// Config returns a Config with t's interface name, addresses and routes.
func (t *Template) Config() Config {
	return Config{
		IfName: t.IfName,
		Addrs:  slices.Concat(t.V4.Addrs, t.V6.Addrs),
		Routes: slices.Concat(t.V4.Routes, t.V6.Routes),
	}
}

// HostNetwork reads the template from the caller's network namespace. iface4 and iface6 name the interface of each
// family; empty means the one of the best default route, else of the first route. A host without any gives
// [LocalTemplate]; a host with one family gives a template with that one.
func HostNetwork(iface4, iface6 string) (Template, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Template{}, fmt.Errorf("reading the host's network: cannot open a netlink socket: %w", err)
	}
	defer h.Close()

	v4, mtu4, err := hostFamily(h, netlink.FAMILY_V4, iface4)
	if err != nil {
		return Template{}, err
	}
	v6, mtu6, err := hostFamily(h, netlink.FAMILY_V6, iface6)
	if err != nil {
		return Template{}, err
	}
	switch {
	case v4.Enabled() && v6.Enabled():
		return Template{IfName: v4.IfName, MTU: min(mtu4, mtu6), V4: v4, V6: v6}, nil
	case v4.Enabled():
		return Template{IfName: v4.IfName, MTU: mtu4, V4: v4}, nil
	case v6.Enabled():
		return Template{IfName: v6.IfName, MTU: mtu6, V6: v6}, nil
	}
	return LocalTemplate(), nil
}

// hostFamily reads one family and the MTU of its interface. Without a usable interface the Family is not enabled.
func hostFamily(h *netlink.Handle, family int, iface string) (Family, int, error) {
	name := "IPv4"
	if family == netlink.FAMILY_V6 {
		name = "IPv6"
	}
	all, err := h.RouteList(nil, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			return Family{}, 0, nil
		}
		return Family{}, 0, fmt.Errorf("reading the host's %s routes by netlink: %w", name, err)
	}
	routes := usableRoutes(all)

	var link netlink.Link
	if iface != "" {
		if link, err = h.LinkByName(iface); err != nil {
			return Family{}, 0, fmt.Errorf("template interface %q for %s: %w: name one that \"ip link\" lists", iface, name, err)
		}
	} else {
		index := templateIndex(routes)
		if index == 0 {
			return Family{}, 0, nil
		}
		if link, err = h.LinkByIndex(index); err != nil {
			return Family{}, 0, fmt.Errorf("reading the host's interface %d by netlink: %w", index, err)
		}
	}
	attrs := link.Attrs()

	addrs, err := h.AddrList(link, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return Family{}, 0, fmt.Errorf("reading the %s addresses of %s by netlink: %w", name, attrs.Name, err)
	}
	f := Family{IfName: attrs.Name, Addrs: usableAddrs(addrs)}
	if len(f.Addrs) == 0 {
		if iface != "" {
			return Family{}, 0, fmt.Errorf("template interface %q has no global %s address: give it one, or name another interface", iface, name)
		}
		return Family{}, 0, nil
	}
	f.Routes, f.Gateway = familyRoutes(routes, attrs.Index)
	if !f.Gateway.IsValid() {
		f.Gateway = LocalGateway4
		if family == netlink.FAMILY_V6 {
			f.Gateway = LocalGateway6
		}
	}
	return f, attrs.MTU, nil
}

// hostRoute is one next hop of a host route.
type hostRoute struct {
	Route
	index int
}

func (r *hostRoute) isDefault() bool { return r.Dst.Bits() == 0 }

// usableRoutes picks the main table's live unicast routes, one entry for each next hop, in the kernel's order.
func usableRoutes(all []netlink.Route) []hostRoute {
	var routes []hostRoute
	for i := range all {
		r := &all[i]
		if r.Type != unix.RTN_UNICAST {
			continue
		}
		dst, ok := routePrefix(r)
		if !ok || dst.Addr().IsLinkLocalUnicast() && dst.Addr().Is6() || dst.Addr().IsMulticast() {
			continue
		}
		add := func(index, flags int, gw net.IP) {
			if flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) != 0 {
				return
			}
			gateway, _ := netip.AddrFromSlice(gw)
			routes = append(routes, hostRoute{index: index, Route: Route{
				Dst: dst, Gateway: gateway.Unmap(), Metric: r.Priority, OnLink: flags&unix.RTNH_F_ONLINK != 0, MTU: r.MTU,
			}})
		}
		if len(r.MultiPath) == 0 {
			add(r.LinkIndex, r.Flags, r.Gw)
		}
		for _, hop := range r.MultiPath {
			add(hop.LinkIndex, hop.Flags, hop.Gw)
		}
	}
	return routes
}

// routePrefix returns r's destination; the kernel gives none for a default route.
func routePrefix(r *netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		if r.Family == netlink.FAMILY_V6 {
			return defaultRoute6, true
		}
		return defaultRoute4, true
	}
	return prefixOf(r.Dst)
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, size := n.Mask.Size()
	if size == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, bits), true
}

// templateIndex returns the interface of the best default route, else of the first route, else 0.
func templateIndex(routes []hostRoute) int {
	const loopback = 1 // the index of lo in every network namespace
	var best, first *hostRoute
	for i := range routes {
		r := &routes[i]
		if r.index == loopback || r.index == 0 {
			continue
		}
		if first == nil {
			first = r
		}
		if r.isDefault() && (best == nil || r.Metric < best.Metric) {
			best = r
		}
	}
	switch {
	case best != nil:
		return best.index
	case first != nil:
		return first.index
	}
	return 0
}

// familyRoutes returns the routes through the interface, and the gateway of its best default route.
func familyRoutes(routes []hostRoute, index int) ([]Route, netip.Addr) {
	var out []Route
	var best *hostRoute
	for i := range routes {
		r := &routes[i]
		if r.index != index {
			continue
		}
		if r.isDefault() && (best == nil || r.Metric < best.Metric) {
			best = r
		}
		out = append(out, r.Route)
	}
	if best == nil {
		return out, netip.Addr{}
	}
	return out, best.Gateway
}

// usableAddrs picks the addresses that the host itself would use for new connections.
func usableAddrs(all []netlink.Addr) []netip.Prefix {
	const unusable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	var addrs []netip.Prefix
	for i := range all {
		a := &all[i]
		p, ok := prefixOf(a.IPNet)
		if !ok || p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() || p.Addr().IsLoopback() || p.Addr().IsMulticast() {
			continue
		}
		// An optimistic address is usable although it is tentative.
		if a.Flags&unusable != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0 {
			continue
		}
		if !slices.Contains(addrs, p) {
			addrs = append(addrs, p)
		}
	}
	return addrs
}
