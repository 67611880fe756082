package netns

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// configureNetwork runs in the stage: it brings lo up, makes the TAP and gives it cfg's addresses and routes. Refusals that
// leave the network working are returned as warnings. The descriptors belong to the caller.
func configureNetwork(cfg *Config) (tap TAP, warnings []string, err error) {
	tap = TAP{Name: cfg.IfName, MAC: cfg.MAC, MTU: cfg.MTU}
	var holdsBack bool
	tap.FDs, tap.Offloads, holdsBack, err = openTAP(cfg.IfName, cfg.Queues, cfg.Backpressure)
	if err != nil {
		return TAP{}, nil, err
	}
	warnings, err = configureLinks(cfg, holdsBack)
	if err != nil {
		closeAll(tap.FDs)
		return TAP{}, nil, err
	}
	return tap, warnings, nil
}

func configureLinks(cfg *Config, holdsBack bool) (warnings []string, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("configuring the TAP: cannot open a netlink socket: %w", err)
	}
	defer h.Close()

	const loopback = 1 // the index of lo in every network namespace
	if err := h.LinkSetUp(linkByIndex(loopback)); err != nil {
		return nil, fmt.Errorf("bringing lo up: %w", err)
	}
	index, err := interfaceIndex(cfg.IfName)
	if err != nil {
		return nil, err
	}
	tap := linkByIndex(index)
	fail := func(what string, err error) error {
		return fmt.Errorf("setting %s of TAP %s: %w", what, cfg.IfName, err)
	}
	if err := h.LinkSetHardwareAddr(tap, cfg.MAC[:]); err != nil {
		return nil, fail(fmt.Sprintf("the MAC address %s", net.HardwareAddr(cfg.MAC[:])), err)
	}
	if err := h.LinkSetMTU(tap, cfg.MTU); err != nil {
		return nil, fail(fmt.Sprintf("the MTU %d", cfg.MTU), err)
	}
	if err := h.LinkSetTxQLen(tap, cfg.TxQueueLen); err != nil {
		return nil, fail(fmt.Sprintf("the transmit queue length %d", cfg.TxQueueLen), err)
	}
	if !holdsBack {
		leaveQdiscOut(h, index)
	}
	// A small MTU or the kernel's command line may leave the interface without IPv6.
	hasIPv6 := cfg.MTU >= MinMTU6 && ipv6Enabled(cfg.IfName)
	if hasIPv6 {
		// The kernel would run duplicate address detection on a link-local address it makes itself, for a second in which
		// nothing can be sent from it.
		if err := h.LinkSetIP6AddrGenMode(tap, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
			return nil, fail("the IPv6 address generation mode", err)
		}
		path := "/proc/sys/net/ipv6/conf/" + cfg.IfName + "/accept_ra"
		if err := os.WriteFile(path, []byte("0"), 0); err != nil {
			warnings = append(warnings, fmt.Sprintf("%v: router advertisements may add addresses inside", err))
		}
	}
	if err := h.LinkSetUp(tap); err != nil {
		return nil, fmt.Errorf("bringing TAP %s up: %w", cfg.IfName, err)
	}

	addrs := cfg.Addrs
	if hasIPv6 {
		addrs = append([]netip.Prefix{linkLocal(cfg.MAC)}, addrs...)
	}
	for _, a := range addrs {
		if a.Addr().Is6() && !hasIPv6 {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
			if a.Addr().IsLinkLocalUnicast() {
				addr.Scope = unix.RT_SCOPE_LINK
			}
		}
		if err := h.AddrAdd(tap, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("adding address %s to TAP %s: %w", a, cfg.IfName, err)
		}
	}
	routes := cfg.Routes
	if !hasIPv6 {
		routes = slices.DeleteFunc(slices.Clone(routes), func(r Route) bool { return r.Dst.Addr().Is6() })
		warnings = append(warnings, "there is no IPv6 inside: the kernel or an MTU below 1280 disables it")
	}
	if err := addRoutes(h, index, cfg.IfName, routes); err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if a.Addr().Is6() && hasIPv6 && !awaitLocal(h, index, a.Addr()) {
			warnings = append(warnings, fmt.Sprintf("the kernel does not take packets to %s after %v", a.Addr(), localLimit))
		}
	}
	return warnings, nil
}

