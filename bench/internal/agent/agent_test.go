package agent

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/bench/internal/load"
)

const limit = 20 * time.Second

// start runs a session in this process and connects to it.
func start(t *testing.T) *Client {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	status := make(chan int, 1)
	var stderr strings.Builder
	go func() {
		status <- Main([]string{"session"}, inR, outW, &stderr)
		outW.Close()
	}()
	c, err := Connect(inW, outR, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if s := <-status; s != 0 {
			t.Errorf("agent ended with %d: %s", s, stderr.String())
		}
	})
	return c
}

func TestSessionRunsEveryGenerator(t *testing.T) {
	loopback := netip.MustParseAddr("127.7.2.1")
	s, err := load.Listen(loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := start(t)
	for _, op := range []Operation{RR, UDPRR, CRR} {
		r, err := c.Call(Request{Op: op, Server: loopback, Duration: 20 * time.Millisecond}, limit)
		if err != nil {
			t.Fatal(err)
		}
		if r.Latency == nil || r.Latency.Exchanges == 0 {
			t.Errorf("%s: %+v", op, r.Latency)
		}
	}
	if _, err := c.Call(Request{Op: Trickle, Duration: time.Second}, limit); err == nil {
		t.Error("connections that are not open have carried something")
	}
	for _, op := range []Operation{Gather, Trickle, Release} {
		r, err := c.Call(Request{Op: op, Server: loopback, Count: 20, Duration: time.Second}, limit)
		if err != nil {
			t.Fatal(err)
		}
		if op == Trickle && (r.Trickled == nil || r.Trickled.Messages != 20 || r.Trickled.Lost != 0) {
			t.Errorf("%+v", r.Trickled)
		}
	}
	if r, err := c.Call(Request{Op: Churn, Server: loopback, Count: 50, Clients: 4}, limit); err != nil || r.Churned.Done != 50 {
		t.Errorf("%+v, %v", r.Churned, err)
	}
	stream := load.Stream{Size: 64, Rate: 1000, Duration: 20 * time.Millisecond}
	if r, err := c.Call(Request{Op: Datagrams, Server: loopback, Datagrams: stream}, limit); err != nil || r.Probe.Arrivals.Received == 0 {
		t.Errorf("%+v, %v", r.Probe, err)
	}
	if r, err := c.Call(Request{Op: RateOf, Server: loopback, Datagrams: stream, Download: true}, 2*limit); err != nil || len(r.Found.Probes) == 0 {
		t.Errorf("%+v, %v", r.Found, err)
	}
	if r, err := c.Call(Request{Op: Large, Server: loopback, Count: 3}, limit); err != nil || r.Answered.Right != 3 {
		t.Errorf("%+v, %v", r.Answered, err)
	}
	if r, err := c.Call(Request{Op: TCP}, limit); err != nil || r.TCP == nil {
		t.Errorf("%+v, %v", r.TCP, err)
	}
}

func TestResolverAgent(t *testing.T) {
	for _, kind := range []struct {
		name     string
		answered int
	}{{"resolver", 20}, {"silent", 0}} {
		inR, inW := io.Pipe()
		outR, outW := io.Pipe()
		status := make(chan int, 1)
		var stderr strings.Builder
		go func() { status <- Main([]string{kind.name, "127.7.2.2"}, inR, outW, &stderr) }()
		resolver, err := Connect(inW, outR, limit)
		if err != nil {
			t.Fatal(err)
		}
		r, err := start(t).Call(Request{Op: Resolve, Server: netip.MustParseAddr("127.7.2.2"), Count: 1000, Duration: 20 * time.Millisecond}, 2*limit)
		if err != nil || r.Resolved.Queries != 20 || r.Resolved.Answered != kind.answered {
			t.Errorf("%s: %+v, %v", kind.name, r.Resolved, err)
		}
		if err := resolver.Close(); err != nil {
			t.Error(err)
		}
		if s := <-status; s != 0 {
			t.Errorf("%s ended with %d: %s", kind.name, s, stderr.String())
		}
	}
}

func TestStreamsBetweenAgents(t *testing.T) {
	loopback := netip.MustParseAddr("127.7.2.1")
	s, err := load.ListenStreams()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := start(t)
	for _, download := range []bool{false, true} {
		r, err := c.Call(Request{Op: Streams, Server: loopback, Count: 2, Download: download, Duration: 50 * time.Millisecond}, limit)
		if err != nil || r.Streamed.Bytes == 0 || r.Streamed.Wrong != 0 {
			t.Errorf("%+v, %v", r.Streamed, err)
		}
	}
}

func TestPingBesideALoad(t *testing.T) {
	loopback := netip.MustParseAddr("127.7.2.1")
	c := start(t)
	for _, test := range []struct {
		script string
		pings  time.Duration
		err    string
	}{
		{"sleep 3; echo '{}'", 200 * time.Millisecond, ""},
		{"echo '{}'", 200 * time.Millisecond, "before it began"},
		{"sleep 0.6; echo '{}'", time.Second, "ended before it"}, // on a busy machine perhaps before it began
	} {
		r, err := c.Call(Request{Op: Ping, Server: loopback, Duration: test.pings, Argv: []string{"sh", "-c", test.script}}, limit)
		if test.err == "" && (err != nil || r.Latency.Exchanges != 100 || string(r.Output) != "{}") ||
			test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: %+v %s, %v", test.script, r.Latency, r.Output, err)
		}
	}
}

