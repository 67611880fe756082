package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// waitDelay is how long a killed command may keep its output pipes open.
const waitDelay = 2 * time.Second

// User is the identity that a command runs under. It needs no entry in
// /etc/passwd.
type User struct {
	UID, GID uint32
}

var (
	// Root is the superuser.
	Root = User{}
	// Ordinary is a user without any privilege and without supplementary groups.
	Ordinary = User{UID: 31000, GID: 31000}
)

// Cmd is an exec.Cmd that starts inside a namespace, as the leader of a process
// group of its own. Fields of the embedded Cmd may be set before it starts;
// overriding Start, Run, Wait, Output and CombinedOutput here keeps the
// namespace and the group with it.
//
// Kill, the end of the context given to CommandContext, Lab.Close and the death of this
// process kill it; all but the last kill the whole group. It must be waited for.
type Cmd struct {
	*exec.Cmd
	ns *Namespace
}

// Command prepares argv to run in the namespace as user. Its environment holds
// only PATH, LANG, TMPDIR, HOME and XDG_RUNTIME_DIR; the last two are
// directories that belong to the user and vanish with the lab. An error of the preparation is
// returned by Start.
func (ns *Namespace) Command(user User, argv ...string) *Cmd {
	return ns.CommandContext(context.Background(), user, argv...)
}

// CommandContext is Command bounded by ctx: when ctx ends first, the process
// group is killed.
func (ns *Namespace) CommandContext(ctx context.Context, user User, argv ...string) *Cmd {
	if len(argv) == 0 {
		argv = []string{""} // exec.Cmd reports it when started
	}
	c := &Cmd{Cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), ns: ns}
	c.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Pdeathsig:  syscall.SIGKILL,
		Credential: &syscall.Credential{Uid: user.UID, Gid: user.GID},
	}
	c.Cancel = c.kill
	c.WaitDelay = waitDelay
	home, err := ns.lab.dir.home(user)
	if err != nil && c.Err == nil {
		c.Err = fmt.Errorf("lab: home of user %d: %w", user.UID, err)
	}
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	c.Dir = home
	c.Env = []string{
		"PATH=" + path,
		"LANG=C.UTF-8",
		"TMPDIR=" + home,
		"HOME=" + home,
		"XDG_RUNTIME_DIR=" + filepath.Join(home, "run"),
	}
	return c
}

// Start starts the command inside its namespace.
func (c *Cmd) Start() error {
	if err := c.ns.lab.track(c); err != nil {
		return err
	}
	err := c.ns.Do(c.Cmd.Start)
	if err != nil {
		c.ns.lab.untrack(c)
	}
	return err
}

// Wait waits for a started command. What is left of its process group is killed,
// so that no background child outlives it.
func (c *Cmd) Wait() error {
	defer c.ns.lab.untrack(c)
	if c.Process == nil {
		return c.Cmd.Wait() // reports that it was not started
	}
	// The ended leader is not reaped before its group is killed: until then
	// nobody else can get the group's number.
	for {
		err := unix.Waitid(unix.P_PID, c.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	c.Kill()
	return c.Cmd.Wait()
}

// Run starts the command and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output. An error names the
// command and carries what it wrote to standard error.
func (c *Cmd) Output() ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.explain(c.Run(), &stderr)
	return stdout.Bytes(), err
}

// CombinedOutput runs the command and returns its standard output and standard
// error, interleaved as written.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.explain(c.Run(), nil)
	return out.Bytes(), err
}

func (c *Cmd) explain(err error, stderr *bytes.Buffer) error {
	if err == nil {
		return nil
	}
	if stderr == nil || stderr.Len() == 0 {
		return fmt.Errorf("lab: %s in %s: %w", filepath.Base(c.Path), c.ns.name, err)
	}
	return fmt.Errorf("lab: %s in %s: %w: %s", filepath.Base(c.Path), c.ns.name, err, bytes.TrimSpace(stderr.Bytes()))
}

// Kill kills the command's process group. It does nothing before Start and after
// Wait; the command must still be waited for.
func (c *Cmd) Kill() {
	_ = c.kill() // fails only when the group has gone
}

func (c *Cmd) kill() error {
	if c.Process == nil || c.ProcessState != nil {
		return os.ErrProcessDone
	}
	err := unix.Kill(-c.Process.Pid, unix.SIGKILL)
	if err != nil && signalGone(err) {
		return os.ErrProcessDone
	}
	return err
}

// home returns the user's home in the working directory, made when first asked
// for.
func (d *workDir) home(user User) (string, error) {
	home := filepath.Join(d.path, "home-"+strconv.FormatUint(uint64(user.UID), 10))
	for _, dir := range []string{home, filepath.Join(home, "run")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			if errors.Is(err, os.ErrExist) {
				continue
			}
			return "", err
		}
		if err := os.Chown(dir, int(user.UID), int(user.GID)); err != nil {
			return "", err
		}
	}
	return home, nil
}
