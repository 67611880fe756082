package netbench

import (
	"fmt"
	"testing"
)

// Every pair of values of two factors is in one cell at least.
func TestCellsCoverAllPairs(t *testing.T) {
	factors := []struct {
		name   string
		values []any
		of     func(cell) any
	}{
		{"streams", []any{1, 8, 64}, func(c cell) any { return c.streams }},
		{"family", []any{4, 6}, func(c cell) any { return c.family() }},
		{"MTU", []any{1280, 1500, 9000, 65520}, func(c cell) any { return c.mtu }},
		{"direction", []any{"up", "down"}, func(c cell) any { return c.direction() }},
	}
	if len(cells) != 12 {
		t.Errorf("%d cells, want 12", len(cells))
	}
	for i, f := range factors {
		for _, g := range factors[i+1:] {
			covered := make(map[string]bool)
			for _, c := range cells {
				covered[fmt.Sprint(f.of(c), g.of(c))] = true
			}
			for _, v := range f.values {
				for _, w := range g.values {
					if !covered[fmt.Sprint(v, w)] {
						t.Errorf("no cell has %s %v with %s %v", f.name, v, g.name, w)
					}
				}
			}
		}
	}
	names := make(map[string]bool)
	for _, c := range cells {
		names[c.name()] = true
	}
	if len(names) != len(cells) {
		t.Errorf("%d names of %d cells", len(names), len(cells))
	}
}
