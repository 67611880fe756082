// Package stats holds the counters of the datapath.
//
// A Worker block belongs to one worker, which alone writes it, without atomics. Everyone else
// gets a copy, taken by that worker between two batches, so a copy is consistent in itself.
package stats

import (
	"encoding/json"
	"reflect"
)

// Reason says why a frame, a segment or a flow was dropped or refused.
type Reason uint8

// The reasons. Each has a stable name in the JSON output (see String).
const (
	None              Reason = iota
	ShortFrame               // shorter than the headers it announces
	LongFrame                // longer than the link carries
	BadVnetHeader            // virtio-net header contradicts the frame
	BadEtherType             // neither ARP, IPv4 nor IPv6
	BadIPHeader              // version, header length or total length wrong
	BadIPChecksum            // IPv4 header checksum wrong
	BadExtension             // IPv6 extension header chain malformed or too long
	Fragment                 // an IP fragment that came twice
	BadFragment              // an IP fragment that overlaps another, reaches too far, or is of a packet that was given up
	BadSource                // source address that no guest may use
	BadDestination           // destination that cannot be reached from here
	BadTransport             // TCP, UDP or ICMP header malformed
	BadChecksum              // transport checksum wrong
	BadOption                // malformed TCP option or NDP option
	BadARP                   // malformed ARP
	BadNDP                   // malformed or illegal neighbour discovery
	BadDHCP                  // malformed or illegal DHCP or DHCPv6
	BadDNS                   // malformed DNS message
	DNSNoQuery               // DNS answer to no query
	DNSNoServer              // DNS query without a resolver to ask (answered so)
	DNSFull                  // DNS query beyond those that may be under way (answered so)
	UnknownProtocol          // IP protocol that is not carried
	Disabled                 // protocol switched off by an option
	TCPNoFlow                // segment of no known flow (answered by a reset)
	TCPOutOfWindow           // segment outside the receive window (answered by an ACK)
	TCPBadAck                // acknowledges what was never sent
	TCPBadReset              // reset that is not acceptable
	TCPPAWS                  // old timestamp
	TCPOutOfOrderFull        // no room left to remember another hole
	FlowTableFull            // no room for another flow
	SourceFull               // one address of the guest has begun as many flows as it may (answered so)
	BudgetSpent              // memory promises would exceed the budget
	NoDescriptors            // EMFILE or ENFILE
	NoBuffers                // ENOBUFS or ENOMEM
	NoPorts                  // EADDRNOTAVAIL
	HostRefused              // the host answered ECONNREFUSED
	HostUnreachable          // the host answered that there is no way
	HostError                // any other error of a host socket
	SocketFull               // datagram that the host socket did not take
	LinkFull                 // frame that the link did not take
	TooLong                  // datagram longer than the link or the socket carries
	ICMPNoFlow               // ICMP error about a flow that is not known
	ICMPIgnored              // ICMP error that changes nothing, or is not to be believed
	GuestUnreachable         // what the guest has answered with an ICMP error: nobody is at its port, or it is not let through
	HandoverFull             // frame of another worker's flow, for which that worker had no room
	HandoverStale            // frame that was given to a flow's owner, who was not that any more
	PolicyDenied             // flow that a rule refuses (answered so)
	Filtered                 // frame that the filter, or another hook, has dropped
	RedirectRefused          // frame that a hook has redirected, and nobody has taken
	DeliveryFull             // frame from elsewhere for the guest, for which there was no room
	NumReasons        = iota // how many there are
)

