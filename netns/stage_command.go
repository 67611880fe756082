package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is the program that runs in the namespace, seen from the stage, its parent.
type command struct {
	pid     int
	pidfd   int          // signals go through it: the pid may be another process's by then
	changes atomic.Int64 // how often it has been stopped and continued
}

// continueDelay is the time a shell's own SIGCONT has to reach the command and be noticed.
const continueDelay = 50 * time.Millisecond

// defaultPath is where execvp(3) looks when there is no PATH.
const defaultPath = "/bin:/usr/bin"

// Exit statuses of a command that did not run: POSIX, Shell Command Language, 2.8.2.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// startCommand executes what the message asks for. A *StartError means that the command is at fault.
func startCommand(m message) (*command, error) {
	var cmd stageCommand
	if err := m.decode(&cmd); err != nil {
		return nil, err
	}
	if len(m.fds) != 3 || len(cmd.Argv) == 0 {
		return nil, fmt.Errorf("the command came with %d descriptors and %d arguments", len(m.fds), len(cmd.Argv))
	}
	name := cmd.Argv[0]
	path, err := lookPath(name, cmd.Env)
	if err != nil {
		return nil, startError(name, err)
	}
	if err := dropAmbient(); err != nil {
		return nil, err
	}
	c := &command{pidfd: -1}
	attr := &syscall.ProcAttr{
		Env:   cmd.Env,
		Files: []uintptr{uintptr(m.fds[0]), uintptr(m.fds[1]), uintptr(m.fds[2])},
		Sys:   &syscall.SysProcAttr{PidFD: &c.pidfd},
	}
	c.pid, err = syscall.ForkExec(path, cmd.Argv, attr)
	if errors.Is(err, unix.ENOEXEC) { // a script without #!, which every shell and execvp(3) run with sh
		argv := append([]string{"sh", path}, cmd.Argv[1:]...)
		c.pid, err = syscall.ForkExec("/bin/sh", argv, attr)
	}
	if err != nil {
		if errors.Is(err, unix.ENOENT) { // the file itself was there
			return nil, &StartError{Code: codeNotFound, msg: fmt.Sprintf("%s: cannot execute: the interpreter it names (#! line or ELF loader) is missing: install it", name)}
		}
		return nil, startError(name, err)
	}
	return c, nil
}

// dropAmbient takes the calling thread's ambient and inheritable capabilities: they carried the stage over its own exec
// under --keep-id, and the command shall have none of them.
func dropAmbient() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("dropping the ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	return os.NewSyscallError("capset", unix.Capset(&header, &data[0]))
}

func startError(name string, err error) *StartError {
	if errors.Is(err, unix.ENOENT) {
		return &StartError{Code: codeNotFound, msg: fmt.Sprintf("%s: command not found: name an existing file or one in PATH", name)}
	}
	return &StartError{Code: codeNotExecutable, msg: fmt.Sprintf("%s: cannot execute: %v", name, err)}
}

// lookPath finds name in the PATH of env as a shell does. A file that may not be executed is reported as such when no
// directory has a better one.
func lookPath(name string, env []string) (string, error) {
	if name == "" {
		return "", unix.ENOENT
	}
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	path := defaultPath
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "PATH="); ok {
			path = value
		}
	}
	result := error(unix.ENOENT)
	for _, dir := range filepath.SplitList(path) {
		candidate := filepath.Join(dir, name)
		if dir == "" {
			candidate = "./" + name
		}
		if _, err := os.Stat(candidate); err != nil {
			continue // also a directory that may not be searched: as in a shell, the command is not there
		}
		err := executable(candidate)
		if err == nil {
			return candidate, nil
		}
		result = err
	}
	return "", result
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return unix.EACCES
	}
	return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
}

// reap waits for the command's end, and for that of every orphan that its descendants leave to the stage, which is their
// init. stopped is called when a signal has stopped the command.
func (c *command) reap(stopped func(stageStop) error) (ExitStatus, error) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WUNTRACED|syscall.WCONTINUED, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return ExitStatus{}, os.NewSyscallError("wait4", err)
		case pid != c.pid:
		case ws.Stopped():
			if err := stopped(stageStop{c.changes.Add(1)}); err != nil {
				return ExitStatus{}, err
			}
		case ws.Continued():
			c.changes.Add(1)
		case ws.Exited(), ws.Signaled():
			return exitStatus(ws), nil
		}
	}
}

// resume continues the command if nothing has happened since the stop. Usually the SIGCONT that has woken the caller went to
// the whole process group; another one now could undo the user's next Ctrl-Z.
func (c *command) resume(stop stageStop) {
	if c.changes.Load() == stop.Changes {
		_ = unix.PidfdSendSignal(c.pidfd, unix.SIGCONT, nil, 0) // fails only when the command has ended
	}
}

// exitStatus converts the status of a process that has ended.
func exitStatus(ws syscall.WaitStatus) ExitStatus {
	if ws.Signaled() {
		return ExitStatus{Signal: ws.Signal()}
	}
	return ExitStatus{Code: ws.ExitStatus()}
}

// killRest kills every process that is left in the PID namespace, of which the caller is the first, and waits for their end.
func killRest() error {
	for {
		if err := unix.Kill(-1, unix.SIGKILL); errors.Is(err, unix.ESRCH) {
			return nil
		}
		_, err := syscall.Wait4(-1, nil, 0, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.ECHILD) {
			return os.NewSyscallError("wait4", err)
		}
	}
}
