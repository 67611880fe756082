package vasta

import (
	"github.com/vasta-net/vasta/flow/policy"
	"github.com/vasta-net/vasta/packet"
)

// judge is who the workers ask about flows; nil when there is neither a Policy nor Rules.
func (c *Config) judge() policy.Judge {
	switch {
	case c.Policy == nil && c.Rules == nil:
		return nil
	case c.Policy == nil:
		return c.Rules
	}
	return hooked{c.Rules, c.Policy}
}

// hooked asks rules, if there are any, and then the embedder.
type hooked struct {
	*policy.Set
	hook Policy
}

// Judge implements policy.Judge.
func (h hooked) Judge(f *policy.Flow) (v policy.Verdict) {
	if h.Set != nil {
		v = h.Set.Judge(f)
	}
	if v.Denied || f.Resolver { // the forwarder of DNS is the network's own
		return v
	}
	flow := Flow{Network: "icmp", Inbound: f.Inbound, Guest: f.Guest, Peer: f.Peer}
	switch f.Proto {
	case packet.ProtoTCP:
		flow.Network = "tcp"
	case packet.ProtoUDP:
		flow.Network = "udp"
	}
	v.Denied = h.hook(flow) == Deny
	return v
}

// Name implements policy.Judge.
func (h hooked) Name(rule int32) string {
	if h.Set != nil {
		return h.Set.Name(rule)
	}
	return ""
}

// Names reports whether a rule goes by names.
func (h hooked) Names() bool { return h.Set != nil && h.Set.Names() }
