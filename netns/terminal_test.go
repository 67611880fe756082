package netns

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A console is a pseudo-terminal with an interactive shell on it, and somebody who types and reads.
type console struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd

	mu     sync.Mutex
	output strings.Builder // what has been printed since the last expect
	all    strings.Builder
}

// newConsole starts argv as the session leader of a new terminal. The variable VASTA in its environment is the command line that
// runs a command in a namespace; the commands find the helper's configuration in theirs.
func newConsole(t *testing.T, argv ...string) *console {
	t.Helper()
	// Non-blocking from the start, so that Close ends a Read.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("/dev/ptmx: %v", err)
	}
	master := os.NewFile(uintptr(fd), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	// Not by its name: /dev/pts may be another instance of devpts than the one behind /dev/ptmx.
	const openPeer = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, openPeer)
	if errno != 0 {
		t.Fatal(errno)
	}
	slave := os.NewFile(peer, "pts")
	defer slave.Close()

	binary, err := os.Open(procSelfExe)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	c := &console{t: t, master: master, cmd: exec.Command(argv[0], argv[1:]...)}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = slave, slave, slave
	c.cmd.ExtraFiles = []*os.File{binary} // descriptor 3
	c.cmd.Env = append(os.Environ(), "VASTA=env "+helperEnv+"={} /proc/self/fd/3", "PS1=outer> ", "TERM=dumb", "HISTFILE=", "BASH_SILENCE_DEPRECATION_WARNING=1")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go c.read()
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
		master.Close()
	})
	return c
}

func (c *console) read() {
	buf := make([]byte, 4096)
	for {
		n, err := c.master.Read(buf)
		if err != nil {
			return // the terminal is closed
		}
		c.mu.Lock()
		c.output.Write(buf[:n])
		c.all.Write(buf[:n])
		c.mu.Unlock()
	}
}

