package app

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/internal/options"
	"golang.org/x/sys/unix"
)

// minFlows is how many descriptors forwarded ports leave for flows at least.
const minFlows = 8

// forwards plans the forwarded ports.
func (p *plan) forwards(o *options.Options) {
	p.ports.tcp = p.forwarded(o.Ports.TCP)
	p.ports.udp = p.forwarded(o.Ports.UDP)
	if o.Ports.WhenReady {
		for i := range p.ports.tcp {
			p.ports.tcp[i].Deferred = true
		}
	}
	p.inside.Sockets = o.Ports.WhenReady || o.Ports.AutoTCP || o.Ports.AutoUDP
}

func (p *plan) forwarded(rules []options.PortRule) (ports []forward.Port) {
	for _, r := range rules {
		at := p.listener(r)
		low, high := uint16(0), uint16(0)
		if r.Free {
			low, high = clientPorts()
		}
		for n := int(r.First); n <= int(r.Last); n++ {
			port := uint16(n)
			if r.Free && low <= port && port <= high {
				continue
			}
			at.Listen = netip.AddrPortFrom(at.Listen.Addr(), port)
			at.To = r.Target + (port - r.First)
			ports = append(ports, at)
		}
	}
	return ports
}

// listener is where a rule's ports are listened on: its own address, else every address of the guest's families.
func (p *plan) listener(r options.PortRule) forward.Port {
	port := forward.Port{Device: r.Interface, Optional: r.Free}
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
func (p *plan) roomForPorts(workers int) error {
	tcp, udp := len(p.ports.tcp), len(p.ports.udp)
	if tcp+udp == 0 {
		return nil
	}
	have := descriptorLimit()
	if need := uint64(tcp + udp + ownDescriptors + (workers-1)*workerDescriptors + minFlows); need > have {
		option := "-t"
		if udp > tcp {
			option = "-u"
		}
		return fmt.Errorf("option %s: forwarding %d ports takes %d open files, and this process may have %d: forward fewer, or raise the limit (ulimit -n; LimitNOFILE= of systemd)",
			option, tcp+udp, need, have)
	}
	return nil
}

// descriptorLimit is how many descriptors the process may have.
func descriptorLimit() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxFlows // cannot fail; the kernel's limit holds all the same
	}
	return limit.Cur
}

// openPorts opens the forwarded ports, before the guest can see any of them work. They are dealt out to the workers in turn.
func (n *network) openPorts(p *plan) error {
	next := 0
	for _, l := range []struct {
		option string
		udp    bool
		ports  []forward.Port
	}{{"-t", false, p.ports.tcp}, {"-u", true, p.ports.udp}} {
		opened, passed := 0, error(nil)
		for _, port := range l.ports {
			m := n.members[next%len(n.members)]
			errno := m.worker.Forward(port, l.udp)
			if errno != 0 {
				err := portError(l.option, port, errno)
				if !port.Optional || !taken(errno) {
					return err
				}
				passed = err
				n.log.Debug("port not forwarded", "option", l.option, "port", port.Listen, "error", errno)
				continue
			}
			opened++
			next++
			if port.Deferred {
				n.deferred = append(n.deferred, deferredPort{port, m})
			}
		}
		if opened == 0 && passed != nil {
			return passed
		}
		if rest := len(l.ports) - opened; rest > 0 {
			n.log.Info("ports that cannot be had are not forwarded", "option", l.option, "forwarded", opened, "not_forwarded", rest)
		}
	}
	return nil
}

// taken says whether a port cannot be had because of what it is, and not for want of something.
func taken(errno hostsock.Errno) bool {
	return errno == unix.EACCES || errno == unix.EADDRINUSE || errno == unix.EPERM
}

func portError(option string, port forward.Port, errno hostsock.Errno) error {
	cure := ""
	switch errno {
	case unix.EACCES:
		cure = " (ports below net.ipv4.ip_unprivileged_port_start need root; choose a higher one, as 8080:80)"
	case unix.EADDRINUSE:
		cure = " (another program has this port: stop it, or choose another port)"
	case unix.EADDRNOTAVAIL:
		cure = " (this machine does not have the address)"
	case unix.ENODEV:
		cure = fmt.Sprintf(" (this machine has no interface %s)", port.Device)
	case unix.EMFILE, unix.ENFILE:
		cure = " (too many open files: forward fewer ports, or raise the limit, ulimit -n and fs.file-max)"
	}
	return fmt.Errorf("option %s: cannot listen on port %s: %w%s", option, port.Listen, errno, cure)
}
