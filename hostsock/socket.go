package hostsock

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Send implements Host.
func (s *System) Send(fd int, bufs [][]byte) (int, Errno) {
	s.counters.Send++
	n := fillIovec(s.iov[:], bufs)
	sent, err := sendmsg(fd, &s.msg, s.iov[:n])
	clear(s.iov[:n])
	return sent, err
}

// Recv implements Host. No room at all is refused with EINVAL: the answer would look like the end of the stream.
func (s *System) Recv(fd int, bufs [][]byte) (int, Errno) {
	if len(bufs) == 0 || len(bufs[0]) == 0 {
		return 0, unix.EINVAL
	}
	s.counters.Recv++
	if len(bufs) == 1 {
		return recv(fd, bufs[0], 0)
	}
	n := fillIovec(s.iov[:], bufs)
	got, err := recvmsg(fd, &s.msg, s.iov[:n])
	clear(s.iov[:n])
	return got, err
}

// Peek implements Host.
func (s *System) Peek(fd int) (int, Errno) {
	s.counters.Recv++
	return recv(fd, s.peeked[:], unix.MSG_PEEK)
}

// ShutdownWrite implements Host.
func (s *System) ShutdownWrite(fd int) Errno {
	s.counters.Socket++
	return shutdown(fd, unix.SHUT_WR)
}

// Abort implements Host.
func (s *System) Abort(fd int) {
	s.counters.Socket++
	resetOnClose(fd)
	s.Close(fd)
}

// Close implements Host. The descriptor is gone whatever close answers.
func (s *System) Close(fd int) {
	s.counters.Socket++
	closeFd(fd)
}

func (s *System) socket(domain, kind, proto int) (int, Errno) {
	s.counters.Socket++
	return socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
}

func (s *System) setOption(fd, level, option, value int) Errno {
	s.counters.Socket++
	return setOption(fd, level, option, int32(value))
}

func (s *System) bind(fd int, at netip.AddrPort) Errno {
	n, err := s.addr.encode(fd, at)
	if err != 0 {
		return err
	}
	s.counters.Socket++
	return bind(fd, s.addr[:n])
}

func (s *System) connect(fd int, to netip.AddrPort) Errno {
	n, err := s.addr.encode(fd, to)
	if err != 0 {
		return err
	}
	s.counters.Socket++
	return connect(fd, s.addr[:n])
}

// bindDevice ties a socket to an interface, "" for none. Since Linux 5.7 that needs no privilege.
func (s *System) bindDevice(fd int, device string) Errno {
	if device == "" {
		return 0
	}
	if len(device) >= unix.IFNAMSIZ {
		return unix.ENODEV
	}
	s.counters.Socket++
	return bindToDevice(fd, device)
}

// only6 decides whether a socket that will be bound to addr takes IPv4 too: only [::] does, and only if it is
// asked to. The kernel's default (net.ipv6.bindv6only) is not relied on.
func (s *System) only6(fd int, addr netip.Addr, dual bool) Errno {
	if family(addr) != unix.AF_INET6 {
		return 0
	}
	only := 1
	if dual && addr.IsUnspecified() {
		only = 0
	}
	return s.setOption(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only)
}