// expect waits until the text has been printed after the text expected before.
func (c *console) expect(text string) {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		c.mu.Lock()
		_, rest, found := strings.Cut(c.output.String(), text)
		if found {
			c.output.Reset()
			c.output.WriteString(rest)
		}
		all := c.all.String()
		c.mu.Unlock()
		if found {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%q does not come within 10 s; the terminal so far:\n%s", text, all)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// typeLine types a line; the terminal echoes it.
func (c *console) typeLine(format string, args ...any) {
	c.t.Helper()
	c.press(fmt.Sprintf(format, args...) + "\n")
}

func (c *console) press(keys string) {
	c.t.Helper()
	if _, err := c.master.WriteString(keys); err != nil {
		c.t.Fatal(err)
	}
}

const (
	ctrlC = "\x03"
	ctrlZ = "\x1a"
)

// The texts are written as concatenations that the echo of the typed line does not contain.

func TestTerminalInterrupt(t *testing.T) {
	c := newConsole(t, "bash", "--norc", "-i")
	c.expect("outer> ")
	c.typeLine(`$VASTA sh -c 'echo rea""dy; sleep 100'`)
	c.expect("ready")
	c.press(ctrlC)
	c.expect("outer> ")
	c.typeLine(`echo status=$?`)
	c.expect("status=130")
}

// TestTerminalSuspend suspends a command that knows nothing of it, twice, and continues it in between.
func TestTerminalSuspend(t *testing.T) {
	c := newConsole(t, "bash", "--norc", "-i")
	c.expect("outer> ")
	c.typeLine(`$VASTA sh -c 'trap "echo contin""ued" CONT; echo rea""dy; until read x; do :; done; echo go""t $x; exit 5'`)
	c.expect("ready")
	for range 3 {
		c.press(ctrlZ)
		c.expect("Stopped")
		c.expect("outer> ")
		c.typeLine("fg")
		c.expect("continued") // and so it is in the foreground
	}
	c.typeLine("tea")
	c.expect("got tea")
	c.expect("outer> ")
	c.typeLine(`echo status=$?`)
	c.expect("status=5")
}

// TestTerminalSelfStop runs a command that stops nobody but itself: the shell must learn of it all the same.
func TestTerminalSelfStop(t *testing.T) {
	c := newConsole(t, "bash", "--norc", "-i")
	c.expect("outer> ")
	c.typeLine(`$VASTA sh -c 'kill -STOP $$; echo resu""med; exit 6'`)
	c.expect("Stopped")
	c.typeLine("fg")
	c.expect("resumed")
	c.typeLine(`echo status=$?`)
	c.expect("status=6")
}

// TestTerminalBackground continues a command in the background, where it must not take the terminal. The shell waits for a process it
// has forked before: one that it is about to start with vfork would be stopped in its stead.
func TestTerminalBackground(t *testing.T) {
	c := newConsole(t, "bash", "--norc", "-i")
	c.expect("outer> ")
	c.typeLine(`$VASTA sh -c 'sleep 0.3 & echo rea""dy; wait; echo do""ne'`)
	c.expect("ready")
	c.press(ctrlZ)
	c.expect("Stopped")
	c.typeLine("bg")
	c.expect("done")
	c.typeLine(`wait; echo still=he""re`)
	c.expect("still=here")
}

// TestTerminalBackgroundRead lets a command in the background read from the terminal, which stops it and us.
func TestTerminalBackgroundRead(t *testing.T) {
	c := newConsole(t, "bash", "--norc", "-i")
	c.expect("outer> ")
	c.typeLine(`$VASTA sh -c 'read x; echo go""t $x' &`)
	c.expect("outer> ")
	c.typeLine(`until jobs %%1 | grep -q Stopped; do sleep 0.05; done; echo read""ing`)
	c.expect("reading")
	c.typeLine("fg")
	c.expect("$VASTA")
	c.typeLine("tea")
	c.expect("got tea")
	c.expect("outer> ")
}

// TestTerminalShellInside uses job control in a shell inside, whose process group becomes the terminal's foreground group.
func TestTerminalShellInside(t *testing.T) {
	c := newConsole(t, "bash", "--norc", "-i")
	c.expect("outer> ")
	c.typeLine(`PS1=in'ner> ' $VASTA bash --norc -i`)
	c.expect("inner> ")
	// The command starts no process that ^Z could stop between vfork and exec, in its stead.
	c.typeLine(`sh -c 'trap "echo contin""ued" CONT; echo u""p; while :; do read x; done'`)
	c.expect("up") // and so the inner shell has handed the terminal over
	c.press(ctrlZ)
	c.expect("Stopped")
	c.expect("inner> ")
	c.typeLine("jobs")
	c.expect("Stopped")
	c.expect("inner> ")
	c.typeLine("fg")
	c.expect("continued") // and so it is in the foreground
	c.press(ctrlC)
	c.expect("inner> ")
	c.typeLine("suspend -f")
	c.expect("Stopped")
	c.expect("outer> ")
	c.typeLine("fg")
	c.expect("inner> ")
	c.typeLine("exit 7")
	c.expect("outer> ")
	c.typeLine(`echo status=$?`)
	c.expect("status=7")
}

// TestTerminalTakenBack runs a shell inside from a script, which has no job control and so relies on getting the terminal
// back: without it, read would stop the script for good.
func TestTerminalTakenBack(t *testing.T) {
	c := newConsole(t, "sh", "-c", `PS1=in'ner> ' $VASTA bash --norc -i; echo back=$?; read x; echo "got=$x"`)
	c.expect("inner> ")
	c.typeLine("exit 3")
	c.expect("back=3")
	c.typeLine("tea")
	c.expect("got=tea")
}

// TestTerminalHangup closes the terminal under a command.
func TestTerminalHangup(t *testing.T) {
	c := newConsole(t, "bash", "--norc", "-i")
	c.expect("outer> ")
	c.typeLine(`$VASTA sh -c 'echo ns=$(readlink /proc/self/ns/pid); sleep 1000'`)
	c.expect("ns=pid:[")
	eventually(t, "the namespace's name", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return strings.Contains(c.output.String(), "]")
	})
	c.mu.Lock()
	id, _, _ := strings.Cut(c.output.String(), "]")
	c.mu.Unlock()
	pidNS := "pid:[" + id + "]"
	if len(processesIn(t, pidNS)) == 0 {
		t.Fatalf("no process in %s", pidNS)
	}
	c.master.Close()
	eventually(t, "the end of all processes in "+pidNS, func() bool { return len(processesIn(t, pidNS)) == 0 })
}
