// Package app is the program around a network (package vasta): what the options ask for, signals, the log, the counters, and the command.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/flow/policy"
	"github.com/vasta-net/vasta/internal/flowlog"
	"github.com/vasta-net/vasta/internal/options"
	"github.com/vasta-net/vasta/netns"
	"golang.org/x/sys/unix"
)

// Exit statuses of vasta's own.
const (
	exitFailure = 1
)

// Run gives a command, or the user's shell, a namespace with a network, and returns the command's exit status. The error, if
// any, is one line that has not been printed.
func Run(o *options.Options) (status int, err error) {
	argv := o.Args
	if len(argv) == 0 {
		argv = []string{shell()}
	}
	return run(o, func(vasta.Inside) ([]string, []string, error) { return argv, os.Environ(), nil })
}

// run is Run with the command and its environment, which may depend on what the inside is like.
func run(o *options.Options, command func(vasta.Inside) (argv, env []string, err error)) (status int, err error) {
	log, closeLog, err := newLogger(&o.Log)
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	s, err := open(o, log, vasta.Sandbox())
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, s.finish()) }()
	// Whoever is told that the network is ready may send signals from then on.
	signals := make(chan os.Signal, 16)
	listen(signals, unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	argv, env, err := command(s.network.Inside())
	if err != nil {
		return exitFailure, err
	}
	if err := s.ready(); err != nil {
		return exitFailure, err
	}
	err = s.network.Namespace().Start(netns.Command{
		Argv: argv, Env: env, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Foreground: true,
	})
	if err != nil {
		if e, ok := errors.AsType[*netns.StartError](err); ok {
			return e.Code, err
		}
		return exitFailure, err
	}
	return s.waitForCommand(signals)
}

// Attach gives an existing namespace a network, until the namespace is gone or a signal ends it.
func Attach(o *options.Options) (status int, err error) {
	log, closeLog, err := newLogger(&o.Log)
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	signals := make(chan os.Signal, 4)
	listen(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1)
	s, err := open(o, log, vasta.Attach(netns.Target{PID: o.Target.PID, NetNS: o.Target.NetNS, UserNS: o.Target.UserNS}))
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, s.finish()) }()
	if err := s.ready(); err != nil {
		return exitFailure, err
	}
	for {
		select {
		case <-s.ended:
			if errors.Is(s.result, vasta.ErrGone) {
				log.Info("the namespace is gone")
			}
			return 0, nil // any other end is for finish to report
		case got := <-signals:
			switch {
			case got == unix.SIGUSR1:
				s.writeCounters()
				continue
			case got == unix.SIGHUP && s.flows != nil:
				s.flows.Reopen()
				continue
			}
			return 0, nil
		}
	}
}

// session is a network that runs, and what the options want besides.
type session struct {
	o        *options.Options
	log      *slog.Logger
	network  *vasta.Network
	rules    *policy.Set  // nil for none
	flows    *flowlog.Log // the same
	watchers watchers
	idle     func() bool // ends whenIdle
	end      context.CancelFunc
	ended    chan struct{} // closed when the network has ended
	result   error         // why, then
}

// open makes the network that the options ask for over a link, and has it work.
func open(o *options.Options, log *slog.Logger, l vasta.Link) (*session, error) {
	s := &session{o: o, log: log, ended: make(chan struct{})}
	c := config(o, log)
	var err error
	if c.Rules, err = rules(o); err != nil {
		return nil, err
	}
	s.rules = c.Rules
	if err := filterFrames(o.FrameFilter, &c); err != nil {
		return nil, err
	}
	if err := s.logFlows(&c); err != nil {
		return nil, err
	}
	s.watchers.watch(o, &c)
	s.idle = whenIdle(&c)
	if s.network, err = vasta.New(c, l); err != nil {
		s.idle()
		return nil, errors.Join(inOptions(o, err), s.closeFlows())
	}
	if s.flows != nil {
		s.flows.SetEpoch(s.network.Epoch())
	}
	if err := s.watchers.open(o, s.network, log); err != nil {
		s.idle()
		return nil, errors.Join(err, s.network.Close(), s.closeFlows())
	}
	s.announce()
	// There is a processor for each worker, and one more: a worker's system calls do not tell the Go scheduler, which must not wait for them.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), o.Limits.Queues+1))
	ctx, end := context.WithCancel(context.Background())
	s.end = end
	go func() {
		s.result = s.network.Run(ctx)
		close(s.ended)
	}()
	select {
	case <-s.network.Ready():
		return s, nil
	case <-s.ended:
		err := inOptions(o, s.result)
		s.result = nil
		return nil, errors.Join(err, s.finish())
	}
}