var reasonNames = [NumReasons]string{
	"none", "short_frame", "long_frame", "bad_vnet_header", "bad_ethertype", "bad_ip_header", "bad_ip_checksum",
	"bad_extension", "fragment", "bad_fragment", "bad_source", "bad_destination", "bad_transport", "bad_checksum", "bad_option",
	"bad_arp", "bad_ndp", "bad_dhcp", "bad_dns", "dns_no_query", "dns_no_server", "dns_full",
	"unknown_protocol", "disabled", "tcp_no_flow", "tcp_out_of_window", "tcp_bad_ack",
	"tcp_bad_reset", "tcp_paws", "tcp_out_of_order_full", "flow_table_full", "source_full", "budget_spent", "no_descriptors",
	"no_buffers", "no_ports", "host_refused", "host_unreachable", "host_error", "socket_full", "link_full", "too_long", "icmp_no_flow", "icmp_ignored", "guest_unreachable",
	"handover_full", "handover_stale", "policy_denied", "filtered", "redirect_refused", "delivery_full",
}

// String is the reason's name in the JSON output.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// Worker is the block of counters of one worker.
type Worker struct {
	RxFrames, RxBytes uint64 // from the guest
	TxFrames, TxBytes uint64 // to the guest
	Drops             [NumReasons]uint64
	Evictions         [NumShortages]uint64 // idle flows ended to make room

	TCPOpened, TCPAccepted, TCPClosed, TCPReset uint64
	TCPAcceptsHeld                              uint64 // how often a forwarded port was left alone because too many connections waited for the guest
	TCPRetransmits, TCPTimeouts                 uint64 // toward the guest: segments sent again, retransmission timers that ran out
	TCPFastRecoveries, TCPTailProbes            uint64 // ... losses found by acknowledgements, tail loss probes sent
	TCPUndone, TCPDSACKs                        uint64 // ... recoveries that were for nothing, D-SACKs received
	TCPOutOfOrder, TCPDuplicate                 uint64
	TCPHeldBytes                                uint64 // total ever copied to hold pages
	UDPOpened, UDPClosed                        uint64
	ICMPOpened, ICMPClosed                      uint64
	ICMPErrorsSent                              uint64
	DNSQueries, DNSAnswers                      uint64 // of the guest's: asked, and answered by a resolver
	DNSRetries, DNSFailed                       uint64 // further attempts; queries that vasta itself answered, with an error

	// Times that a UDP flow whose host socket takes nothing has kept the link from being read, and that it had to be read all the same.
	LinkStops, LinkStalls uint64

	// Frames of other workers' flows that were given to their owners, and frames that other workers gave to this one.
	HandedOver, TakenOver uint64

	// Frames of the guest that a hook gave to others, and frames that others gave to the guest, which are among TxFrames.
	Redirected, Delivered uint64

	// System calls by kind.
	SysWait, SysLinkRead, SysLinkWrite, SysSend, SysRecv, SysSocket uint64

	// Of a link with rings: descriptors that the frames toward the guest have taken, kicks, frames that were sent past the rings, and how often rings were broken.
	LinkDescriptors, LinkKicks, LinkPast, LinkRebuilds uint64

	// Levels at the time of the copy.
	Flows, TCPFlows, UDPFlows, ICMPFlows uint64
	TCPHalfOpen                          uint64 // of the TCP flows: accepted, and not answered by the guest yet
	DNSFlows                             uint64 // sockets toward resolvers, and a timer for them
	UDPHeld                              uint64 // datagrams of the guest that wait for their host sockets
	Promised, Held, Budget               uint64 // bytes: advertised to guests, queued for host sockets, limit
	PagesInUse, FragsInUse               uint64

	// The most that some of these levels have been. The sum of several workers' is what they may have reached together.
	PeakFlows, PeakPromised, PeakPages, PeakFrags uint64

	// Residence is how long frames were inside, by direction (see worker.residence).
	Residence struct{ FromGuest, ToGuest Histogram }
}

// Drop counts one drop.
func (w *Worker) Drop(r Reason) { w.Drops[r]++ }

// Dropped is the sum over all reasons.
func (w *Worker) Dropped() (n uint64) {
	for _, d := range w.Drops {
		n += d
	}
	return n
}

