package vasta

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vasta-net/vasta/flow/policy"
	"github.com/vasta-net/vasta/netns"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/worker"
)

// Defaults and special values of [Config].
const (
	DefaultMTU       = netns.DefaultMTU
	HostMTU          = -1                 // for Guest.MTU: that of the host's interface, at least what IPv6 needs and at most DefaultMTU
	DefaultBudget    = 256 << 20          // bytes
	DefaultEvictIdle = 7440 * time.Second // the least that RFC 5382 asks for
)

// DefaultGatewayMAC is the Ethernet address of the network's own end of the link, the one pasta has.
var DefaultGatewayMAC = netns.MAC{0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55}

// Config says what a network is like. The zero Config is a network as the host's own: the guest has the addresses of the host's interface with
// the default route, or link-local ones on a host that has none, and reaches what the host reaches, except for the host itself. Nothing in it may be
// changed while the network lives.
type Config struct {
	Guest   Guest
	Host    Host
	DNS     DNS
	Mapping Mapping
	Filter  Filter
	UDP     UDP
	Limits  Limits
	VHost   VHost

	// Ports are the ports of the host that lead into the guest from the start; [Network.Forward] adds others.
	Ports []PortRule
	// AutoTCP and AutoUDP forward what a namespace listens on, under the same port, as it comes and goes.
	AutoTCP, AutoUDP bool
	// AutoInsideTCP and AutoInsideUDP forward, from the namespace's loopback, what the host's loopback leads to, under the same port, as it comes and goes; not what the network
	// itself listens on there.
	AutoInsideTCP, AutoInsideUDP bool
	// Rules, when not nil, decide about every flow before it begins. They are compiled (package flow/policy), and may be shared by networks.
	Rules *policy.Set
	// Policy, when not nil, decides about every flow that Rules let through.
	Policy Policy

	// FlowEnded, when not nil, is told of every flow at its end, and of those that Rules or Policy refuse. It is called by the workers, from several goroutines at
	// once; everything else of the worker waits for it, so it must not block, and it keeps nothing of what it is given. Times are since Network.Epoch.
	FlowEnded func(e *worker.FlowEnd)

	// Log gets what happens; nil for nothing. At level Debug that is every flow.
	Log *slog.Logger
	// Capture, when not nil, sees every frame of the link. It is called by the workers, from several goroutines at once where there are several, and
	// delays everything by what it takes; nothing it is given may be kept or changed, and it must not call the network.
	Capture func(to Side, hdr *packet.NetHdr, frame [][]byte)
	// Hook, when not nil, makes the hook of a worker, which judges every frame of the guest before anything else does. A hook is called by one goroutine; TX sends
	// a frame back, and a Redirect goes to Redirect.
	Hook func(worker int) packet.Hook
	// Redirect, when not nil, takes a frame that a hook redirects, and says whether it has: another network's Deliver, for one. False, and nil, have the frame be lost, and
	// counted (redirect_refused). It is called by the workers, from several goroutines at once where there are several, and everything else of the worker waits for it, so it must
	// not block. The frame is borrowed: what is to last is copied.
	Redirect func(target int, f *packet.Frame) bool
	// Idle, when not nil, is called by each worker a second after its last event of a load, in the worker's goroutine: soon is the time to give memory back to
	// the system (debug.FreeOSMemory), which a library does not do by itself. It must neither wait for anything nor call the network.
	Idle func()
}

// Side is an end of the link.
type Side uint8

// The sides, as a frame's destination.
const (
	ToHost Side = iota
	ToGuest
)

// AddrPair is one address of each family; the zero netip.Addr where there is none.
type AddrPair struct {
	V4, V6 netip.Addr
}

// Guest is what the guest's end of the link is like. What is zero is taken from the host, where nothing else is said.
type Guest struct {
	// NoIPv4 and NoIPv6 leave a family out; at most one of them is true.
	NoIPv4, NoIPv6 bool
	// MTU of the guest's interface in bytes; 0 for DefaultMTU, and HostMTU for that of the host's interface, with the MTUs of its routes. The MTU of a [TAP] has to
	// be given: it cannot be asked for.
	MTU int
	// Address4 and Address6 are the guest's addresses, with their prefix lengths.
	Address4, Address6 netip.Prefix
	// PrefixLen4 replaces the prefix length of an IPv4 address that is copied from the host; 0 keeps it.
	PrefixLen4 int
	// Gateway is the guest's router.
	Gateway AddrPair
	// IfName names the interface that [Sandbox] and [Attach] make; empty for the name of the host's.
	IfName string
	// MAC is the guest's Ethernet address. Zero is a random one for an interface that is made here, and otherwise one to be learned from what the
	// guest sends; until then frames go to the broadcast address.
	MAC netns.MAC
	// GatewayMAC is the Ethernet address of the router, and of everything behind it; zero for DefaultGatewayMAC.
	GatewayMAC netns.MAC
	// KeepID keeps the caller's user and group id inside a [Sandbox], instead of 0.
	KeepID bool
}

// Host says which of the host's interfaces and addresses are used.
type Host struct {
	// Template is the interface whose addresses and routes are copied; empty for the one with the default route.
	Template string
	// Outbound is the source address of what goes to the outside; Interface4 and Interface6 bind it to an interface.
	Outbound               AddrPair
	Interface4, Interface6 string
	// Fixed leaves the inside as it was made. Otherwise it follows the host from one network to another, and resolv.conf.
	Fixed bool
}

