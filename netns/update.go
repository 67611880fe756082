package netns

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Update changes what the interface inside is configured with. Only what Create, Attach or an earlier Update has configured is touched.
type Update struct {
	// Addrs are the addresses from now on. Those of OldAddrs that are not among them stay, for the connections that they have, but
	// nothing new is begun from them (deprecated, RFC 4862, 5.5.4).
	Addrs, OldAddrs []netip.Prefix
	// Routes take the place of OldRoutes.
	Routes, OldRoutes []Route
	// MTU is the interface's from now on, in bytes, where it is not OldMTU. Below 1280 the kernel takes IPv6 away.
	MTU, OldMTU int
	// ResolvConf, when not nil, is what /etc/resolv.conf contains from now on; without effect where it was not covered at the start.
	ResolvConf []byte
}

// stageUpdate is an Update for the interface of that name.
type stageUpdate struct {
	Update
	IfName string
}

// Update carries an update out inside. It has one caller at a time. On error some of it may have been done.
func (n *Namespace) Update(u Update) error {
	cfg := stageUpdate{u, n.tap.Name}
	if n.stage == nil {
		return n.attached.update(cfg)
	}
	if err := n.stage.tell(kindUpdate, cfg); err != nil {
		return err
	}
	select {
	case m := <-n.stage.updated:
		var failure stageFailure
		if err := m.decode(&failure); err != nil || failure.Message == "" {
			return err
		}
		return failure.unpack()
	case <-n.stage.ended:
		return ErrGone
	}
}

// update has a stage of its own join the namespace again.
func (a *attachment) update(u stageUpdate) error {
	_, err := attach(a.target, a.path, stageConfig{Attached: true, Update: &u})
	return err
}

// update runs in the stage, for a message of the caller.
func (s *stage) update(m *message) {
	var u stageUpdate
	err := m.decode(&u)
	if err == nil {
		err = u.apply()
	}
	if err == nil && u.ResolvConf != nil && s.covered {
		if err = os.WriteFile(resolvConfPath, u.ResolvConf, 0o644); err != nil {
			err = fmt.Errorf("writing the namespace's %w", err)
		}
	}
	var answer stageFailure
	if err != nil {
		answer = failureOf(err)
	}
	_ = s.send(kindUpdated, answer) // when the caller is gone there is nobody to tell
}

// apply changes the interface. It stops at nothing: what can be done is done.
func (u *stageUpdate) apply() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("configuring TAP %s anew: cannot open a netlink socket: %w", u.IfName, err)
	}
	defer h.Close()
	index, err := interfaceIndex(u.IfName)
	if err != nil {
		return err
	}
	tap := linkByIndex(index)
	hasIPv6 := ipv6Enabled(u.IfName)
	carried := func(a netip.Addr) bool { return a.Is4() || hasIPv6 }
	var failed []error
	fail := func(what any, err error) {
		if err != nil {
			failed = append(failed, fmt.Errorf("configuring TAP %s anew: %v: %w", u.IfName, what, err))
		}
	}
	if u.MTU != u.OldMTU {
		fail(fmt.Sprintf("the MTU %d", u.MTU), h.LinkSetMTU(tap, u.MTU))
	}
	for _, a := range u.Addrs {
		if !slices.Contains(u.OldAddrs, a) && carried(a.Addr()) {
			fail(a, h.AddrReplace(tap, kernelAddr(a, math.MaxUint32)))
		}
	}
	for _, r := range u.Routes {
		if !slices.Contains(u.OldRoutes, r) && carried(r.Dst.Addr()) {
			fail(r, h.RouteReplace(kernelRoute(r, index)))
		}
	}
	for _, r := range u.OldRoutes {
		replaced := slices.ContainsFunc(u.Routes, func(n Route) bool { return n.Dst == r.Dst && n.Metric == r.Metric })
		if !replaced && carried(r.Dst.Addr()) {
			if err := h.RouteDel(kernelRoute(r, index)); !errors.Is(err, unix.ESRCH) {
				fail(r, err)
			}
		}
	}
	for _, a := range u.OldAddrs {
		if !slices.Contains(u.Addrs, a) && carried(a.Addr()) {
			fail(a, h.AddrReplace(tap, kernelAddr(a, 0)))
		}
	}
	return errors.Join(failed...)
}

// kernelAddr is an address that stays, and is preferred for so many seconds, as a netlink message wants it.
func kernelAddr(a netip.Prefix, preferred int) *netlink.Addr {
	addr := &netlink.Addr{IPNet: ipNet(a), ValidLft: math.MaxUint32, PreferedLft: preferred}
	if a.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}
