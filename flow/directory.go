package flow

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"

	"github.com/vasta-net/vasta/internal/interleave"
)

// Nobody is the owner of a flow that no worker has.
const Nobody = -1

// MaxWorkers is how many workers a Directory can tell apart.
const MaxWorkers = ownerMask

const (
	// bucketWords is the size of a bucket in entries: two cache lines.
	bucketWords = 16
	// bucketLoad is how many flows there are to a bucket when the directory is full. With 2 the chance that any of 65,536 buckets
	// needs more than 16 entries is 1 in 100,000.
	bucketLoad = 2
)

// An entry: 55 bits of the hash of the key, whether it is still being claimed, and the owner's number plus 1. 0 is a free one.
const (
	ownerMask = 1<<8 - 1
	pending   = 1 << 8
	tagMask   = ^uint64(ownerMask | pending)
)

// Directory tells which of several workers owns a flow. Workers ask it only about flows that they do not know themselves.
//
// It is an array of words, each of them bits of a seeded hash of a flow's key and the owner's number, in buckets of fixed size: the
// bucket is chosen by bits of the hash of which 9 are not in the word. Keys are not compared. Two flows whose hashes agree in all
// 64 bits would be taken for one; the guest cannot make that happen, because it does not know the seed.
//
// All methods may be called from any goroutine, take no lock and do not allocate. The memory of a bucket is touched when it is first
// used.
type Directory struct {
	seed  maphash.Seed
	words []interleave.Uint64
	mask  uint64 // of bucket numbers
	flows atomic.Int64
	limit int64
}

// NewDirectory returns an empty directory for so many flows in all.
func NewDirectory(limit int) *Directory {
	buckets := 1 << bits.Len(uint(max(limit, 1)-1)/bucketLoad)
	return &Directory{seed: maphash.MakeSeed(), words: make([]interleave.Uint64, buckets*bucketWords), mask: uint64(buckets - 1), limit: int64(limit)}
}

// Len is the number of flows.
func (d *Directory) Len() int { return int(d.flows.Load()) }

// Owner is the worker that owns a flow, or is about to; Nobody when there is none.
func (d *Directory) Owner(k *Key) int {
	bucket, tag := d.find(k)
	for i := range bucket {
		if word := bucket[i].Load(); word != 0 && word&tagMask == tag {
			return owner(word)
		}
	}
	return Nobody
}

// Claim makes a worker the owner of a flow that has none and returns it, or the worker that was there before; Nobody when there are
// too many flows. A worker does not claim what is its own.
func (d *Directory) Claim(k *Key, worker int) int {
	if d.flows.Add(1) > d.limit {
		d.flows.Add(-1)
		return Nobody
	}
	bucket, tag := d.find(k)
	for {
		who, done := claim(bucket, tag|uint64(worker+1))
		if !done {
			continue
		}
		if who != worker {
			d.flows.Add(-1)
		}
		return who
	}
}

// Release ends a worker's ownership of a flow.
func (d *Directory) Release(k *Key, worker int) {
	bucket, tag := d.find(k)
	for i := range bucket {
		if bucket[i].Load() == tag|uint64(worker+1) {
			bucket[i].Store(0)
			d.flows.Add(-1)
			return
		}
	}
}

// claim makes one attempt to enter a word into its bucket. It says who owns the flow then, or that the attempt has to be repeated.
//
// Workers that claim one flow at the same time may go for different free words. So an entry is pending at first: its worker looks for others of the
// same flow, and makes it final when it has seen none. Of two workers, the one that entered its word later sees the other's: when that
// is final, it gives up. When it is pending, the one with the lower number takes the other's away, which then cannot become
// final, or finds that it became final just before; the one with the higher number gives up. So at most one becomes final.
func claim(bucket []interleave.Uint64, word uint64) (who int, done bool) {
	var free *interleave.Uint64
	for i := range bucket {
		switch w := bucket[i].Load(); {
		case w == 0:
			if free == nil {
				free = &bucket[i]
			}
		case w&tagMask == word&tagMask:
			return owner(w), true
		}
	}
	if free == nil {
		return Nobody, true
	}
	if !free.CompareAndSwap(0, word|pending) {
		return Nobody, false
	}
	for i := 0; i < len(bucket); i++ {
		w := bucket[i].Load()
		if w == 0 || w&tagMask != word&tagMask || &bucket[i] == free {
			continue
		}
		if w&pending == 0 || owner(w) < owner(word) {
			free.CompareAndSwap(word|pending, 0) // unless it was taken away
			return owner(w), true
		}
		if !bucket[i].CompareAndSwap(w, 0) {
			i-- // it has changed: look again
		}
	}
	return owner(word), free.CompareAndSwap(word|pending, word)
}

func owner(word uint64) int { return int(word&ownerMask) - 1 }

// find returns the bucket of a key, and its hash as far as it is in words.
func (d *Directory) find(k *Key) (bucket []interleave.Uint64, tag uint64) {
	h := maphash.Comparable(d.seed, *k)
	at := (h & d.mask) * bucketWords
	return d.words[at : at+bucketWords : at+bucketWords], h & tagMask
}
