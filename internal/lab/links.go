package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkName is the name that the veth has at both ends.
const LinkName = "eth0"

// linkLimit bounds the wait for a link that was set up.
const linkLimit = 5 * time.Second

// MTU is the largest that veth and TAP links carry as one IP packet, rounded to
// a multiple of the word size as pasta and slirp4netns do.
const MTU = 65520

// The lab's addresses, all from the ranges reserved for documentation.
var (
	HostAddr4 = netip.MustParsePrefix("192.0.2.2/24")
	HostAddr6 = netip.MustParsePrefix("2001:db8::2/64")
	InetAddr4 = netip.MustParsePrefix("192.0.2.1/24")
	InetAddr6 = netip.MustParsePrefix("2001:db8::1/64")
	// FarAddr4 and FarAddr6 are on inet's loopback; host reaches them through
	// its default routes.
	FarAddr4 = netip.MustParsePrefix("198.51.100.1/32")
	FarAddr6 = netip.MustParsePrefix("2001:db8:ffff::1/128")
)

// everywhere are the destinations of the default routes.
var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// join lays the veth between the two namespaces and gives both their addresses.
func (l *Lab) join() error {
	if err := lay(end{l.Host, LinkName, []netip.Prefix{HostAddr4, HostAddr6}}, end{l.Inet, LinkName, []netip.Prefix{InetAddr4, InetAddr6}}); err != nil {
		return err
	}
	if err := l.Inet.addAddresses("lo", FarAddr4, FarAddr6); err != nil {
		return err
	}
	return l.Host.addRoutes(LinkName, everywhere, InetAddr4.Addr(), InetAddr6.Addr())
}

// end is one end of a veth.
type end struct {
	ns    *Namespace
	name  string
	addrs []netip.Prefix
}

// lay joins two namespaces by a veth, gives its ends their addresses, and waits until it carries packets.
func lay(a, b end) error {
	err := a.ns.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: a.name, MTU: MTU},
			PeerName:      b.name,
			PeerMTU:       MTU,
			PeerNamespace: netlink.NsFd(b.ns.file.Fd()),
		})
	})
	if err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	for _, e := range []end{a, b} {
		if err := e.ns.setUp(e.name); err != nil {
			return err
		}
		if err := e.ns.addAddresses(e.name, e.addrs...); err != nil {
			return err
		}
	}
	return errors.Join(a.ns.awaitLink(a.name), b.ns.awaitLink(b.name))
}

// setUp brings an interface up.
func (ns *Namespace) setUp(name string) error {
	err := ns.withLink(name, func(link netlink.Link) error { return netlink.LinkSetUp(link) })
	if err != nil {
		return fmt.Errorf("%s up: %w", name, err)
	}
	return nil
}

// awaitLink waits until the veth carries packets. The kernel notices the other end some time after it is up, and until
// then drops what is sent, such as the first ARP request, which is repeated after a second. It tells the state just before it lets packets
// pass, with its lock on all links held: a change of the link, though it changes nothing, waits for that.
func (ns *Namespace) awaitLink(name string) error {
	for deadline := time.Now().Add(linkLimit); ; time.Sleep(time.Millisecond) {
		var state netlink.LinkOperState
		err := ns.withLink(name, func(link netlink.Link) error {
			if state = link.Attrs().OperState; state != netlink.OperUp {
				return nil
			}
			return netlink.LinkSetUp(link)
		})
		if err != nil || state == netlink.OperUp {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s in %s is %s after %v", name, ns.name, state, linkLimit)
		}
	}
}

// addAddresses adds addresses without duplicate address detection, and waits until packets to them are taken.
func (ns *Namespace) addAddresses(name string, addrs ...netip.Prefix) error {
	return ns.withLink(name, func(link netlink.Link) error {
		for _, a := range addrs {
			addr := &netlink.Addr{IPNet: ipNet(a)}
			if a.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("address %v: %w", a, err)
			}
		}
		for _, a := range addrs {
			if err := awaitLocal(a.Addr()); err != nil {
				return fmt.Errorf("address %v: %w", a, err)
			}
		}
		return nil
	})
}

// awaitLocal waits until this thread's namespace takes packets to an address of its own. The kernel adds the route for an IPv6 address from a
// work queue, and until then drops them as packets to another host.
func awaitLocal(a netip.Addr) error {
	for deadline := time.Now().Add(linkLimit); ; time.Sleep(time.Millisecond) {
		routes, err := netlink.RouteGet(a.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("packets to it are not taken after %v", linkLimit)
		}
	}
}

// addRoutes adds a route for each family.
func (ns *Namespace) addRoutes(name string, to []netip.Prefix, gateways ...netip.Addr) error {
	return ns.withLink(name, func(link netlink.Link) error {
		for i, gw := range gateways {
			route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(to[i]), Gw: gw.AsSlice()}
			if err := netlink.RouteAdd(route); err != nil {
				return fmt.Errorf("route to %v via %v in %s: %w", to[i], gw, ns.name, err)
			}
		}
		return nil
	})
}

// SetMTU sets the MTU, in bytes, of both ends of the veth, and of that to the namespace behind host.
func (l *Lab) SetMTU(mtu int) error {
	set := func(ns *Namespace, name string) error {
		err := ns.withLink(name, func(link netlink.Link) error { return netlink.LinkSetMTU(link, mtu) })
		if err != nil {
			return fmt.Errorf("lab: MTU %d of %s in %s: %w", mtu, name, ns.name, err)
		}
		return nil
	}
	l.mu.Lock()
	behind := l.behind
	l.mu.Unlock()
	err := errors.Join(set(l.Host, LinkName), set(l.Inet, LinkName))
	if behind != nil {
		err = errors.Join(err, set(l.Host, behindName), set(behind, LinkName))
	}
	return err
}

// withLink runs fn inside the namespace with the named link.
func (ns *Namespace) withLink(name string, fn func(netlink.Link) error) error {
	return ns.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("link %s in %s: %w", name, ns.name, err)
		}
		return fn(link)
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
