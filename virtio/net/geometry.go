package net

import "math/bits"

// Mode is the kind of receive buffers.
type Mode uint8

// The three modes.
const (
	Small Mode = iota
	Mergeable
	Big
)

func (m Mode) String() string { return [...]string{"small", "mergeable", "big"}[m] }

// Geometry is how a receive buffer lies in its piece of a page: room in front, then header and frame, which is what the device may write, and room
// behind. The room is what head and tail adjustment of the hook live from. In bytes.
type Geometry struct {
	Headroom, Data, Tailroom int
}

// Truesize is the memory that the buffer takes.
func (g Geometry) Truesize() int { return g.Headroom + g.Data + g.Tailroom }

const (
	goodFrame = 1518 // an Ethernet frame of 1500 bytes with a VLAN tag
	bufAlign  = 64   // what lengths of mergeable buffers are rounded to
	maxMerge  = 4096 // the longest mergeable buffer: a page of most machines

	// A big buffer as the source of row S2 counts it: 20 descriptors, one for the header and one for each piece.
	bigChain = 20
	bigPiece = 4096
)

// geometry is what buffers of a mode look like. For Mergeable it is the shortest.
func geometry(m Mode, hdr, mtu, headroom, tailroom int) Geometry {
	frame := max(goodFrame, mtu+18)
	switch m {
	case Big:
		return Geometry{Data: hdr + (bigChain-1)*bigPiece}
	case Mergeable:
		return Geometry{headroom, roundUp(hdr+goodFrame, bufAlign), tailroom}
	}
	// The frame begins a cache line, behind a header that the device seldom has to change.
	return Geometry{roundUp(headroom+hdr, bufAlign) - hdr, hdr + frame, tailroom}
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// mean is the moving average of frame lengths, with weight 1/64, in 1/64 bytes.
type mean uint32

func (m *mean) add(n int) { *m += mean(n) - *m>>6 }

// length is the length of the next mergeable buffer: what most frames need, rounded up, between shortest and maxMerge.
func (m mean) length(hdr, shortest int) int {
	return min(max(roundUp(int(m>>6)+hdr, bufAlign), shortest), max(maxMerge, shortest))
}

func isPowerOf2(n int) bool { return bits.OnesCount(uint(n)) == 1 }
