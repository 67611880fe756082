package netns

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Limits of [Config].
const (
	MinMTU4 = 68    // RFC 791, section 3.2
	MinMTU6 = 1280  // RFC 8200, section 5
	MaxMTU  = 65521 // the driver's limit: 65,535 less the Ethernet header
	// maxQueues is MAX_TAP_QUEUES of drivers/net/tun.c, and below what one message can carry (maxFDs).
	maxQueues = 250
)

// withDefaults fills in the zero values, and checks the others.
func (c Config) withDefaults() (Config, error) {
	if c.IfName == "" {
		c.IfName = LocalIfName
	}
	if len(c.IfName) >= unix.IFNAMSIZ {
		return c, fmt.Errorf("interface name %q: it has %d bytes: at most %d are allowed", c.IfName, len(c.IfName), unix.IFNAMSIZ-1)
	}
	if c.MAC == (MAC{}) {
		c.MAC = randomMAC()
	}
	if c.MAC[0]&1 != 0 {
		return c, fmt.Errorf("MAC address %x: it is a multicast address: clear the lowest bit of the first byte", c.MAC)
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.MTU < MinMTU4 || c.MTU > MaxMTU {
		return c, fmt.Errorf("MTU %d: it must be from %d to %d", c.MTU, MinMTU4, MaxMTU)
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Queues < 0 || c.Queues > maxQueues {
		return c, fmt.Errorf("%d queues: the number must be from 1 to %d", c.Queues, maxQueues)
	}
	if c.TxQueueLen == 0 {
		c.TxQueueLen = DefaultTxQueueLen
	}
	if c.TxQueueLen < 0 {
		return c, fmt.Errorf("transmit queue length %d: it must be positive", c.TxQueueLen)
	}
	for _, a := range c.Addrs {
		if !a.IsValid() {
			return c, fmt.Errorf("address %s: it is no address with a prefix length", a)
		}
	}
	for _, r := range c.Routes {
		if !r.Dst.IsValid() || r.Gateway.IsValid() && r.Gateway.Is4() != r.Dst.Addr().Is4() {
			return c, fmt.Errorf("route %s: destination and gateway must be of one address family", r)
		}
	}
	return c, nil
}

// Create makes new user, network, mount and PID namespaces with a configured TAP. No privilege is needed. uid 0 inside
// is the caller; a root caller keeps every id as it is. Everything inside ends with the caller, or with Close.
func Create(cfg Config) (*Namespace, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	keepsRoot, err := setIDMaps(attr, cfg.KeepID)
	if err != nil {
		return nil, fmt.Errorf("creating the namespaces: %w", err)
	}
	if !keepsRoot {
		attr.AmbientCaps = stageCaps()
	}
	s, err := startStage(stageConfig{Config: cfg}, func(remote conn) (int, error) {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return 0, err
		}
		defer null.Close()
		pid, err := syscall.ForkExec(procSelfExe, []string{stageName}, &syscall.ProcAttr{
			Env: stageEnv,
			// Its own standard error stays the caller's, for the Go runtime's last words.
			Files: []uintptr{null.Fd(), null.Fd(), 2, uintptr(remote.fd)},
			Sys:   attr,
		})
		if err != nil {
			return 0, createError(err)
		}
		return pid, nil
	})
	if err != nil {
		return nil, err
	}
	stats, err := s.takeStats()
	var sockets *Sockets
	if err == nil {
		sockets, err = s.takeSockets()
	}
	if err != nil {
		if stats != nil {
			stats.close()
		}
		s.kill()
		closeAll(s.fds)
		return nil, err
	}
	return &Namespace{tap: s.takeTAP(), warnings: s.ready.Warnings, sockets: sockets, stats: stats, stage: s, gone: s.done}, nil
}

// takeStats hands the socket over that the TAP's counters are asked for by.
func (s *stageProcess) takeStats() (*interfaceStats, error) {
	last := len(s.fds) - 1
	if !s.ready.Stats || last < 0 {
		return nil, nil
	}
	stats, err := newInterfaceStats(s.fds[last])
	if err == nil {
		s.fds = s.fds[:last]
	}
	return stats, err
}

// takeSockets hands the socket over that was asked for with Config.Sockets; nil if none was.
func (s *stageProcess) takeSockets() (*Sockets, error) {
	last := len(s.fds) - 1
	if !s.ready.Sockets || last < 0 {
		return nil, nil
	}
	sockets, err := newSockets(s.fds[last])
	if err == nil {
		s.fds = s.fds[:last]
	}
	return sockets, err
}

// takeTAP hands the TAP over.
func (s *stageProcess) takeTAP() TAP {
	tap := TAP{FDs: s.fds, Name: s.ready.Name, MAC: s.ready.MAC, MTU: s.ready.MTU, Offloads: s.ready.Offloads}
	s.fds = nil
	return tap
}

// stageCaps are the capabilities the stage needs inside, whatever its user id there.
func stageCaps() []uintptr {
	return []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_KILL}
}
