package interleave_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/internal/interleave"
)

// TestOrders counts the orders of two processes of n operations each: (2n)! / n!^2.
func TestOrders(t *testing.T) {
	for n, want := range map[int]int{1: 2, 2: 6, 3: 20, 4: 70} {
		setup := func() ([]func(), func() error) {
			var w interleave.Uint64
			p := func() {
				for range n {
					w.Load()
				}
			}
			return []func(){p, p}, func() error { return nil }
		}
		// A process takes one step to come to its first operation, and one for each operation.
		if got, err := interleave.Explore(-1, setup); got < want || err != nil {
			t.Errorf("%d operations each: %d orders, %v; want %d", n, got, err, want)
		}
	}
}

// TestFindsLostUpdate: two processes that add by loading and storing lose an update in some orders, if one is interrupted.
func TestFindsLostUpdate(t *testing.T) {
	lost := errors.New("an update is lost")
	setup := func() ([]func(), func() error) {
		var w interleave.Uint64
		add := func() { w.Store(w.Load() + 1) }
		return []func(){add, add}, func() error {
			if w.Load() != 2 {
				return lost
			}
			return nil
		}
	}
	if _, err := interleave.Explore(-1, setup); !errors.Is(err, lost) {
		t.Errorf("all orders: %v", err)
	}
	if _, err := interleave.Explore(1, setup); !errors.Is(err, lost) {
		t.Errorf("one interruption: %v", err)
	}
	if _, err := interleave.Explore(0, setup); err != nil {
		t.Errorf("one after the other: %v", err)
	}
}

// TestFindsLostWakeUp: who sleeps without a second look, and is not woken, waits for ever.
func TestFindsLostWakeUp(t *testing.T) {
	for _, looks := range []bool{true, false} {
		_, err := interleave.Explore(-1, func() ([]func(), func() error) {
			var full, asleep interleave.Bool
			woken := false
			return []func(){
				func() {
					if full.Load() {
						return
					}
					asleep.Store(true)
					if looks && full.Load() {
						return
					}
					interleave.Await(func() bool { return woken })
				},
				func() {
					full.Store(true)
					if asleep.CompareAndSwap(true, false) {
						woken = true
					}
				},
			}, func() error { return nil }
		})
		if looks && err != nil || !looks && (err == nil || !strings.Contains(err.Error(), "waits for ever")) {
			t.Errorf("second look %v: %v", looks, err)
		}
	}
}
