package queue

import (
	"fmt"
	"math"
	"slices"
)

// Region is a piece of the peer's memory that this process has mapped: the bytes of Mem, which the peer calls Addr and following.
type Region struct {
	Addr uint64
	Mem  []byte
}

// Memory translates the addresses in descriptors to memory of this process. Which addresses these are depends on the transport: those of the guest,
// or those of the process at the other end. A Memory does not change; a new memory table is a new Memory. The mappings must outlive its use.
type Memory struct {
	regions []Region // by address
}

// NewMemory makes a table of regions, and refuses one that is empty, runs over the end of the address space, or overlaps another.
func NewMemory(regions ...Region) (*Memory, error) {
	m := &Memory{slices.Clone(regions)}
	slices.SortFunc(m.regions, func(a, b Region) int {
		if a.Addr < b.Addr {
			return -1
		} else if a.Addr > b.Addr {
			return 1
		}
		return 0
	})
	for i, r := range m.regions {
		switch {
		case len(r.Mem) == 0:
			return nil, fmt.Errorf("memory region at %#x is empty", r.Addr)
		case uint64(len(r.Mem)-1) > math.MaxUint64-r.Addr:
			return nil, fmt.Errorf("memory region at %#x of %d bytes runs over the end of the address space", r.Addr, len(r.Mem))
		case i > 0 && r.Addr-m.regions[i-1].Addr < uint64(len(m.regions[i-1].Mem)):
			return nil, fmt.Errorf("memory regions at %#x and %#x overlap", m.regions[i-1].Addr, r.Addr)
		}
	}
	return m, nil
}

// Translate answers the n bytes at addr, when they lie in one region: what a ring or a table has to do. The slice's capacity ends with it.
func (m *Memory) Translate(addr uint64, n int) ([]byte, bool) {
	i := m.find(addr)
	if i < 0 || n < 0 {
		return nil, false
	}
	r := &m.regions[i]
	off := addr - r.Addr
	if uint64(n) > uint64(len(r.Mem))-off {
		return nil, false
	}
	return r.Mem[off : off+uint64(n) : off+uint64(n)], true
}

// find is the index of the region that holds addr, or -1.
func (m *Memory) find(addr uint64) int {
	lo, hi := 0, len(m.regions)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if m.regions[mid].Addr <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 || addr-m.regions[lo-1].Addr >= uint64(len(m.regions[lo-1].Mem)) {
		return -1
	}
	return lo - 1
}

// spans translates n bytes at addr into one slice for each region that they touch: regions whose addresses touch need not lie side by side in
// this process. It writes to dst and answers how many slices there are, 0 when a byte lies in no region, and -1 when dst is too short.
// The sum addr + n cannot overflow unseen: it is never made.
func (m *Memory) spans(dst [][]byte, addr uint64, n uint32) int {
	i := m.find(addr)
	if i < 0 {
		return 0
	}
	left := uint64(n)
	for k := 0; ; k++ {
		if k == len(dst) {
			return -1
		}
		r := &m.regions[i]
		off := addr - r.Addr
		here := min(left, uint64(len(r.Mem))-off)
		dst[k] = r.Mem[off : off+here : off+here]
		left -= here
		if left == 0 {
			return k + 1
		}
		addr += here
		i++
		if i == len(m.regions) || m.regions[i].Addr != addr {
			return 0
		}
	}
}
