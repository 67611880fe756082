package netbench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vasta-net/vasta/bench/internal/agent"
	"github.com/vasta-net/vasta/bench/internal/iperf"
	"github.com/vasta-net/vasta/internal/lab"
)

// rig is the lab with everything that all subjects share.
type rig struct {
	lab         *lab.Lab
	opts        Options
	agentPath   string
	hostServers servers        // what tools reach at their gateway
	behind      *lab.Namespace // of the routed veth, nil until it is asked for
	agents      []*session     // load generators' servers and the relay
	sessions    int            // of vasta so far, to name files by
	restore     func() error
	say         func(format string, args ...any) // a line of progress
}

// newRig builds the lab and starts the servers. The caller closes it.
func newRig(ctx context.Context, o Options) (_ *rig, err error) {
	r := &rig{opts: o, restore: func() error { return nil }}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.lab, err = lab.New(); err != nil {
		return nil, err
	}
	if r.restore, err = allowCongestion(); err != nil {
		r.restore = func() error { return nil }
		return nil, err
	}
	for _, ns := range []*lab.Namespace{r.lab.Host, r.lab.Inet} {
		settings := map[string]string{"net.ipv4.tcp_congestion_control": congestion, "net.ipv4.tcp_tw_reuse": "1"}
		for key, value := range settings {
			if err := ns.Sysctl(key, value); err != nil {
				return nil, err
			}
		}
	}
	// Agents run from a file of their own: pages of a shared binary would be
	// taken off the tool's proportional set size.
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("own binary: %w", err)
	}
	r.agentPath = filepath.Join(r.lab.Dir(), "agent")
	if err := copyExecutable(self, r.agentPath); err != nil {
		return nil, fmt.Errorf("copy of the own binary: %w", err)
	}
	if err := os.Mkdir(r.countersDir(), 0o700); err != nil {
		return nil, err
	}
	if err := os.Chown(r.countersDir(), int(lab.Ordinary.UID), int(lab.Ordinary.GID)); err != nil {
		return nil, err
	}
	r.hostServers = servers{ns: r.lab.Host, addr: loopback}
	inet := lab.InetAddr4.Addr()
	for _, a := range []struct {
		ns   *lab.Namespace
		args []string
	}{
		{r.lab.Host, []string{"server", loopback.String()}},
		{r.lab.Inet, []string{"server", inet.String()}},
		{r.lab.Host, []string{"streams"}},
		{r.lab.Inet, []string{"streams"}},
		{r.lab.Inet, []string{
			"relay",
			netip.AddrPortFrom(inet, relayPort).String(), netip.AddrPortFrom(loopback, iperfPort).String(),
		}},
	} {
		x, err := startSession(a.ns.CommandContext(ctx, lab.Root, r.agentArgv(a.args...)...))
		if err != nil {
			return nil, fmt.Errorf("%s in %s: %w", a.args[0], a.ns.Name(), err)
		}
		r.agents = append(r.agents, x)
	}
	return r, nil
}

// countersDir belongs to the user that vasta runs as.
func (r *rig) countersDir() string { return filepath.Join(r.lab.Dir(), "counters") }

// countersFile names a file for the counters of one more session.
func (r *rig) countersFile() string {
	r.sessions++
	return filepath.Join(r.countersDir(), strconv.Itoa(r.sessions)+".json")
}

// close takes everything down.
func (r *rig) close() error {
	var errs []error
	for _, x := range r.agents {
		errs = append(errs, x.close())
	}
	if r.lab != nil {
		errs = append(errs, r.lab.Close())
	}
	return errors.Join(append(errs, r.restore())...)
}

// exchangeTime is the duration of a request/response load.
func (r *rig) exchangeTime() time.Duration {
	if r.opts.Quick {
		return 300 * time.Millisecond
	}
	return r.opts.Duration
}

// cpuBytes is how much a load moves that counts processor time.
func (r *rig) cpuBytes() int64 {
	if r.opts.Quick {
		return 256 * mib
	}
	return 2 * gib
}

// patience is how much longer than planned a load may take.
func (r *rig) patience() time.Duration {
	if r.opts.Quick {
		return 6 * time.Second
	}
	return time.Minute
}

// startups is how often a tool is started to time its start-up once.
func (r *rig) startups() int {
	if r.opts.Quick {
		return 5
	}
	return 10
}

// runIperf runs one test from the session's agent to a fresh server behind the
// subject; it is given up after limit.
func (r *rig) runIperf(ctx context.Context, x *session, t iperf.Test, limit time.Duration) (iperf.Report, error) {
	_, report, err := r.withIperf(ctx, x, t, agent.Request{Op: agent.Exec, Duration: limit}, limit)
	return report, err
}

// withIperf is runIperf by means of a request that has the agent run a program, which may be more than that; it takes
// about d.
func (r *rig) withIperf(ctx context.Context, x *session, t iperf.Test, req agent.Request, d time.Duration) (agent.Response, iperf.Report, error) {
	none := agent.Response{}
	t.Server, t.Congestion = x.target, congestion
	listen := netip.AddrPortFrom(x.behind.addr, iperfPort)
	server := x.behind.ns.CommandContext(ctx, lab.Root, iperf.ServerArgs(listen)...)
	if err := server.Start(); err != nil {
		return none, iperf.Report{}, fmt.Errorf("iperf3 server: %w", err)
	}
	defer func() {
		server.Kill()
		_ = server.Wait() // its exit status says nothing that the client's report does not
	}()
	if err := waitListening(ctx, server.Process.Pid, iperfPort); err != nil {
		return none, iperf.Report{}, fmt.Errorf("iperf3 server: %w", err)
	}
	req.Argv = t.ClientArgs()
	resp, err := x.call(req, d)
	if err != nil {
		return none, iperf.Report{}, err
	}
	report, err := iperf.Parse(resp.Output)
	if err != nil {
		return none, iperf.Report{}, err
	}
	if report.SenderCongestion != congestion {
		return none, iperf.Report{}, fmt.Errorf("iperf3 sent with congestion control %q instead of %q", report.SenderCongestion, congestion)
	}
	return resp, report, nil
}

// waitListening waits until somebody in the network namespace of the process
// listens on the TCP port, over IPv4.
func waitListening(ctx context.Context, pid int, port uint16) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
		if err != nil {
			return err
		}
		if listening(table, port) {
			return nil
		}
		if err := sleepUntil(ctx, time.Now().Add(2*time.Millisecond)); err != nil {
			return fmt.Errorf("nobody listens on port %d", port)
		}
	}
}

// listening looks for a listener in a table as /proc/net/tcp shows it.
func listening(table []byte, port uint16) bool {
	want := ":" + strings.ToUpper(fmt.Sprintf("%04x", port))
	for line := range bytes.Lines(table) {
		fields := strings.Fields(string(line))
		const local, state = 1, 3
		const listen = 10 // TCP_LISTEN of linux/tcp_states.h
		if len(fields) <= state || !strings.HasSuffix(fields[local], want) {
			continue
		}
		if s, err := strconv.ParseUint(fields[state], 16, 8); err == nil && s == listen {
			return true
		}
	}
	return false
}
