// Package options holds vasta's command line: one table of options ([Table]), a parser that reads it the way glibc's
// getopt_long does, and the typed result ([Options]) that the rest of the program works from.
//
// The table is the only place an option is described: the parser, --help and everything else made from the options
// read it. Names and meanings are pasta's wherever pasta has the option; an option that pasta has and vasta not yet
// is in the table as well, so that it is refused by its name.
package options

import (
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/vasta-net/vasta/flow/policy"
)

// Defaults that the table names in its help and Parse starts from.
const (
	// DefaultMTU is the largest IPv4 packet that fits a 64 KiB buffer beside its Ethernet header, rounded down to a word.
	DefaultMTU = 65520
	// HostMTU is the MTU of the host's interface, whatever that is now and later.
	HostMTU = -1
	// DefaultIdleTimeout leaves silent connections alone: a guest or a peer that died is noticed by keepalive probes, and
	// one that lives may have nothing to say.
	DefaultIdleTimeout = 0 * time.Second

	// DefaultEvictIdle is the least that RFC 5382 asks for: two hours and four minutes.
	DefaultEvictIdle = 7440 * time.Second
	// DefaultBudget is the memory, in bytes, that all flows together may promise and hold.
	DefaultBudget = 256 << 20
	// MaxQueues is the most queue pairs that may be asked for.
	MaxQueues = 64
	// maxDefaultQueues is the most there are without being asked for: more pay only where much else is fast.
	maxDefaultQueues = 4
	// kernelMTU is what the kernel gives a TAP: ETH_DATA_LEN of linux/if_ether.h.
	kernelMTU = 1500
)

// DefaultQueues is the number of queue pairs: as many as there are processors to serve them, up to a few.
func DefaultQueues() int { return min(runtime.NumCPU(), maxDefaultQueues) }

// MAC is an Ethernet address.
type MAC [6]byte

// DefaultMAC is the address of vasta's own end of the link, the one pasta has.
var DefaultMAC = MAC{0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55}

// String gives the address in the usual form.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Options is a whole command line, checked. A zero value of a field means what its comment says; no field refers to
// the arguments it was read from except Args.
type Options struct {
	// Command is what vasta is asked to do.
	Command Command
	// Args is the command and its arguments for Run (empty: the user's shell), and the arguments after the word
	// bench for Bench, pktgen for Pktgen.
	Args []string
	// JSON asks Doctor for JSON instead of a table.
	JSON bool
	// Shell is the one that Completion is asked for.
	Shell Shell

	Target  Target
	Guest   Guest
	Host    Host
	DNS     DNS
	Mapping Mapping
	Ports   Ports
	Filter  Filter
	// Rules decide which flows there may be; the first that matches does.
	Rules  []RuleSource
	UDP    UDP
	Limits Limits
	VHost  VHost
	Log    Log

	// KeepID keeps the caller's user and group id inside the namespace, instead of 0.
	KeepID bool
	// ReadyFD is an open descriptor that gets one newline and is closed when the network works; -1 for none.
	ReadyFD int
	// Pcap is the file that gets every frame of the link; empty for none.
	Pcap string
	// FrameFilter is a file with a classic BPF program that the guest's frames have to pass; empty for none.
	FrameFilter string
	// FlowLog is the file that gets a line for every flow at its end; empty for none.
	FlowLog string
	// Counters is where the counters go at exit and on SIGUSR1.
	Counters Counters
}

// Target is the existing namespace of the command attach: a process, or paths.
type Target struct {
	// PID is a process whose user and network namespaces are joined; 0 when NetNS names the target.
	PID int
	// NetNS and UserNS are paths of namespace files. UserNS is empty for the owner of NetNS.
	NetNS, UserNS string
}

// Guest is what the namespace's end of the link is configured with. What is zero is taken from the host.
type Guest struct {
	// IPv4 and IPv6 say which families the namespace gets; at least one is true.
	IPv4, IPv6 bool
	// MTU of the interface in bytes, or HostMTU.
	MTU int
	// Address4 and Address6 are the interface's addresses with their prefix lengths.
	Address4, Address6 netip.Prefix
	// PrefixLen4 replaces the prefix length of the IPv4 address copied from the host; 0 keeps it.
	PrefixLen4 int
	// Gateway is the next hop of the default routes.
	Gateway AddrPair
	// IfName names the interface; empty for the template interface's name.
	IfName string
	// MAC is the interface's hardware address; zero for a random one.
	MAC MAC
	// GatewayMAC is the hardware address of vasta's own end of the link.
	GatewayMAC MAC
}

// Host says which of the host's interfaces and addresses are used.
type Host struct {
	// Template is the interface whose addresses and routes are copied; empty for the one with the default route.
	Template string
	// Outbound is the source address of connections to the outside; Interface4 and Interface6 bind them to an interface.
	Outbound               AddrPair
	Interface4, Interface6 string
}

