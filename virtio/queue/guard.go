package queue

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// GoneError says that a peer has taken away memory that it shares: the file behind a mapping was truncated, or what it lies in has failed. It is an ErrBroken.
type GoneError struct {
	Addr uint64 // as the peer calls it
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("%v: memory at %#x is not there any more: whoever shares it has truncated its file", ErrBroken, e.Addr)
}

// Is makes every GoneError an ErrBroken.
func (e *GoneError) Is(target error) bool { return target == ErrBroken }

// Guard calls f, which may touch the memory. When some of it is not there any more, which the kernel tells by SIGBUS, f ends where it is and the answer is a
// *GoneError; otherwise the answer is f's. All other panics go on. Without Guard the process ends.
//
// It is for memory of other processes that no seal (F_SEAL_SHRINK) protects, and costs some ns: call it for a batch. f must leave nothing half done that
// does not end with the queue: what it holds is to be released by defer.
func (m *Memory) Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		fault, ok := p.(interface {
			runtime.Error
			Addr() uintptr
		})
		if !ok {
			panic(p)
		}
		addr, ok := m.addressOf(fault.Addr())
		if !ok {
			panic(p)
		}
		err = &GoneError{addr}
	}()
	return f()
}

// addressOf is what the peer calls a place in this process; false when it is not in the memory.
func (m *Memory) addressOf(at uintptr) (uint64, bool) {
	for _, r := range m.regions {
		if start := address(r.Mem); at-start < uintptr(len(r.Mem)) {
			return r.Addr + uint64(at-start), true
		}
	}
	return 0, false
}
