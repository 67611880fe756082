package options

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vasta-net/vasta/flow/policy"
)

// network is every command that makes or joins a namespace, and created those of them that make it.
var (
	network  = on(Run, Attach, Demo)
	created  = on(Run, Demo)
	anywhere = on(Run, Attach, Doctor, Bench, Pktgen, Demo, Version, Help, Man, Completion)
)

// Table is every option: those of vasta, and those of pasta (version 2026_07_16) that vasta does not have yet.
// It must not be changed.
var Table = []Option{
	// The namespace.
	{Name: "netns", Arg: RequiredArg, ArgName: "PATH|NAME", Section: SectionNamespace, Commands: on(Attach),
		Help: "Attach to this network namespace; a NAME is one of ip-netns(8)",
		set:  value(parseNetNS, func(p *parser, path string) { p.Target.NetNS = path })},
	{Name: "userns", Arg: RequiredArg, ArgName: "PATH", Section: SectionNamespace, Commands: on(Attach),
		Help: "Join this user namespace before that of --netns", Default: "the one that owns it",
		set: value(parseFile, func(p *parser, path string) { p.Target.UserNS = path })},
	{Name: "keep-id", Section: SectionNamespace, Commands: created,
		Help: "Keep your own user and group id inside, instead of 0",
		set:  flag(func(p *parser) { p.KeepID = true })},
	{Name: "ns-ifname", Short: 'I', Arg: RequiredArg, ArgName: "NAME", Section: SectionNamespace, Commands: network,
		Help: "Name of the interface inside", Default: "that of the template interface, or tap0",
		set: value(parseIfName, func(p *parser, name string) { p.Guest.IfName = name })},
	{Name: "ns-mac-addr", Arg: RequiredArg, ArgName: "MAC", Section: SectionNamespace, Commands: network,
		Help: "Hardware address of the interface inside", Default: "a random one",
		set: value(parseMAC, func(p *parser, mac MAC) { p.Guest.MAC = mac })},
	{Name: "mac-addr", Short: 'M', Arg: RequiredArg, ArgName: "MAC", Section: SectionNamespace, Commands: network,
		Help: "Hardware address of the gateway, which is vasta's end of the link", Default: DefaultMAC.String(),
		set: value(parseMAC, func(p *parser, mac MAC) { p.Guest.GatewayMAC = mac })},
	{Name: "mtu", Short: 'm', Arg: RequiredArg, ArgName: "BYTES", Section: SectionNamespace, Commands: network,
		Help: fmt.Sprintf("MTU of the interface inside, %d to %d; 0 for the kernel's own, %d; host for that of the host's interface and routes, now and when it changes",
			minMTU4, DefaultMTU, kernelMTU), Default: fmt.Sprint(DefaultMTU),
		set: setMTU},
	{Name: "ready-fd", Arg: RequiredArg, ArgName: "N", Section: SectionNamespace, Commands: network,
		Help: "Write a newline to this open descriptor, and close it, when the network works",
		set:  number(3, 1<<20, func(p *parser, fd int64) { p.ReadyFD = int(fd) })},
	{Name: "config-net", Section: SectionNamespace, State: AlreadySo, Commands: network,
		Help: "Configure the interface inside"},
	{Name: "foreground", Short: 'f', Section: SectionNamespace, State: AlreadySo, Commands: network,
		Help: "Stay in the foreground"},
	{Name: "netns-only", Section: SectionNamespace, State: NotYet,
		Instead: "vasta attach --netns PATH alone stays in your own user namespace"},
	{Name: "no-netns-quit", Section: SectionNamespace, State: NotYet,
		Instead: "vasta attach ends when the namespace goes away"},
	{Name: "pid", Short: 'P', Arg: RequiredArg, Section: SectionNamespace, State: NotYet,
		Instead: "vasta stays in the foreground under the pid it was started with, and --ready-fd tells when it is ready"},
	{Name: "runas", Arg: RequiredArg, Section: SectionNamespace, State: NotYet,
		Instead: "start vasta as the user it is to run as, with setpriv(1) for example"},
	{Name: "chroot-fallback", Section: SectionNamespace, State: NotYet,
		Instead: "vasta does not change its root, so leave the option out"},

	// Addresses and routes.
	{Name: "interface", Short: 'i', Arg: RequiredArg, ArgName: "NAME", Section: SectionAddress, Commands: network,
		Help: "Interface of the host whose addresses and routes are copied", Default: "the one with the default route",
		set: value(parseIfName, func(p *parser, name string) { p.Host.Template = name })},
	{Name: "address", Short: 'a', Arg: RequiredArg, ArgName: "ADDR[/PLEN]", Section: SectionAddress, Commands: network,
		Help: "Address inside, once for each family", Default: "copied from the host",
		set: setAddress},
	{Name: "netmask", Short: 'n', Arg: RequiredArg, ArgName: "MASK", Section: SectionAddress, Commands: network,
		Help: "IPv4 mask inside, as 255.255.255.0 or as 24", Default: "the host's, or that of --address",
		set: value(parseNetmask, func(p *parser, bits int) { p.Guest.PrefixLen4 = bits })},
	{Name: "gateway", Short: 'g', Arg: RequiredArg, ArgName: "ADDR", Section: SectionAddress, Commands: network,
		Help: "Default gateway inside, once for each family", Default: "the host's",
		set: value(parseGuestAddr, func(p *parser, a netip.Addr) { p.Guest.Gateway.set(a) })},
	{Name: "outbound", Short: 'o', Arg: RequiredArg, ArgName: "ADDR", Section: SectionAddress, Commands: network,
		Help: "Source address on the host, once for each family", Default: "chosen by the kernel",
		set: value(parseAddr, func(p *parser, a netip.Addr) { p.Host.Outbound.set(a) })},
	{Name: "outbound-if4", Arg: RequiredArg, ArgName: "NAME", Section: SectionAddress, Commands: network,
		Help: "Interface of the host that IPv4 leaves by", Default: "chosen by the routes",
		set: value(parseIfName, func(p *parser, name string) { p.Host.Interface4 = name })},
	{Name: "outbound-if6", Arg: RequiredArg, ArgName: "NAME", Section: SectionAddress, Commands: network,
		Help: "Interface of the host that IPv6 leaves by", Default: "chosen by the routes",
		set: value(parseIfName, func(p *parser, name string) { p.Host.Interface6 = name })},
	{Name: "ipv4-only", Short: '4', Section: SectionAddress, Commands: network,
		Help: "No IPv6 inside",
		set:  func(p *parser, _ found) error { return p.oneFamily(&p.Guest.IPv6, p.Guest.IPv4) }},
	{Name: "ipv6-only", Short: '6', Section: SectionAddress, Commands: network,
		Help: "No IPv4 inside",
		set:  func(p *parser, _ found) error { return p.oneFamily(&p.Guest.IPv4, p.Guest.IPv6) }},
	{Name: "no-copy-routes", Section: SectionAddress, State: NotYet,
		Instead: "--gateway gives the namespace one default route instead of the host's"},
	{Name: "no-copy-addrs", Section: SectionAddress, State: NotYet,
		Instead: "--address gives the namespace one address instead of the host's"},

	// Names.
	{Name: "dns", Short: 'D', Arg: RequiredArg, ArgName: "ADDR|none", Section: SectionDNS, Commands: network,
		Help: "Resolver that the namespace is told of; may be repeated", Default: "that of --dns-forward",
		set: setDNS},
	{Name: "search", Short: 'S', Arg: RequiredArg, ArgName: "DOMAIN|none", Section: SectionDNS, Commands: network,
		Help: "Search domain that the namespace is told of; may be repeated", Default: "those of /etc/resolv.conf",
		set: setSearch},
	{Name: "dns-forward", Arg: RequiredArg, ArgName: "ADDR", Section: SectionDNS, Commands: network,
		Help: "Address inside whose port 53 leads to the host's resolvers, once for each family", Default: "169.254.1.1",
		set: value(parseGuestAddr, func(p *parser, a netip.Addr) { p.DNS.Forward.set(a) })},
	{Name: "dns-host", Arg: RequiredArg, ArgName: "ADDR", Section: SectionDNS, Commands: network,
		Help: "The host's resolver, once for each family", Default: "those of /etc/resolv.conf",
		set: value(parseAddr, func(p *parser, a netip.Addr) { p.DNS.Host.set(a) })},
	{Name: "dhcp-dns", Section: SectionDNS, Commands: network,
		Help: "Tell of resolvers by DHCP, DHCPv6 and router advertisements", Default: "not",
		set: flag(func(p *parser) { p.DNS.ByDHCP = true })},
	{Name: "dhcp-search", Section: SectionDNS, Commands: network,
		Help: "Tell of search domains by DHCP, DHCPv6 and router advertisements", Default: "not",
		set: flag(func(p *parser) { p.DNS.SearchByDHCP = true })},
	{Name: "no-dhcp-dns", Section: SectionDNS, Commands: network, Help: "No resolvers by DHCP, DHCPv6 and router advertisements",
		set: flag(func(p *parser) { p.DNS.ByDHCP = false })},
	{Name: "no-dhcp-search", Section: SectionDNS, Commands: network, Help: "No search domains by DHCP, DHCPv6 and router advertisements",
		set: flag(func(p *parser) { p.DNS.SearchByDHCP = false })},
	{Name: "hostname", Short: 'H', Arg: RequiredArg, ArgName: "NAME", Section: SectionDNS, Commands: network,
		Help: "Host name that clients of DHCP are told of",
		set:  value(parseHost, func(p *parser, name string) { p.DNS.Hostname = name })},
	{Name: "fqdn", Arg: RequiredArg, ArgName: "NAME", Section: SectionDNS, Commands: network,
		Help: "Host name with its domain that clients of DHCP and DHCPv6 are told of",
		set:  value(parseFQDN, func(p *parser, name string) { p.DNS.FQDN = name })},

	// Reaching the host, and being reached.
	{Name: "no-map-gw", Section: SectionHost, Commands: network,
		Help: "Do not map the gateway address to the host's loopback",
		set:  flag(func(p *parser) { p.Mapping.Gateway = false })},
	{Name: "map-host-loopback", Arg: RequiredArg, ArgName: "ADDR|none", Section: SectionHost, Commands: network,
		Help: "Address inside that leads to the host's 127.0.0.1 or ::1, once for each family", Default: "the gateway's",
		set: setMapHostLoopback},
	{Name: "map-guest-addr", Arg: RequiredArg, ArgName: "ADDR|none", Section: SectionHost, Commands: network,
		Help: "Address inside that leads to the host's own copy of the namespace's address, once for each family", Default: "none",
		set: setMapGuestAddr},
	{Name: "tcp-ports", Short: 't', Arg: RequiredArg, ArgName: "PORTS|all|auto|none", Section: SectionHost, Commands: network,
		Help: "TCP ports of the host that lead into the namespace: [ADDR][%IF]/PORT[-PORT][:PORT[-PORT]],~PORT[-PORT],...; may be repeated. " +
			"\"all\", and a list of nothing but ~PORTs, means all that are free, without those the kernel gives to clients; \"auto\", those that the namespace listens on",
		Default: "none",
		set:     func(p *parser, f found) error { return addPorts(&p.Ports.TCP, &p.noTCP, &p.Ports.AutoTCP, f) }},
	{Name: "udp-ports", Short: 'u', Arg: RequiredArg, ArgName: "PORTS|all|auto|none", Section: SectionHost, Commands: network,
		Help: "UDP ports of the host that lead into the namespace, in the same form; may be repeated", Default: "none",
		set: func(p *parser, f found) error { return addPorts(&p.Ports.UDP, &p.noUDP, &p.Ports.AutoUDP, f) }},
	{Name: "listen-when-ready", Section: SectionHost, Commands: network,
		Help: "Refuse connections to forwarded TCP ports as long as nothing in the namespace listens on what they lead to", Default: "accepted, and reset then",
		set: flag(func(p *parser) { p.Ports.WhenReady = true })},
	{Name: "tcp-ns", Short: 'T', Arg: RequiredArg, ArgName: "PORTS|all|auto|none", Section: SectionHost, Commands: network,
		Help: "TCP ports of the namespace's loopback that lead to the host's, as for --tcp-ports; an address, if any, is a loopback one. " +
			"\"auto\" means those that something on the host listens on; may be repeated",
		Default: "none",
		set: func(p *parser, f found) error {
			return addInside(&p.Ports.InsideTCP, &p.noInsideTCP, &p.Ports.AutoInsideTCP, f)
		}},
	{Name: "udp-ns", Short: 'U', Arg: RequiredArg, ArgName: "PORTS|all|auto|none", Section: SectionHost, Commands: network,
		Help: "UDP ports of the namespace's loopback that lead to the host's, in the same form; may be repeated", Default: "none",
		set: func(p *parser, f found) error {
			return addInside(&p.Ports.InsideUDP, &p.noInsideUDP, &p.Ports.AutoInsideUDP, f)
		}},
	{Name: "no-splice", Section: SectionHost, State: AlreadySo, Commands: network,
		Help: "Let forwarded connections of the host's loopback pass over the link too"},
	{Name: "splice-only", Section: SectionHost, State: NotYet,
		Instead: "unshare -rn gives a command a namespace without a network"},
	{Name: "host-lo-to-ns-lo", Section: SectionHost, State: NotYet,
		Instead: "let the service inside listen on the namespace's address, not only on its loopback"},
	{Name: "freebind", Section: SectionHost, State: NotYet,
		Instead: "set net.ipv4.ip_nonlocal_bind on the host, or forward a port of an address it has"},
	{Name: "conf-path", Short: 'c', Arg: RequiredArg, Section: SectionHost, State: NotYet,
		Instead: "name the ports at the start, with --tcp-ports and --udp-ports"},

	// Protocols.
	{Name: "no-tcp", Section: SectionProtocol, Commands: network, Help: "No TCP to the outside",
		set: flag(func(p *parser) { p.Filter.NoTCP = true })},
	{Name: "no-udp", Section: SectionProtocol, Commands: network, Help: "No UDP to the outside",
		set: flag(func(p *parser) { p.Filter.NoUDP = true })},
	{Name: "no-icmp", Section: SectionProtocol, Commands: network, Help: "No ICMP echo to the outside",
		set: flag(func(p *parser) { p.Filter.NoICMP = true })},
	{Name: "no-ndp", Section: SectionProtocol, Commands: network, Help: "No answers to neighbour solicitations",
		set: flag(func(p *parser) { p.Filter.NoNDP = true })},
	{Name: "no-ra", Section: SectionProtocol, Commands: network, Help: "No router advertisements",
		set: flag(func(p *parser) { p.Filter.NoRA = true })},
	{Name: "no-dhcp", Section: SectionProtocol, Commands: network, Help: "No DHCP server",
		set: flag(func(p *parser) { p.Filter.NoDHCP = true })},
	{Name: "no-dhcpv6", Section: SectionProtocol, Commands: network, Help: "No DHCPv6 server",
		set: flag(func(p *parser) { p.Filter.NoDHCPv6 = true })},
	{Name: "endpoint-independent", Section: SectionProtocol, Commands: network,
		Help:    "One UDP port of the host for each of the namespace's, whomever it talks to, and open to everybody (RFC 4787), as games and WebRTC want it",
		Default: "a socket for each peer, which hears that peer alone",
		set:     flag(func(p *parser) { p.UDP.EndpointIndependent = true })},
	{Name: "multicast", Arg: RequiredArg, ArgName: "PORT[,PORT...]", Section: SectionProtocol, Commands: network,
		Help: "Multicast and broadcast out of the namespace; into it what comes to these UDP ports of groups that it has joined (5353 is mDNS, 1900 SSDP)", Default: "none",
		set: value(parseMulticast, func(p *parser, ports []uint16) { p.UDP.Multicast = ports })},

	// Policy.
	{Name: "allow", Arg: RequiredArg, ArgName: "RULE", Section: SectionPolicy, Commands: network,
		Help: "Let flows begin that match: in|out, tcp|udp|icmp, addresses or prefixes, names as *.example.com, ports; \"out tcp example.com 80,443\" for one. " +
			"Of all rules the first that matches decides; what none matches is allowed, so --deny all stands at the end of a list of what is",
		set: func(p *parser, f found) error { return addPolicyRule(p, f, false) }},
	{Name: "deny", Arg: RequiredArg, ArgName: "RULE", Section: SectionPolicy, Commands: network,
		Help: "Refuse flows that match, at once: with a reset, or an ICMP error. Addresses are those outside: the host's loopback is 127.0.0.1, by whatever address it is reached",
		set:  func(p *parser, f found) error { return addPolicyRule(p, f, true) }},
	{Name: "policy", Arg: RequiredArg, ArgName: "FILE", Section: SectionPolicy, Commands: network,
		Help: "Read rules from this file, one a line, each behind allow or deny; they stand where the option stands",
		set:  value(parseFile, func(p *parser, path string) { p.Rules = append(p.Rules, RuleSource{File: path}) })},

	// Limits.
	{Name: "idle-timeout", Arg: RequiredArg, ArgName: "SECONDS", Section: SectionLimits, Commands: network,
		Help: "End a TCP connection that carried nothing for so long; 0 for never", Default: fmt.Sprint(int(DefaultIdleTimeout.Seconds())),
		set: number(0, 1<<31-1, func(p *parser, s int64) { p.Limits.IdleTimeout = time.Duration(s) * time.Second })},
	{Name: "evict-idle", Arg: RequiredArg, ArgName: "SECONDS", Section: SectionLimits, Commands: network,
		Help: "When flows, descriptors or memory run out, end the connection that was unused for the longest, if for so long, to make room; " +
			"UDP and echo may go after 120 and 60 s; 0 for never", Default: fmt.Sprint(int(DefaultEvictIdle.Seconds())),
		set: number(0, 1<<31-1, func(p *parser, s int64) { p.Limits.EvictIdle = time.Duration(s) * time.Second })},
	{Name: "source-flows", Arg: RequiredArg, ArgName: "N", Section: SectionLimits, Commands: network,
		Help: "Connections, UDP and echo flows that each address of the namespace may have begun; more are refused. 0 for as many as there may be", Default: "0",
		set: number(0, 1<<20, func(p *parser, n int64) { p.Limits.SourceFlows = int(n) })},
	{Name: "overload", Arg: RequiredArg, ArgName: "drop|backpressure", Section: SectionLimits, Commands: network,
		Help: "Datagrams for which there is no room are lost and counted (drop), or whoever sends them waits (backpressure)", Default: "backpressure",
		set: value(parseOverload, func(p *parser, drop bool) { p.Limits.DropOnOverload = drop })},
	{Name: "queues", Arg: RequiredArg, ArgName: "N", Section: SectionLimits, Commands: network,
		Help: "Queue pairs of the link, each with a worker in a thread of its own", Default: fmt.Sprintf("the processors, at most %d", maxDefaultQueues),
		set: number(1, MaxQueues, func(p *parser, n int64) { p.Limits.Queues = int(n) })},
	{Name: "vhost", Arg: RequiredArg, ArgName: "auto|on|off", Section: SectionLimits, Commands: network,
		Help: "Let the kernel's vhost-net move the frames of the link: auto where /dev/vhost-net can be used, on or not at all", Default: "off",
		set: setVHost},
	{Name: "vhost-tuning", Arg: RequiredArg, ArgName: "KEY=VALUE,...", Section: SectionLimits, Commands: network,
		Help: "Rings of vhost-net: receive=N, transmit=N (descriptors), buffer=BYTES, poll=MICROSECONDS, workers (a thread for each ring, where the kernel can)",
		set:  setVHostTuning},
	{Name: "budget", Arg: RequiredArg, ArgName: "BYTES", Section: SectionLimits, Commands: network,
		Help: "Memory that all connections together may promise and hold; K, M or G may follow", Default: fmt.Sprintf("%dM", DefaultBudget>>20),
		set: value(func(s string) (int64, error) { return parseSize(s, minBudget, maxBudget) }, func(p *parser, n int64) { p.Limits.Budget = n })},
	{Name: "filter", Arg: RequiredArg, ArgName: "FILE", Section: SectionLimits, Commands: network,
		Help: "Drop the guest's frames that this filter does not accept: classic BPF, as tcpdump -ddd prints it",
		set:  value(parseFile, func(p *parser, path string) { p.FrameFilter = path })},

	// Seeing what happens.
	{Name: "quiet", Short: 'q', Section: SectionWatch, Commands: network, Help: "Say nothing but warnings and errors",
		set: flag(func(p *parser) { p.Log.Level = Quiet })},
	{Name: "debug", Short: 'd', Section: SectionWatch, Commands: network, Help: "Say what becomes of every connection",
		set: flag(func(p *parser) { p.Log.Level = Debug })},
	{Name: "trace", Section: SectionWatch, Commands: network, Help: "Say what becomes of every frame",
		set: flag(func(p *parser) { p.Log.Level = Trace })},
	{Name: "log-file", Short: 'l', Arg: RequiredArg, ArgName: "FILE", Section: SectionWatch, Commands: network,
		Help: "Log to this file", Default: "standard error",
		set: value(parseFile, func(p *parser, path string) { p.Log.File = path })},
	{Name: "log-format", Arg: RequiredArg, ArgName: "text|json", Section: SectionWatch, Commands: network,
		Help: "How a line of the log looks", Default: "text", set: setLogFormat},
	{Name: "pcap", Short: 'p', Arg: RequiredArg, ArgName: "FILE", Section: SectionWatch, Commands: network,
		Help: "Write every frame of the link to this file, as pcapng",
		set:  value(parseCapture, func(p *parser, path string) { p.Pcap = path })},
	{Name: "flow-log", Arg: RequiredArg, ArgName: "FILE", Section: SectionWatch, Commands: network,
		Help: "Append a line of JSON to this file for every flow at its end, and for every one that is denied: who, bytes, packets, times, retransmits, why, and the rule; SIGHUP opens the file anew",
		set:  value(parseFile, func(p *parser, path string) { p.FlowLog = path })},
	{Name: "counters", Arg: OptionalArg, ArgName: "FILE", Section: SectionWatch, Commands: network,
		Help: "Write the counters as JSON at the end and on SIGUSR1, to FILE or to standard error", set: setCounters},
	{Name: "stderr", Short: 'e', Section: SectionWatch, State: AlreadySo, Commands: network, Help: "Log to standard error"},
	{Name: "log-size", Arg: RequiredArg, Section: SectionWatch, State: NotYet,
		Instead: "keep the file of --log-file small with logrotate(8), copytruncate"},
	{Name: "stats", Arg: RequiredArg, Section: SectionWatch, State: NotYet,
		Instead: "--counters writes them at the end and on SIGUSR1"},

	// General.
	{Name: "help", Short: 'h', Section: SectionGeneral, Commands: anywhere, Help: "Show this text", ends: true,
		set: flag(func(p *parser) { p.Command = Help })},
	{Name: "version", Section: SectionGeneral, Commands: anywhere, Help: "Show the version", ends: true,
		set: flag(func(p *parser) { p.Command = Version })},
	{Name: "json", Section: SectionGeneral, Commands: on(Doctor), Help: "With vasta doctor: JSON instead of a table",
		set: flag(func(p *parser) { p.JSON = true })},

	// Virtual machines.
	{Name: "socket", Aliases: []string{"socket-path"}, Short: 's', Arg: RequiredArg, Section: SectionVM, State: NotYet, Instead: usePasst},
	{Name: "fd", Short: 'F', Arg: RequiredArg, Section: SectionVM, State: NotYet, Instead: usePasst},
	{Name: "one-off", Short: '1', Section: SectionVM, State: NotYet, Instead: usePasst},
	{Name: "vhost-user", Section: SectionVM, State: NotYet, Instead: usePasst},
	{Name: "print-capabilities", Section: SectionVM, State: NotYet, Instead: usePasst},
	{Name: "repair-path", Arg: RequiredArg, Section: SectionVM, State: NotYet, Instead: usePasst},
	{Name: "migrate-exit", Section: SectionVM, State: NotYet, Instead: usePasst},
	{Name: "migrate-no-linger", Section: SectionVM, State: NotYet, Instead: usePasst},
}

