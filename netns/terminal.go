package netns

import (
	"errors"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

// A terminal is the caller's controlling terminal while a command runs in the foreground. The shell sees only the caller:
// when the command stops, the caller stops itself, whatever stopped the command, so that both the terminal's Ctrl-Z and
// a program that suspends itself show as one stopped job. The methods of a nil terminal do nothing.
type terminal struct {
	fd       int // -1 without a controlling terminal
	ours     bool
	suspends chan os.Signal
}

// openTerminal begins to absorb the signals by which a terminal stops a process group. The caller shall not obey them before the
// command has: it would stop a second time when it learns of that.
func openTerminal() *terminal {
	t := &terminal{fd: -1, suspends: make(chan os.Signal, 1)}
	signal.Notify(t.suspends, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return t
	}
	t.fd = fd
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	t.ours = err == nil && group == unix.Getpgrp()
	return t
}

// suspend stops the calling process, and returns when somebody has continued it. The signal goes to the calling thread: with
// kill(2) another thread may take it, and this one would run on for a while. The caller is locked to its thread.
func suspend() {
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP) // cannot fail
}

// takeBack makes the caller's process group the terminal's foreground group again if the command, a shell with job control, has put
// itself there. Its id is not visible in the PID namespace, so the command cannot. A group that lives is left alone: the
// caller's shell, when the caller runs in the background.
func (t *terminal) takeBack() {
	if t == nil || t.fd < 0 || !t.ours {
		return
	}
	group, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	if err != nil || group == unix.Getpgrp() || !errors.Is(unix.Kill(-group, 0), unix.ESRCH) {
		return
	}
	// A background process that changes the foreground group is stopped by SIGTTOU unless it blocks it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set, old unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGTTOU - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		return
	}
	_ = unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, unix.Getpgrp()) // fails only when the terminal is gone
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
}

func (t *terminal) close() {
	if t == nil {
		return
	}
	signal.Stop(t.suspends)
	if t.fd >= 0 {
		unix.Close(t.fd)
		t.fd = -1
	}
}
