package e2e_test

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
	"golang.org/x/sys/unix"
)

// console is a terminal with a shell, and somebody who types.
type console struct {
	t      *testing.T
	master *os.File
	out    *logBuffer
	mark   int // what was looked at already
	cmd    *lab.Cmd
}

// openConsole runs a command as the leader of a session on a terminal of its own.
func openConsole(t *testing.T, l *lab.Lab, argv ...string) *console {
	t.Helper()
	master, slave := openPTY(t)
	defer slave.Close()
	c := &console{t: t, master: master, out: &logBuffer{}, cmd: l.Host.Command(lab.Ordinary, argv...)}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = slave, slave, slave
	c.cmd.SysProcAttr.Setpgid = false
	c.cmd.SysProcAttr.Setsid, c.cmd.SysProcAttr.Setctty = true, true
	c.cmd.Env = append(c.cmd.Env, "PS1=ready>", "TERM=dumb", "HISTFILE=")
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		_, _ = io.Copy(c.out, master) // EIO when the last process has closed the terminal
		close(read)
	}()
	t.Cleanup(func() {
		c.cmd.Kill()
		_ = c.cmd.Wait() // killed, or ended before
		master.Close()
		<-read
		if t.Failed() {
			t.Logf("the terminal:\n%s", c.out)
		}
	})
	return c
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if e := conn.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); e != nil || err != nil {
		t.Fatal(e, err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := slave.Chown(int(lab.Ordinary.UID), int(lab.Ordinary.GID)); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// enter types text.
func (c *console) enter(text string) {
	c.t.Helper()
	if _, err := c.master.WriteString(text); err != nil {
		c.t.Fatal(err)
	}
}

// expect waits until a pattern appears behind what was expected before.
func (c *console) expect(pattern string) {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		text := c.out.String()
		if found := re.FindStringIndex(text[c.mark:]); found != nil {
			c.mark += found[1]
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("no %q behind %q", pattern, text[c.mark:])
		}
	}
}

// insist types text again and again until a pattern appears: what it needs may not be there yet, which a terminal does not
// tell.
func (c *console) insist(text, pattern string) {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(settleLimit); time.Now().Before(deadline); {
		c.enter(text)
		time.Sleep(100 * time.Millisecond)
		if re.MatchString(c.out.String()[c.mark:]) {
			break
		}
	}
	c.expect(pattern)
}

// Keys of a terminal.
const (
	ctrlC = "\x03"
	ctrlD = "\x04"
	ctrlZ = "\x1a"
)

// bash is a shell with job control and nobody's configuration.
var bash = []string{"bash", "--norc", "--noprofile", "--noediting", "-i"}

// TestJobControlOutside handles vasta and its command as one job of the shell that starts it.
func TestJobControlOutside(t *testing.T) {
	c := openConsole(t, newLab(t), bash...)
	c.expect(`ready>`)
	c.enter(vastaPath + " -q -- sh -c 'echo run''ning; exec sleep 1000'\n")
	c.expect(`running`)
	c.enter(ctrlZ)
	c.expect(`Stopped`)
	c.enter("jobs\n")
	c.expect(`Stopped.*vasta`)
	c.enter("fg\n")
	c.expect(`vasta.*sleep 1000`)
	c.insist(ctrlC, `ready>`)
	c.enter("echo status=$?\n")
	c.expect(`status=130\s`)

	// In the background it stops when it wants to read, and goes on in the foreground.
	c.enter(vastaPath + " -q -- sh -c 'echo ag''ain; read line; echo got=$line' &\n")
	c.expect(`again`)
	c.insist("jobs\n", `Stopped.*vasta`)
	c.expect(`ready>`)
	c.enter("fg\n")
	c.expect(`vasta`)
	c.enter("words\n")
	c.expect(`got=words\s`)
	c.enter("exit 3\n")
	_ = c.cmd.Wait() // the status is looked at
	if got := c.cmd.ProcessState.ExitCode(); got != 3 {
		t.Errorf("the shell's status is %d", got)
	}
}

// TestJobControlInside runs a shell with job control as the command.
func TestJobControlInside(t *testing.T) {
	c := openConsole(t, newLab(t), append([]string{vastaPath, "-q", "--"}, bash...)...)
	c.expect(`ready>`)
	if strings.Contains(c.out.String(), "no job control") {
		t.Error("the shell has no job control")
	}
	c.enter("sh -c 'echo sl''eeping; exec sleep 1000'\n")
	c.expect(`sleeping`)
	c.enter(ctrlZ)
	c.expect(`Stopped`)
	c.expect(`ready>`)
	c.enter("fg\n")
	c.expect(`sleep 1000`)
	c.insist(ctrlC, `ready>`) // the shell says so first, and gives the terminal away then
	c.enter("echo status=$?\n")
	c.expect(`status=130\s`)
	c.enter("exit 5\n")
	_ = c.cmd.Wait() // the status is looked at
	if got := c.cmd.ProcessState.ExitCode(); got != 5 {
		t.Errorf("vasta's status is %d", got)
	}
}

// TestShellIsTheDefault checks that a terminal gets the user's shell, which ends at the end of its input.
func TestShellIsTheDefault(t *testing.T) {
	c := openConsole(t, newLab(t), "env", "SHELL=/bin/bash", vastaPath, "-q")
	c.expect(`[$#>]$`)
	c.enter("echo in=$0 user=$(id -u)\n")
	c.expect(`in=/bin/bash user=0`)
	c.enter(ctrlD)
	if err := c.cmd.Wait(); err != nil {
		t.Error(err)
	}
}