// usePasst is what to do instead of the options for virtual machines.
const usePasst = "virtual machines come later: use passt for them until then"

// Limits of --budget: room for a few connections, and what fits a mapping on every machine with 64-bit words.
const (
	minBudget = 1 << 20
	// queueBudget is what each queue's share has to be at least: room for a few connections as well.
	queueBudget = minBudget / maxDefaultQueues
	maxBudget   = 1 << 40
)

// oneFamily switches a family off, unless it is the only one left.
func (p *parser) oneFamily(other *bool, this bool) error {
	if !this {
		return errors.New("the other option has switched this family off; --ipv4-only and --ipv6-only exclude each other")
	}
	*other = false
	return nil
}

func setMTU(p *parser, f found) error {
	if f.arg == "host" {
		p.Guest.MTU = HostMTU
		return nil
	}
	n, err := parseNumber(f.arg, 0, DefaultMTU)
	if err != nil || n > 0 && n < minMTU4 {
		return fmt.Errorf("not an MTU; it is %d to %d bytes, 0 for the kernel's own, or host for the host's", minMTU4, DefaultMTU)
	}
	if n == 0 {
		n = kernelMTU
	}
	p.Guest.MTU = int(n)
	return nil
}

func setAddress(p *parser, f found) error {
	prefix, hasLen, err := parsePrefix(f.arg)
	if err != nil {
		return err
	}
	if prefix.Addr().Is4() {
		p.Guest.Address4, p.len4 = prefix, hasLen
	} else {
		p.Guest.Address6 = prefix
	}
	return nil
}

