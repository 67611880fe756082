package worker

import (
	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/stats"
	"golang.org/x/sys/unix"
)

// sources counts the flows that each address of the guest has begun, where that is limited. An address is known as long as it has one.
type sources struct {
	table  *flow.Table // by sourceKey, a place in counts
	counts []int32
	free   []int32
}

// sourceKey is the key of an address of the guest.
func sourceKey(k *flow.Key) flow.Key { return flow.Key{Guest: k.Guest, Family: k.Family} }

// full reports whether an address has begun so many flows already.
func (s *sources) full(k *flow.Key, limit int) bool {
	key := sourceKey(k)
	i, ok := s.table.Get(&key)
	return ok && int(s.counts[i]) >= limit
}

// add counts a flow, and reports false when there is no room for its address.
func (s *sources) add(k *flow.Key) bool {
	key := sourceKey(k)
	i, ok := s.table.Get(&key)
	if !ok {
		if n := len(s.free); n > 0 {
			i, s.free = s.free[n-1], s.free[:n-1]
		} else {
			i = int32(len(s.counts))
			s.counts = append(s.counts, 0)
		}
		if !s.table.Put(key, i) {
			s.free = append(s.free, i)
			return false
		}
	}
	s.counts[i]++
	return true
}

// remove ends what add has begun.
func (s *sources) remove(k *flow.Key) {
	key := sourceKey(k)
	i, ok := s.table.Get(&key)
	if !ok {
		return
	}
	if s.counts[i]--; s.counts[i] == 0 {
		s.table.Delete(&key)
		s.free = append(s.free, i)
	}
}

// begin takes a slot for the flow that the packet in w.pkt begins. It is nil when there is none: the packet was given to the worker that has
// the flow, or refused, and the guest was told.
func (w *Worker) begin(kind flowKind, key flow.Key) *flowSlot {
	if w.SourceFlows > 0 && w.sources.full(&key, w.SourceFlows) {
		if kind == tcpFlow {
			w.refuseSyn(stats.SourceFull)
			return nil
		}
		w.Stats.Drop(stats.SourceFull)
		w.quoteError(unix.EACCES)
		return nil
	}
	f := w.newFlow(kind, key)
	if f == nil {
		switch {
		case w.foreign(&key): // by now another worker may have made it
		case kind == tcpFlow:
			w.refuseSyn(stats.FlowTableFull)
		default:
			w.Stats.Drop(stats.FlowTableFull)
		}
		return nil
	}
	f.counted = w.SourceFlows > 0 && w.sources.add(&key)
	return f
}
