package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// interfaceStats asks the kernel of a namespace what it has counted at the TAP, by a route netlink socket that was made inside.
type interfaceStats struct {
	mu  sync.Mutex // guards the rest
	fd  int        // -1 when it is closed
	seq uint32
	buf []byte
}

// openRoute opens the socket that an interfaceStats works with, in the calling thread's network namespace.
func openRoute() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("opening a socket to ask for the TAP's counters: %w", err)
	}
	return fd, nil
}

func newInterfaceStats(fd int) (*interfaceStats, error) {
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: diagTimeout}); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return &interfaceStats{fd: fd, buf: make([]byte, 32<<10)}, nil
}

// txDroppedAt is where tx_dropped is in struct rtnl_link_stats64 (include/uapi/linux/if_link.h), in bytes.
const txDroppedAt = 7 * 8

// dropped is tx_dropped of the interface called name.
func (s *interfaceStats) dropped(name string) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return 0, os.ErrClosed
	}
	s.seq++
	ne := binary.NativeEndian
	request := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	request = append(request, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)).Serialize()...)
	ne.PutUint32(request, uint32(len(request)))
	ne.PutUint16(request[4:], unix.RTM_GETLINK)
	ne.PutUint16(request[6:], unix.NLM_F_REQUEST)
	ne.PutUint32(request[8:], s.seq)
	if err := unix.Sendto(s.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("recvfrom", err)
		}
		answer := s.buf[:n]
		if len(answer) < unix.SizeofNlMsghdr+4 || int(ne.Uint32(answer)) > len(answer) {
			return 0, errors.New("the kernel's answer is malformed")
		}
		if ne.Uint32(answer[8:]) != s.seq { // of a question before, whose answer was given up
			continue
		}
		body := answer[unix.SizeofNlMsghdr:ne.Uint32(answer)]
		if ne.Uint16(answer[4:]) == unix.NLMSG_ERROR {
			return 0, unix.Errno(-int32(ne.Uint32(body)))
		}
		return txDropped(body)
	}
}

// txDropped finds the counter in the body of an RTM_NEWLINK.
func txDropped(body []byte) (uint64, error) {
	if len(body) < unix.SizeofIfInfomsg {
		return 0, errors.New("the kernel's answer is malformed")
	}
	attrs, err := nl.ParseRouteAttr(body[unix.SizeofIfInfomsg:])
	if err != nil {
		return 0, err
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_STATS64 && len(a.Value) >= txDroppedAt+8 {
			return binary.NativeEndian.Uint64(a.Value[txDroppedAt:]), nil
		}
	}
	return 0, errors.New("the kernel's answer has no counters")
}

func (s *interfaceStats) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// Dropped is how many frames the kernel has dropped because nobody took them from the TAP's queue in time; ok is false when it is not known: for a namespace that was
// attached to, whose end a socket inside would put off, and after Close.
func (n *Namespace) Dropped() (frames uint64, ok bool) {
	if n.stats == nil {
		return 0, false
	}
	frames, err := n.stats.dropped(n.tap.Name)
	return frames, err == nil
}