func setDNS(p *parser, f found) error {
	d := &p.DNS
	if f.arg == "none" {
		d.NoServers = true
	} else {
		addr, err := parseAddr(f.arg)
		if err != nil {
			return err
		}
		d.Servers = append(d.Servers, addr)
	}
	return notBoth(d.NoServers, len(d.Servers))
}

func setSearch(p *parser, f found) error {
	d := &p.DNS
	if f.arg == "none" {
		d.NoSearch = true
	} else {
		domain, err := parseDomain(f.arg)
		if err != nil {
			return err
		}
		d.Search = append(d.Search, domain)
	}
	return notBoth(d.NoSearch, len(d.Search))
}

// notBoth refuses a list that has values and is said to be empty.
func notBoth(none bool, values int) error {
	if none && values > 0 {
		return errors.New("none and a value exclude each other")
	}
	return nil
}

func setMapHostLoopback(p *parser, f found) error {
	m := &p.Mapping
	if f.arg == "none" {
		m.Gateway, m.HostLoopback = false, AddrPair{}
		return nil
	}
	addr, err := parseGuestAddr(f.arg)
	if err == nil {
		m.HostLoopback.set(addr)
	}
	return err
}

func setMapGuestAddr(p *parser, f found) error {
	if f.arg == "none" {
		p.Mapping.GuestAddr = AddrPair{}
		return nil
	}
	addr, err := parseGuestAddr(f.arg)
	if err == nil {
		p.Mapping.GuestAddr.set(addr)
	}
	return err
}

