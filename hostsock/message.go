package hostsock

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// MaxDatagrams is how many messages one SendDatagrams or RecvDatagrams moves at most.
const MaxDatagrams = 16

// Datagram is one message to or from a UDP socket: one datagram, or several of equal length in a row; or to or from an echo socket: one ICMP message.
type Datagram struct {
	// Bufs is what is sent, at most 64 pieces, or the memory that is received into, one piece or more. It stays the caller's.
	Bufs [][]byte
	// Peer is who it goes to, invalid for whom the socket is connected to; or who it came from.
	Peer netip.AddrPort
	// Local is the address of this machine that it goes from, invalid for the kernel's choice; or that it came to, invalid where the
	// socket is connected, and where it came to a group.
	Local netip.Addr
	// Len is how many bytes were received. One that was longer than Bufs has been cut.
	Len int
	// Segment is the length of each datagram in it, but for the last, which may be shorter; 0 says that it is one. At most 64
	// are sent in one message, and as many bytes as one datagram may have. A socket may refuse what stands for several, with
	// EINVAL, EIO or EMSGSIZE, when the way there is narrower or its device cannot: single ones have to be sent then.
	Segment int
	// TOS is the whole byte, with ECN, of IPv4 or IPv6. TTL is the hop limit; 0 sends with the host's own.
	TOS, TTL uint8
	// V6 says which of the two a message without a Peer is sent with.
	V6 bool
}

// messages is memory for what the kernel reads of, and writes to, several messages (recvmmsg(2)).
type messages struct {
	hdr     [MaxDatagrams]mmsghdr
	iov     [maxPieces]unix.Iovec // cleared after each call
	addr    [MaxDatagrams]sockaddr
	control [MaxDatagrams]control
}

// SendDatagrams implements Host.
func (s *System) SendDatagrams(fd int, msgs []Datagram) (int, Errno) {
	m := &s.messages
	n, pieces := 0, 0
	for n < len(msgs) && n < MaxDatagrams {
		d := &msgs[n]
		if len(d.Bufs) > maxPieces-pieces {
			if n == 0 {
				return 0, unix.EMSGSIZE // a datagram cannot be sent in parts
			}
			break
		}
		length, v6 := 0, d.V6
		if d.Peer.IsValid() {
			var err Errno
			if length, err = m.addr[n].encode(fd, d.Peer); err != 0 {
				if n == 0 {
					return 0, err
				}
				break
			}
			v6 = family(d.Peer.Addr()) == unix.AF_INET6
		}
		c := &m.control[n]
		c.ask(d, v6)
		m.describe(n, m.addr[n][:length], pieces, d.Bufs, c.bytes())
		pieces += len(d.Bufs)
		n++
	}
	if n == 0 {
		return 0, 0
	}
	s.counters.Send++
	sent, err := sendmmsg(fd, m.hdr[:n])
	clear(m.iov[:pieces])
	return sent, err
}

// RecvDatagrams implements Host.
func (s *System) RecvDatagrams(fd int, msgs []Datagram) (int, Errno) {
	m := &s.messages
	n, pieces := 0, 0
	for n < len(msgs) && n < MaxDatagrams && len(msgs[n].Bufs) <= maxPieces-pieces {
		m.describe(n, m.addr[n][:], pieces, msgs[n].Bufs, m.control[n].room())
		pieces += len(msgs[n].Bufs)
		n++
	}
	if n == 0 {
		return 0, unix.EINVAL
	}
	s.counters.Recv++
	got, err := recvmmsg(fd, m.hdr[:n])
	clear(m.iov[:pieces])
	for i := range got {
		d := &msgs[i]
		d.Len, d.Peer = int(m.hdr[i].len), m.addr[i].decode()
		d.Segment, d.TOS, d.TTL, d.Local = 0, 0, 0, netip.Addr{}
		m.control[i].tell(d, m.hdr[i].controlLen())
		if d.Segment >= d.Len {
			d.Segment = 0
		}
	}
	return got, err
}

// note puts what one control message says into d. data is what stands behind its header.
func (d *Datagram) note(level, kind int32, data []byte) {
	switch {
	case level == unix.SOL_UDP && kind == unix.UDP_GRO && len(data) >= 4:
		d.Segment = int(int32(binary.NativeEndian.Uint32(data)))
	case level == unix.SOL_IP && kind == unix.IP_TOS && len(data) >= 1:
		d.TOS = data[0]
	case level == unix.SOL_IP && kind == unix.IP_TTL && len(data) >= 4,
		level == unix.SOL_IPV6 && kind == unix.IPV6_HOPLIMIT && len(data) >= 4:
		d.TTL = uint8(binary.NativeEndian.Uint32(data))
	case level == unix.SOL_IPV6 && kind == unix.IPV6_TCLASS && len(data) >= 4:
		d.TOS = uint8(binary.NativeEndian.Uint32(data))
	case level == unix.SOL_IP && kind == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		d.Local = netip.AddrFrom4([4]byte(data[4:8])) // ipi_spec_dst: the address that an answer goes from
	case level == unix.SOL_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		if a := netip.AddrFrom16([16]byte(data[:16])).Unmap(); a.Is6() && !a.IsMulticast() {
			d.Local = a
		}
	}
}

// receiveDetails asks for what RecvDatagrams tells: the whole TOS byte, the hop limit, and on sockets without a peer the address they came to.
func (s *System) receiveDetails(fd int, v6, dual, connected bool) Errno {
	type option struct {
		level, name int
		wanted      bool
	}
	for _, o := range [...]option{
		{unix.SOL_IP, unix.IP_RECVTOS, !v6 || dual},
		{unix.SOL_IP, unix.IP_RECVTTL, !v6 || dual},
		{unix.SOL_IP, unix.IP_PKTINFO, (!v6 || dual) && !connected},
		{unix.SOL_IPV6, unix.IPV6_RECVTCLASS, v6},
		{unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, v6},
		{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, v6 && !connected},
	} {
		if o.wanted {
			if err := s.setOption(fd, o.level, o.name, 1); err != 0 {
				return err
			}
		}
	}
	return 0
}

// DontFragment implements Host. With IP_PMTUDISC_DO the kernel refuses what is longer than the way it knows is wide; with
// IP_PMTUDISC_DONT it cuts that, and routers may cut the rest.
func (s *System) DontFragment(fd int, v6, on bool) Errno {
	level, option := unix.SOL_IP, unix.IP_MTU_DISCOVER
	how := unix.IP_PMTUDISC_DONT
	if on {
		how = unix.IP_PMTUDISC_DO
	}
	if v6 {
		level, option = unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER // the values are the same
	}
	return s.setOption(fd, level, option, how)
}
