package hostsock

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// udpBuffer is what UDP sockets ask for as receive and as send buffer, in bytes; the kernel gives no more than net.core.rmem_max and wmem_max. The
// usual 208 KiB are 90 full datagrams: half a millisecond of a fast sender, and a worker may be away for longer.
const udpBuffer = 4 << 20

// OpenUDP implements Host. At least one of the addresses has to be valid, to say which family it is.
func (s *System) OpenUDP(from Origin, to netip.AddrPort, dual bool) (int, Errno) {
	named := from.Addr
	if !named.IsValid() {
		named = to
	}
	if !named.IsValid() {
		return -1, unix.EINVAL
	}
	fd, err := s.socket(family(named.Addr()), unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if err != 0 {
		return -1, err
	}
	if err = s.openUDP(fd, from, to, dual); err != 0 {
		s.Close(fd)
		return -1, err
	}
	return fd, 0
}

// AdoptUDP implements Host.
func (s *System) AdoptUDP(fd int, at netip.AddrPort) Errno {
	return s.openUDP(fd, Origin{Addr: at, Exclusive: true}, netip.AddrPort{}, false)
}

func (s *System) openUDP(fd int, from Origin, to netip.AddrPort, dual bool) Errno {
	if err := s.bindDevice(fd, from.Device); err != 0 {
		return err
	}
	if from.Addr.IsValid() {
		// Flows of one guest port to several peers share the host's port. Not so when the kernel chooses the port:
		// with SO_REUSEADDR it may choose one that another socket has.
		if from.Addr.Port() != 0 && !from.Exclusive {
			if err := s.setOption(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != 0 {
				return err
			}
		}
		if err := s.only6(fd, from.Addr.Addr(), dual); err != 0 {
			return err
		}
		if err := s.bind(fd, from.Addr); err != 0 {
			return err
		}
	}
	named := from.Addr
	if to.IsValid() {
		named = to
	}
	v6 := family(named.Addr()) == unix.AF_INET6
	if err := s.setOption(fd, unix.SOL_UDP, unix.UDP_GRO, 1); err != 0 { // several datagrams that come at once are one message
		return err
	}
	for _, buffer := range [...]int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
		if err := s.setOption(fd, unix.SOL_SOCKET, buffer, udpBuffer); err != 0 {
			return err
		}
	}
	if err := s.receiveDetails(fd, v6, v6 && dual, to.IsValid()); err != 0 {
		return err
	}
	if to.IsValid() {
		return s.connect(fd, to)
	}
	if from.Multicast {
		return s.multicast(fd, v6, from.MulticastDevice)
	}
	return 0
}

// OpenPing implements Host. The kernel allows it to the groups in net.ipv4.ping_group_range (EACCES otherwise), and puts
// the socket's identifier into what is sent. An identifier that is asked for may be open already, in this process or
// another: replies then go to either socket. One that the kernel chooses is the socket's alone.
func (s *System) OpenPing(id uint16, to netip.Addr) (int, Errno) {
	if !to.IsValid() {
		return -1, unix.EINVAL
	}
	domain, proto, any := unix.AF_INET, unix.IPPROTO_ICMP, netip.IPv4Unspecified()
	if family(to) == unix.AF_INET6 {
		domain, proto, any = unix.AF_INET6, unix.IPPROTO_ICMPV6, netip.IPv6Unspecified()
	}
	fd, err := s.socket(domain, unix.SOCK_DGRAM, proto)
	if err != 0 {
		return -1, err
	}
	if id != 0 {
		err = s.bind(fd, netip.AddrPortFrom(any, id)) // a ping socket's port is its identifier
	}
	if err == 0 {
		err = s.receiveDetails(fd, domain == unix.AF_INET6, false, true)
	}
	if err == 0 {
		err = s.connect(fd, netip.AddrPortFrom(to, 0))
	}
	if err != 0 {
		s.Close(fd)
		return -1, err
	}
	return fd, 0
}