// DNS says which resolvers the guest is told of, and which are asked for it.
type DNS struct {
	// Servers and Search are told to the guest; nil for the network's forwarder and the search list of the host's resolv.conf.
	Servers []netip.Addr
	Search  []string
	// NoServers and NoSearch tell of none.
	NoServers, NoSearch bool
	// Forward are addresses whose port 53 leads to the host's resolvers; zero for 169.254.1.1 or, in a network without IPv4, the router's.
	Forward AddrPair
	// Host are the resolvers that are asked; zero for those of the host's resolv.conf.
	Host AddrPair
	// ByDHCP and SearchByDHCP tell of resolvers and search domains by DHCP, DHCPv6 and router advertisements too.
	ByDHCP, SearchByDHCP bool
	// Hostname and FQDN are the guest's own name that DHCP tells, without and with a domain; empty for none.
	Hostname, FQDN string
}

// Mapping says behind which addresses the guest reaches the host itself. The zero Mapping closes the host's loopback.
type Mapping struct {
	// Gateway has the router's addresses lead to the host's loopback, in the families where HostLoopback has no address.
	Gateway bool
	// HostLoopback are addresses that lead to the host's 127.0.0.1 and ::1.
	HostLoopback AddrPair
	// GuestAddr are addresses that lead to the host's own copy of the guest's address.
	GuestAddr AddrPair
}

// Filter switches protocols off.
type Filter struct {
	NoTCP, NoUDP, NoICMP, NoNDP, NoRA, NoDHCP, NoDHCPv6 bool
}

// UDP says how datagrams go through the host.
type UDP struct {
	// EndpointIndependent gives each UDP port of the guest one port of the host, whomever it talks to, and has the guest hear whoever sends to that (RFC
	// 4787, endpoint-independent mapping and filtering). Otherwise each pair of ends has a socket of its own.
	EndpointIndependent bool
	// Multicast are the ports at which the guest hears the multicast groups that it has joined (by IGMP or MLD), by the host's interface whose
	// addresses it has; with any, it may send to groups and to the broadcast address. The host itself does not hear what the guest sends to groups.
	Multicast []uint16
}

// Limits bound what a network uses.
type Limits struct {
	// IdleTimeout ends a TCP connection that carried nothing for so long; 0 for never.
	IdleTimeout time.Duration
	// EvictIdle is how long a flow has to be unused before it makes room for a new one when something is short: 0 for DefaultEvictIdle, negative for never.
	EvictIdle time.Duration
	// Queues is the number of queue pairs, and of worker threads, where the interface is made here; 0 for one. Workers make system calls that Go's
	// scheduler is not told of: the program sees to it that runtime.GOMAXPROCS is larger than the number of workers.
	Queues int
	// Budget is the memory in bytes that all TCP connections together may promise and hold; 0 for DefaultBudget.
	Budget int64
	// Descriptors is how many open files the network may use; 0 for as many as the process may have.
	Descriptors int
	// DropOnOverload has datagrams for which there is no room be lost and counted, where otherwise whoever sends them waits: those for the guest in their
	// host socket, those of the guest in the link, which is not read while a host socket takes nothing (for a second without progress at most).
	DropOnOverload bool
	// SourceFlows is how many flows each address of the guest may have begun, counted by each worker for its share of them; 0 for as many as there may be.
	SourceFlows int
}

// withDefaults fills in the zero values, and checks the others.
func (c Config) withDefaults() (Config, error) {
	if c.Guest.NoIPv4 && c.Guest.NoIPv6 {
		return c, &ConfigError{"Guest.NoIPv6", errors.New("no family is left: leave one of the two in")}
	}
	for _, a := range []struct {
		field string
		addr  netip.Prefix
		is4   bool
	}{{"Guest.Address4", c.Guest.Address4, true}, {"Guest.Address6", c.Guest.Address6, false}} {
		if a.addr != (netip.Prefix{}) && (!a.addr.IsValid() || a.addr.Addr().Is4() != a.is4) {
			return c, &ConfigError{a.field, fmt.Errorf("%s is no address of its family with a prefix length", a.addr)}
		}
	}
	if c.Guest.MTU == 0 {
		c.Guest.MTU = DefaultMTU
	}
	if m := c.Guest.MTU; m != HostMTU && (m < netns.MinMTU4 || m > netns.MaxMTU) {
		return c, &ConfigError{"Guest.MTU", fmt.Errorf("%d bytes; it must be from %d to %d", m, netns.MinMTU4, netns.MaxMTU)}
	}
	if c.Guest.GatewayMAC == (netns.MAC{}) {
		c.Guest.GatewayMAC = DefaultGatewayMAC
	}
	if c.Limits.Budget == 0 {
		c.Limits.Budget = DefaultBudget
	}
	if c.Limits.Budget < minBudget {
		return c, &ConfigError{"Limits.Budget", fmt.Errorf("%d bytes; a single connection needs %d", c.Limits.Budget, minBudget)}
	}
	switch {
	case c.Limits.EvictIdle == 0:
		c.Limits.EvictIdle = DefaultEvictIdle
	case c.Limits.EvictIdle < 0:
		c.Limits.EvictIdle = 0
	}
	if c.Limits.Queues == 0 {
		c.Limits.Queues = 1
	}
	if c.Limits.Descriptors == 0 {
		c.Limits.Descriptors = int(descriptorLimit())
	}
	c.Ports = slices.Clone(c.Ports)
	for i, r := range c.Ports {
		if err := r.check(); err != nil {
			return c, &ConfigError{fmt.Sprintf("Ports[%d]", i), err}
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// minBudget is the floor of one flow's promise.
const minBudget = 16 << 10
