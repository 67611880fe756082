package netbench

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/bench/internal/procfs"
	"github.com/vasta-net/vasta/internal/lab"
)

const (
	iperfPort = 5201
	relayPort = 5202

	// startLimit is how long a tool may take until its agent has a network.
	startLimit = 30 * time.Second
	// closeLimit is how long a tool may take to end after its command has: on emulated processors that others use, seconds.
	closeLimit = 15 * time.Second
	// answerSlack is what an agent's answer may take beyond the load itself.
	answerSlack = 10 * time.Second
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// servers says where the servers of a session listen.
type servers struct {
	ns   *lab.Namespace
	addr netip.Addr
}

// session is a subject at work: an agent whose traffic goes through it.
type session struct {
	agent    *agent.Client
	agentCmd *lab.Cmd
	helper   *lab.Cmd // the tool, when the agent is not its child; else nil
	stderr   *tail    // of the tool
	toolPID  int      // of the tool's first process, 0 for a yardstick
	counters string   // file that vasta writes its counters to on SIGUSR1, "" for others
	network  agent.NetworkInfo
	behind   servers
	target   netip.AddrPort // of iperf3; its address is that of the load generators too
	lastLoad time.Time      // when the last load ended
}

// startSession starts cmd, which is or becomes the parent of an agent. On error
// nothing is left of it.
func startSession(cmd *lab.Cmd) (*session, error) {
	x := &session{agentCmd: cmd, stderr: &tail{}}
	cmd.Stderr = x.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if x.agent, err = agent.Connect(stdin, stdout, startLimit); err != nil {
		cmd.Kill()
		return nil, x.explain(errors.Join(err, ignoreExit(cmd.Wait())))
	}
	return x, nil
}

// connect waits until the agent has a network and points the session at the
// gateway, behind which the servers are.
func (x *session) connect(behind servers) error {
	req := agent.Request{Op: agent.Network, Congestion: congestion, Duration: startLimit}
	resp, err := x.agent.Call(req, startLimit+answerSlack)
	if err != nil {
		return x.explain(err)
	}
	x.network = *resp.Network
	x.behind = behind
	x.target = netip.AddrPortFrom(x.network.Gateway, iperfPort)
	x.lastLoad = time.Now()
	return nil
}

// call asks the agent for a load that takes about d.
func (x *session) call(req agent.Request, d time.Duration) (agent.Response, error) {
	if !req.Server.IsValid() {
		req.Server = x.target.Addr()
	}
	resp, err := x.agent.Call(req, d+answerSlack)
	x.lastLoad = time.Now()
	if err != nil {
		return resp, x.explain(err)
	}
	return resp, nil
}

// explain adds to err what the tool last wrote to its standard error.
func (x *session) explain(err error) error {
	if text := x.stderr.String(); text != "" {
		return fmt.Errorf("%w; it says: %s", err, text)
	}
	return err
}

// close ends the agent, and with it the tool. It returns an error when that took
// a signal.
func (x *session) close() error {
	err := x.agent.Close()
	timer := time.AfterFunc(closeLimit, x.agentCmd.Kill)
	exit := x.agentCmd.Wait()
	if !timer.Stop() {
		err = errors.Join(err, fmt.Errorf("did not end within %v after its command", closeLimit))
	} else {
		err = errors.Join(err, exit)
	}
	if x.helper != nil {
		x.helper.Kill()
		err = errors.Join(err, ignoreExit(x.helper.Wait()))
	}
	return err
}

// toolProcesses returns the processes of the tool without the agent and what it
// runs.
func (x *session) toolProcesses() ([]procfs.Process, error) {
	procs, err := procfs.Processes()
	if err != nil {
		return nil, err
	}
	tree := procfs.Tree(procs, x.toolPID, isAgent)
	if len(tree) == 0 {
		return nil, x.explain(errors.New("the tool has ended"))
	}
	return tree, nil
}

// isAgent recognises an agent by its command line; the tool that has it as an
// argument has it further back.
func isAgent(p procfs.Process) bool {
	return len(p.Args) > 3 && slices.Equal(p.Args[1:3], []string{"bench", agent.Command})
}

// toolCPU returns the processor time that the tool has used so far.
func (x *session) toolCPU() (time.Duration, error) {
	tree, err := x.toolProcesses()
	var sum time.Duration
	for _, p := range tree {
		sum += p.CPU
	}
	return sum, err
}

// scheduling sums up how the tool's processes were scheduled so far; there are none of a yardstick.
func (x *session) scheduling() (procfs.Scheduling, error) {
	if x.toolPID == 0 {
		return procfs.Scheduling{}, nil
	}
	tree, err := x.toolProcesses()
	var sum procfs.Scheduling
	for _, p := range tree {
		s, err := procfs.ReadScheduling(p.PID)
		if err != nil {
			return sum, err
		}
		sum.Ran += s.Ran
		sum.Waited += s.Waited
	}
	return sum, err
}

// toolMemory returns the tool's memory in bytes: the sum of the proportional set
// sizes of its processes.
func (x *session) toolMemory() (int64, error) {
	tree, err := x.toolProcesses()
	var sum int64
	for _, p := range tree {
		pss, err := procfs.PSS(p.PID)
		if err != nil {
			return 0, fmt.Errorf("memory of process %d: %w", p.PID, err)
		}
		sum += pss
	}
	return sum, err
}

// ignoreExit drops the exit status of a command that was killed on purpose.
func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// tailSize is how much of a tool's standard error is kept.
const tailSize = 512

// tail is an io.Writer that keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	t.data = t.data[max(0, len(t.data)-tailSize):]
	return len(p), nil
}

// String returns what was kept as one line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.Join(bytes.Fields(t.data), []byte(" ")))
}
