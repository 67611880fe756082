package pagepool

// Stats counts what a pool did since it was made. Where the kernel's page_pool counts the same (Documentation/networking/page_pool.rst), the name is
// the kernel's.
type Stats struct {
	AllocFast   uint64 // pages taken from those that were in use before and still have memory
	AllocSlow   uint64 // pages taken from the provider; the system has to back them with memory first
	AllocEmpty  uint64 // pages refused because all are in use
	AllocRefill uint64 // times that the ring of what others gave back has filled the empty cache

	RecycleCached   uint64 // pages whose last reference the owner has dropped
	RecycleRing     uint64 // ... that of another worker, through the ring
	RecycleRingFull uint64 // ... that of another worker, under the lock, because the ring was full or there is none
	ReleasedRefcnt  uint64 // references dropped while others remained: nothing to recycle yet

	Released  uint64 // pages whose memory Trim gave back to the system
	Cut       uint64 // pages cut into fragments
	FragAlloc uint64 // fragments taken
	FragEmpty uint64 // fragments refused because all pages are in use
	Pieces    uint64 // pieces cut
	PeakPages uint64 // the most pages that were in use at a time
	PeakFrags uint64 // the same of fragments
}

// Hold is the number of pages that were ever handed out.
func (s *Stats) Hold() uint64 { return s.AllocFast + s.AllocSlow }

// Release is the number of pages that came back. Hold less Release is what is in flight.
func (s *Stats) Release() uint64 { return s.RecycleCached + s.RecycleRing + s.RecycleRingFull }

// Stats returns a copy of the counters.
func (p *Pool) Stats() Stats { return p.stats }