// DNS says which resolvers the namespace is told of, and which are reached for it.
type DNS struct {
	// Servers and Search are advertised to the namespace; nil for those of the host's resolv.conf.
	Servers []netip.Addr
	Search  []string
	// NoServers and NoSearch advertise none.
	NoServers, NoSearch bool
	// Forward are addresses whose port 53 leads to the host's resolver.
	Forward AddrPair
	// Host is that resolver; zero for the first of the host's resolv.conf.
	Host AddrPair
	// ByDHCP and SearchByDHCP tell of resolvers and search domains by DHCP, DHCPv6 and router advertisements too.
	ByDHCP, SearchByDHCP bool
	// Hostname and FQDN are the namespace's own name that DHCP tells, without and with a domain; empty for none.
	Hostname, FQDN string
}

// Mapping says behind which addresses of the namespace the host itself is reached.
type Mapping struct {
	// Gateway maps the gateway address to the host's loopback, in the families where HostLoopback has no address.
	Gateway bool
	// HostLoopback are addresses that lead to the host's 127.0.0.1 and ::1.
	HostLoopback AddrPair
	// GuestAddr are addresses that lead to the host's own copy of the namespace's address.
	GuestAddr AddrPair
}

// Ports are the ports of the host that lead into the namespace, and the other way round. Rules of one protocol do not overlap where they
// have the same address and interface.
type Ports struct {
	TCP, UDP []PortRule
	// AutoTCP and AutoUDP forward what the namespace listens on, under the same port; there are no rules then.
	AutoTCP, AutoUDP bool
	// InsideTCP and InsideUDP are ports of the namespace's loopback that lead to the host's; AutoInsideTCP and AutoInsideUDP have them be those that the host listens on.
	InsideTCP, InsideUDP         []PortRule
	AutoInsideTCP, AutoInsideUDP bool
	// WhenReady has TCP ports refuse connections as long as the namespace does not listen on what they lead to.
	WhenReady bool
}

// UDP says how datagrams go through the host.
type UDP struct {
	// EndpointIndependent gives each UDP port of the namespace one port of the host, whomever it talks to (RFC 4787).
	EndpointIndependent bool
	// Multicast are the ports at which the namespace hears the groups that it has joined; with any, it may send to groups and broadcast addresses.
	Multicast []uint16
}

// RuleSource is a rule of the policy, or a file of them.
type RuleSource struct {
	Rule policy.Rule
	File string // its rules in place of Rule, when not empty
}

// Filter switches handlers of the link off.
type Filter struct {
	NoTCP, NoUDP, NoICMP, NoNDP, NoRA, NoDHCP, NoDHCPv6 bool
}

// Limits bound what the program uses.
type Limits struct {
	// IdleTimeout ends an established TCP connection that carried nothing for so long; 0 for never.
	IdleTimeout time.Duration
	// EvictIdle is how long a flow has to be unused before it makes room for a new one when something is short; 0 for never. Kinds
	// of flow that live less long have shorter times of their own.
	EvictIdle time.Duration
	// Queues is the number of queue pairs of the link, and of workers.
	Queues int
	// Budget is the memory in bytes that all flows together may promise and hold.
	Budget int64
	// SourceFlows is how many flows each address of the namespace may begin; 0 for as many as there may be.
	SourceFlows int
	// DropOnOverload has datagrams for which there is no room be lost, where otherwise whoever sends them waits.
	DropOnOverload bool
}

// VHost says whether the kernel's vhost-net moves the frames of the link, and how.
type VHost struct {
	Mode VHostMode
	// Receive and Transmit are the sizes of the rings in descriptors, Buffer the length of a receive buffer in bytes; 0 for what vasta takes.
	Receive, Transmit, Buffer int
	// Poll is how long the kernel's threads look for more before they sleep.
	Poll time.Duration
	// Workers gives each ring a thread of the kernel's.
	Workers bool
}

// VHostMode is when vhost-net is used.
type VHostMode uint8

// The modes.
const (
	VHostOff  VHostMode = iota
	VHostAuto           // where the device can be used
	VHostOn
)

// Log says what is logged, how and where.
type Log struct {
	Level  Level
	Format Format
	// File gets the log instead of standard error; empty for standard error.
	File string
}

// Counters says where the counters are written.
type Counters struct {
	// Enabled asks for them.
	Enabled bool
	// File gets them; empty for standard error.
	File string
}

// AddrPair is one address per family; the zero netip.Addr where there is none.
type AddrPair struct {
	V4, V6 netip.Addr
}

// set puts addr in its family's place; the last address of a family holds.
func (p *AddrPair) set(addr netip.Addr) {
	if addr.Is4() {
		p.V4 = addr
	} else {
		p.V6 = addr
	}
}

// Level is how much is logged.
type Level uint8

// The levels, from the least to the most that is said.
const (
	Quiet  Level = iota // warnings and errors
	Normal              // and what the network was set up with
	Debug               // and every flow
	Trace               // and every frame
)

// Format is how a line of the log looks.
type Format uint8

// The formats.
const (
	Text Format = iota
	JSON
)
