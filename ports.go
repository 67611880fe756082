package vasta

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock"
	"golang.org/x/sys/unix"
)

// minFlows is how many descriptors forwarded ports leave for flows at least.
const minFlows = 8

// PortRule forwards the ports First to Last of the host to as many ports of the guest, of which the first is Target. With Inside it is the other way round.
type PortRule struct {
	// Network is "tcp" or "udp".
	Network string
	// Inside is for namespaces that are made or attached to: the ports are those of the namespace's loopback, and lead to the host's. Who connects there is connected to 127.0.0.1 or
	// ::1 of the host, whatever Mapping says; Rules and Policy are asked, as of any flow of the guest's.
	Inside bool
	// Addr is the address of the host that is listened on; the zero Addr for all of them, of the guest's families. Inside, it is a loopback address, and the zero Addr is 127.0.0.1 and ::1.
	Addr netip.Addr
	// Interface is the interface of the host that is listened on; empty for all of them.
	Interface string
	// First and Last are port numbers of the host, at least 1; a Last of 0 is First. A Target of 0 is First.
	First, Last, Target uint16
	// Free restricts the rule to the ports that are not in the range of those the host's kernel gives to clients, and that can be had.
	Free bool
	// Deferred is for TCP ports of a namespace's: the host's kernel refuses connections as long as nothing inside listens on the port that they lead to.
	Deferred bool
}

// String gives the rule as a line, as "tcp 192.0.2.1 8080-8089 to 80-89".
func (r PortRule) String() string {
	r = r.filled()
	at := r.Interface
	if r.Addr.IsValid() {
		at = r.Addr.String() + at
	}
	if r.Inside {
		at = "inside " + at
	}
	return fmt.Sprintf("%s %s %d-%d to %d-%d", r.Network, at, r.First, r.Last, r.Target, r.Target+(r.Last-r.First))
}

func (r PortRule) filled() PortRule {
	if r.Last == 0 {
		r.Last = r.First
	}
	if r.Target == 0 {
		r.Target = r.First
	}
	return r
}

func (r PortRule) check() error {
	f := r.filled()
	switch {
	case r.Network != "tcp" && r.Network != "udp":
		return fmt.Errorf("network %q is not tcp or udp", r.Network)
	case f.First == 0 || f.Last < f.First:
		return fmt.Errorf("ports %d to %d are not in order, or one is 0", f.First, f.Last)
	case int(f.Target)+int(f.Last-f.First) > 65535:
		return fmt.Errorf("ports %d to %d do not all lead to ports: the last would be %d", f.First, f.Last, int(f.Target)+int(f.Last-f.First))
	case r.Inside && (r.Interface != "" || r.Deferred):
		return errors.New("a port inside has no interface, and is not deferred")
	case r.Inside && r.Addr.IsValid() && !r.Addr.IsLoopback():
		return fmt.Errorf("%v is no loopback address: a port inside has one, or none for 127.0.0.1 and ::1", r.Addr)
	}
	return nil
}

// plannedPort is one port to be opened.
type plannedPort struct {
	forward.Port
	udp bool
}

// openPort is one that is open.
type openPort struct {
	plannedPort
	member *member
}

// forwards plans the forwarded ports.
func (p *plan) forwards(c *Config) {
	for _, r := range c.Ports {
		p.ports = append(p.ports, p.forwarded(c, r)...)
		p.inside.Sockets = p.inside.Sockets || r.Deferred
	}
	p.inside.Sockets = p.inside.Sockets || c.AutoTCP || c.AutoUDP
}

func (p *plan) forwarded(c *Config, r PortRule) (ports []plannedPort) {
	r = r.filled()
	places := []forward.Port{p.listener(r)}
	if r.Inside {
		places = innerPlaces(c, r)
	}
	low, high := uint16(0), uint16(0)
	if r.Free {
		low, high = clientPorts()
	}
	for n := int(r.First); n <= int(r.Last); n++ {
		port := uint16(n)
		if r.Free && low <= port && port <= high {
			continue
		}
		for _, at := range places {
			at.Listen = netip.AddrPortFrom(at.Listen.Addr(), port)
			at.To = r.Target + (port - r.First)
			ports = append(ports, plannedPort{at, r.Network == "udp"})
		}
	}
	return ports
}

