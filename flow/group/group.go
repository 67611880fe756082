// Package group reads what a guest says about the multicast groups that it listens to: IGMP (RFC 2236, RFC 9776) and MLD (RFC 2710, RFC 9777). It
// makes no system call and knows no clock.
package group

import (
	"encoding/binary"
	"net/netip"
)

// MaxMessage is the longest report that is read, in bytes from the IGMP or ICMPv6 header on.
const MaxMessage = 1500

// Change is one group that the guest has begun or ceased to listen to.
type Change struct {
	Group  netip.Addr
	Joined bool
}

// Types of messages.
const (
	igmpReport1 = 0x12
	igmpReport2 = 0x16
	igmpLeave   = 0x17
	igmpReport3 = 0x22

	mldReport1 = 131
	mldDone    = 132
	mldReport2 = 143
)

// Types of records in a report (RFC 9776, 4.2.13).
const (
	isInclude = 1 + iota
	isExclude
	toInclude
	toExclude
	allowSources
	blockSources
)

const (
	headLen   = 8 // of every message, up to its first group or record
	recordLen = 4 // of a record up to its group
)

// Report reports whether a message of this type tells of groups.
func Report(v6 bool, typ uint8) bool {
	switch typ {
	case mldReport1, mldDone, mldReport2:
		return v6
	case igmpReport1, igmpReport2, igmpLeave, igmpReport3:
		return !v6
	}
	return false
}

// Parse appends what the report b says to changes. It is not ok, and nothing is appended, when b is malformed. Whoever wants a group from some senders
// only has joined it here; whom the guest hears, its kernel decides.
func Parse(v6 bool, b []byte, changes []Change) (_ []Change, ok bool) {
	if len(b) < headLen || !Report(v6, b[0]) {
		return changes, false
	}
	typ, at := b[0], headLen
	switch typ {
	case igmpReport3, mldReport2:
		return records(v6, b, changes)
	case igmpReport1, igmpReport2, igmpLeave:
		at = 4
	}
	group, ok := address(v6, b[at:])
	if !ok {
		return changes, false
	}
	return append(changes, Change{group, typ != igmpLeave && typ != mldDone}), true
}

// records reads the records of IGMPv3 and MLDv2, which are alike.
func records(v6 bool, b []byte, changes []Change) ([]Change, bool) {
	before := changes
	size := addressLen(v6)
	n := int(binary.BigEndian.Uint16(b[6:]))
	for b = b[headLen:]; n > 0; n-- {
		if len(b) < recordLen+size {
			return before, false
		}
		group, ok := address(v6, b[recordLen:])
		sources := int(binary.BigEndian.Uint16(b[2:]))
		length := recordLen + size*(1+sources) + 4*int(b[1])
		if !ok || length > len(b) {
			return before, false
		}
		switch b[0] {
		case isExclude, toExclude:
			changes = append(changes, Change{group, true})
		case isInclude, toInclude:
			changes = append(changes, Change{group, sources > 0})
		case allowSources:
			if sources > 0 {
				changes = append(changes, Change{group, true})
			}
		case blockSources:
		}
		b = b[length:]
	}
	return changes, true
}

func addressLen(v6 bool) int {
	if v6 {
		return 16
	}
	return 4
}

// address reads a multicast address at the start of b.
func address(v6 bool, b []byte) (netip.Addr, bool) {
	n := addressLen(v6)
	if len(b) < n {
		return netip.Addr{}, false
	}
	a, _ := netip.AddrFromSlice(b[:n])
	return a, a.IsMulticast()
}

var (
	allHosts4      = netip.AddrFrom4([4]byte{224, 0, 0, 1})
	solicitedNodes = netip.MustParsePrefix("ff02::1:ff00:0/104")
	allNodes6      = netip.MustParsePrefix("ff02::1/128")
)

// Local reports whether a group is one that every node of a link is in, for the link's own sake: of no use beyond it.
func Local(a netip.Addr) bool {
	return a == allHosts4 || solicitedNodes.Contains(a) || allNodes6.Contains(a) || a.IsInterfaceLocalMulticast()
}
