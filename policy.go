package vasta

import "net/netip"

// Flow is a flow that is about to begin.
type Flow struct {
	// Network is "tcp", "udp" or "icmp".
	Network string
	// Inbound flows come from a host peer by a forwarded port, others from the guest.
	Inbound bool
	// Guest is the guest's end, and Peer the end outside as the host knows it: its loopback is 127.0.0.1 or ::1, by whatever address the guest reaches it. An
	// echo flow has the identifier for the guest's port, and no port of the peer's.
	Guest, Peer netip.AddrPort
}

// Verdict is what a Policy says.
type Verdict uint8

// The verdicts.
const (
	// Allow lets the flow begin.
	Allow Verdict = iota
	// Deny refuses it at once: the guest gets a reset, or an ICMP error that says that it is prohibited, and a host peer a reset. Nothing is opened.
	Deny
)

// Policy decides about flows. It is called once for each new flow, by the worker that would have it, and so by several goroutines at once; everything else
// of that worker waits for it, so it must neither block nor call the network. Flows that began before are not asked about again; nor is it asked about
// questions to the network's own forwarder of DNS.
type Policy func(Flow) Verdict
