package hostsock

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// sockaddr is memory for a struct sockaddr_in or sockaddr_in6 (include/uapi/linux/in.h, in6.h): the family in the
// machine's byte order, the port in the network's, then the address.
type sockaddr [unix.SizeofSockaddrInet6]byte

// family is the address family that carries a; an IPv4-mapped address counts as IPv4.
func family(a netip.Addr) int {
	if a.Is4() || a.Is4In6() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// encode writes a and returns the length. fd is any socket, asked for the index of a zone's interface.
//
// IPv4 goes in as AF_INET whatever the socket's family: the kernel takes it on a dual-stack UDP socket as well, which
// spares us from knowing the family of a descriptor.
func (sa *sockaddr) encode(fd int, a netip.AddrPort) (n int, err Errno) {
	ip := a.Addr().Unmap()
	binary.BigEndian.PutUint16(sa[2:], a.Port())
	if ip.Is4() {
		binary.NativeEndian.PutUint16(sa[0:], unix.AF_INET)
		b := ip.As4()
		copy(sa[4:], b[:])
		clear(sa[8:16])
		return unix.SizeofSockaddrInet4, 0
	}
	binary.NativeEndian.PutUint16(sa[0:], unix.AF_INET6)
	clear(sa[4:8]) // flow label
	b := ip.As16()
	copy(sa[8:], b[:])
	scope := uint32(0)
	if zone := ip.Zone(); zone != "" {
		if scope, err = zoneIndex(fd, zone); err != 0 {
			return 0, err
		}
	}
	binary.NativeEndian.PutUint32(sa[24:], scope)
	return unix.SizeofSockaddrInet6, 0
}

// decode reads what the kernel wrote; it is invalid when that is neither IPv4 nor IPv6. IPv4-mapped addresses are
// unmapped, and the scope of a link-local address becomes a numeric zone.
func (sa *sockaddr) decode() netip.AddrPort {
	port := binary.BigEndian.Uint16(sa[2:])
	switch binary.NativeEndian.Uint16(sa[0:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(sa[4:8])), port)
	case unix.AF_INET6:
		ip := netip.AddrFrom16([16]byte(sa[8:24])).Unmap()
		if scope := binary.NativeEndian.Uint32(sa[24:]); scope != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.FormatUint(uint64(scope), 10))
		}
		return netip.AddrPortFrom(ip, port)
	}
	return netip.AddrPort{}
}

// zoneIndex is the interface index that a zone names, as a number or as the interface's name.
func zoneIndex(fd int, zone string) (uint32, Errno) {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), 0
	}
	ifr, err := unix.NewIfreq(zone)
	if err != nil {
		return 0, unix.ENODEV // longer than the name of an interface can be
	}
	if unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr) != nil {
		return 0, unix.ENODEV
	}
	return ifr.Uint32(), 0
}
