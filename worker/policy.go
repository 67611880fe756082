package worker

import (
	"encoding/binary"
	"log/slog"
	"net/netip"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/policy"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// learner is a policy that goes by names, and is told what the forwarder of DNS has answered.
type learner interface {
	Names() bool
	Learn(now int64, answer []byte)
}

// judge is what the worker needs to ask the policy, and to tell of what that refuses.
type judge struct {
	names learner // nil when no rule has a name
	asked policy.Flow
	rule  int32 // that decided last; the next flow gets it

	second int64 // the second that lines are counted in
	lines  int   // of the log in it
	silent int   // refusals in it that were not logged
}

// denyLines is how many refusals each worker logs in a second; the counters tell of all.
const denyLines = 8

// allowed asks the policy about a flow that is about to begin, and reports false when it refuses. The refusal is counted and logged then; the
// caller tells whoever has asked. peer is the end outside as the host sees it.
func (w *Worker) allowed(inbound bool, key *flow.Key, peer netip.AddrPort) bool {
	return w.Policy == nil || w.judged(policy.Flow{Now: w.now, Inbound: inbound, Proto: key.Proto, Guest: key.GuestAddrPort(), Peer: peer})
}

// mayResolve asks the policy whether the guest may ask the forwarder of DNS.
func (w *Worker) mayResolve(key *flow.Key) bool {
	return w.Policy == nil || w.judged(policy.Flow{Now: w.now, Proto: key.Proto, Guest: key.GuestAddrPort(), Peer: key.PeerAddrPort(), Resolver: true})
}

func (w *Worker) judged(f policy.Flow) bool {
	j := &w.judge
	j.asked = f // here, because what an interface is lent would be allocated elsewhere
	v := w.Policy.Judge(&j.asked)
	j.rule = v.Rule
	if !v.Denied {
		return true
	}
	w.Stats.Drop(stats.PolicyDenied)
	w.logDenied(v.Rule)
	w.tellDenied()
	return false
}

// logDenied tells of a refusal, unless there are too many.
func (w *Worker) logDenied(rule int32) {
	j := &w.judge
	if now := w.now / second; now != j.second {
		if j.silent > 0 {
			w.Log.Info("further flows were denied", "count", j.silent)
		}
		j.second, j.lines, j.silent = now, 0, 0
	}
	if j.lines == denyLines {
		j.silent++
		return
	}
	j.lines++
	direction := "out"
	if j.asked.Inbound {
		direction = "in"
	}
	w.Log.Info("flow denied", "rule", w.Policy.Name(rule), "direction", direction, "protocol", protocolName(j.asked.Proto),
		slog.String("guest", j.asked.Guest.String()), slog.String("peer", j.asked.Peer.String()))
}

// protocolName is the name of a protocol that flows have.
func protocolName(proto uint8) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "TCP"
	case unix.IPPROTO_UDP:
		return "UDP"
	}
	return "ICMP"
}

// refuseDatagram answers the datagram in w.pkt that the policy refuses: communication administratively prohibited (RFC 1812, 5.2.7.1; RFC 4443, 3.1).
func (w *Worker) refuseDatagram() { w.quoteError(unix.EACCES) }

// stream collects what a resolver answers over a connection: messages with their length in front (RFC 1035, 4.2.2).
type stream struct{ buf []byte }

// overhear passes the n bytes that were read into w.iov from a resolver on to the policy.
func (w *Worker) overhear(f *flowSlot, n int) {
	if f.answers == nil {
		f.answers = new(stream)
	}
	s := f.answers
	for _, b := range w.iov {
		b = b[:min(n, len(b))]
		s.buf = append(s.buf, b...)
		n -= len(b)
	}
	for len(s.buf) >= 2 {
		end := 2 + int(binary.BigEndian.Uint16(s.buf))
		if len(s.buf) < end {
			return
		}
		w.judge.names.Learn(w.now, s.buf[2:end])
		s.buf = s.buf[:copy(s.buf, s.buf[end:])]
	}
}