// listener is where a rule's ports are listened on: its own address, else every address of the guest's families.
func (p *plan) listener(r PortRule) forward.Port {
	port := forward.Port{Device: r.Interface, Optional: r.Free, Deferred: r.Deferred && r.Network == "tcp"}
	addr := r.Addr
	if !addr.IsValid() {
		v4, v6 := p.mapping.Guest[forward.V4].IsValid(), p.mapping.Guest[forward.V6].IsValid()
		addr = netip.IPv4Unspecified()
		if v6 {
			addr = netip.IPv6Unspecified()
		}
		port.Dual = v4 && v6
	}
	port.Listen = netip.AddrPortFrom(addr, 0)
	return port
}

// clientPorts is the range of ports that the kernel gives to clients, or its default (ip_local_port_range in ip-sysctl.rst).
func clientPorts() (low, high uint16) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(b), &low, &high)
	}
	if err != nil || low > high {
		return 32768, 60999
	}
	return low, high
}

// roomForPorts says in one line when the process may not have as many descriptors as the forwarded ports need.
func (p *plan) roomForPorts(c *Config, workers int) error {
	udp, inside := 0, 0
	for i := range p.ports {
		udp += btoi(p.ports[i].udp)
		inside += btoi(p.ports[i].Inside)
	}
	need := len(p.ports) + ownDescriptors + (workers-1)*workerDescriptors + c.vhostDescriptors(workers) + minFlows
	if len(p.ports) == 0 || need <= c.Limits.Descriptors {
		return nil
	}
	e := &DescriptorError{Network: "tcp", Ports: len(p.ports), Need: need, Have: c.Limits.Descriptors}
	e.Inside = 2*inside > len(p.ports)
	if 2*udp > len(p.ports) {
		e.Network = "udp"
	}
	return e
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// descriptorLimit is how many descriptors the process may have.
func descriptorLimit() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxFlows // cannot fail; the kernel's limit holds all the same
	}
	return min(limit.Cur, 1<<30)
}

// openPlanned opens the ports of the plan, before the guest can see any of them work.
func (n *Network) openPlanned() error {
	opened, err := n.openPorts(context.Background(), n.plan.ports)
	n.ports = opened
	return err
}

// openPorts opens ports until one fails. Of those that may be somebody else's one of each protocol has to be had.
func (n *Network) openPorts(ctx context.Context, ports []plannedPort) (opened []openPort, err error) {
	var passed [2]int
	var had [2]bool
	var last [2]error
	sockets := innerSockets{network: n}
	defer sockets.close()
	for i, p := range ports {
		err := n.openPort(ctx, ports[i:], &sockets, &opened)
		if err == nil {
			had[btoi(p.udp)] = true
			continue
		}
		if p.Inside && p.Dual && p.Listen.Addr().Is6() && errors.Is(err, unix.EADDRNOTAVAIL) {
			continue // IPv6 is switched off inside
		}
		if !p.Optional || !taken(err) {
			return opened, err
		}
		passed[btoi(p.udp)]++
		last[btoi(p.udp)] = err
		n.log.Debug("port not forwarded", "network", p.network(), "port", p.Listen, "error", err)
	}
	for i, network := range [...]string{"tcp", "udp"} {
		if passed[i] == 0 {
			continue
		}
		if !had[i] {
			return opened, last[i]
		}
		n.log.Info("ports that cannot be had are not forwarded", "network", network, "not_forwarded", passed[i])
	}
	return opened, nil
}

// openPort opens the first of the ports that are left.
func (n *Network) openPort(ctx context.Context, left []plannedPort, sockets *innerSockets, opened *[]openPort) error {
	p := left[0]
	m := n.portMember(p.udp || p.Inside)
	var errno hostsock.Errno
	open := func() { errno = m.worker.Forward(p.Port, p.udp) }
	fd := -1
	if p.Inside {
		var err error
		if fd, err = sockets.take(left); err != nil {
			return err
		}
		open = func() { errno = m.worker.ForwardInside(p.Port, fd, p.udp) }
	}
	if err := n.do(ctx, m, open); err != nil {
		if fd >= 0 { // it was not given away
			_ = unix.Close(fd)
		}
		return err
	}
	if errno != 0 {
		return &PortError{Network: p.network(), Inside: p.Inside, Listen: p.Listen.String(), Err: errno, cure: portCure(errno, p.Device)}
	}
	if p.udp || p.Inside {
		n.next++
	}
	*opened = append(*opened, openPort{p, m})
	return nil
}

