package queue_test

import (
	"math"
	"testing"

	"github.com/vasta-net/vasta/virtio/queue"
	"pgregory.net/rapid"
)

func TestMemoryRefused(t *testing.T) {
	mem := make([]byte, 16)
	for name, regions := range map[string][]queue.Region{
		"empty":           {{Addr: 0}},
		"wraps":           {{Addr: math.MaxUint64 - 14, Mem: mem}},
		"overlap":         {{Addr: 0, Mem: mem}, {Addr: 15, Mem: mem}},
		"overlap, sorted": {{Addr: 15, Mem: mem}, {Addr: 0, Mem: mem}},
		"same":            {{Addr: 5, Mem: mem}, {Addr: 5, Mem: mem}},
	} {
		if _, err := queue.NewMemory(regions...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	m, err := queue.NewMemory(queue.Region{Addr: math.MaxUint64 - 15, Mem: mem}, queue.Region{Addr: 0, Mem: mem})
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := m.Translate(math.MaxUint64, 1); !ok || &b[0] != &mem[15] {
		t.Error("the last byte of the address space was not found")
	}
	if _, ok := m.Translate(math.MaxUint64, 2); ok {
		t.Error("a translation went over the end of the address space")
	}
	if _, err := queue.NewMemory(); err != nil {
		t.Errorf("a table without regions: %v", err)
	}
}

// TestTranslate: every answer is what a walk over all regions, byte by byte, says.
func TestTranslate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var regions []queue.Region
		bytes := map[uint64]*byte{}
		for addr := uint64(0); addr < 64; {
			n := rapid.IntRange(1, 16).Draw(t, "len")
			if rapid.Bool().Draw(t, "mapped") {
				mem := make([]byte, n)
				regions = append(regions, queue.Region{Addr: addr, Mem: mem})
				for i := range mem {
					bytes[addr+uint64(i)] = &mem[i]
				}
			}
			addr += uint64(n)
		}
		m, err := queue.NewMemory(rapid.Permutation(regions).Draw(t, "order")...)
		if err != nil {
			t.Fatal(err)
		}
		addr, n := rapid.Uint64Range(0, 70).Draw(t, "addr"), rapid.IntRange(1, 20).Draw(t, "n")
		region := func(a uint64) int {
			for i, r := range regions {
				if a >= r.Addr && a-r.Addr < uint64(len(r.Mem)) {
					return i
				}
			}
			return -1
		}
		first := region(addr)
		want := first >= 0 && region(addr+uint64(n)-1) == first
		b, ok := m.Translate(addr, n)
		if ok != want || ok && (len(b) != n || cap(b) != n || &b[0] != bytes[addr]) {
			t.Fatalf("Translate(%d, %d): %d bytes, %v; want %v", addr, n, len(b), ok, want)
		}
	})
}
