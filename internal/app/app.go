package app

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"

	"github.com/vasta-net/vasta/internal/options"
	"github.com/vasta-net/vasta/link"
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
	p, err := planFromHost(o)
	if err != nil {
		return exitFailure, err
	}
	argv := o.Args
	if len(argv) == 0 {
		argv = []string{shell()}
	}
	return run(o, p, argv, os.Environ())
}

// run is Run with the command and its environment.
func run(o *options.Options, p *plan, argv, env []string) (status int, err error) {
	log, closeLog, err := newLogger(&o.Log)
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	ns, err := netns.Create(p.inside)
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	n, err := newNetwork(o, p, ns.TAP(), log)
	if err != nil {
		return exitFailure, err
	}
	n.start()
	defer func() { err = errors.Join(err, n.finish(o)) }()
	announce(log, p, ns)
	ports, err := watchPorts(o, p, ns, n)
	if err != nil {
		return exitFailure, err
	}
	defer ports.stop()
	defer follow(o, p, ns, n).stop()
	// Whoever is told that the network is ready may send signals from then on.
	signals := make(chan os.Signal, 16)
	listen(signals, unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	if err := ready(o); err != nil {
		return exitFailure, err
	}
	err = ns.Start(netns.Command{
		Argv: argv, Env: env, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Foreground: true,
	})
	if err != nil {
		if e, ok := errors.AsType[*netns.StartError](err); ok {
			return e.Code, err
		}
		return exitFailure, err
	}
	return waitForCommand(o, n, ns, signals)
}

// waitForCommand passes signals on to the command until it ends.
func waitForCommand(o *options.Options, n *network, ns *netns.Namespace, signals <-chan os.Signal) (int, error) {
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { n.watch(o, ns, signals, ended) })
	status, err := ns.Wait()
	close(ended)
	watching.Wait() // it uses the network, which is given back next
	if err != nil {
		return exitFailure, err
	}
	return status.Shell(), nil
}

// watch follows what happens while the command runs, until ended is closed: signals, and the end of the network.
func (n *network) watch(o *options.Options, ns *netns.Namespace, signals <-chan os.Signal, ended <-chan struct{}) {
	gone := n.done
	for {
		select {
		case s := <-signals:
			n.handleSignal(o, ns, s.(unix.Signal))
		case <-gone:
			gone = nil // it stays closed
			if errors.Is(n.result, link.ErrGone) {
				n.log.Warn("the interface inside is gone: the command has no network any more")
			} else {
				n.log.Error("the command has no network any more", "error", n.result)
			}
		case <-ended:
			return
		}
	}
}

// handleSignal writes the counters for SIGUSR1 when they were asked for. Signals that a terminal sends to the whole
// foreground have reached the command already; the others are passed on.
func (n *network) handleSignal(o *options.Options, ns *netns.Namespace, s unix.Signal) {
	switch s {
	case unix.SIGUSR1:
		if o.Counters.Enabled {
			n.writeCounters(o)
			return
		}
	case unix.SIGINT, unix.SIGQUIT:
		return
	}
	_ = ns.Signal(s) // the command may have ended meanwhile
}

// Attach gives an existing namespace a network, until the namespace is gone or a signal ends it.
func Attach(o *options.Options) (status int, err error) {
	log, closeLog, err := newLogger(&o.Log)
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	p, err := planFromHost(o)
	if err != nil {
		return exitFailure, err
	}
	p.inside.ResolvConf = nil // the mounts of a namespace that exists are its own affair
	signals := make(chan os.Signal, 4)
	listen(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1)
	ns, err := netns.Attach(netns.Target{PID: o.Target.PID, NetNS: o.Target.NetNS, UserNS: o.Target.UserNS}, p.inside)
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	n, err := newNetwork(o, p, ns.TAP(), log)
	if err != nil {
		return exitFailure, err
	}
	n.start()
	defer func() { err = errors.Join(err, n.finish(o)) }()
	announce(log, p, ns)
	ports, err := watchPorts(o, p, ns, n)
	if err != nil {
		return exitFailure, err
	}
	defer ports.stop()
	defer follow(o, p, ns, n).stop()
	if err := ready(o); err != nil {
		return exitFailure, err
	}
	for {
		select {
		case <-ns.Gone():
			log.Info("the namespace is gone")
			return 0, nil
		case <-n.done:
			if errors.Is(n.result, link.ErrGone) {
				log.Info("the namespace's interface is gone")
			}
			return 0, nil // any other end is for finish to report
		case s := <-signals:
			if s == unix.SIGUSR1 {
				if o.Counters.Enabled {
					n.writeCounters(o)
				}
				continue
			}
			return 0, nil
		}
	}
}

// planFromHost reads the host's network and plans the inside.
func planFromHost(o *options.Options) (*plan, error) {
	host, err := netns.HostNetwork(o.Host.Template, o.Host.Template)
	if err != nil {
		return nil, err
	}
	return makePlan(o, host, hostResolvConf())
}

// announce logs what the network was set up with.
func announce(log *slog.Logger, p *plan, ns *netns.Namespace) {
	for _, w := range ns.Warnings() {
		log.Warn(w)
	}
	t := ns.TAP()
	log.Info("network is up", "interface", t.Name, "mtu", t.MTU, "addresses", fmt.Sprint(p.inside.Addrs),
		"gateway", fmt.Sprint(valid(p.mapping.Gateway)), "host_loopback", fmt.Sprint(valid(p.mapping.Loopback)))
}

// ready tells whoever waits on the descriptor of --ready-fd that the network works.
func ready(o *options.Options) error {
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
