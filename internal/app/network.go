// Package app puts vasta together: from options over namespaces, links and workers to a running network, and back
// to nothing.
package app

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/gateway"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/internal/options"
	"github.com/vasta-net/vasta/link"
	"github.com/vasta-net/vasta/link/tap"
	"github.com/vasta-net/vasta/netns"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/packet/pcap"
	"github.com/vasta-net/vasta/pagepool"
	"github.com/vasta-net/vasta/stats"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

// Sizes and times of a network.
const (
	maxFlows  = 128 << 10
	sendPool  = 512 << 20 // bytes of address space; memory is used as the guest leaves data unacknowledged
	maxWindow = 1 << 20   // bytes; see docs/results.md for what other sizes do
	maxFlight = 4 << 20   // bytes

	keepIdle = 2 * time.Hour
	udpIdle  = 180 * time.Second
	udpFirst = 30 * time.Second
	icmpIdle = 60 * time.Second
)

// ownDescriptors is how many descriptors are kept from flows for everything else: the command's start, the log, the
// counters, and the runtime's own.
const ownDescriptors = 32

// flowLimit is how many flows there may be. Each may need a descriptor; ports are forwarded ones.
func flowLimit(ports int) int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxFlows // cannot fail; the kernel's limit holds all the same
	}
	own := uint64(ownDescriptors + ports)
	return int(min(maxFlows, max(limit.Cur, own+1)-own))
}

// network is one running worker and what it needs.
type network struct {
	worker *worker.Worker
	host   *hostsock.System
	wakeFd int
	pcap   *pcap.Writer
	done   chan struct{} // closed when the worker has ended
	result error         // of the worker, once done is closed
}

// newNetwork makes the network of a plan over the first queue of t, whose descriptors it owns from now on.
func newNetwork(o *options.Options, p *plan, t *netns.TAP, log *slog.Logger) (*network, error) {
	n := &network{wakeFd: -1, done: make(chan struct{})}
	if err := n.build(o, p, t, log); err != nil {
		return nil, errors.Join(err, n.release())
	}
	return n, nil
}

// build fills in what newNetwork returns. On error, what it has filled in is released by the caller; the rest it has
// given back.
func (n *network) build(o *options.Options, p *plan, t *netns.TAP, log *slog.Logger) error {
	queue, err := tap.New(t.FDs[0], link.Features{Csum: true, TSO4: true, TSO6: true, USO: t.USO()})
	if err != nil {
		_ = unix.Close(t.FDs[0])
		return err
	}
	block := new(stats.Worker)
	gw, err := p.newGateway(o, t, block)
	if err != nil {
		return errors.Join(err, queue.Close())
	}
	if n.host, err = hostsock.NewSystem(); err != nil {
		return errors.Join(err, queue.Close())
	}
	if n.wakeFd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return errors.Join(fmt.Errorf("cannot make an eventfd: %w", err), queue.Close())
	}
	if o.Pcap != "" {
		if n.pcap, err = pcap.Create(o.Pcap, t.Name, log); err != nil {
			return errors.Join(err, queue.Close())
		}
	}
	hold, err := pagepool.New(int(o.Limits.Budget) + maxFlows*2*pagepool.FragSize)
	if err != nil {
		return errors.Join(err, queue.Close())
	}
	send, err := pagepool.New(sendPool)
	if err != nil {
		return errors.Join(err, queue.Close(), hold.Close())
	}
	c := worker.Config{
		Queue: queue, Host: n.host, Gateway: gw, Map: &p.mapping, Hold: hold, Send: send, Stats: block,
		MTU: t.MTU, MaxFlows: flowLimit(len(p.ports.tcp) + len(p.ports.udp)), Budget: o.Limits.Budget, MaxWindow: maxWindow, MaxFlight: maxFlight,
		KeepIdle: int64(keepIdle), IdleLimit: int64(o.Limits.IdleTimeout), UDPIdle: int64(udpIdle), UDPFirst: int64(udpFirst), ICMPIdle: int64(icmpIdle),
		NoTCP: o.Filter.NoTCP, NoUDP: o.Filter.NoUDP, NoICMP: o.Filter.NoICMP,
		Origin: origins(o), WakeFd: n.wakeFd, Clock: monotonic, Seed: secret(), Log: log,
		Spin: spinFor(), Idle: func() { go debug.FreeOSMemory() },
	}
	c.Capture = n.watcher(o, log)
	if n.worker, err = worker.New(c); err != nil {
		return errors.Join(err, queue.Close(), hold.Close(), send.Close())
	}
	return n.openPorts(p)
}

