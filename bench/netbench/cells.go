package netbench

import (
	"fmt"

	"github.com/vasta-net/vasta/internal/lab"
)

// cell is one combination of what may matter to recovery from loss.
type cell struct {
	streams int
	v6      bool
	mtu     int
	down    bool // host to namespace
}

// cells are a covering array: every value of each of the four factors is together with every value of each other
// in one of them at least. Twelve are the least, as streams and MTU have 3 x 4 pairs. The first ones are unlike each other, for runs
// that have no time for all.
var cells = makeCells()

func makeCells() []cell {
	streams, mtus := []int{8, 1, 64}, []int{1500, lab.MTU, 1280, 9000}
	var all []cell
	for k := range len(streams) * len(mtus) {
		// As 3 and 4 have no common divisor, k counts through all pairs.
		i, j := k%len(streams), k%len(mtus)
		all = append(all, cell{
			streams: streams[i],
			mtu:     mtus[j],
			v6:      (i+j)%2 == 1,
			down:    (i+j/2)%2 == 1,
		})
	}
	return all
}

func (c cell) family() int {
	if c.v6 {
		return 6
	}
	return 4
}

func (c cell) direction() string {
	if c.down {
		return directions[1].name
	}
	return directions[0].name
}

// name is the cell in the name of a load.
func (c cell) name() string {
	return fmt.Sprintf("%dx%d-v%d-%s", c.streams, c.mtu, c.family(), c.direction())
}

// title is the cell in a table.
func (c cell) title() string {
	arrow := directions[0].title
	if c.down {
		arrow = directions[1].title
	}
	return fmt.Sprintf("%d x TCP, IPv%d, MTU %d, %s", c.streams, c.family(), c.mtu, arrow)
}
