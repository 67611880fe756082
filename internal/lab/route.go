package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Route is a way from the lab's hosts over several routers to a host at its end:
//
//	Host ─── Inet ─── Routers[0] ─── … ─── End
//
// Every link has an IPv4 and an IPv6 network of its own, from the ranges for
// documentation. Routers answer every packet that they cannot forward with an
// ICMP error, without a limit on how many.
type Route struct {
	// Routers are those behind Inet, in order.
	Routers []*Namespace
	// End is the host at the end. It has the addresses End4 and End6 on its loopback.
	End *Namespace

	lab *Lab
}

// The addresses of a route's end.
var (
	End4 = netip.MustParsePrefix("203.0.113.254/32")
	End6 = netip.MustParsePrefix("2001:db8:eeee::1/128")
)

// maxRouters is how many routers a route has at most: its IPv4 links share 203.0.113.0/25.
const maxRouters = 30

// NewRoute lays a route with so many routers between Inet, which becomes a router
// too, and its end. It goes with the lab, which has one route at most.
func (l *Lab) NewRoute(routers int) (*Route, error) {
	if routers < 1 || routers > maxRouters {
		return nil, fmt.Errorf("lab: a route of %d routers: choose 1 to %d", routers, maxRouters)
	}
	r := &Route{lab: l}
	chain := []*Namespace{l.Inet}
	for i := range routers + 1 {
		name := fmt.Sprintf("router%d", i+1)
		if i == routers {
			name = "end"
		}
		ns, err := newNamespace(l, name)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		l.opened = append(l.opened, ns)
		l.mu.Unlock()
		chain = append(chain, ns)
	}
	r.Routers, r.End = chain[1:len(chain)-1], chain[len(chain)-1]
	for i, ns := range chain {
		if err := ns.beRouter(); err != nil {
			return nil, err
		}
		if i > 0 {
			if err := r.link(i-1, chain[i-1], ns); err != nil {
				return nil, fmt.Errorf("lab: link %d of the route: %w", i, err)
			}
		}
	}
	if err := r.End.addAddresses("lo", End4, End6); err != nil {
		return nil, err
	}
	return r, nil
}

// beRouter has a namespace forward packets, and answer each that it cannot forward.
func (ns *Namespace) beRouter() error {
	if err := ns.forward(); err != nil {
		return err
	}
	// Neither of the kernel's two limits, for a destination and for all, counts what is in no mask. The one of IPv6 is a list of types and cannot
	// be empty: 255 is nobody's.
	for key, value := range map[string]string{"net.ipv4.icmp_ratemask": "0", "net.ipv6.icmp.ratemask": "255"} {
		if err := ns.Sysctl(key, value); err != nil {
			return err
		}
	}
	return nil
}

// forward has a namespace forward packets.
func (ns *Namespace) forward() error {
	return errors.Join(ns.Sysctl("net.ipv4.ip_forward", "1"), ns.Sysctl("net.ipv6.conf.all.forwarding", "1"))
}

// The names of a link's two ends.
const (
	onward  = "onward"
	inwards = "inward"
)

// Near4 and Near6 are the addresses of the router behind link i, counted from 0, by which it answers.
func Near4(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, byte(4*i + 2)}) }

// Near6 is Near4 for IPv6.
func Near6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0xee, 0, 0, byte(i), 15: 2})
}

// link joins two neighbours by link i and gives them routes: outwards to the end, and inwards to everything.
func (r *Route) link(i int, near, far *Namespace) error {
	near4, near6 := Near4(i).Prev(), Near6(i).Prev()
	addrs := func(v4, v6 netip.Addr) []netip.Prefix {
		return []netip.Prefix{netip.PrefixFrom(v4, 30), netip.PrefixFrom(v6, 64)}
	}
	if err := lay(end{near, onward, addrs(near4, near6)}, end{far, inwards, addrs(Near4(i), Near6(i))}); err != nil {
		return err
	}
	if err := near.addRoutes(onward, []netip.Prefix{End4, End6}, Near4(i), Near6(i)); err != nil {
		return err
	}
	return far.addRoutes(inwards, everywhere, near4, near6)
}

// SetMTU sets the MTU, in bytes, of both ends of link i: 0 is that behind Inet.
func (r *Route) SetMTU(i, mtu int) error {
	chain := append([]*Namespace{r.lab.Inet}, append(r.Routers[:len(r.Routers):len(r.Routers)], r.End)...)
	for end, name := range map[*Namespace]string{chain[i]: onward, chain[i+1]: inwards} {
		err := end.withLink(name, func(link netlink.Link) error { return netlink.LinkSetMTU(link, mtu) })
		if err != nil {
			return fmt.Errorf("lab: MTU %d of link %d: %w", mtu, i, err)
		}
	}
	return nil
}
