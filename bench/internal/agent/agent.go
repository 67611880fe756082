// Package agent is the part of the benchmarks that runs where the load is made:
// inside the namespace of the tool under test. It reads requests as JSON lines
// from standard input, answers each with a JSON line on standard output, and ends
// with its standard input. [Client] is its other end.
//
// A benchmark that needs servers or a relay runs those as agents as well, see
// [Main].
package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"syscall"
	"time"

	"github.com/vasta-net/vasta/bench/internal/load"
	"github.com/vasta-net/vasta/bench/internal/procfs"
	"github.com/vasta-net/vasta/bench/internal/relay"
)

// Command is the word after "bench" on the command line of a process that is an
// agent. It is not for users.
const Command = "agent"

// Operation is what a request asks for.
type Operation string

// The operations of a session.
const (
	Network Operation = "network" // wait for the default route, tell the network's settings
	Exec    Operation = "exec"    // run Argv, return its standard output
	RR      Operation = "rr"
	UDPRR   Operation = "udprr"
	CRR     Operation = "crr"
	Gather  Operation = "gather"  // open Count connections and keep them
	Release Operation = "release" // close them
	Trickle Operation = "trickle" // let each of them carry 1 kbit/s both ways
	Churn   Operation = "churn"   // have Count short connections
	Streams Operation = "streams" // have Count streams for Duration, every byte checked
	// Ping sends echo requests for Duration; beside Argv, when set, which runs longer and whose output is returned too.
	Ping Operation = "ping"
	TCP  Operation = "tcp" // read the kernel's counters
	Mix  Operation = "mix" // a load of all kinds, to Server and Far, for Duration

	Datagrams Operation = "datagrams" // have the stream Datagrams, with Server
	RateOf    Operation = "rateof"    // search for the highest rate of it that is carried
	Large     Operation = "large"     // have Count requests of the largest datagrams
	Resolve   Operation = "resolve"   // ask the resolver Server Count questions a second for Duration
)

// Request is one line to an agent.
type Request struct {
	Op         Operation
	Argv       []string      `json:",omitempty"`
	Server     netip.Addr    // of the load generators
	Far        []netip.Addr  `json:",omitempty"`
	Download   bool          `json:",omitempty"` // streams come from the server
	Datagrams  load.Stream   // of Datagrams and RateOf
	Clients    int           `json:",omitempty"` // of Churn
	Duration   time.Duration // of the generators; how long Network and Exec may take
	Count      int           `json:",omitempty"`
	Congestion string        `json:",omitempty"` // the default that Network shall try to set
}

// Response is one line from an agent. Of the results only that of the request is
// set.
type Response struct {
	Error   string          `json:",omitempty"`
	Output  json.RawMessage `json:",omitempty"` // of Exec
	Latency *load.Latency   `json:",omitempty"`
	Network *NetworkInfo    `json:",omitempty"`

	Streamed *load.Streamed      `json:",omitempty"`
	Trickled *load.Trickled      `json:",omitempty"`
	Churned  *load.Churned       `json:",omitempty"`
	TCP      *procfs.TCPCounters `json:",omitempty"`
	Mixed    *load.Mixed         `json:",omitempty"`

	Probe    *load.Probe    `json:",omitempty"` // of Datagrams
	Found    *load.Found    `json:",omitempty"` // of RateOf
	Answered *load.Answered `json:",omitempty"`
	Resolved *load.Resolved `json:",omitempty"`
}

// hello is the line that an agent sends before it reads requests.
var hello = Response{}

// Main runs an agent of the kind that args names and returns its exit status:
//
//	session             serves requests on stdin and stdout
//	server ADDRESS      answers load generators, until its standard input ends
//	streams             is the other end of checked streams, until its standard input ends
//	relay LISTEN TARGET passes TCP connections on, until its standard input ends
//	resolver ADDRESS    answers questions for addresses at port 53, until its standard input ends
//	silent ADDRESS      takes them and does not answer
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if err := run(args, stdin, stdout); err != nil {
		fmt.Fprintf(stderr, "vasta bench %s: %v\n", Command, err)
		return 1
	}
	return 0
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "session":
		return serve(stdin, stdout)
	case len(args) == 2 && args[0] == "server":
		return runServer(args[1], stdin, stdout)
	case len(args) == 1 && args[0] == "streams":
		s, err := load.ListenStreams()
		if err != nil {
			return err
		}
		return errors.Join(untilEnd(stdin, stdout), s.Close())
	case len(args) == 3 && args[0] == "relay":
		return runRelay(args[1], args[2], stdin, stdout)
	case len(args) == 2 && (args[0] == "resolver" || args[0] == "silent"):
		return runResolver(args[1], args[0] == "silent", stdin, stdout)
	}
	return fmt.Errorf("%q is not a kind of agent with its arguments", args)
}

func runServer(address string, stdin io.Reader, stdout io.Writer) error {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	s, err := load.Listen(addr)
	if err != nil {
		return err
	}
	return errors.Join(untilEnd(stdin, stdout), s.Close())
}

func runResolver(address string, silent bool, stdin io.Reader, stdout io.Writer) error {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	s, err := load.ListenResolver(netip.AddrPortFrom(addr, load.PortDNS), silent)
	if err != nil {
		return err
	}
	return errors.Join(untilEnd(stdin, stdout), s.Close())
}

