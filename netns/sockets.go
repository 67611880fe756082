package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// PortSet is a set of ports.
type PortSet [1 << 16 / 64]uint64

// Has reports whether a port is in the set.
func (s *PortSet) Has(port uint16) bool { return s[port/64]>>(port%64)&1 != 0 }

// Add puts a port into the set.
func (s *PortSet) Add(port uint16) { s[port/64] |= 1 << (port % 64) }

// All gives the ports of the set, in order.
func (s *PortSet) All() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for i, word := range s {
			for ; word != 0; word &= word - 1 {
				if !yield(uint16(64*i + bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}

// Sockets tells what listens in a namespace. It has one caller at a time.
type Sockets struct {
	fd    int  // a NETLINK_SOCK_DIAG socket of the namespace: it answers for the one it was made in
	local bool // what is reached at the loopback address counts, and otherwise what is reached from outside
	seq   uint32
	buf   []byte
}

// Parts of the messages of sock_diag(7): struct inet_diag_req_v2 and struct inet_diag_msg of linux/inet_diag.h, behind struct nlmsghdr.
const (
	diagHeader  = unix.SizeofNlMsghdr
	diagRequest = 56
	diagReply   = 72
	// sockDiagByFamily is SOCK_DIAG_BY_FAMILY of linux/sock_diag.h.
	sockDiagByFamily = 20
	// States of include/net/tcp_states.h. A UDP socket that is not connected counts as closed.
	stateClosed    = 7
	stateListening = 10
	// diagTimeout is how long an answer is waited for, which the kernel gives in the same call, in seconds.
	diagTimeout = 2
)

// openDiag opens the socket that a Sockets works with, in the calling thread's network namespace.
func openDiag() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return -1, fmt.Errorf("opening a socket to ask what listens inside: %w", err)
	}
	return fd, nil
}

// OwnSockets tells what listens in the caller's own namespace. It works until Close.
func OwnSockets() (*Sockets, error) {
	fd, err := openDiag()
	if err != nil {
		return nil, err
	}
	s, err := newSockets(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	s.local = true
	return s, nil
}

func newSockets(fd int) (*Sockets, error) {
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: diagTimeout}); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return &Sockets{fd: fd, buf: make([]byte, 32<<10)}, nil
}

// Listening adds the ports at which something in the namespace takes TCP connections, or, with udp, datagrams from anybody. Of another namespace that is what is reached from
// outside it, and so not sockets of loopback addresses; of the caller's own, what is reached at 127.0.0.1 or ::1.
func (s *Sockets) Listening(into *PortSet, udp bool) error {
	for _, family := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
		if err := s.dump(into, family, udp); err != nil {
			return fmt.Errorf("asking what listens inside: %w", err)
		}
	}
	return nil
}

// dump asks for the sockets of one family.
func (s *Sockets) dump(into *PortSet, family uint8, udp bool) error {
	s.seq++
	proto, state := uint8(unix.IPPROTO_TCP), stateListening
	if udp {
		proto, state = unix.IPPROTO_UDP, stateClosed
	}
	var request [diagHeader + diagRequest]byte
	ne := binary.NativeEndian
	ne.PutUint32(request[0:], uint32(len(request)))
	ne.PutUint16(request[4:], sockDiagByFamily)
	ne.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	ne.PutUint32(request[8:], s.seq)
	request[diagHeader], request[diagHeader+1] = family, proto
	ne.PutUint32(request[diagHeader+4:], 1<<state)
	if err := unix.Sendto(s.fd, request[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		done, err := s.take(into, s.buf[:n])
		if done || err != nil {
			return err
		}
	}
}

// take reads the messages of one answer, and reports whether it was the last.
func (s *Sockets) take(into *PortSet, b []byte) (done bool, err error) {
	ne := binary.NativeEndian
	for len(b) >= diagHeader {
		length := int(ne.Uint32(b))
		if length < diagHeader || length > len(b) {
			return false, errors.New("the kernel's answer is malformed")
		}
		body := b[diagHeader:length]
		if ne.Uint32(b[8:]) == s.seq { // else of a question before, whose answer was given up
			switch ne.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return true, nil
			case unix.NLMSG_ERROR:
				if len(body) < 4 {
					return false, errors.New("the kernel's answer is malformed")
				}
				return false, fmt.Errorf("%w (the kernel needs the modules tcp_diag and udp_diag)", unix.Errno(-int32(ne.Uint32(body))))
			case sockDiagByFamily:
				s.add(into, body)
			}
		}
		b = b[min((length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return false, nil
}

// add adds the port of one struct inet_diag_msg, if it counts.
func (s *Sockets) add(into *PortSet, b []byte) {
	if len(b) < diagReply {
		return
	}
	port := binary.BigEndian.Uint16(b[4:]) // id.idiag_sport
	addr := netip.AddrFrom4([4]byte(b[8:12]))
	if b[0] == unix.AF_INET6 {
		addr = netip.AddrFrom16([16]byte(b[8:24])).Unmap()
	}
	counts := !addr.IsLoopback()
	if s.local {
		counts = addr.IsUnspecified() || addr == loopback4 || addr == netip.IPv6Loopback()
	}
	if port != 0 && counts {
		into.Add(port)
	}
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Close gives back what OwnSockets took. Those of a [Namespace] are closed with it.
func (s *Sockets) Close() { unix.Close(s.fd) }
