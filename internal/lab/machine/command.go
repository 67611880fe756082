package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/internal/lab"
)

// Ordinary is a user of the guest without privileges, with a home.
var Ordinary = lab.User{UID: 1000, GID: 1000}

// Cmd is a command to run in the guest. Its fields may be set before Run is called.
type Cmd struct {
	// Args is the command line. Args[0] is a path, or a name that is looked for in the guest's PATH.
	Args []string
	// Env is added to the guest's environment, which holds PATH, HOME, USER, LANG and TMPDIR.
	Env []string
	// Dir is the working folder, by default the user's home.
	Dir string
	// User is who runs it, by default root.
	User lab.User
	// Stdout and Stderr get what the command writes, while it runs, from one goroutine; nil discards it. They must not block for long:
	// all commands wait for them.
	Stdout, Stderr io.Writer

	machine *Machine
}

// ExitError says that a command ran and failed.
type ExitError struct {
	Name string
	// Status is the exit status, -1 when Signal ended the command.
	Status int
	Signal syscall.Signal
}

func (e *ExitError) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("%s in the guest: signal: %v", e.Name, e.Signal)
	}
	return fmt.Sprintf("%s in the guest: exit status %d", e.Name, e.Status)
}

// Command prepares a command. Standard input is empty.
func (m *Machine) Command(args ...string) *Cmd { return &Cmd{Args: args, machine: m} }

// Run runs the command and waits for it. A command that failed gives an [ExitError]. When ctx ends first, the command's process
// group is killed; that the guest has crashed or hangs is an error with the console's last lines.
func (c *Cmd) Run(ctx context.Context) error {
	if len(c.Args) == 0 {
		return errors.New("machine: a command without arguments")
	}
	r := &running{cmd: c, done: make(chan struct{})}
	id, err := c.machine.start(r)
	if err != nil {
		return err
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
	}
	err = fmt.Errorf("machine: %s: %w", filepath.Base(c.Args[0]), context.Cause(ctx))
	if killErr := c.machine.send(order{ID: id, Kill: &killOrder{unix.SIGKILL}}); killErr != nil {
		return errors.Join(err, killErr)
	}
	return errors.Join(err, c.machine.awaitEnd(r))
}

// Output runs the command and returns its standard output; an error carries what it wrote to standard error.
func (c *Cmd) Output(ctx context.Context) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run(ctx)
	if err != nil && stderr.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the command and returns its standard output and standard error.
func (c *Cmd) CombinedOutput(ctx context.Context) ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run(ctx)
	return out.Bytes(), err
}

// running is a command that the guest was asked to run.
type running struct {
	cmd  *Cmd
	done chan struct{}
	once sync.Once
	err  error // once done is closed
}

// take is told what the guest reports of the command.
func (r *running) take(report report) {
	if o := report.Output; o != nil {
		w := r.cmd.Stdout
		if o.Stderr {
			w = r.cmd.Stderr
		}
		if w != nil {
			_, _ = w.Write(o.Data) // as a terminal would, the command goes on without a reader
		}
	}
	if e := report.Ended; e != nil {
		switch {
		case e.Err != "":
			r.lose(fmt.Errorf("machine: starting %s: %s", r.cmd.Args[0], e.Err))
		case e.Signal != 0 || e.Status != 0:
			r.lose(&ExitError{Name: filepath.Base(r.cmd.Args[0]), Status: e.Status, Signal: e.Signal})
		default:
			r.lose(nil)
		}
	}
}

// lose ends the wait for the command.
func (r *running) lose(err error) {
	r.once.Do(func() {
		r.err = err
		close(r.done)
	})
}

// start asks the guest to run a command.
func (m *Machine) start(r *running) (id uint64, err error) {
	m.mu.Lock()
	if m.commands == nil || m.closed {
		m.mu.Unlock()
		return 0, errors.New("machine: the guest has ended")
	}
	m.lastID++
	id = m.lastID
	m.commands[id] = r
	m.mu.Unlock()
	c := r.cmd
	return id, m.send(order{ID: id, Run: &runOrder{Args: c.Args, Env: c.Env, Dir: c.Dir, UID: c.User.UID, GID: c.User.GID}})
}

func (m *Machine) send(o order) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.orders.Encode(o); err != nil {
		return fmt.Errorf("machine: the guest takes no orders: %w", err)
	}
	return nil
}

// awaitEnd waits until a killed command has ended. A guest that does not even do that hangs, and is ended.
func (m *Machine) awaitEnd(r *running) error {
	select {
	case <-r.done:
		return nil
	case <-time.After(closeLimit):
	}
	err := m.fail(fmt.Errorf("the guest hangs: %s outlives SIGKILL by %v", filepath.Base(r.cmd.Args[0]), closeLimit))
	m.stopEmulator()
	return err
}