func runRelay(listen, target string, stdin io.Reader, stdout io.Writer) error {
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- relay.Serve(ln.(*net.TCPListener), to) }()
	return errors.Join(untilEnd(stdin, stdout), ln.Close(), <-failed)
}

// untilEnd says hello and waits for the end of stdin.
func untilEnd(stdin io.Reader, stdout io.Writer) error {
	if err := json.NewEncoder(stdout).Encode(hello); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, stdin)
	return err
}

// serve answers requests one after the other until stdin ends.
func serve(stdin io.Reader, stdout io.Writer) error {
	enc, dec := json.NewEncoder(stdout), json.NewDecoder(stdin)
	if err := enc.Encode(hello); err != nil {
		return err
	}
	var s session
	defer s.release()
	for {
		var req Request
		if err := dec.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("request: %w", err)
		}
		resp, err := s.do(req)
		if err != nil {
			resp.Error = err.Error()
		}
		if err := enc.Encode(resp); err != nil {
			return err
		}
	}
}

// session is what an agent keeps between requests.
type session struct {
	crowd *load.Crowd
}

func (s *session) do(req Request) (resp Response, err error) {
	var latency load.Latency
	switch req.Op {
	case Network:
		resp.Network, err = network(req.Congestion, req.Duration)
	case Exec:
		resp.Output, err = execute(req.Argv, req.Duration)
	case RR:
		latency, err = load.RR(req.Server, req.Duration)
		resp.Latency = &latency
	case UDPRR:
		latency, err = load.UDPRR(req.Server, req.Duration)
		resp.Latency = &latency
	case CRR:
		latency, err = load.CRR(req.Server, req.Duration)
		resp.Latency = &latency
	case Gather:
		s.release()
		s.crowd, err = load.Gather(req.Server, req.Count)
	case Release:
		s.release()
	case Trickle:
		resp.Trickled, err = s.trickle(req.Duration)
	case Churn:
		churned := load.Churn(req.Server, req.Count, req.Clients, nil)
		resp.Churned = &churned
	case Streams:
		streamed, streamErr := load.Streams{Server: req.Server, Count: req.Count, Download: req.Download, Duration: req.Duration}.Run()
		resp.Streamed, err = &streamed, streamErr
	case Ping:
		resp.Latency, resp.Output, err = pingBeside(req.Server, req.Duration, req.Argv)
	case Mix:
		mixed := load.Mix{Server: req.Server, Far: req.Far, Duration: req.Duration}.Run()
		resp.Mixed = &mixed
	case Datagrams:
		probe, probeErr := load.Datagrams(req.Server, req.Datagrams, req.Download)
		resp.Probe, err = &probe, probeErr
	case RateOf:
		found, searchErr := load.Search{Server: req.Server, Stream: req.Datagrams, Download: req.Download}.Run()
		resp.Found, err = &found, searchErr
	case Large:
		answered, largeErr := load.LargeDatagrams(req.Server, req.Count, load.LargestDatagram)
		resp.Answered, err = &answered, largeErr
	case Resolve:
		resolved, resolveErr := load.Resolve(req.Server, req.Count, req.Duration)
		resp.Resolved, err = &resolved, resolveErr
	case TCP:
		counters, tcpErr := procfs.ReadTCPCounters()
		resp.TCP, err = &counters, tcpErr
	default:
		err = fmt.Errorf("unknown operation %q", req.Op)
	}
	return resp, err
}

func (s *session) release() {
	if s.crowd != nil {
		s.crowd.Close()
		s.crowd = nil
	}
}

func (s *session) trickle(d time.Duration) (*load.Trickled, error) {
	if s.crowd == nil {
		return nil, errors.New("no connections are open")
	}
	t := s.crowd.Trickle(d)
	return &t, nil
}

// pingLead is how long the program beside a ping has to get going.
const pingLead = 500 * time.Millisecond

// pingBeside pings for d while the program runs, and returns its output too. It fails when the program ends before the ping.
func pingBeside(target netip.Addr, d time.Duration, argv []string) (*load.Latency, json.RawMessage, error) {
	if argv == nil {
		l, err := load.Ping(target, d)
		return &l, nil, err
	}
	var output json.RawMessage
	ended := make(chan error, 1)
	go func() {
		var err error
		output, err = execute(argv, 2*(d+pingLead)+10*time.Second)
		ended <- err
	}()
	select {
	case err := <-ended:
		return nil, output, errors.Join(errors.New("the load beside the ping ended before it began"), err)
	case <-time.After(pingLead):
	}
	l, err := load.Ping(target, d)
	select {
	case endErr := <-ended:
		err = errors.Join(err, errors.New("the load beside the ping ended before it"), endErr)
	default:
		err = errors.Join(err, <-ended)
	}
	return &l, output, err
}

// execute runs a program that writes JSON to its standard output. Output is
// returned even when the program fails: iperf3 explains itself there.
func execute(argv []string, limit time.Duration) (json.RawMessage, error) {
	if len(argv) == 0 {
		return nil, errors.New("no program to run")
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: not finished after %v", argv[0], limit)
	}
	if json.Valid(out.Bytes()) {
		return out.Bytes(), nil
	}
	if err == nil {
		err = errors.New("its output is not JSON")
	}
	return nil, fmt.Errorf("%s: %w %s", argv[0], err, bytes.TrimSpace(stderr.Bytes()))
}
