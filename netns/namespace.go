package netns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace with its TAP, made by [Create] or joined by [Attach]. Its methods may be called from
// several goroutines, except that Start and Wait have one caller each.
type Namespace struct {
	tap      TAP
	warnings []string
	sockets  *Sockets        // nil when it was not asked for
	stats    *interfaceStats // nil when attached
	gone     <-chan struct{}
	stage    *stageProcess // nil when attached
	watch    *watcher      // nil when created
	attached *attachment   // the same
	terminal *terminal     // nil without Command.Foreground
	started  bool
}

// TAP returns the interface. Its descriptors belong to the caller, who has to close them.
func (n *Namespace) TAP() *TAP { return &n.tap }

// Warnings lists what the machine refused and what follows from it, one line each; the network works all the same.
func (n *Namespace) Warnings() []string { return n.warnings }

// Sockets tells what listens inside; nil unless [Config].Sockets was set. It works until Close.
func (n *Namespace) Sockets() *Sockets { return n.sockets }

// Gone is closed when the namespace has ended: the stage's end when it was created; the end of Target.PID, or of the
// path of Target.NetNS, when it was attached to.
func (n *Namespace) Gone() <-chan struct{} { return n.gone }

// Start runs a command in a namespace made by [Create], at most once. The error is a [*StartError] when the command
// itself could not be executed; another may be tried then.
func (n *Namespace) Start(c Command) error {
	if n.stage == nil {
		return errors.New("starting a command: the namespace was attached to: commands run only in a created one")
	}
	if n.started {
		return errors.New("starting a command: the namespace has had one: create another namespace")
	}
	if len(c.Argv) == 0 {
		return errors.New("starting a command: it is empty: name a program")
	}
	files, closeFiles, err := standardFiles(c.Stdin, c.Stdout, c.Stderr)
	if err != nil {
		return err
	}
	defer closeFiles()
	if c.Foreground {
		n.terminal = openTerminal()
		n.stage.onStopped(suspend)
	}
	m, err := n.stage.ask(kindStart, stageCommand{Argv: c.Argv, Env: c.Env}, files[:]...)
	if err == nil && m.kind == kindNotStarted {
		var failure stageFailure
		if err = m.decode(&failure); err == nil {
			err = &StartError{Code: failure.Code, msg: failure.Message}
		}
	}
	if err != nil {
		n.terminal.close()
		n.terminal = nil
		return err
	}
	n.started = true
	return nil
}

// standardFiles returns descriptors 0 to 2 of a command, /dev/null in the place of nil.
func standardFiles(files ...*os.File) (fds [3]int, closeNull func(), err error) {
	closeNull = func() {}
	var null *os.File
	for i, f := range files {
		if f == nil && null == nil {
			if null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return fds, closeNull, fmt.Errorf("starting a command: %w", err)
			}
			closeNull = func() { null.Close() }
		}
		if f == nil {
			f = null
		}
		// Not Fd, which would make the file blocking for the caller.
		raw, err := f.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { fds[i] = int(fd) })
		}
		if err != nil {
			closeNull()
			return fds, func() {}, fmt.Errorf("starting a command: descriptor %d: %w", i, err)
		}
	}
	return fds, closeNull, nil
}

// Wait waits until the command has ended and everything it left behind in the PID namespace has been killed, and gives
// the terminal back to the caller's process group if the command ran in the foreground. The empty namespace stays until
// Close or the caller's own end.
func (n *Namespace) Wait() (ExitStatus, error) {
	if !n.started {
		return ExitStatus{}, errors.New("waiting for a command: none was started")
	}
	<-n.stage.ended
	n.terminal.takeBack()
	n.terminal.close()
	return n.stage.status, n.stage.err
}

// Signal sends sig to the command. A command that has ended is no error.
func (n *Namespace) Signal(sig syscall.Signal) error {
	if n.stage == nil {
		return errors.New("signalling the command: the namespace was attached to and has none")
	}
	return n.stage.tell(kindSignal, stageSignal{int(sig)})
}

// Close kills every process of a created namespace and waits for their end, that of the stage alone excepted, when the
// command and its like have ended before: it is the one that takes the interface down, for some 20 ms, provided that the
// caller has closed the TAP's descriptors by then. Gone tells of its end. Of an attached namespace Close only stops the
// watching. The TAP's descriptors stay open.
func (n *Namespace) Close() error {
	if n.sockets != nil {
		n.sockets.Close()
	}
	if n.stats != nil {
		n.stats.close()
	}
	if n.stage != nil {
		n.stage.kill()
		<-n.stage.ended
		return nil
	}
	n.watch.close()
	return nil
}

// stageProcess is the stage, seen from the caller.
type stageProcess struct {
	conn    conn
	ready   stageReady
	fds     []int         // the TAP's, until they are handed over
	replies chan message  // answers to ask
	updated chan message  // answers to Update
	opened  chan message  // answers to Open, with descriptors
	ended   chan struct{} // closed when the command has ended, or the stage; status and err are set before
	done    chan struct{} // closed when the stage has been waited for

	status ExitStatus
	err    error

	mu      sync.Mutex // guards sending on conn, pid and stopped
	pid     int        // 0 when it has been waited for
	stopped func()
}

