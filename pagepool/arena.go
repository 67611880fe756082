package pagepool

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Provider is where pools have their pages from: one run of memory, cut into pages. Several pools may share one, so its methods may be called from
// any goroutine. A pool asks it only for pages that it has not had before or has trimmed: steady traffic never comes here.
type Provider interface {
	// Memory is all of the provider's memory, page n of it at n*PageSize, as long as the provider is open.
	Memory() []byte
	// Alloc fills pages with pages that are free and answers how many there were. They are zero or hold what an earlier holder left.
	Alloc(pages []Page) int
	// Free takes pages back that Alloc gave, each once, in ascending order; it answers of how many the system has its memory back.
	Free(pages []Page) (released int)
	// Available is how many pages Alloc could give now.
	Available() int
	// Base is the address of Memory as a back end knows it, when one has mapped it (see Mapper).
	Base() (addr uint64, mapped bool)
	// Fd is a descriptor by which a back end can map the memory, or -1. It stays the provider's.
	Fd() int
	// Close gives the memory back. No pool may use it any more.
	Close() error
}

// Mapper is a back end that has to be told of memory before it can reach it: a vhost device, or the device end of a queue in this process.
type Mapper interface {
	// Map makes mem known and answers the address under which descriptors are to name its first byte. fd maps the same memory, or is -1.
	Map(mem []byte, fd int) (addr uint64, err error)
	// Unmap takes back what Map has answered.
	Unmap(addr uint64, mem []byte) error
}

// Arena is the Provider over memory of its own (NewArena, NewAnonymous) or of the caller (NewRegion).
type Arena struct {
	mem     []byte
	fd      int // of the memfd, or -1
	discard func(off, n int) error
	close   func() error

	mapper Mapper
	base   uint64
	maps   uint64
	unmaps uint64

	mu   sync.Mutex
	free []Page // the next one to be had last
}

var _ Provider = (*Arena)(nil)

// maxPages keeps the numbers of fragments within 31 bits, and the size of an arena within an int.
const maxPages = 1 << 26

// pagesIn is the number of whole pages in bytes, if memory of that length can be used at all.
func pagesIn(bytes int) (int, error) {
	if n := bytes / PageSize; n >= 1 && n <= maxPages {
		return n, nil
	}
	return 0, fmt.Errorf("page pool of %d bytes: must be between %d and %d", bytes, PageSize, maxPages*PageSize)
}

// NewArena maps a memfd of the given size, rounded down to whole pages. It takes address space only: a page costs memory from the first touch until
// it is freed. The memfd is sealed against being resized, so that no one can take the memory away under a mapping.
func NewArena(bytes int) (*Arena, error) {
	n, err := pagesIn(bytes)
	if err != nil {
		return nil, err
	}
	// MFD_NOEXEC_SEAL is from Linux 6.3 on; where sysctl vm.memfd_noexec is 2 a memfd without it is refused.
	fd, err := unix.MemfdCreate("vasta-pages", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("vasta-pages", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("page pool of %d bytes: memfd_create: %w", bytes, err)
	}
	mem, err := mapSealed(fd, n*PageSize)
	if err != nil {
		return nil, fmt.Errorf("page pool of %d bytes: %w", bytes, errors.Join(err, unix.Close(fd)))
	}
	a := newArena(mem, fd)
	a.discard = func(off, n int) error { // whoever else maps it: the range reads as zeros after this
		for {
			err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
			if err != unix.EINTR {
				return err
			}
		}
	}
	a.close = func() error { return errors.Join(unix.Munmap(mem), unix.Close(fd)) }
	return a, nil
}

// NewAnonymous maps memory that only this process can have: for back ends that copy.
func NewAnonymous(bytes int) (*Arena, error) {
	n, err := pagesIn(bytes)
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(-1, 0, n*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("page pool of %d bytes: mmap: %w", bytes, err)
	}
	a := newArena(mem, -1)
	a.discard = func(off, n int) error { return unix.Madvise(mem[off:off+n], unix.MADV_DONTNEED) }
	a.close = func() error { return unix.Munmap(mem) }
	return a, nil
}

// NewRegion cuts memory of the caller into pages; what is left at its end is not used. The memory stays the caller's, and must stay as long as the
// arena is open. Nothing of it goes back to the system.
func NewRegion(mem []byte) (*Arena, error) {
	n, err := pagesIn(len(mem))
	if err != nil {
		return nil, err
	}
	a := newArena(mem[:n*PageSize], -1)
	a.discard = func(int, int) error { return unix.EOPNOTSUPP }
	a.close = func() error { return nil }
	return a, nil
}

func newArena(mem []byte, fd int) *Arena {
	a := &Arena{mem: mem, fd: fd, free: make([]Page, len(mem)/PageSize)}
	for i := range a.free {
		a.free[i] = Page(len(a.free) - 1 - i) // the lowest first
	}
	return a
}

// mapSealed gives the memfd its size for good and maps it.
func mapSealed(fd, size int) ([]byte, error) {
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, fmt.Errorf("ftruncate of the memfd: %w", err)
	}
	// A file that shrinks turns an access to its mapping into SIGBUS.
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("seal the memfd: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mmap of the memfd: %w", err)
	}
	return mem, nil
}

