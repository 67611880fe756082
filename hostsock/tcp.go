package hostsock

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// backlog is how many connections may wait to be accepted; the kernel lowers it to net.core.somaxconn.
const backlog = 4096

// ConnectTCP implements Host. An address without a port leaves the choice of the port to connect
// (IP_BIND_ADDRESS_NO_PORT), which takes one that is free towards this destination and not one that is free altogether.
func (s *System) ConnectTCP(from Origin, to netip.AddrPort) (int, Errno) {
	if !to.IsValid() {
		return -1, unix.EINVAL
	}
	fd, err := s.socket(family(to.Addr()), unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != 0 {
		return -1, err
	}
	err = s.connectTCP(fd, from, to)
	if err != 0 {
		s.Close(fd)
		return -1, err
	}
	return fd, 0
}

func (s *System) connectTCP(fd int, from Origin, to netip.AddrPort) Errno {
	if err := s.streamOptions(fd); err != 0 {
		return err
	}
	if err := s.bindDevice(fd, from.Device); err != 0 {
		return err
	}
	if from.Addr.IsValid() {
		if from.Addr.Port() == 0 {
			if err := s.setOption(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != 0 {
				return err
			}
		}
		if err := s.bind(fd, from.Addr); err != 0 {
			return err
		}
	}
	v6 := family(to.Addr()) == unix.AF_INET6
	if from.TOS != 0 {
		if err := s.SetTOS(fd, v6, from.TOS); err != 0 {
			return err
		}
	}
	if from.TTL != 0 {
		level, option := unix.SOL_IP, unix.IP_TTL
		if v6 {
			level, option = unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS
		}
		if err := s.setOption(fd, level, option, int(from.TTL)); err != 0 {
			return err
		}
	}
	if err := s.connect(fd, to); err != 0 && err != unix.EINPROGRESS {
		return err
	}
	return 0
}

// ConnectResult implements Host.
func (s *System) ConnectResult(fd int) Errno {
	s.counters.Socket++
	v, err := getOption(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != 0 {
		return err
	}
	return Errno(v)
}

// ListenTCP implements Host.
func (s *System) ListenTCP(at netip.AddrPort, device string, dual bool) (int, Errno) {
	fd, err := s.BindTCP(at, device, dual)
	if err != 0 {
		return -1, err
	}
	if err = s.Listen(fd); err != 0 {
		s.Close(fd)
		return -1, err
	}
	return fd, 0
}

// BindTCP implements Host.
func (s *System) BindTCP(at netip.AddrPort, device string, dual bool) (int, Errno) {
	if !at.IsValid() {
		return -1, unix.EINVAL
	}
	fd, err := s.socket(family(at.Addr()), unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != 0 {
		return -1, err
	}
	if err = s.bindTCP(fd, at, device, dual); err != 0 {
		s.Close(fd)
		return -1, err
	}
	return fd, 0
}

// AdoptTCP implements Host.
func (s *System) AdoptTCP(fd int, at netip.AddrPort) Errno {
	if err := s.bindTCP(fd, at, "", false); err != 0 {
		return err
	}
	return s.Listen(fd)
}

func (s *System) bindTCP(fd int, at netip.AddrPort, device string, dual bool) Errno {
	// Accepted connections inherit these, so that accepting costs no system call for them.
	if err := s.streamOptions(fd); err != 0 {
		return err
	}
	if err := s.reuse(fd, true); err != 0 {
		return err
	}
	if err := s.only6(fd, at.Addr(), dual); err != 0 {
		return err
	}
	if err := s.bindDevice(fd, device); err != 0 {
		return err
	}
	if err := s.bind(fd, at); err != 0 {
		return err
	}
	return s.reuse(fd, false)
}

// reuse sets SO_REUSEADDR, which a listening socket needs for the sake of connections in TIME-WAIT. Of sockets that are bound and do not listen, all of
// which have it, the first one to listen gets the port; so it is off meanwhile.
func (s *System) reuse(fd int, on bool) Errno {
	value := 0
	if on {
		value = 1
	}
	return s.setOption(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, value)
}

// Listen implements Host.
func (s *System) Listen(fd int) Errno {
	if err := s.reuse(fd, true); err != 0 {
		return err
	}
	s.counters.Socket++
	return listen(fd, backlog)
}

// Unlisten implements Host. Linux takes a listening socket that is shut down back to where it was before (inet_shutdown in net/ipv4/af_inet.c); a
// port that was bound by its number stays bound.
func (s *System) Unlisten(fd int) Errno {
	s.counters.Socket++
	if err := shutdown(fd, unix.SHUT_RD); err != 0 {
		return err
	}
	return s.reuse(fd, false)
}

// Accept implements Host.
func (s *System) Accept(fd int) (conn int, peer netip.AddrPort, err Errno) {
	s.counters.Socket++
	conn, err = accept(fd, &s.addr)
	if err != 0 {
		return -1, netip.AddrPort{}, err
	}
	return conn, s.addr.decode(), 0
}

// maxUnsent is how many bytes that may not be sent yet a TCP socket keeps after LimitUnsent.
const maxUnsent = 128 << 10

// LimitUnsent implements Host.
func (s *System) LimitUnsent(fd int) Errno {
	return s.setOption(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
}

// SetTOS implements Host.
func (s *System) SetTOS(fd int, v6 bool, tos uint8) Errno {
	if v6 {
		return s.setOption(fd, unix.SOL_IPV6, unix.IPV6_TCLASS, int(tos))
	}
	return s.setOption(fd, unix.SOL_IP, unix.IP_TOS, int(tos))
}

// streamOptions sets what every TCP socket has: segments go out at once, since the guest's TCP has already
// decided when to send; urgent data stays in line; and a peer that is gone is noticed at last.
func (s *System) streamOptions(fd int) Errno {
	if err := s.setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != 0 {
		return err
	}
	if err := s.setOption(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != 0 {
		return err
	}
	return s.setOption(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}
