package hostsock

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// OpenGroup implements Host. The socket is bound to the group's address, and so gets nothing but what is sent to the group; others may be bound
// to the same.
func (s *System) OpenGroup(group netip.AddrPort, device int) (int, Errno) {
	if !group.Addr().IsMulticast() {
		return -1, unix.EINVAL
	}
	fd, err := s.socket(family(group.Addr()), unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if err != 0 {
		return -1, err
	}
	if err = s.openGroup(fd, group, device); err != 0 {
		s.Close(fd)
		return -1, err
	}
	return fd, 0
}

func (s *System) openGroup(fd int, group netip.AddrPort, device int) Errno {
	if err := s.setOption(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != 0 {
		return err
	}
	a := group.Addr().Unmap()
	v6 := a.Is6()
	if v6 {
		if err := s.only6(fd, a, false); err != 0 {
			return err
		}
	}
	if err := s.bindGroup(fd, group, device); err != 0 {
		return err
	}
	if err := s.receiveDetails(fd, v6, false, true); err != 0 {
		return err
	}
	s.counters.Socket++
	if v6 { // struct ipv6_mreq (include/uapi/linux/in6.h)
		m := a.As16()
		return setOptionBytes(fd, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP, binary.NativeEndian.AppendUint32(m[:], uint32(device)))
	}
	// struct ip_mreqn (include/uapi/linux/in.h): the group, the address of an interface, its index.
	m := a.As4()
	return setOptionBytes(fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, binary.NativeEndian.AppendUint32(append(m[:], 0, 0, 0, 0), uint32(device)))
}

// bindGroup binds a socket to a group; where IPv6 has one of a narrow scope on each interface, to that of the interface.
func (s *System) bindGroup(fd int, group netip.AddrPort, device int) Errno {
	n, err := s.addr.encode(fd, group)
	if err != 0 {
		return err
	}
	if n == unix.SizeofSockaddrInet6 {
		binary.NativeEndian.PutUint32(s.addr[24:], uint32(device)) // sin6_scope_id
	}
	s.counters.Socket++
	return bind(fd, s.addr[:n])
}

// multicast has a socket send to groups and to broadcast addresses, by an interface, 0 for that of the routes. What it sends is not heard by this machine: the
// socket of a group would take it for another's.
func (s *System) multicast(fd int, v6 bool, device int) Errno {
	if err := s.setOption(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != 0 {
		return err
	}
	if v6 {
		if err := s.setOption(fd, unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP, 0); err != 0 || device == 0 {
			return err
		}
		return s.setOption(fd, unix.SOL_IPV6, unix.IPV6_MULTICAST_IF, device)
	}
	if err := s.setOption(fd, unix.SOL_IP, unix.IP_MULTICAST_LOOP, 0); err != 0 || device == 0 {
		return err
	}
	s.counters.Socket++
	return setOptionBytes(fd, unix.SOL_IP, unix.IP_MULTICAST_IF, binary.NativeEndian.AppendUint32(make([]byte, 8), uint32(device)))
}
