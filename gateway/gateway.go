// Package gateway is what the guest sees as its router: it answers ARP and IPv6 neighbour discovery, advertises
// the router, its prefix and its resolvers, and answers DHCP and DHCPv6 with the guest's addresses.
//
// It is sans-IO: it is given parsed packets and emits whole frames, knows no clock and makes no system call. A
// Gateway belongs to one worker and is not safe for concurrent use; those of several workers share what they learn of the guest.
package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/vasta-net/vasta/gateway/dhcp"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// broadcast reaches the guest while its own address is not known.
var broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Config says who the gateway is, and who the guest.
type Config struct {
	// MAC is the gateway's Ethernet address, which stands for every host but the guest.
	MAC MAC
	// GuestMAC is the guest's, if it is known beforehand; the zero value says that it has to be learned.
	GuestMAC MAC
	// Guest are the guest's addresses, of both families. Nobody else is at them: the gateway does not answer for them.
	Guest []netip.Addr
	// Former are addresses that the guest had, and may still use for connections that it has.
	Former []netip.Addr
	// Ours are the addresses that the gateway really has, of both families: its own and those mapped to the
	// host. Only for them is a guest told that an address it wants to take is in use.
	Ours []netip.Addr
	// LinkLocal is the IPv6 address that neighbour discovery is sent from; it counts as one of Ours. The zero
	// value switches neighbour discovery off.
	LinkLocal netip.Addr
	// Router says what is advertised; nil switches router advertisements off.
	Router *Router
	// DHCP4 and DHCP6 say what is handed out; nil switches the protocol off. DHCPv6 answers from LinkLocal.
	DHCP4 *dhcp.Config4
	DHCP6 *dhcp.Config6
	// Stats is where refused frames are counted by reason; nil keeps the count private.
	Stats *stats.Worker
}

// Gateway answers for every host but the guest.
type Gateway struct {
	mac       MAC
	guestMAC  *atomic.Uint64 // the guest's, as a number; one for all siblings
	guest     []netip.Addr
	ours      []netip.Addr
	linkLocal netip.Addr
	ra        []byte        // the router advertisement, its checksum still to be made; empty when switched off
	dhcp4     *dhcp.Server4 // nil when switched off
	dhcp6     *dhcp.Server6 // the same
	stats     *stats.Worker

	in     [maxMessage]byte // private copy of the message under examination
	dhcpIn []byte           // the same for DHCP; made by the first message
	out    []byte           // the frame being emitted
}

