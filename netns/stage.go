package netns

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stageName is argv[0] of the stage.
	stageName = "vasta-stage"
	// stageSocket is the stage's end of the socketpair.
	stageSocket = 3
)

// stageEnv is the stage's own environment: it works for milliseconds, then sleeps, so it needs neither a collector nor
// more than one processor, nor the runtime's look at the control groups.
var stageEnv = []string{"GOMAXPROCS=1", "GOGC=off", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"}

// StageMain is the stage's main function. It returns false at once in any other process; when it returns true, the program
// must end. Call it as the first thing in main (and in TestMain).
func StageMain() bool {
	if len(os.Args) == 0 || os.Args[0] != stageName {
		return false
	}
	// The command is forked from this thread, and gets its capabilities.
	runtime.LockOSThread()
	// For ps and pstree, which would show "exe". It is of no consequence if that fails.
	_ = os.WriteFile("/proc/self/comm", []byte(stageName), 0)
	s := stage{conn: conn{stageSocket}}
	if err := s.run(); err != nil {
		// When the caller is gone there is nobody to tell.
		_ = s.conn.send(kindFailed, failureOf(err))
	}
	return true
}

// stage is the process in the namespace. Its main goroutine sets up, then runs and reaps; once the command runs, a second
// one reads the caller's messages.
type stage struct {
	conn    conn
	covered bool // /etc/resolv.conf is ours

	mu sync.Mutex // of sending, once the command runs
}

func (s *stage) send(kind messageKind, v any, fds ...int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.send(kind, v, fds...)
}

func (s *stage) run() error {
	if err := closeInherited(); err != nil {
		return err
	}
	m, err := s.conn.receive()
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	var cfg stageConfig
	if err := m.decode(&cfg); err != nil {
		return err
	}
	if cfg.Update != nil {
		if err := cfg.Update.apply(); err != nil {
			return err
		}
		return s.conn.send(kindReady, stageReady{})
	}
	if cfg.Open != nil {
		fds, err := cfg.Open.sockets()
		if err != nil {
			return err
		}
		return s.conn.send(kindReady, stageReady{}, fds...)
	}
	warnings, err := s.setUp(&cfg)
	if err != nil {
		return err
	}
	tap, more, err := configureNetwork(&cfg.Config)
	if err != nil {
		return err
	}
	ready := stageReady{Name: tap.Name, MAC: tap.MAC, MTU: tap.MTU, Offloads: tap.Offloads, Warnings: append(warnings, more...)}
	fds := tap.FDs
	if cfg.Sockets {
		diag, err := openDiag()
		if err != nil {
			return err
		}
		ready.Sockets, fds = true, append(fds, diag)
	}
	if !cfg.Attached {
		route, err := openRoute()
		if err != nil {
			return err
		}
		ready.Stats, fds = true, append(fds, route)
	}
	if err := s.conn.send(kindReady, ready, fds...); err != nil || cfg.Attached {
		return err
	}
	// The descriptors stay open here to the end, although nothing uses them: whoever closes the last one waits some 20 ms
	// for the kernel to take the interface down, and it shall not be the caller on its way out.
	return s.serve()
}

// setUp prepares what belongs to new namespaces only: mounts and signals.
func (s *stage) setUp(cfg *stageConfig) (warnings []string, err error) {
	if cfg.Attached {
		return nil, nil
	}
	absorbSignals()
	if err := privateMounts(); err != nil {
		return nil, err
	}
	// Before /proc changes: in the order of the paths that are used.
	if cfg.ResolvConf != nil {
		if err := coverResolvConf(cfg.ResolvConf); err != nil {
			warnings = append(warnings, err.Error())
		} else {
			s.covered = true
		}
	}
	if w := mountProc(); w != "" {
		warnings = append(warnings, w)
	}
	if err := openPingGroups(); err != nil {
		warnings = append(warnings, fmt.Sprintf("opening ping to all groups inside: %v", err))
	}
	if err := calmTailProbes(); err != nil {
		warnings = append(warnings, fmt.Sprintf("switching TCP tail loss probes off inside: %v: a busy machine may show needless retransmissions", err))
	}
	return warnings, nil
}

// absorbSignals keeps the stage alive when the terminal or somebody outside signals the whole process group: the command
// has got the signal too, and the stage ends with the command. A handler is what exec resets to the default for the
// command; ignoring would be inherited. What the caller ignores already (nohup) stays ignored for the command too.
func absorbSignals() {
	unread := make(chan os.Signal, 1)
	for _, sig := range []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
	} {
		if !signal.Ignored(sig) {
			signal.Notify(unread, sig)
		}
	}
}

// serve waits for the command to run, and runs it. It returns nil when the caller is gone or the command has ended.
func (s *stage) serve() error {
	for {
		m, err := s.conn.receive()
		if err != nil {
			return nil
		}
		if m.kind != kindStart {
			closeAll(m.fds)
			switch m.kind {
			case kindUpdate:
				s.update(&m)
			case kindOpen:
				s.open(&m)
			}
			continue
		}
		c, err := startCommand(m)
		closeAll(m.fds)
		if err != nil {
			var failed *StartError
			if !errors.As(err, &failed) {
				return err
			}
			if err := s.conn.send(kindNotStarted, stageFailure{Message: failed.msg, Code: failed.Code}); err != nil {
				return nil
			}
			continue
		}
		if err := s.conn.send(kindStarted, nil); err != nil {
			return nil
		}
		callerGone := make(chan struct{})
		go func() {
			defer close(callerGone)
			s.relaySignals(c)
		}()
		status, err := c.reap(func(stop stageStop) error { return s.send(kindStopped, stop) })
		if err == nil {
			err = killRest()
		}
		if err == nil {
			err = s.send(kindExited, status)
		}
		if err == nil {
			<-callerGone
		}
		return err
	}
}

// relaySignals sends the command what the caller asks for. When the caller is gone it kills the command and returns.
func (s *stage) relaySignals(c *command) {
	for {
		m, err := s.conn.receive()
		if err != nil {
			_ = unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0)
			return
		}
		closeAll(m.fds)
		var sig stageSignal
		var stop stageStop
		switch {
		case m.kind == kindSignal && m.decode(&sig) == nil:
			// The command may have ended meanwhile, which the caller learns from its status.
			_ = unix.PidfdSendSignal(c.pidfd, syscall.Signal(sig.Signal), nil, 0)
		case m.kind == kindContinue && m.decode(&stop) == nil:
			time.AfterFunc(continueDelay, func() { c.resume(stop) })
		case m.kind == kindUpdate:
			s.update(&m)
		case m.kind == kindOpen:
			s.open(&m)
		}
	}
}

// closeInherited closes what the stage got from the caller's own parent by inheritance. Those are just the descriptors without
// the close-on-exec mark: the runtime opens its own with it.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("listing the descriptors: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= stageSocket {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	unix.CloseOnExec(stageSocket)
	return nil
}
