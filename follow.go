package vasta

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/vasta-net/vasta/netns"
)

// Times of following the host.
const (
	// settle is how long nothing may change before the change counts as over; it comes as many events.
	settle = 200 * time.Millisecond
	// settleLimit is when it is looked at in any case.
	settleLimit = 2 * time.Second
)

// follower keeps the inside as the host's network is: addresses, routes and the MTU, as far as they are copied from the host, and resolvers. What the
// host has no more (it is between two networks, or off) stays inside as it was.
type follower struct {
	c       Config
	log     *slog.Logger
	ns      *netns.Namespace
	network *Network
	plan    *plan // what the inside is like now
	events  *hostEvents
	stopped chan struct{}
	running sync.WaitGroup
}

// follow begins to follow the host. When that cannot be, the inside stays as it is, which is worth a warning.
func (n *Network) follow() *follower {
	f := &follower{c: n.config, log: n.log, ns: n.end.ns, network: n, plan: n.plan, stopped: make(chan struct{})}
	f.c.Guest.IfName = n.end.name // it does not follow the host's
	var err error
	if f.events, err = watchHost(); err != nil {
		f.log.Warn("changes of the host's network will not be followed", "error", err)
		return f
	}
	f.events.tell() // what has changed since the plan was made
	f.running.Go(f.run)
	return f
}

// stop ends following. The network is still there.
func (f *follower) stop() {
	close(f.stopped)
	if f.events != nil {
		f.events.close()
	}
	f.running.Wait()
}

func (f *follower) run() {
	for {
		select {
		case <-f.stopped:
			return
		case <-f.events.changed:
		}
		limit := time.After(settleLimit)
		for quiet := false; !quiet; {
			select {
			case <-f.stopped:
				return
			case <-f.events.changed:
			case <-time.After(settle):
				quiet = true
			case <-limit:
				quiet = true
			}
		}
		if err := f.refresh(); err != nil {
			f.log.Warn("a change of the host's network was not followed", "error", err)
		}
	}
}

// refresh looks at the host, and changes the inside where that has changed.
func (f *follower) refresh() error {
	now, err := hostNetwork(&f.c)
	if err != nil {
		f.log.Debug("the host's network cannot be read", "error", err) // the template interface may be gone for a while
		now = f.plan.host
	}
	host, resolv := succeed(f.plan.host, now), hostResolvConf()
	if reflect.DeepEqual(host, f.plan.host) && bytes.Equal(resolv, f.plan.resolv) {
		return nil
	}
	next, err := makePlan(&f.c, host, resolv)
	if err != nil {
		return err
	}
	return f.change(next)
}

// succeed is the host as it is, with what it had before where it has nothing now.
func succeed(before, now netns.Template) netns.Template {
	if now.Local && !before.Local {
		return before
	}
	if !before.Local {
		if !now.V4.Enabled() {
			now.V4 = before.V4
		}
		if !now.V6.Enabled() {
			now.V6 = before.V6
		}
	}
	return now
}

// change makes the inside like next: first the interface, then what the workers do, so that nothing is sent to an address that is not there.
func (f *follower) change(next *plan) error {
	last := f.plan
	next.former = former(next, last)
	if last.inside.ResolvConf == nil { // it was not covered at the start, and is not ours
		next.inside.ResolvConf = nil
	}
	u := netns.Update{
		Addrs: next.inside.Addrs, OldAddrs: last.inside.Addrs, Routes: next.inside.Routes, OldRoutes: last.inside.Routes,
		MTU: next.inside.MTU, OldMTU: last.inside.MTU, ResolvConf: next.inside.ResolvConf,
	}
	moved := !slices.Equal(u.Addrs, u.OldAddrs) || !slices.Equal(u.Routes, u.OldRoutes) || u.MTU != u.OldMTU
	if f.ns != nil && (moved || u.ResolvConf != nil && !bytes.Equal(u.ResolvConf, last.inside.ResolvConf)) {
		if err := f.ns.Update(u); err != nil {
			return err
		}
	}
	f.plan = next
	if err := f.network.reconfigure(&f.c, next); err != nil {
		return err
	}
	f.log.Info("the host's network has changed", "addresses", fmt.Sprint(next.inside.Addrs), "gateway", fmt.Sprint(next.mapping.Gateway),
		"mtu", next.inside.MTU, "resolvers", fmt.Sprint(next.names.resolvers))
	return nil
}

// former are the guest's addresses of before, now and earlier, that it is not told of any more.
func former(next, last *plan) (addrs []netip.Addr) {
	for _, a := range slices.Concat(last.guest, last.former) {
		if !slices.Contains(next.guest, a) && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs[:min(len(addrs), maxFormer)]
}

// maxFormer bounds the former addresses that are remembered.
const maxFormer = 8

// reconfigure has all workers go by another plan, and the first of them tell the guest.
func (n *Network) reconfigure(c *Config, p *plan) error {
	n.mu.Lock()
	n.plan = p
	n.mu.Unlock()
	result := make(chan error, len(n.members))
	for i, m := range n.members {
		g := p.gateway(c, n.end, nil)
		m.worker.Do(func() {
			err := m.worker.Reconfigure(&p.mapping, g, p.inside.MTU)
			m.worker.SetNaming(p.names.at, p.names.resolvers)
			if i == 0 {
				m.worker.Advertise()
			}
			result <- err
		})
	}
	var err error
	for range n.members {
		select {
		case e := <-result:
			err = errors.Join(err, e)
		case <-n.done:
			return nil
		}
	}
	return err
}
