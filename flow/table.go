// Package flow holds what the flows of one worker have in common: the keys that name them and the table that finds
// them. The protocols themselves, as state machines without system calls or clocks, are in the packages below it.
package flow

import (
	"hash/maphash"
	"net/netip"
)

// Families of addresses in a Key.
const (
	IPv4 = 4
	IPv6 = 6
)

// Key names a flow within its worker: the protocol and the two ends as the guest sees them. It holds no pointers, and
// no padding, and is comparable. An IPv4 address lies in its 16 bytes as netip.Addr.As16 puts it; Family tells
// it from the IPv6 address of the same bytes. For ICMP echo the guest's port is the identifier and the peer's is 0.
type Key struct {
	Guest, Peer         [16]byte
	GuestPort, PeerPort uint16
	Proto               uint8 // IP protocol number
	Family              uint8 // IPv4 or IPv6
}

// NewKey returns the key of the flow of an IP protocol between two ends of the same family.
func NewKey(proto uint8, guest, peer netip.AddrPort) Key {
	k := Key{
		Guest: guest.Addr().As16(), Peer: peer.Addr().As16(),
		GuestPort: guest.Port(), PeerPort: peer.Port(),
		Proto: proto, Family: IPv6,
	}
	if guest.Addr().Is4() {
		k.Family = IPv4
	}
	return k
}

// GuestAddrPort is the guest's end.
func (k *Key) GuestAddrPort() netip.AddrPort { return netip.AddrPortFrom(k.addr(k.Guest), k.GuestPort) }

// PeerAddrPort is the other end, as the guest sees it.
func (k *Key) PeerAddrPort() netip.AddrPort { return netip.AddrPortFrom(k.addr(k.Peer), k.PeerPort) }

func (k *Key) addr(b [16]byte) netip.Addr {
	a := netip.AddrFrom16(b)
	if k.Family == IPv4 {
		a = a.Unmap()
	}
	return a
}

const (
	minSlots = 64
	// occupied is set in the tag of a slot in use. The other bits are the low ones of the key's hash, so that
	// moving an entry needs no hashing: a table has at most 2^31 slots.
	occupied = 1 << 31
)

// Table maps keys to the numbers of flows. It is an open-addressed hash table with linear probing, a power of two
// of slots of which at most 70 % are used, and deletion by shifting back, so that it does not age. The hash has a
// random seed: a guest chooses ports and addresses, but not where they fall.
//
// It belongs to one worker: there are no locks. Put and Delete allocate only when the table is resized.
type Table struct {
	seed    maphash.Seed
	tags    []uint32 // 0 for a free slot; apart from the entries, so that probing reads few cache lines
	entries []entry
	mask    uint32
	n       int
	limit   int
}

type entry struct {
	key   Key
	value int32
}

// NewTable returns an empty table that grows up to limit entries.
func NewTable(limit int) *Table {
	t := &Table{seed: maphash.MakeSeed(), limit: min(limit, maxLoad(occupied))}
	t.resize(minSlots)
	return t
}

// maxLoad is the number of entries that so many slots may hold.
func maxLoad(slots int) int { return slots / 10 * 7 }

// Len is the number of entries.
func (t *Table) Len() int { return t.n }

// Get returns the number stored under a key.
func (t *Table) Get(k *Key) (int32, bool) {
	i, ok := t.find(k, t.tag(k))
	if !ok {
		return 0, false
	}
	return t.entries[i].value, true
}

// Put stores a number under a key, instead of the one that was there. It reports false, and stores nothing, when the
// key is new and the table has as many entries as it may.
func (t *Table) Put(k Key, value int32) bool {
	tag := t.tag(&k)
	i, ok := t.find(&k, tag)
	if !ok {
		if t.n >= t.limit {
			return false
		}
		if t.n >= maxLoad(len(t.tags)) {
			t.resize(2 * len(t.tags))
			i, _ = t.find(&k, tag)
		}
		t.n++
		t.tags[i] = tag
	}
	t.entries[i] = entry{key: k, value: value}
	return true
}

// Delete removes a key and reports whether it was there. A table that is nearly empty is halved, so that its memory
// follows the number of flows down as well.
func (t *Table) Delete(k *Key) bool {
	hole, ok := t.find(k, t.tag(k))
	if !ok {
		return false
	}
	// Move back every later entry of the cluster that may stand in the hole: one whose home is not between the
	// hole and itself.
	for i := (hole + 1) & t.mask; t.tags[i] != 0; i = (i + 1) & t.mask {
		if (i-t.tags[i])&t.mask >= (i-hole)&t.mask {
			t.tags[hole], t.entries[hole] = t.tags[i], t.entries[i]
			hole = i
		}
	}
	t.tags[hole] = 0
	t.n--
	if len(t.tags) > minSlots && t.n < len(t.tags)/8 {
		t.resize(len(t.tags) / 2)
	}
	return true
}

// tag is the tag of a key's slot; its low bits are the slot where probing begins.
func (t *Table) tag(k *Key) uint32 { return uint32(maphash.Comparable(t.seed, *k)) | occupied }

// find returns the slot of a key, or the free slot where it would go.
func (t *Table) find(k *Key, tag uint32) (slot uint32, ok bool) {
	for i := tag & t.mask; ; i = (i + 1) & t.mask {
		switch t.tags[i] {
		case 0:
			return i, false
		case tag:
			if t.entries[i].key == *k {
				return i, true
			}
		}
	}
}

// resize moves all entries to a table of so many slots.
func (t *Table) resize(slots int) {
	tags, entries := t.tags, t.entries
	t.tags, t.entries, t.mask = make([]uint32, slots), make([]entry, slots), uint32(slots-1)
	for from, tag := range tags {
		if tag == 0 {
			continue
		}
		i := tag & t.mask
		for t.tags[i] != 0 {
			i = (i + 1) & t.mask
		}
		t.tags[i], t.entries[i] = tag, entries[from]
	}
}