// finish stops the network and writes the counters that were asked for, with the levels before everything is given back.
func (s *session) finish() error {
	s.end()
	<-s.ended
	s.idle()
	err := s.result
	if errors.Is(err, vasta.ErrGone) {
		err = nil
	}
	if s.o.Counters.Enabled {
		all, e := s.network.Stats(context.Background())
		if e == nil {
			e = writeCounters(s.o, &all, s.rules)
		}
		err = errors.Join(err, e)
	}
	return errors.Join(err, s.network.Close(), s.closeFlows(), s.watchers.close())
}

// waitForCommand passes signals on to the command until it ends.
func (s *session) waitForCommand(signals <-chan os.Signal) (int, error) {
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { s.watch(signals, ended) })
	status, err := s.network.Namespace().Wait()
	close(ended)
	watching.Wait() // it uses the network, which is given back next
	if err != nil {
		return exitFailure, err
	}
	return status.Shell(), nil
}

// watch follows what happens while the command runs, until ended is closed: signals, and the end of the network.
func (s *session) watch(signals <-chan os.Signal, ended <-chan struct{}) {
	gone := s.ended
	for {
		select {
		case got := <-signals:
			s.handleSignal(got.(unix.Signal))
		case <-gone:
			gone = nil // it stays closed
			if errors.Is(s.result, vasta.ErrGone) {
				s.log.Warn("the interface inside is gone: the command has no network any more")
			} else {
				s.log.Error("the command has no network any more", "error", s.result)
			}
		case <-ended:
			return
		}
	}
}

// handleSignal writes the counters for SIGUSR1 when they were asked for. Signals that a terminal sends to the whole
// foreground have reached the command already; the others are passed on.
func (s *session) handleSignal(got unix.Signal) {
	switch got {
	case unix.SIGUSR1:
		if s.o.Counters.Enabled {
			s.writeCounters()
			return
		}
	case unix.SIGHUP:
		if s.flows != nil { // somebody has renamed the file; a terminal that hangs up tells the command by itself
			s.flows.Reopen()
			return
		}
	case unix.SIGINT, unix.SIGQUIT:
		return
	}
	_ = s.network.Namespace().Signal(got) // the command may have ended meanwhile
}

// announce logs what the network was set up with.
func (s *session) announce() {
	for _, w := range s.network.Namespace().Warnings() {
		s.log.Warn(w)
	}
	in := s.network.Inside()
	s.log.Info("network is up", "interface", in.IfName, "mtu", in.MTU, "addresses", fmt.Sprint(in.Addrs),
		"gateway", fmt.Sprint(valid(in.Gateway)), "host_loopback", fmt.Sprint(valid(in.HostLoopback)))
}

// ready tells whoever waits on the descriptor of --ready-fd that the network works.
func (s *session) ready() error {
	o := s.o
	if o.ReadyFD < 0 {
		return nil
	}
	_, err := unix.Write(o.ReadyFD, []byte("\n"))
	if err == nil {
		err = unix.Close(o.ReadyFD)
	}
	if err != nil {
		return fmt.Errorf("option --ready-fd: cannot write to descriptor %d: %w (open it in the caller and pass its number)", o.ReadyFD, err)
	}
	return nil
}

// shell is what runs when no command is given.
func shell() string {
	if s := os.Getenv("SHELL"); s != "" {
		return s
	}
	return "/bin/sh"
}

// listen has the signals delivered to ch, but for those that the caller ignores: under nohup a hang-up stays ignored.
func listen(ch chan<- os.Signal, signals ...os.Signal) {
	for _, s := range signals {
		if !signal.Ignored(s) {
			signal.Notify(ch, s)
		}
	}
}
