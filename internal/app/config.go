package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/internal/options"
	"github.com/vasta-net/vasta/link/vhostnet"
	"github.com/vasta-net/vasta/netns"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/packet/pcap"
)

// config is the network that the options ask for.
func config(o *options.Options, log *slog.Logger) vasta.Config {
	pair := func(p options.AddrPair) vasta.AddrPair { return vasta.AddrPair(p) }
	c := vasta.Config{
		Guest: vasta.Guest{
			NoIPv4: !o.Guest.IPv4, NoIPv6: !o.Guest.IPv6, MTU: o.Guest.MTU, Address4: o.Guest.Address4, Address6: o.Guest.Address6,
			PrefixLen4: o.Guest.PrefixLen4, Gateway: pair(o.Guest.Gateway), IfName: o.Guest.IfName, MAC: netns.MAC(o.Guest.MAC),
			GatewayMAC: netns.MAC(o.Guest.GatewayMAC), KeepID: o.KeepID,
		},
		Host: vasta.Host{
			Template: o.Host.Template, Outbound: pair(o.Host.Outbound), Interface4: o.Host.Interface4, Interface6: o.Host.Interface6,
		},
		DNS: vasta.DNS{
			Servers: o.DNS.Servers, Search: o.DNS.Search, NoServers: o.DNS.NoServers, NoSearch: o.DNS.NoSearch, Forward: pair(o.DNS.Forward),
			Host: pair(o.DNS.Host), ByDHCP: o.DNS.ByDHCP, SearchByDHCP: o.DNS.SearchByDHCP, Hostname: o.DNS.Hostname, FQDN: o.DNS.FQDN,
		},
		Mapping: vasta.Mapping{Gateway: o.Mapping.Gateway, HostLoopback: pair(o.Mapping.HostLoopback), GuestAddr: pair(o.Mapping.GuestAddr)},
		Filter:  vasta.Filter(o.Filter),
		UDP:     vasta.UDP(o.UDP),
		Limits: vasta.Limits{
			IdleTimeout: o.Limits.IdleTimeout, EvictIdle: o.Limits.EvictIdle, Queues: o.Limits.Queues, Budget: o.Limits.Budget,
			SourceFlows: o.Limits.SourceFlows, DropOnOverload: o.Limits.DropOnOverload,
		},
		Ports: portRules(&o.Ports),
		VHost: vasta.VHost{Mode: vasta.VHostMode(o.VHost.Mode), Tuning: vhostnet.Tuning{
			Receive: o.VHost.Receive, Transmit: o.VHost.Transmit, Buffer: o.VHost.Buffer, Workers: o.VHost.Workers, BusyPoll: o.VHost.Poll,
		}},
		AutoTCP: o.Ports.AutoTCP, AutoUDP: o.Ports.AutoUDP, AutoInsideTCP: o.Ports.AutoInsideTCP, AutoInsideUDP: o.Ports.AutoInsideUDP,
		Log: log,
	}
	if c.Limits.EvictIdle == 0 {
		c.Limits.EvictIdle = -1
	}
	return c
}

func portRules(p *options.Ports) (all []vasta.PortRule) {
	for _, list := range []struct {
		network          string
		inside, deferred bool
		rules            []options.PortRule
	}{{"tcp", false, p.WhenReady, p.TCP}, {"udp", false, false, p.UDP}, {"tcp", true, false, p.InsideTCP}, {"udp", true, false, p.InsideUDP}} {
		for _, r := range list.rules {
			all = append(all, vasta.PortRule{
				Network: list.network, Inside: list.inside, Addr: r.Addr, Interface: r.Interface, First: r.First, Last: r.Last, Target: r.Target,
				Free: r.Free, Deferred: list.deferred,
			})
		}
	}
	return all
}

// inOptions says of an error of the network's which option it is about.
func inOptions(o *options.Options, err error) error {
	if e, ok := errors.AsType[*vasta.PortError](err); ok {
		return fmt.Errorf("option %s: %w", portOption(e.Network, e.Inside), err)
	}
	if e, ok := errors.AsType[*vasta.DescriptorError](err); ok {
		return fmt.Errorf("option %s: %w", portOption(e.Network, e.Inside), err)
	}
	if _, ok := errors.AsType[*vasta.VHostError](err); ok {
		return fmt.Errorf("option --vhost on: %w", err)
	}
	if errors.Is(err, vasta.ErrWatch) {
		switch {
		case o.Ports.AutoTCP:
			return fmt.Errorf("option -t auto: %w", err)
		case o.Ports.AutoUDP:
			return fmt.Errorf("option -u auto: %w", err)
		case o.Ports.AutoInsideTCP:
			return fmt.Errorf("option -T auto: %w", err)
		case o.Ports.AutoInsideUDP:
			return fmt.Errorf("option -U auto: %w", err)
		}
		return fmt.Errorf("option --listen-when-ready: %w", err)
	}
	return err
}

// portOption is the option that ports are asked for by.
func portOption(network string, inside bool) string {
	switch {
	case inside && network == "udp":
		return "-U"
	case inside:
		return "-T"
	case network == "udp":
		return "-u"
	}
	return "-t"
}

// watchers see every frame: the capture, the trace, both or, most of the time, nobody.
type watchers struct {
	pcap  *pcap.Writer
	trace *tracer
}

// watch has the network tell of its frames if that was asked for.
func (w *watchers) watch(o *options.Options, c *vasta.Config) {
	if o.Log.Level == options.Trace {
		w.trace = &tracer{log: c.Log}
	}
	if w.trace != nil || o.Pcap != "" {
		c.Capture = w.frame
	}
}

// open opens the capture, when the interface has a name and no frame has come.
func (w *watchers) open(o *options.Options, n *vasta.Network, log *slog.Logger) (err error) {
	if o.Pcap != "" {
		if w.pcap, err = pcap.Create(o.Pcap, n.Inside().IfName, log); err != nil {
			err = fmt.Errorf("option --pcap: %w (choose a file in a folder that you may write to)", err)
		}
	}
	return err
}

func (w *watchers) close() error {
	if w.pcap == nil {
		return nil
	}
	return w.pcap.Close()
}

func (w *watchers) frame(to vasta.Side, hdr *packet.NetHdr, bufs [][]byte) {
	if w.pcap != nil {
		d := pcap.FromGuest
		if to == vasta.ToGuest {
			d = pcap.ToGuest
		}
		w.pcap.Capture(d, hdr, bufs)
	}
	if w.trace != nil {
		w.trace.frame(to, hdr, bufs)
	}
}

// idleDelay is how long after a worker has become idle the program's memory goes back to the system, unless another one does so meanwhile.
const idleDelay = 100 * time.Millisecond

// whenIdle has the program's memory go back to the system when the network is idle, until stop is called.
func whenIdle(c *vasta.Config) (stop func() bool) {
	t := time.AfterFunc(time.Hour, debug.FreeOSMemory)
	t.Stop()
	c.Idle = func() { t.Reset(idleDelay) }
	return t.Stop
}

// valid leaves out the zero addresses.
func valid(p vasta.AddrPair) (addrs []netip.Addr) {
	for _, a := range []netip.Addr{p.V4, p.V6} {
		if a.IsValid() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
