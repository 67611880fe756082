package flow_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vasta-net/vasta/flow"
	"pgregory.net/rapid"
)

// numbered is one of many keys.
func numbered(n int) flow.Key {
	k := flow.Key{GuestPort: uint16(n), Proto: 6, Family: flow.IPv4}
	k.Guest[0], k.Guest[1] = byte(n>>16), byte(n>>24)
	return k
}

// TestDirectoryModel: the first to claim a flow owns it until it releases it, and there are never more flows than the limit.
func TestDirectoryModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 20
		d := flow.NewDirectory(limit)
		owners := make(map[int]int)
		which := rapid.IntRange(0, 30)
		t.Repeat(map[string]func(*rapid.T){
			"claim": func(t *rapid.T) {
				n, worker := which.Draw(t, "flow"), rapid.SampledFrom([]int{0, 1, 7, flow.MaxWorkers - 1}).Draw(t, "worker")
				want, taken := owners[n]
				if taken && want == worker {
					t.Skip("its own")
				}
				if !taken {
					want = worker
				}
				if len(owners) == limit {
					want = flow.Nobody // also for one that has an owner: whoever asks knows that from Owner
				}
				k := numbered(n)
				if got := d.Claim(&k, worker); got != want {
					t.Fatalf("Claim = %d, want %d", got, want)
				}
				if want != flow.Nobody {
					owners[n] = want
				}
			},
			"release": func(t *rapid.T) {
				n := which.Draw(t, "flow")
				worker, taken := owners[n]
				if !taken {
					t.Skip("nobody's")
				}
				k := numbered(n)
				d.Release(&k, worker+1) // somebody else's word is left alone
				d.Release(&k, worker)
				delete(owners, n)
			},
			"": func(t *rapid.T) {
				for n := range 31 {
					want, taken := owners[n]
					if !taken {
						want = flow.Nobody
					}
					k := numbered(n)
					if got := d.Owner(&k); got != want {
						t.Fatalf("owner of flow %d: %d, want %d", n, got, want)
					}
				}
				if d.Len() != len(owners) {
					t.Fatalf("%d flows, want %d", d.Len(), len(owners))
				}
			},
		})
	})
}

// TestDirectoryHoldsItsLimit fills directories of all sizes.
func TestDirectoryHoldsItsLimit(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 1000, 128 << 10} {
		d := flow.NewDirectory(limit)
		for n := range limit + 1 {
			k := numbered(n)
			if got := d.Claim(&k, n%4); (got == n%4) != (n < limit) {
				t.Fatalf("limit %d: flow %d belongs to %d", limit, n, got)
			}
		}
		for n := range limit {
			k := numbered(n)
			d.Release(&k, n%4)
		}
		if d.Len() != 0 {
			t.Errorf("limit %d: %d flows left", limit, d.Len())
		}
	}
}

// TestDirectoryClaimedAtOnce has goroutines claim the same few flows at the same time: each has one owner at any time.
func TestDirectoryClaimedAtOnce(t *testing.T) {
	const workers, flows, rounds = 4, 8, 20000
	d := flow.NewDirectory(flows * workers)
	var owned [flows]atomic.Int32
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 2))
			for range rounds {
				n := rng.IntN(flows)
				k := numbered(n)
				if d.Claim(&k, w) != w {
					continue
				}
				if was := owned[n].Swap(int32(w + 1)); was != 0 {
					t.Errorf("flow %d belongs to %d and to %d", n, was-1, w)
				}
				if got := d.Owner(&k); got != w {
					t.Errorf("flow %d belongs to %d, the directory says %d", n, w, got)
				}
				owned[n].Store(0)
				d.Release(&k, w)
			}
		})
	}
	all.Wait()
	if d.Len() != 0 {
		t.Errorf("%d flows left", d.Len())
	}
}

func TestDirectoryDoesNotAllocate(t *testing.T) {
	d := flow.NewDirectory(1000)
	k := numbered(1)
	if n := testing.AllocsPerRun(1000, func() {
		d.Claim(&k, 1)
		d.Owner(&k)
		d.Release(&k, 1)
	}); n != 0 {
		t.Errorf("%v allocations for a flow", n)
	}
}

func BenchmarkDirectory(b *testing.B) {
	d := flow.NewDirectory(20000)
	for n := range 10000 {
		k := numbered(n)
		d.Claim(&k, 0)
	}
	b.Run("Owner", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			k := numbered(n % 10000)
			d.Owner(&k)
		}
	})
	b.Run("ClaimAndRelease", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			k := numbered(10000 + n%10000)
			d.Claim(&k, 1)
			d.Release(&k, 1)
		}
	})
}
