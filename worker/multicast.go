package worker

import (
	"net/netip"
	"slices"

	"github.com/vasta-net/vasta/flow"
	"github.com/vasta-net/vasta/flow/group"
	"github.com/vasta-net/vasta/hostsock"
	"github.com/vasta-net/vasta/packet"
	"github.com/vasta-net/vasta/stats"
)

// Multicast, where it is switched on. What the guest sends to a group or a broadcast address leaves through the endpoint of its port, at which the
// answers come. What it joins by IGMP or MLD is joined on the host, with a socket for each of the ports that are configured: an ordinary user's
// program gets datagrams at ports it names, and a report names none.

const (
	// MaxGroups bounds the groups that are joined at once for the guest, each with a socket for each port.
	MaxGroups = 32
	// maxChanges is how many changes of one report are obeyed at most.
	maxChanges = 2 * MaxGroups
)

// groups are those that the guest has joined, and the ports on the host through which it hears them.
type groups struct {
	ours    bool // this worker has the groups of all
	joined  []joined
	changes [maxChanges]group.Change
	message [group.MaxMessage]byte
}

type joined struct {
	group     netip.Addr
	listeners []int32
}

// groupsKey is the key by which the worker that has the groups is found.
var groupsKey = flow.Key{Proto: packet.ProtoIGMP, Family: flow.IPv4}

// toMany reports whether an address stands for more than one host.
func (w *Worker) toMany(a netip.Addr) bool { return a.IsMulticast() || w.Map.IsBroadcast(a) }

// groupReport takes the packet in w.pkt if it tells which groups the guest listens to, and reports whether it does.
func (w *Worker) groupReport() bool {
	if w.pkt.Proto != packet.ProtoIGMP && w.pkt.Proto != packet.ProtoICMPv6 {
		return false
	}
	if !group.Report(w.pkt.V6, w.pkt.Transport()[0]) {
		return false
	}
	w.Gateway.Seen(w.pkt.SrcMAC)
	if !w.groups.ours {
		if w.foreign(&groupsKey) {
			return true
		}
		if w.groups.ours = w.claim(&groupsKey); !w.groups.ours {
			w.Stats.Drop(stats.FlowTableFull)
			return true
		}
	}
	g := &w.groups
	if w.pkt.L4Len > len(g.message) {
		w.Stats.Drop(stats.TooLong)
		return true
	}
	msg := g.message[:w.pkt.L4Len]
	w.pkt.Frame.CopyAt(msg, w.pkt.L4)
	changes, ok := group.Parse(w.pkt.V6, msg, g.changes[:0])
	if !ok {
		w.Stats.Drop(stats.BadTransport)
		return true
	}
	for _, c := range changes[:min(len(changes), maxChanges)] {
		switch {
		case !c.Joined:
			w.leaveGroup(c.Group)
		case !group.Local(c.Group):
			w.joinGroup(c.Group)
		}
	}
	return true
}

// joinGroup joins a group on the host, unless it is joined.
func (w *Worker) joinGroup(a netip.Addr) {
	for i := range w.groups.joined {
		if w.groups.joined[i].group == a {
			return
		}
	}
	if len(w.groups.joined) == MaxGroups {
		w.Stats.Drop(stats.FlowTableFull)
		return
	}
	j := joined{group: a}
	for _, p := range w.Multicast {
		at := netip.AddrPortFrom(a, p)
		fd, err := w.Host.OpenGroup(at, w.MulticastDevice)
		var index int32
		if err == 0 {
			index, err = w.listen(fd, listener{udp: true, listening: true, group: at})
		}
		if err != 0 {
			w.Stats.Drop(openReason(err))
			continue
		}
		j.listeners = append(j.listeners, index)
	}
	if len(j.listeners) > 0 {
		w.groups.joined = append(w.groups.joined, j)
	}
}

// leaveGroup leaves a group on the host, if it is joined.
func (w *Worker) leaveGroup(a netip.Addr) {
	all := w.groups.joined
	for i := range all {
		if all[i].group != a {
			continue
		}
		for _, index := range all[i].listeners {
			w.closeListener(index)
		}
		w.groups.joined = slices.Delete(all, i, i+1)
		return
	}
}

// leaveGroups leaves all groups, at the end.
func (w *Worker) leaveGroups() {
	w.groups.joined = nil // their sockets are closed with the other ports
	if w.groups.ours {
		w.unclaim(&groupsKey)
		w.groups.ours = false
	}
}

// groupToGuest sends a datagram to a group on to the guest, from whom it came. It reports false when the link is full.
func (w *Worker) groupToGuest(l *listener, d *hostsock.Datagram) bool {
	from, ok := w.Map.Inbound(d.Peer)
	if !ok || d.Len > maxUDP {
		w.Stats.Drop(stats.BadDestination)
		return true
	}
	if w.Policy != nil { // there is no flow that it would be asked about once
		if key := flow.NewKey(packet.ProtoUDP, l.group, from); !w.allowed(true, &key, d.Peer) {
			return true
		}
	}
	h := &w.tx.spare
	*h = makeHeader(from.Addr(), l.group.Addr(), packet.ProtoUDP, 0, hopLimit)
	h.mark(d.TOS, d.TTL)
	h.toGroup(l.group.Addr())
	data := d.Bufs[0][:d.Len]
	if int(h.len)-packet.EtherLen+packet.UDPLen+len(data) > w.MTU {
		return w.udpCut(h, from.Port(), l.group.Port(), data)
	}
	w.tx.one[0] = data
	return w.udpFrame(h, from.Port(), l.group.Port(), w.tx.one[:], len(data), len(data))
}
