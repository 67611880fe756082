//go:build !explore && !(armbe || arm64be || m68k || mips || mips64 || mips64p32 || ppc || ppc64 || s390 || s390x || shbe || sparc || sparc64)

package queue

import "sync/atomic"

// This file holds every access to shared memory whose order matters; explore_test.go has its twin for the explorer, under the build tag
// explore. All other fields are read and written plainly, before the word that publishes them is stored or after it was loaded. The rings
// are little-endian (1.4) and so is this code: for a big-endian machine it does not build.

// load reads a word that the peer publishes with. It is an acquire: what the peer wrote before it stored the word is seen by whoever has loaded it
// (2.7.13, 2.7.14, 2.8.21, 2.8.22: "a suitable memory barrier"). A plain load on amd64, LDAR on arm64.
func (w word) load() uint32 { return atomic.LoadUint32(w.p) }

// store publishes with a word. It is a release: the peer that sees it sees every plain write before it. XCHG on amd64, STLR on arm64.
func (w word) store(v uint32) { atomic.StoreUint32(w.p, v) }

// load and store of a half are plain 16-bit accesses, which are single copies on every machine; there is no wider one, since an event word
// may be the last two bytes of a mapping. They have no order of their own: they stand beside a fence. The race detector is told to look
// away, for it knows no fences.
//
//go:norace
func (h half) load() uint16 { return *h.p }

//go:norace
func (h half) store(v uint16) { *h.p = v }

// fence orders everything before it, stores too, before everything after it, loads too. The word is private to one end.
type fence struct{ x uint32 }

// full is the full fence. An atomic read-modify-write is one on amd64 (a LOCK prefix) and on arm64 with LSE (LDADDAL). On an arm64 without
// LSE it is a loop of LDAXR and STLXR, over which a later plain load may be moved forward; the load behind it is an LDAR, which may not pass
// the STLXR, and which no later access may pass.
func (f *fence) full() {
	atomic.AddUint32(&f.x, 1)
	atomic.LoadUint32(&f.x)
}
