package net

import (
	"fmt"
	"math/bits"
	"strings"
)

// Features are the feature bits of a network device and of its transport (virtio 1.3, 5.1.3 and 6).
type Features uint64

// The feature bits.
const (
	Csum              Features = 1 << 0  // the device takes partial checksums
	GuestCsum         Features = 1 << 1  // the driver takes partial checksums
	CtrlGuestOffloads Features = 1 << 2  // offloads can be changed while running
	MTU               Features = 1 << 3  // the configuration has an MTU
	MAC               Features = 1 << 5  // the configuration has an address
	GuestTSO4         Features = 1 << 7  // the driver takes TCPv4 GSO frames
	GuestTSO6         Features = 1 << 8  // ... TCPv6
	GuestECN          Features = 1 << 9  // ... with ECN
	GuestUFO          Features = 1 << 10 // ... UDP fragments
	HostTSO4          Features = 1 << 11 // the device takes TCPv4 GSO frames
	HostTSO6          Features = 1 << 12 // ... TCPv6
	HostECN           Features = 1 << 13 // ... with ECN
	HostUFO           Features = 1 << 14 // ... UDP fragments
	MrgRxbuf          Features = 1 << 15 // the driver merges receive buffers
	Status            Features = 1 << 16 // the configuration has a link state
	CtrlVQ            Features = 1 << 17 // there is a control queue
	CtrlRX            Features = 1 << 18 // ... that sets receive modes
	CtrlVLAN          Features = 1 << 19 // ... that filters VLANs
	CtrlRXExtra       Features = 1 << 20 // ... that sets further receive modes
	GuestAnnounce     Features = 1 << 21 // the device may ask for gratuitous packets
	MQ                Features = 1 << 22 // several queue pairs
	CtrlMACAddr       Features = 1 << 23 // the address can be set by the control queue
	IndirectDesc      Features = 1 << 28
	EventIdx          Features = 1 << 29
	Version1          Features = 1 << 32
	AccessPlatform    Features = 1 << 33
	RingPacked        Features = 1 << 34
	InOrder           Features = 1 << 35
	RingReset         Features = 1 << 40
	VQNotfCoal        Features = 1 << 52 // coalescing for one queue
	NotfCoal          Features = 1 << 53 // coalescing of notifications
	GuestUSO4         Features = 1 << 54 // the driver takes UDPv4 GSO frames
	GuestUSO6         Features = 1 << 55 // ... UDPv6
	HostUSO           Features = 1 << 56 // the device takes UDP GSO frames
	HashReport        Features = 1 << 57 // the header carries a hash
	GuestHdrlen       Features = 1 << 59 // hdr_len is exact
	RSS               Features = 1 << 60 // receive-side scaling
	RSCExt            Features = 1 << 61 // coalesced segments are reported
	Standby           Features = 1 << 62
	SpeedDuplex       Features = 1 << 63
)

// guestGSO are the features by which a frame toward the driver may be longer than the MTU.
const guestGSO = GuestTSO4 | GuestTSO6 | GuestUFO | GuestUSO4 | GuestUSO6

// dependencies are the prerequisites of 5.1.3.1: a feature, and of which at least one must be there too.
var dependencies = []struct{ feature, needs Features }{
	{GuestTSO4, GuestCsum}, {GuestTSO6, GuestCsum}, {GuestUFO, GuestCsum}, {GuestUSO4, GuestCsum}, {GuestUSO6, GuestCsum},
	{GuestECN, GuestTSO4 | GuestTSO6},
	{HostTSO4, Csum}, {HostTSO6, Csum}, {HostUFO, Csum}, {HostUSO, Csum},
	{HostECN, HostTSO4 | HostTSO6},
	{CtrlRX, CtrlVQ}, {CtrlVLAN, CtrlVQ}, {CtrlRXExtra, CtrlVQ}, {GuestAnnounce, CtrlVQ}, {MQ, CtrlVQ}, {CtrlMACAddr, CtrlVQ},
	{CtrlGuestOffloads, CtrlVQ}, {NotfCoal, CtrlVQ}, {VQNotfCoal, CtrlVQ}, {RSS, CtrlVQ}, {HashReport, CtrlVQ},
	{RSCExt, HostTSO4 | HostTSO6},
	{RingReset, Version1},
}

