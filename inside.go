package vasta

import (
	"errors"
	"net/netip"
	"os"

	"github.com/vasta-net/vasta/flow/forward"
	"github.com/vasta-net/vasta/netns"
	"golang.org/x/sys/unix"
)

// innerPlaces is where the ports of a rule for the namespace's loopback are listened on: its own address, else that of each of the guest's families.
func innerPlaces(c *Config, r PortRule) (places []forward.Port) {
	addrs := []netip.Addr{r.Addr}
	if !r.Addr.IsValid() {
		addrs = addrs[:0]
		if !c.Guest.NoIPv4 {
			addrs = append(addrs, loopbacks[forward.V4])
		}
		if !c.Guest.NoIPv6 && hasIPv6() {
			addrs = append(addrs, loopbacks[forward.V6])
		}
	}
	for _, a := range addrs {
		places = append(places, forward.Port{Inside: true, Listen: netip.AddrPortFrom(a, 0), Dual: len(addrs) > 1, Optional: r.Free})
	}
	return places
}

// hasIPv6 reports whether this machine's loopback has an IPv6 address, without which that of a namespace has none either.
func hasIPv6() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return err == nil
}

// checkInside refuses ports of a loopback that is not to be had.
func (n *Network) checkInside(field string, inside bool) error {
	if inside && n.end.ns == nil {
		return &ConfigError{field, errNoInside}
	}
	return nil
}

var errNoInside = errors.New("ports inside are for namespaces that the network makes or attaches to: other links have no loopback to open them at")

// innerSockets are sockets of the namespace for ports that are about to be opened, several at once, since to ask for them may take a process that enters it.
type innerSockets struct {
	network *Network
	fds     []int
}

// take returns a socket for the first of the ports that are left.
func (s *innerSockets) take(left []plannedPort) (int, error) {
	if len(s.fds) == 0 {
		var kinds []netns.SocketKind
		for _, p := range left {
			if p.Inside && len(kinds) < netns.MaxOpen {
				kinds = append(kinds, netns.SocketKind{IPv6: p.Listen.Addr().Is6(), UDP: p.udp})
			}
		}
		var err error
		if s.fds, err = s.network.end.ns.Open(kinds); err != nil {
			return -1, err
		}
	}
	fd := s.fds[0]
	s.fds = s.fds[1:]
	return fd, nil
}

// close closes those that were not taken.
func (s *innerSockets) close() {
	for _, fd := range s.fds {
		_ = unix.Close(fd)
	}
}