// startStage runs a stage by fork, which returns its pid, configures it, and waits until it is ready. remote is the stage's end of
// the socketpair, which fork passes as descriptor stageSocket.
func startStage(cfg stageConfig, fork func(remote conn) (pid int, err error)) (*stageProcess, error) {
	local, remote, err := connPair()
	if err != nil {
		return nil, err
	}
	s := &stageProcess{conn: local, replies: make(chan message, 1), updated: make(chan message, 1), opened: make(chan message, 1), ended: make(chan struct{}), done: make(chan struct{})}
	ready := make(chan error, 1)
	go func() {
		// The kernel kills the stage when the thread that forked it ends (PR_SET_PDEATHSIG): this one lasts as long as
		// the stage.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		pid, err := fork(remote)
		remote.close()
		if err != nil {
			local.close()
			ready <- err
			return
		}
		s.pid = pid
		if err := s.handshake(cfg); err != nil {
			s.kill()
			s.wait()
			ready <- err
			return
		}
		ready <- nil
		reported := s.receive()
		if reported {
			close(s.ended)
		} else {
			s.kill() // most likely it is dead already
		}
		ws := s.wait()
		if !reported {
			s.status = exitStatus(ws)
			s.err = fmt.Errorf("the namespace's first process ended: %w", ErrGone)
			close(s.ended)
		}
		close(s.done)
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return s, nil
}

// handshake sends the configuration and takes the answer.
func (s *stageProcess) handshake(cfg stageConfig) error {
	err := s.conn.send(kindConfig, cfg)
	var m message
	if err == nil {
		m, err = s.conn.receive()
	}
	if err == nil {
		err = s.readReady(&m)
	}
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it ended without a word: the kernel or a security module killed it, or memory is short")
		}
		closeAll(m.fds)
		var blocked *blockedError
		if errors.As(err, &blocked) {
			return err
		}
		return fmt.Errorf("setting up the namespace: %w", err)
	}
	s.fds = m.fds
	return nil
}

func (s *stageProcess) readReady(m *message) error {
	switch m.kind {
	case kindReady:
		return m.decode(&s.ready)
	case kindFailed:
		var failure stageFailure
		if err := m.decode(&failure); err != nil {
			return err
		}
		return failure.unpack()
	}
	return fmt.Errorf("message %d came instead of the stage's answer", m.kind)
}

// receive reads the stage's messages until it ends. It returns whether the stage has said how the command ended.
func (s *stageProcess) receive() (reported bool) {
	for {
		m, err := s.conn.receive()
		if err != nil {
			return false
		}
		if m.kind == kindOpened {
			s.opened <- m
			continue
		}
		closeAll(m.fds)
		switch m.kind {
		case kindStarted, kindNotStarted:
			s.replies <- m
		case kindUpdated:
			s.updated <- m
		case kindStopped:
			s.mu.Lock()
			stopped := s.stopped
			s.mu.Unlock()
			var stop stageStop
			if stopped == nil || m.decode(&stop) != nil {
				continue
			}
			stopped()
			_ = s.tell(kindContinue, stop) // fails only when the stage is gone, which ends the loop
		case kindExited:
			s.err = m.decode(&s.status)
			return true
		case kindFailed:
			var failure stageFailure
			if s.err = m.decode(&failure); s.err == nil {
				s.err = failure.unpack()
			}
			return true
		}
	}
}

// wait reaps the stage. The kernel lets pid 1 of a PID namespace end only after every other process in it.
func (s *stageProcess) wait() (ws syscall.WaitStatus) {
	for {
		_, err := syscall.Wait4(s.pid, &ws, 0, nil)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = 0
	s.conn.close()
	return ws
}

// tell sends a message that has no answer.
func (s *stageProcess) tell(kind messageKind, v any, fds ...int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid == 0 {
		return ErrGone
	}
	if err := s.conn.send(kind, v, fds...); err != nil {
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			return ErrGone
		}
		return err
	}
	return nil
}

// ask sends a message and waits for its answer.
func (s *stageProcess) ask(kind messageKind, v any, fds ...int) (message, error) {
	if err := s.tell(kind, v, fds...); err != nil {
		return message{}, err
	}
	select {
	case m := <-s.replies:
		return m, nil
	case <-s.ended:
		// The answer may have come just before the end.
		select {
		case m := <-s.replies:
			return m, nil
		default:
		}
		if s.err != nil {
			return message{}, s.err
		}
		return message{}, ErrGone
	}
}

// onStopped sets what is called, on the receiving thread, when a signal has stopped the command. The command is continued after
// it.
func (s *stageProcess) onStopped(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = f
}

func (s *stageProcess) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid != 0 {
		// It cannot fail: the process is our child, and has not been waited for.
		_ = unix.Kill(s.pid, unix.SIGKILL)
	}
}