// leaveQdiscOut gives the interface, before it is up, the queueing discipline noqueue: frames go straight to the TAP's own queues. Any other is made for each of
// the 256 queues that the driver reserves for an interface with several, with room for the transmit queue length: 200 MB of the kernel's memory and 10 ms, for what nothing
// ever waits in, as the TAP drops what it has no room for instead of stopping the discipline. A kernel that refuses works with its own.
func leaveQdiscOut(h *netlink.Handle, index int) {
	_ = h.QdiscReplace(&netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_ROOT}, QdiscType: "noqueue"})
}

// localLimit bounds the wait for an address.
const localLimit = time.Second

// awaitLocal waits until packets to an IPv6 address of the TAP are taken, and reports whether they are. The kernel adds the route for that from a work queue
// (addrconf_dad_work in net/ipv6/addrconf.c), after the answer to whoever has added the address; until then a packet is dropped as one to another host.
func awaitLocal(h *netlink.Handle, index int, a netip.Addr) bool {
	options := &netlink.RouteGetOptions{}
	if a.IsLinkLocalUnicast() {
		options.OifIndex = index
	}
	for deadline := time.Now().Add(localLimit); ; time.Sleep(100 * time.Microsecond) {
		routes, err := h.RouteGetWithOptions(a.AsSlice(), options)
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// addRoutes adds the routes in rounds, since a gateway may be reachable only through another route of the list.
func addRoutes(h *netlink.Handle, index int, name string, routes []Route) error {
	for pending := routes; len(pending) > 0; {
		var left []Route
		var failed error
		for _, r := range pending {
			err := h.RouteAdd(kernelRoute(r, index))
			if err != nil && !errors.Is(err, unix.EEXIST) {
				left = append(left, r)
				failed = fmt.Errorf("adding route %s to TAP %s: %w", r, name, err)
			}
		}
		if len(left) == len(pending) {
			return failed
		}
		pending = left
	}
	return nil
}

// kernelRoute is r as a netlink message wants it.
func kernelRoute(r Route, index int) *netlink.Route {
	route := &netlink.Route{LinkIndex: index, Dst: ipNet(r.Dst), Priority: r.Metric, Protocol: unix.RTPROT_STATIC, MTU: r.MTU}
	if r.Gateway.IsValid() {
		route.Gw = r.Gateway.AsSlice()
	} else {
		route.Scope = unix.RT_SCOPE_LINK
	}
	if r.OnLink {
		route.Flags = unix.RTNH_F_ONLINK
	}
	return route
}

// String gives the route as "ip route" does.
func (r Route) String() string {
	s := r.Dst.String()
	if r.Dst.Bits() == 0 {
		s = "default"
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	if r.OnLink {
		s += " onlink"
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	if r.MTU != 0 {
		s += fmt.Sprintf(" mtu %d", r.MTU)
	}
	return s
}

func linkByIndex(index int) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// interfaceIndex asks by ioctl: netlink would send all the interface's attributes.
func interfaceIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("interface name %q: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("looking up interface %s: %w", name, err)
	}
	return int(ifr.Uint32()), nil
}

func ipv6Enabled(iface string) bool {
	return readSetting("/proc/sys/net/ipv6/conf/"+iface+"/disable_ipv6") == "0"
}

// linkLocal makes the address that the kernel makes from a MAC address: RFC 4291, appendix A.
func linkLocal(mac MAC) netip.Prefix {
	a := [16]byte{
		0: 0xfe, 1: 0x80,
		8: mac[0] ^ 0x02, 9: mac[1], 10: mac[2], 11: 0xff,
		12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// randomMAC makes a unicast, locally administered address.
func randomMAC() (mac MAC) {
	rand.Read(mac[:]) // never fails
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}
