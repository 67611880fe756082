package machine

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// Self is the path, in the guest, of the program that booted it.
	Self = "/vasta-guest"
	// agentName is argv[0] of the agent.
	agentName = "vasta-guest-agent"
	// portName is the name of the virtio serial port between agent and host.
	portName = "vasta.channel"
	// Tags of the shared folders.
	tagShared = "shared"
	tagSource = "source"
	// guestPath is PATH in the guest: what Debian's packages bring comes before busybox.
	guestPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:" + busyboxDir
	// busyboxDir has a link for every command of busybox.
	busyboxDir = "/usr/lib/busybox"
)

// GuestMain is the main function of the guest's first process and of its agent. It returns false at once in any other
// process; when it returns true, the program must end. Call it as the first thing in main, and in TestMain.
func GuestMain() bool {
	switch {
	case os.Getpid() == 1 && os.Args[0] == Self:
		err := firstProcess()
		// The reason is on the console, which is the only way out from here.
		fmt.Fprintln(os.Stderr, "vasta-guest:", err)
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case os.Args[0] == agentName:
		if err := agent(); err != nil {
			fmt.Fprintln(os.Stderr, "vasta-guest: agent:", err)
		}
	default:
		return false
	}
	return true
}

// firstProcess makes a system of the initial RAM file system, starts the agent, and reaps whatever loses its parent until the agent
// ends.
func firstProcess() error {
	if err := os.Setenv("PATH", guestPath); err != nil {
		return err
	}
	if err := setUp(); err != nil {
		return err
	}
	agent, err := os.StartProcess(Self, []string{agentName}, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return err
	}
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		switch {
		case pid == agent.Pid:
			return errors.New("switching off")
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// agent carries out the host's orders until the channel closes.
func agent() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	a := &agentState{reports: gob.NewEncoder(port), groups: make(map[uint64]int)}
	if err := a.tell(report{Ready: true}); err != nil {
		return err
	}
	orders := gob.NewDecoder(port)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch {
		case o.Run != nil:
			go a.run(o.ID, o.Run)
		case o.Kill != nil:
			a.kill(o.ID, o.Kill.Signal)
		}
	}
}

// openPort opens the virtio serial port of the channel.
func openPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(string(content)) == portName {
			return os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(name))), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("none of the ports %v is called %s", names, portName)
}

// agentState is what the agent knows of its commands.
type agentState struct {
	mu      sync.Mutex
	reports *gob.Encoder
	groups  map[uint64]int // of the commands that run, their process groups
}

func (a *agentState) tell(r report) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reports.Encode(r)
}

// run runs a command and tells of it.
func (a *agentState) run(id uint64, o *runOrder) {
	end := a.runToEnd(id, o)
	if err := a.tell(report{ID: id, Ended: &end}); err != nil {
		fmt.Fprintln(os.Stderr, "vasta-guest: agent: reporting:", err)
	}
}

func (a *agentState) runToEnd(id uint64, o *runOrder) ended {
	user, home := "root", "/root"
	if o.UID != 0 {
		user, home = "user", "/home/user"
	}
	c := exec.Command(o.Args[0], o.Args[1:]...)
	c.Args[0] = o.Args[0]
	c.Dir = o.Dir
	if c.Dir == "" {
		c.Dir = home
	}
	c.Env = append([]string{"PATH=" + guestPath, "HOME=" + home, "USER=" + user, "LANG=C.UTF-8", "TMPDIR=/tmp"}, o.Env...)
	c.Stdout, c.Stderr = &reporter{a, id, false}, &reporter{a, id, true}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: o.UID, Gid: o.GID}}
	if err := c.Start(); err != nil {
		return ended{Err: err.Error()}
	}
	a.mu.Lock()
	a.groups[id] = c.Process.Pid
	a.mu.Unlock()
	err := c.Wait()
	a.mu.Lock()
	delete(a.groups, id)
	a.mu.Unlock()
	if c.ProcessState == nil {
		return ended{Err: err.Error()}
	}
	status := c.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return ended{Status: -1, Signal: status.Signal()}
	}
	return ended{Status: status.ExitStatus()}
}

// kill sends a signal to the process group of a command that still runs.
func (a *agentState) kill(id uint64, signal syscall.Signal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if group, ok := a.groups[id]; ok {
		_ = unix.Kill(-group, signal) // fails when it has just ended
	}
}

// reporter reports what is written to it.
type reporter struct {
	agent  *agentState
	id     uint64
	stderr bool
}

func (r *reporter) Write(p []byte) (int, error) {
	return len(p), r.agent.tell(report{ID: r.id, Output: &output{Stderr: r.stderr, Data: p}})
}
