// Package rawfork starts a process that joins namespaces between fork and exec.
//
// setns(2) into a user namespace is refused in a multithreaded process, and a Go process is multithreaded from its first
// instruction. syscall.ForkExec can create namespaces in the child but cannot join any. So this package forks itself: the
// child, single-threaded, joins the namespaces by raw system calls and executes the program.
package rawfork

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Spec describes a process to start.
type Spec struct {
	// Join are descriptors of namespaces, joined in this order; a user namespace comes first.
	Join []int
	// AmbientCaps are the capabilities (CAP_* numbers below 64) that the program has whatever its user id; nil leaves
	// the capabilities alone. They must be permitted once Join is done.
	AmbientCaps []int
	// Path is the program; Argv and Env are what it is given.
	Path      string
	Argv, Env []string
	// Files become the child's descriptors 0, 1, …; the others are closed on exec when they are marked so.
	Files []int
}

// Step is what the child did when it failed.
type Step uint32

// The child's steps, in order. StepJoin+i is the joining of Spec.Join[i].
const (
	StepDeathSignal Step = iota
	StepCapabilities
	StepFiles
	StepExec
	StepJoin
)

// ChildError is a failure in the child, between fork and exec.
type ChildError struct {
	Step  Step
	Errno syscall.Errno
}

// Error implements error.
func (e *ChildError) Error() string {
	switch e.Step {
	case StepDeathSignal:
		return "prctl(PR_SET_PDEATHSIG): " + e.Errno.Error()
	case StepCapabilities:
		return "raising ambient capabilities: " + e.Errno.Error()
	case StepFiles:
		return "dup3: " + e.Errno.Error()
	case StepExec:
		return "execve: " + e.Errno.Error()
	}
	return fmt.Sprintf("setns of namespace %d: %v", e.Step-StepJoin, e.Errno)
}

// Unwrap returns the errno.
func (e *ChildError) Unwrap() error { return e.Errno }

// capHeader is struct __user_cap_header_struct of linux/capability.h.
type capHeader struct {
	version uint32
	pid     int32
}

// capData is struct __user_cap_data_struct of linux/capability.h; version 3 takes two.
type capData struct {
	effective, permitted, inheritable uint32
}

// failure is what the child writes into the status pipe; it fits PIPE_BUF and so arrives whole.
type failure struct {
	step, errno uint32
}

// childArgs is everything the child reads: it must neither allocate nor call ordinary Go code.
type childArgs struct {
	join    []int
	files   []int
	caps    []int
	header  capHeader
	data    [2]capData
	path    *byte
	argv    []*byte
	env     []*byte
	status  int
	failure failure
}

// Start forks, joins and executes. The process is killed when the calling thread ends (PR_SET_PDEATHSIG), so the
// caller's goroutine must be locked to its thread as long as the process shall live. The caller has to wait for pid.
func Start(spec Spec) (pid int, err error) {
	args := &childArgs{
		join:   append([]int(nil), spec.Join...),
		files:  append([]int(nil), spec.Files...),
		caps:   append([]int(nil), spec.AmbientCaps...),
		header: capHeader{version: unix.LINUX_CAPABILITY_VERSION_3},
	}
	for _, c := range spec.AmbientCaps {
		d := &args.data[c/32]
		d.effective |= 1 << (c % 32)
		d.permitted, d.inheritable = d.effective, d.effective
	}
	if args.path, err = syscall.BytePtrFromString(spec.Path); err != nil {
		return 0, fmt.Errorf("program %q: %w", spec.Path, err)
	}
	if args.argv, err = syscall.SlicePtrFromStrings(spec.Argv); err != nil {
		return 0, fmt.Errorf("arguments of %s: %w", spec.Path, err)
	}
	if args.env, err = syscall.SlicePtrFromStrings(spec.Env); err != nil {
		return 0, fmt.Errorf("environment of %s: %w", spec.Path, err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(pipe[0])
	args.status = pipe[1]

	syscall.ForkLock.Lock()
	pid, errno := fork(args)
	syscall.ForkLock.Unlock()
	unix.Close(pipe[1])
	if errno != 0 {
		return 0, os.NewSyscallError("clone", errno)
	}

	var f failure
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&f)), unsafe.Sizeof(f))
	n, err := readRetry(pipe[0], buf)
	runtime.KeepAlive(args)
	if err == nil && n == 0 { // closed by a successful exec
		return pid, nil
	}
	var status syscall.WaitStatus
	for {
		if _, werr := syscall.Wait4(pid, &status, 0, nil); !errors.Is(werr, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	return 0, &ChildError{Step: Step(f.step), Errno: syscall.Errno(f.errno)}
}

func readRetry(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// The runtime keeps these three for package syscall and, by name, for programs like this one (go.dev/issue/67401): they block
// signals around the fork and put the child's signal handling back to the state exec needs.
//
//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// fork returns the child's pid in the parent and does not return in the child. The child has its own copy of the memory
// but only this thread: locks that other threads held stay held, so it must not allocate, grow its stack or call anything
// but raw system calls.
//
//go:noinline
//go:norace
func fork(a *childArgs) (pid int, errno syscall.Errno) {
	var (
		r1   uintptr
		i    int
		step Step
	)
	runtimeBeforeFork()
	r1, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || r1 != 0 {
		runtimeAfterFork()
		return int(r1), errno
	}

	runtimeAfterForkInChild()
	step = StepDeathSignal
	_, _, errno = syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0, 0)
	if errno != 0 {
		goto failed
	}
	for i = 0; i < len(a.join); i++ {
		step = StepJoin + Step(i)
		_, _, errno = syscall.RawSyscall(unix.SYS_SETNS, uintptr(a.join[i]), 0, 0)
		if errno != 0 {
			goto failed
		}
	}
	if len(a.caps) > 0 {
		step = StepCapabilities
		_, _, errno = syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&a.header)), uintptr(unsafe.Pointer(&a.data[0])), 0)
		if errno != 0 {
			goto failed
		}
		for i = 0; i < len(a.caps); i++ {
			_, _, errno = syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(a.caps[i]), 0, 0, 0)
			if errno != 0 {
				goto failed
			}
		}
	}
	// Two passes, so that no descriptor is overwritten before it has been copied.
	step = StepFiles
	for i = 0; i < len(a.files); i++ {
		r1, _, errno = syscall.RawSyscall(unix.SYS_FCNTL, uintptr(a.files[i]), unix.F_DUPFD_CLOEXEC, uintptr(len(a.files)))
		if errno != 0 {
			goto failed
		}
		a.files[i] = int(r1)
	}
	for i = 0; i < len(a.files); i++ {
		if a.status == i {
			r1, _, errno = syscall.RawSyscall(unix.SYS_FCNTL, uintptr(a.status), unix.F_DUPFD_CLOEXEC, uintptr(len(a.files)))
			if errno != 0 {
				goto failed
			}
			a.status = int(r1)
		}
		_, _, errno = syscall.RawSyscall(unix.SYS_DUP3, uintptr(a.files[i]), uintptr(i), 0)
		if errno != 0 {
			goto failed
		}
	}
	step = StepExec
	_, _, errno = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(a.path)),
		uintptr(unsafe.Pointer(&a.argv[0])), uintptr(unsafe.Pointer(&a.env[0])))

failed:
	a.failure.step, a.failure.errno = uint32(step), uint32(errno)
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(a.status), uintptr(unsafe.Pointer(&a.failure)), unsafe.Sizeof(a.failure))
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}