func (p *plan) newGateway(o *options.Options, t *netns.TAP, block *stats.Worker) (*gateway.Gateway, error) {
	c := gateway.Config{MAC: gateway.MAC(o.Guest.GatewayMAC), GuestMAC: gateway.MAC(t.MAC), Guest: p.guest, Stats: block}
	m := &p.mapping
	for _, pair := range [][2]netip.Addr{m.Gateway, m.Loopback, m.GuestAlias, m.DNS} {
		for _, a := range pair {
			if a.IsValid() {
				c.Ours = append(c.Ours, a)
			}
		}
	}
	if gw := m.Gateway[forward.V6]; gw.IsValid() && !o.Filter.NoNDP {
		c.LinkLocal = localGateway6
		if gw.IsLinkLocalUnicast() {
			c.LinkLocal = gw
		}
		if !o.Filter.NoRA {
			c.Router = &gateway.Router{Lifetime: gateway.MaxLifetime, MTU: uint32(t.MTU)}
		}
	}
	return gateway.New(c)
}

func origins(o *options.Options) [2]hostsock.Origin {
	return [2]hostsock.Origin{
		forward.V4: {Addr: netip.AddrPortFrom(o.Host.Outbound.V4, 0), Device: o.Host.Interface4},
		forward.V6: {Addr: netip.AddrPortFrom(o.Host.Outbound.V6, 0), Device: o.Host.Interface6},
	}
}

// openPorts opens the forwarded ports, before the guest can see any of them work.
func (n *network) openPorts(p *plan) error {
	for _, l := range []struct {
		option string
		udp    bool
		ports  []forward.Port
	}{{"-t", false, p.ports.tcp}, {"-u", true, p.ports.udp}} {
		for _, port := range l.ports {
			if errno := n.worker.Forward(port, l.udp); errno != 0 {
				return portError(l.option, port, errno)
			}
		}
	}
	return nil
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
	}
	return fmt.Errorf("option %s: cannot listen on port %s: %w%s", option, port.Listen, errno, cure)
}

// start runs the worker in a thread of its own.
func (n *network) start() {
	go func() {
		runtime.LockOSThread()
		n.result = n.worker.Run()
		close(n.done)
	}()
}

// stop ends the worker. Its counters may be read until release.
func (n *network) stop() error {
	n.worker.Stop()
	<-n.done
	if errors.Is(n.result, link.ErrGone) {
		return nil
	}
	return n.result
}

// release gives back what newNetwork had taken, as far as it had come.
func (n *network) release() (err error) {
	if n.worker != nil {
		err = n.worker.Close()
	}
	if n.host != nil {
		err = errors.Join(err, n.host.Release())
	}
	if n.wakeFd >= 0 {
		_ = unix.Close(n.wakeFd)
	}
	if n.pcap != nil {
		err = errors.Join(err, n.pcap.Close())
	}
	return err
}

// counters asks the worker for a copy of its counters; false when it does not answer.
func (n *network) counters() (stats.Worker, bool) {
	got := make(chan stats.Worker, 1)
	n.worker.Do(func() { got <- n.snapshot() })
	select {
	case s := <-got:
		return s, true
	case <-n.done:
		return n.snapshot(), true
	case <-time.After(time.Second):
		return stats.Worker{}, false
	}
}

// snapshot is called in the worker's goroutine, or after its end.
func (n *network) snapshot() stats.Worker {
	s := n.worker.Snapshot()
	c := n.host.Counters()
	s.SysWait, s.SysSend, s.SysRecv, s.SysSocket = c.Wait, c.Send, c.Recv, c.Socket
	return s
}

// spinFor is how long a worker looks for events before it sleeps. With one processor nobody else could cause any meanwhile.
func spinFor() int64 {
	if runtime.NumCPU() < 2 {
		return 0
	}
	return int64(40 * time.Microsecond)
}

// monotonic is the clock of the workers, in nanoseconds.
func monotonic() int64 { return int64(time.Since(started)) + 1 }

var started = time.Now()

func secret() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return binary.NativeEndian.Uint64(b[:])
}

// watcher is what sees every frame: the capture, the trace, both or, most of the time, nobody.
func (n *network) watcher(o *options.Options, log *slog.Logger) func(worker.Direction, *packet.NetHdr, [][]byte) {
	if o.Log.Level != options.Trace {
		if n.pcap == nil {
			return nil
		}
		return n.capture
	}
	t := &tracer{log: log}
	if n.pcap == nil {
		return t.frame
	}
	return func(d worker.Direction, hdr *packet.NetHdr, bufs [][]byte) {
		n.capture(d, hdr, bufs)
		t.frame(d, hdr, bufs)
	}
}

func (n *network) capture(d worker.Direction, hdr *packet.NetHdr, bufs [][]byte) {
	to := pcap.FromGuest
	if d == worker.ToGuest {
		to = pcap.ToGuest
	}
	n.pcap.Capture(to, hdr, bufs)
}
