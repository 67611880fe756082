package queue

// crossed is the rule of the event index (2.7.7, 2.7.10): a notification is wanted exactly when an index moved from old to next has passed
// over event, that is, when the entry at event was written. All of it is arithmetic modulo 2^16.
func crossed(event, next, old uint16) bool { return next-event-1 < next-old }

// packedWants is the rule of a packed ring's event suppression structure (2.8.10), as the peer wrote it: next is where the end that asks
// stands after moved descriptors. After a whole lap, every place of the ring was passed; the event cannot say in which lap it lies.
func packedWants(event uint32, eventIdx bool, next ringPos, moved, ring int) bool {
	switch flags := event >> 16 & 3; {
	case flags == eventDisable:
		return false
	case flags == eventDesc && eventIdx && moved <= ring:
		at := uint16(event)
		off := at &^ wrapBit
		if at&wrapBit != next.wrap {
			off -= uint16(ring) // of the lap before: both are counted from the start of this one
		}
		return crossed(off, next.off, next.off-uint16(moved))
	}
	return true // enabled; or a value that means nothing, where a notification too many does no harm
}

// ringPos is a place in a packed ring: an offset, and the wrap counter in bit 15.
type ringPos struct {
	off  uint16
	wrap uint16
}

func posOf(v uint16) ringPos { return ringPos{v &^ wrapBit, v & wrapBit} }

func (p ringPos) word() uint16 { return p.off | p.wrap }

// advance moves the place by n descriptors, at most the ring's size; the wrap counter flips at the end of the ring (2.8.1).
func (p *ringPos) advance(n, size uint16) {
	next := uint32(p.off) + uint32(n)
	if next >= uint32(size) {
		next -= uint32(size)
		p.wrap ^= wrapBit
	}
	p.off = uint16(next)
}

// availFlags are the flags of a descriptor that the driver makes available at p: AVAIL as the wrap counter, USED its inverse (2.8.1).
func (p ringPos) availFlags() uint16 { return p.wrap>>8 | ^p.wrap&wrapBit }

// usedFlags are the flags of a descriptor that the device marks used at p: both as the wrap counter.
func (p ringPos) usedFlags() uint16 { return p.wrap>>8 | p.wrap }

// isAvail and isUsed look for these flags.
func (p ringPos) isAvail(flags uint16) bool { return flags&(descAvail|descUsed) == p.availFlags() }
func (p ringPos) isUsed(flags uint16) bool  { return flags&(descAvail|descUsed) == p.usedFlags() }
