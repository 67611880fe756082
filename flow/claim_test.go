package flow

import (
	"fmt"
	"testing"

	"github.com/vasta-net/vasta/internal/interleave"
)

// exploreClaims has workers claim the same flow in a bucket of the given size, in every order of their operations, while other flows in it
// end. At most one may come to own it; one does, unless there is no room.
func exploreClaims(t *testing.T, preemptions, workers, words, others int) {
	t.Helper()
	const tag, otherTag = 1 << 20, 2 << 20
	orders, err := interleave.Explore(preemptions, func() ([]func(), func() error) {
		bucket := make([]interleave.Uint64, words)
		for i := range others {
			bucket[i].Store(otherTag*uint64(i+1) | 200)
		}
		final := make([]int, workers)
		var processes []func()
		for w := range workers {
			processes = append(processes, func() {
				for {
					who, done := claim(bucket, tag|uint64(w+1))
					if done {
						final[w] = who
						return
					}
				}
			})
		}
		for i := range others {
			processes = append(processes, func() { bucket[i].Store(0) })
		}
		return processes, func() error {
			owners, entries := 0, 0
			for w, who := range final {
				if who == w {
					owners++
				}
			}
			for i := range bucket {
				switch word := bucket[i].Load(); {
				case word == 0:
				case word&tagMask != tag || word&pending != 0:
					return fmt.Errorf("a word is left: %#x", word)
				case final[owner(word)] != owner(word):
					return fmt.Errorf("worker %d is the owner and does not know it: %v", owner(word), final)
				default:
					entries++
				}
			}
			if owners != entries || owners > 1 || owners == 0 && others < words {
				return fmt.Errorf("%d owners, %d entries: %v", owners, entries, final)
			}
			return nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d orders", orders)
}

// TestClaimOrders: a flow has one owner in any order of the operations.
func TestClaimOrders(t *testing.T) {
	t.Run("two workers", func(t *testing.T) { exploreClaims(t, -1, 2, 2, 0) })
	t.Run("two workers, one flow ends", func(t *testing.T) { exploreClaims(t, 5, 2, 2, 1) })
	t.Run("two workers, both words become free", func(t *testing.T) { exploreClaims(t, 4, 2, 2, 2) })
	t.Run("three workers", func(t *testing.T) { exploreClaims(t, 4, 3, 2, 0) })
	t.Run("three workers, one flow ends", func(t *testing.T) { exploreClaims(t, 3, 3, 3, 1) })
}