// addPorts adds the rules of one list to a protocol's, of which none or auto is set when the list was such a word. Each of the three excludes
// the others.
func addPorts(rules *[]PortRule, none, auto *bool, f found) error {
	*none = *none || f.arg == "none"
	*auto = *auto || f.arg == "auto"
	if *none && *auto {
		return errors.New("none and auto exclude each other")
	}
	if f.arg == "none" || f.arg == "auto" {
		return alone(*none, *auto, len(*rules))
	}
	list, err := ParsePorts(f.arg)
	if err != nil {
		return err
	}
	for _, rule := range list {
		if *rules, err = addRule(*rules, rule); err != nil {
			return err
		}
	}
	return alone(*none, *auto, len(*rules))
}

// addInside is addPorts for ports of the namespace's loopback, which has two addresses and no interface but one.
func addInside(rules *[]PortRule, none, auto *bool, f found) error {
	if err := addPorts(rules, none, auto, f); err != nil {
		return err
	}
	for _, r := range *rules {
		if r.Interface != "" || r.Addr.IsValid() && !r.Addr.IsLoopback() {
			return fmt.Errorf("%s is not of the namespace's loopback; leave the address out, or write 127.0.0.1 or [::1]", r.place())
		}
	}
	return nil
}

// alone refuses a list of ports beside none or auto.
func alone(none, auto bool, rules int) error {
	if auto && rules > 0 {
		return errors.New("auto and a list of ports exclude each other")
	}
	return notBoth(none, rules)
}

// addPolicyRule adds the rule of --allow or --deny.
func addPolicyRule(p *parser, f found, deny bool) error {
	rule, err := policy.ParseRule(deny, f.arg)
	if err == nil {
		p.Rules = append(p.Rules, RuleSource{Rule: rule})
	}
	return err
}

func setLogFormat(p *parser, f found) error {
	switch f.arg {
	case "text":
		p.Log.Format = Text
	case "json":
		p.Log.Format = JSON
	default:
		return errors.New("the formats are text and json")
	}
	return nil
}

func setCounters(p *parser, f found) (err error) {
	p.Counters = Counters{Enabled: true}
	if f.hasArg {
		p.Counters.File, err = parseFile(f.arg)
	}
	return err
}