// New checks a configuration and returns its gateway.
func New(c Config) (*Gateway, error) {
	if !unicast(c.MAC) {
		return nil, fmt.Errorf("gateway: %x is no Ethernet address of a host", c.MAC)
	}
	for _, a := range slices.Concat(c.Guest, c.Former, c.Ours) {
		if !usable(a) {
			return nil, fmt.Errorf("gateway: %v is no address of a host", a)
		}
	}
	g := &Gateway{
		mac: c.MAC, guestMAC: new(atomic.Uint64),
		guest: slices.Concat(c.Guest, c.Former), ours: slices.Clone(c.Ours),
		linkLocal: c.LinkLocal, stats: c.Stats,
	}
	if g.stats == nil {
		g.stats = new(stats.Worker)
	}
	g.guestMAC.Store(number(broadcast))
	g.Seen(c.GuestMAC)
	if c.DHCP4 != nil {
		var err error
		if g.dhcp4, err = dhcp.New4(*c.DHCP4); err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	if !c.LinkLocal.IsValid() {
		if c.Router != nil || c.DHCP6 != nil {
			return nil, errors.New("gateway: router advertisements and DHCPv6 need a link-local IPv6 address to come from")
		}
		return g, nil
	}
	if !c.LinkLocal.Is6() || !c.LinkLocal.IsLinkLocalUnicast() {
		return nil, fmt.Errorf("gateway: neighbour discovery cannot come from %v, which is not a link-local IPv6 address", c.LinkLocal)
	}
	g.ours = append(g.ours, c.LinkLocal)
	if c.DHCP6 != nil {
		var err error
		if g.dhcp6, err = dhcp.New6(*c.DHCP6); err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	if c.Router != nil {
		ra, err := c.Router.encode(&c)
		if err != nil {
			return nil, fmt.Errorf("gateway: router advertisement: %w", err)
		}
		g.ra = ra
	}
	return g, nil
}

// Update replaces the configuration, but for what the gateway has learned and counted. On error the one that it has stays.
func (g *Gateway) Update(c Config) error {
	c.Stats = g.stats
	next, err := New(c)
	if err != nil {
		return err
	}
	next.guestMAC, next.dhcpIn, next.out = g.guestMAC, g.dhcpIn, g.out
	*g = *next
	return nil
}

// Input takes a packet that passed packet.Parse and handles it if it is ARP, a DHCP client's, or ICMPv6 of the
// link itself: neighbour and router discovery, redirects, multicast listener reports. Everything else is not handled. A malformed
// message is counted and dropped, and handled by that.
//
// Answers are passed to emit as whole Ethernet frames with complete checksums; a frame's memory is the
// gateway's and good until emit returns.
func (g *Gateway) Input(p *packet.Packet, emit func(frame []byte)) (handled bool) {
	var r stats.Reason
	switch {
	case p.EtherType == packet.EtherARP:
		r = g.inputARP(p, emit)
	case p.EtherType == packet.EtherIPv6 && p.Proto == packet.ProtoICMPv6:
		r, handled = g.inputICMPv6(p, emit)
		if !handled {
			return false
		}
	case p.Proto == packet.ProtoUDP:
		r, handled = g.inputUDP(p, emit)
		if !handled {
			return false
		}
	default:
		return false
	}
	if r != stats.None {
		g.stats.Drop(r)
	} else {
		g.Seen(p.SrcMAC)
	}
	return true
}

// Seen notes the source address of a frame from the guest: the latest is where frames for the guest go. An
// address that no host can have is ignored, and the gateway's own too.
func (g *Gateway) Seen(mac MAC) {
	if n := number(mac); n != g.guestMAC.Load() && mac != g.mac && unicast(mac) {
		g.guestMAC.Store(n)
	}
}

// GuestMAC is the Ethernet address to send to: the guest's, or the broadcast address as long as it is not known.
func (g *Gateway) GuestMAC() MAC {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], g.guestMAC.Load())
	return MAC(b[2:])
}

// number is an Ethernet address as a number, which can be exchanged whole.
func number(m MAC) uint64 {
	return uint64(m[0])<<40 | uint64(m[1])<<32 | uint64(m[2])<<24 | uint64(m[3])<<16 | uint64(m[4])<<8 | uint64(m[5])
}

// Sibling is the same gateway for another worker, which counts refused frames in block. What one of them learns of the guest,
// all know: it may have been seen on a queue that another worker serves.
func (g *Gateway) Sibling(block *stats.Worker) *Gateway {
	s := *g
	s.stats, s.ra, s.dhcpIn, s.out = block, slices.Clone(g.ra), nil, nil
	return &s
}

// MAC is the gateway's own Ethernet address.
func (g *Gateway) MAC() MAC { return g.mac }

// isGuest reports whether an address is the guest's.
func (g *Gateway) isGuest(a netip.Addr) bool { return slices.Contains(g.guest, a) }

// isOurs reports whether an address is really the gateway's.
func (g *Gateway) isOurs(a netip.Addr) bool { return slices.Contains(g.ours, a) }

// usable reports whether an address can be a host's on a link.
func usable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// unicast reports whether an Ethernet address can be a host's.
func unicast(m MAC) bool { return m[0]&1 == 0 && m != MAC{} }

// begin starts a frame from the gateway in g.out.
func (g *Gateway) begin(dst MAC, etherType uint16) {
	g.out = append(append(g.out[:0], dst[:]...), g.mac[:]...)
	g.out = append(g.out, byte(etherType>>8), byte(etherType))
}
