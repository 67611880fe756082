package pagepool

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// arena is a mapped memfd.
type arena struct {
	mem []byte
	fd  int
}

// newArena maps size bytes, which are not backed by memory until they are touched.
func newArena(size int) (arena, error) {
	// MFD_NOEXEC_SEAL is from Linux 6.3 on; where sysctl vm.memfd_noexec is 2 a memfd without it is refused.
	fd, err := unix.MemfdCreate("vasta-pages", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("vasta-pages", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return arena{}, fmt.Errorf("memfd_create: %w", err)
	}
	mem, err := mapSealed(fd, size)
	if err != nil {
		return arena{}, errors.Join(err, unix.Close(fd))
	}
	return arena{mem: mem, fd: fd}, nil
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

// release gives the memory behind a range back to the system, whoever else maps it. The range reads as zeros after it.
func (a *arena) release(off, n int) error {
	for {
		err := unix.Fallocate(a.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
		if err != unix.EINTR {
			return err
		}
	}
}

// close unmaps and closes.
func (a *arena) close() error {
	err := errors.Join(unix.Munmap(a.mem), unix.Close(a.fd))
	*a = arena{fd: -1}
	return err
}