// portMember is the worker that gets the next port. Datagrams belong to whoever has their socket, and connections from the namespace's loopback stay with the worker that accepts
// them, so the ports of both are dealt out. Other connections are given to the worker with the fewest when they are accepted; that one worker accepts all lets the others sleep while there is
// little to do.
func (n *Network) portMember(dealt bool) *member {
	if dealt {
		return n.members[n.next%len(n.members)]
	}
	return n.members[0]
}

// same reports whether both listen at the same place.
func (p *plannedPort) same(o plannedPort) bool {
	return p.udp == o.udp && p.Inside == o.Inside && p.Listen == o.Listen && p.Device == o.Device
}

func (p *plannedPort) network() string { return [...]string{"tcp", "udp"}[btoi(p.udp)] }

// taken says whether a port cannot be had because of what it is, and not for want of something.
func taken(err error) bool {
	for _, e := range [...]error{unix.EACCES, unix.EADDRINUSE, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Forward opens the ports of a rule, all or none, while the network works or before. The error is a *ConfigError, a *PortError, ErrClosed, or the cause of ctx.
func (n *Network) Forward(ctx context.Context, r PortRule) error {
	if err := r.check(); err != nil {
		return &ConfigError{"Ports", err}
	}
	if err := n.checkInside("Ports", r.Inside); err != nil {
		return err
	}
	n.changing.Lock()
	defer n.changing.Unlock()
	if r.Deferred {
		return &ConfigError{"Ports", errors.New("a deferred port is forwarded from the start, or not at all")}
	}
	opened, err := n.openPorts(ctx, n.currentPlan().forwarded(&n.config, r))
	if err != nil {
		// Not under ctx, which may have ended: what was opened is closed again.
		_ = n.closePorts(context.WithoutCancel(ctx), opened) // fails when the network has ended, and with it the ports
		return err
	}
	n.ports = append(n.ports, opened...)
	return nil
}

// Unforward closes the ports of a rule. Connections that were accepted go on; what UDP peers send is refused from then on. The error is ErrNotForwarded when
// none of the ports is forwarded there; ports that are not are passed over otherwise.
func (n *Network) Unforward(ctx context.Context, r PortRule) error {
	if err := r.check(); err != nil {
		return &ConfigError{"Ports", err}
	}
	n.changing.Lock()
	defer n.changing.Unlock()
	at := n.currentPlan().forwarded(&n.config, r)
	var closing, rest []openPort
	for _, o := range n.ports {
		if slices.ContainsFunc(at, o.same) {
			closing = append(closing, o)
		} else {
			rest = append(rest, o)
		}
	}
	if len(closing) == 0 {
		return ErrNotForwarded
	}
	if err := n.closePorts(ctx, closing); err != nil {
		return err
	}
	n.ports = rest
	return nil
}

func (n *Network) closePorts(ctx context.Context, ports []openPort) error {
	for _, p := range ports {
		if err := n.do(ctx, p.member, func() { p.member.worker.Unforward(p.Port, p.udp) }); err != nil {
			return err
		}
	}
	return nil
}

// Forwarded lists the ports that are open, one rule for each, in the order of their opening.
func (n *Network) Forwarded() (rules []PortRule) {
	n.changing.Lock()
	defer n.changing.Unlock()
	for _, p := range n.ports {
		rules = append(rules, PortRule{
			Network: p.network(), Inside: p.Inside, Addr: p.Listen.Addr(), Interface: p.Device, First: p.Listen.Port(), Last: p.Listen.Port(), Target: p.To,
			Free: p.Optional, Deferred: p.Deferred,
		})
	}
	return rules
}