// Add adds another worker's counters and levels. It goes through all fields, so that it forgets none; it is not for the hot path.
func (w *Worker) Add(o *Worker) {
	sum, add := reflect.ValueOf(w).Elem(), reflect.ValueOf(o).Elem()
	for i := range sum.NumField() {
		if f := sum.Field(i); f.Kind() == reflect.Uint64 {
			f.SetUint(f.Uint() + add.Field(i).Uint())
		}
	}
	for r, n := range o.Drops {
		w.Drops[r] += n
	}
	for s, n := range o.Evictions {
		w.Evictions[s] += n
	}
	w.Residence.FromGuest.Merge(&o.Residence.FromGuest)
	w.Residence.ToGuest.Merge(&o.Residence.ToGuest)
}

// MarshalJSON gives the counters by name; reasons that did not occur are left out.
func (w Worker) MarshalJSON() ([]byte, error) {
	drops := make(map[string]uint64)
	for r, n := range w.Drops {
		if n > 0 {
			drops[Reason(r).String()] = n
		}
	}
	evictions := make(map[string]uint64)
	for s, n := range w.Evictions {
		evictions[Shortage(s).String()] = n
	}
	return json.Marshal(map[string]any{
		"rx_frames": w.RxFrames, "rx_bytes": w.RxBytes, "tx_frames": w.TxFrames, "tx_bytes": w.TxBytes,
		"drops": drops, "dropped": w.Dropped(), "evictions": evictions,
		"tcp": map[string]uint64{
			"opened": w.TCPOpened, "accepted": w.TCPAccepted, "closed": w.TCPClosed, "reset": w.TCPReset,
			"retransmits": w.TCPRetransmits, "timeouts": w.TCPTimeouts, "fast_recoveries": w.TCPFastRecoveries,
			"tail_probes": w.TCPTailProbes, "undone": w.TCPUndone, "dsacks": w.TCPDSACKs, "out_of_order": w.TCPOutOfOrder,
			"duplicate": w.TCPDuplicate, "held_bytes": w.TCPHeldBytes, "accepts_held": w.TCPAcceptsHeld,
		},
		"udp":      map[string]uint64{"opened": w.UDPOpened, "closed": w.UDPClosed},
		"link":     map[string]uint64{"stops": w.LinkStops, "stalls": w.LinkStalls},
		"handover": map[string]uint64{"out": w.HandedOver, "in": w.TakenOver},
		"redirect": map[string]uint64{"out": w.Redirected, "in": w.Delivered},
		"icmp":     map[string]uint64{"opened": w.ICMPOpened, "closed": w.ICMPClosed, "errors_sent": w.ICMPErrorsSent},
		"dns":      map[string]uint64{"queries": w.DNSQueries, "answers": w.DNSAnswers, "retries": w.DNSRetries, "failed": w.DNSFailed},
		"system_calls": map[string]uint64{
			"wait": w.SysWait, "link_read": w.SysLinkRead, "link_write": w.SysLinkWrite,
			"send": w.SysSend, "recv": w.SysRecv, "socket": w.SysSocket,
		},
		"rings": map[string]uint64{"descriptors": w.LinkDescriptors, "kicks": w.LinkKicks, "past": w.LinkPast, "rebuilds": w.LinkRebuilds},
		"levels": map[string]uint64{
			"flows": w.Flows, "tcp_flows": w.TCPFlows, "udp_flows": w.UDPFlows, "icmp_flows": w.ICMPFlows, "dns_flows": w.DNSFlows,
			"half_open":      w.TCPHalfOpen,
			"held_datagrams": w.UDPHeld,
			"promised_bytes": w.Promised, "held_bytes": w.Held, "budget_bytes": w.Budget,
			"pages_in_use": w.PagesInUse, "fragments_in_use": w.FragsInUse,
		},
		"peaks": map[string]uint64{
			"flows": w.PeakFlows, "promised_bytes": w.PeakPromised, "pages_in_use": w.PeakPages, "fragments_in_use": w.PeakFrags,
		},
		"residence": map[string]map[string]uint64{
			"from_guest": w.Residence.FromGuest.summary(), "to_guest": w.Residence.ToGuest.summary(),
		},
	})
}