// Map makes the arena known to a back end, whole and once, before pools are made on it: that is mapped mode, and no page is mapped by itself. Without
// it the pools on the arena are unmapped and have no addresses.
func (a *Arena) Map(m Mapper) error {
	if a.mapper != nil {
		return fmt.Errorf("map the page arena: it is mapped already, at %#x", a.base)
	}
	addr, err := m.Map(a.mem, a.fd)
	if err != nil {
		return fmt.Errorf("map the page arena of %d bytes: %w", len(a.mem), err)
	}
	a.mapper, a.base = m, addr
	a.maps++
	return nil
}

// Mapped counts the calls of Map and Unmap that the back end has had: as many as there are regions, however much traffic there was.
func (a *Arena) Mapped() (maps, unmaps uint64) { return a.maps, a.unmaps }

// Memory is all of the arena.
func (a *Arena) Memory() []byte { return a.mem }

// Base is where the back end has the arena.
func (a *Arena) Base() (addr uint64, mapped bool) { return a.base, a.mapper != nil }

// Fd is the memfd, or -1.
func (a *Arena) Fd() int { return a.fd }

// Available is the number of pages that no pool has.
func (a *Arena) Available() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.free)
}

// Alloc takes free pages.
func (a *Arena) Alloc(pages []Page) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n < len(pages) && len(a.free) > 0 {
		last := len(a.free) - 1
		pages[n], a.free = a.free[last], a.free[:last]
		n++
	}
	return n
}

// Free gives pages back, and their memory to the system: a system call for each run of adjacent pages. When the system refuses that, the pages
// are free all the same.
func (a *Arena) Free(pages []Page) (released int) {
	for last := len(pages); last > 0; {
		first := last - 1
		for first > 0 && pages[first-1]+1 == pages[first] {
			first--
		}
		if a.discard(int(pages[first])*PageSize, (last-first)*PageSize) == nil {
			released += last - first
		}
		last = first
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := len(pages) - 1; i >= 0; i-- {
		a.free = append(a.free, pages[i])
	}
	return released
}

// Close unmaps the arena at its back end and in this process. While a pool has pages of it, it changes nothing and answers an error that
// wraps ErrInUse.
func (a *Arena) Close() error {
	if n := len(a.mem)/PageSize - a.Available(); n > 0 {
		return fmt.Errorf("close page arena: %w: pools have %d of its pages", ErrInUse, n)
	}
	var err error
	if a.mapper != nil {
		err = a.mapper.Unmap(a.base, a.mem)
		a.mapper, a.unmaps = nil, a.unmaps+1
	}
	if err = errors.Join(err, a.close()); err != nil {
		return fmt.Errorf("close page arena: %w", err)
	}
	a.mem, a.free, a.fd = nil, nil, -1
	return nil
}