func TestExec(t *testing.T) {
	c := start(t)
	for _, test := range []struct {
		script, output, err string
	}{
		{`echo '{"a":1}'`, `{"a":1}`, ""},
		{`echo '{"error":"refused"}'; exit 1`, `{"error":"refused"}`, ""},
		{`echo because >&2; exit 3`, "", "exit status 3 because"},
		{`echo words`, "", "not JSON"},
		{`exec sleep 600`, "", "not finished after 500ms"},
	} {
		r, err := c.Call(Request{Op: Exec, Argv: []string{"sh", "-c", test.script}, Duration: 500 * time.Millisecond}, limit)
		switch {
		case test.err == "" && (err != nil || strings.TrimSpace(string(r.Output)) != test.output):
			t.Errorf("%s: %q, %v", test.script, r.Output, err)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: error %v, want %q", test.script, err, test.err)
		}
	}
	for _, req := range []Request{{Op: Exec}, {Op: "dance"}, {Op: RR, Server: netip.MustParseAddr("127.7.2.2")}} {
		if _, err := c.Call(req, limit); err == nil || errors.Is(err, ErrDead) {
			t.Errorf("%+v: error %v", req, err)
		}
	}
}

func TestClientGivesUpOnASilentAgent(t *testing.T) {
	_, inW := io.Pipe()
	outR, _ := io.Pipe()
	if _, err := Connect(inW, outR, 10*time.Millisecond); !errors.Is(err, ErrDead) {
		t.Errorf("silent agent: %v", err)
	}
	if _, err := Connect(inW, strings.NewReader("command not found"), limit); !errors.Is(err, ErrDead) {
		t.Errorf("an agent that is none: %v", err)
	}
	c := start(t)
	slow := Request{Op: Exec, Argv: []string{"sleep", "0.2"}, Duration: limit}
	if _, err := c.Call(slow, 10*time.Millisecond); !errors.Is(err, ErrDead) {
		t.Errorf("slow answer: %v", err)
	}
	if _, err := c.Call(Request{Op: Release}, limit); !errors.Is(err, ErrDead) {
		t.Errorf("call after the session's end: %v", err)
	}
}

func TestMainRefusesUnknownKinds(t *testing.T) {
	for _, args := range [][]string{nil, {"spy"}, {"session", "x"}, {"server", "nowhere"}, {"relay", "127.0.0.1:0", "nowhere"}} {
		var stderr strings.Builder
		if Main(args, strings.NewReader(""), io.Discard, &stderr) == 0 {
			t.Errorf("%q was accepted", args)
		}
		if strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: not one line: %q", args, stderr.String())
		}
	}
}

func TestServerAndRelayEndWithTheirInput(t *testing.T) {
	for _, args := range [][]string{{"server", "127.7.2.3"}, {"relay", "127.7.2.3:0", "127.0.0.1:1"}} {
		var stdout, stderr strings.Builder
		if s := Main(args, strings.NewReader(""), &stdout, &stderr); s != 0 || stdout.String() != "{}\n" {
			t.Errorf("%q: %d %q %q", args, s, stdout.String(), stderr.String())
		}
	}
}

func TestDefaultRoute(t *testing.T) {
	const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	const lan = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
	for _, test := range []struct {
		name, table, iface, gateway, err string
	}{
		{"empty", "", "", "invalid IP", ""},
		{"only a network", head + lan, "", "invalid IP", ""},
		{"default", head + lan + "tap0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "tap0", "10.0.2.2", ""},
		{"on link", head + "tap0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n", "", "invalid IP", ""},
		{"bad gateway", head + "tap0\t00000000\tXY02000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "", "invalid IP", "gateway"},
		{"bad flags", head + "tap0\t00000000\t0202000A\tup\t0\t0\t0\t00000000\t0\t0\t0\n", "", "invalid IP", "flags"},
	} {
		name, gw, err := defaultRoute([]byte(test.table))
		if name != test.iface || gw.String() != test.gateway || (err != nil) != (test.err != "") ||
			err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %q %v %v", test.name, name, gw, err)
		}
	}
}