// names are by bit.
var names = map[Features]string{
	Csum: "CSUM", GuestCsum: "GUEST_CSUM", CtrlGuestOffloads: "CTRL_GUEST_OFFLOADS", MTU: "MTU", MAC: "MAC", GuestTSO4: "GUEST_TSO4",
	GuestTSO6: "GUEST_TSO6", GuestECN: "GUEST_ECN", GuestUFO: "GUEST_UFO", HostTSO4: "HOST_TSO4", HostTSO6: "HOST_TSO6", HostECN: "HOST_ECN",
	HostUFO: "HOST_UFO", MrgRxbuf: "MRG_RXBUF", Status: "STATUS", CtrlVQ: "CTRL_VQ", CtrlRX: "CTRL_RX", CtrlVLAN: "CTRL_VLAN",
	CtrlRXExtra: "CTRL_RX_EXTRA", GuestAnnounce: "GUEST_ANNOUNCE", MQ: "MQ", CtrlMACAddr: "CTRL_MAC_ADDR", IndirectDesc: "INDIRECT_DESC",
	EventIdx: "EVENT_IDX", Version1: "VERSION_1", AccessPlatform: "ACCESS_PLATFORM", RingPacked: "RING_PACKED", InOrder: "IN_ORDER",
	RingReset: "RING_RESET", VQNotfCoal: "VQ_NOTF_COAL", NotfCoal: "NOTF_COAL", GuestUSO4: "GUEST_USO4", GuestUSO6: "GUEST_USO6",
	HostUSO: "HOST_USO", HashReport: "HASH_REPORT", GuestHdrlen: "GUEST_HDRLEN", RSS: "RSS", RSCExt: "RSC_EXT", Standby: "STANDBY",
	SpeedDuplex: "SPEED_DUPLEX",
}

// String lists the features by name, those without one by number.
func (f Features) String() string {
	var list []string
	for f != 0 {
		bit := f & -f
		f &^= bit
		name := names[bit]
		if name == "" {
			name = fmt.Sprint(bits.TrailingZeros64(uint64(bit)))
		}
		list = append(list, name)
	}
	return strings.Join(list, " ")
}

// Has says whether all of g are in f.
func (f Features) Has(g Features) bool { return f&g == g }

// Check refuses a set in which a feature lacks its prerequisite, or which lacks VERSION_1.
func (f Features) Check() error {
	if !f.Has(Version1) {
		return fmt.Errorf("virtio-net features: VERSION_1 is missing; legacy devices are not supported")
	}
	for _, d := range dependencies {
		if f.Has(d.feature) && f&d.needs == 0 {
			return fmt.Errorf("virtio-net features: %v needs %v", d.feature, strings.ReplaceAll(d.needs.String(), " ", " or "))
		}
	}
	return nil
}

// Accept is what a driver that wants some features takes of those that are offered: no bit that was not offered, none whose prerequisite is missing,
// and VERSION_1 always when it is offered (2.2.1, 6.1). Unknown bits are left alone.
func Accept(offered, wanted Features) Features {
	f := offered & (wanted | Version1)
	for again := true; again; {
		again = false
		for _, d := range dependencies {
			if f.Has(d.feature) && f&d.needs == 0 {
				f &^= d.feature
				again = true
			}
		}
	}
	return f
}

// hdrLen is the length of the header in front of every frame, both ways (5.1.6).
func (f Features) hdrLen() int {
	if f.Has(HashReport) {
		return hashHdrLen
	}
	return plainHdrLen
}

// mode is the kind of receive buffers that the features ask for.
func (f Features) mode() Mode {
	switch {
	case f.Has(MrgRxbuf):
		return Mergeable
	case f&guestGSO != 0:
		return Big
	}
	return Small
}
