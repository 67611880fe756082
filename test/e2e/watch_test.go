package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/internal/lab"
)

// TestCapture checks that -p writes what tshark reads, with GSO frames marked and every byte of a stream there.
func TestCapture(t *testing.T) {
	const size = 1 << 20
	l := newLab(t)
	file := filepath.Join(l.Host.Command(lab.Ordinary, "true").Dir, "trace.pcapng")
	r := startIn(t, l, "-p", file, "-m", "1500") // a short MTU, so that one segment is less than a frame
	f := families[0]
	if err := download(r.Guest, f.far, serve(t, r.Inet, f.far, source(size)), size); err != nil {
		t.Fatal(err)
	}
	ping := r.Guest.Command(lab.Root, "ping", "-n", "-c", "1", "-W", "2", families[1].gateway.String())
	if out, err := ping.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := r.stop()

	read := func(args ...string) []string {
		out, err := l.Host.Command(lab.Ordinary, append([]string{"tshark", "-r", file, "-n"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return slices.Collect(strings.Lines(string(out)))
	}
	if n := len(read()); uint64(n) != c.RxFrames+c.TxFrames {
		t.Errorf("%d frames in the capture, %d on the link", n, c.RxFrames+c.TxFrames)
	}
	const long = "tcp.len > 1460"
	marked := long + ` && frame.comment contains "GSO size 1448 type"`
	if n, all := len(read("-Y", marked)), len(read("-Y", long)); n != all || n == 0 {
		t.Errorf("%d of %d GSO frames are marked", n, all)
	}
	if n := len(read("-Y", "_ws.malformed")); n != 0 {
		t.Errorf("%d frames are malformed", n)
	}
	if n := len(read("-Y", "icmpv6.type == 129")); n != 1 {
		t.Errorf("%d echo replies", n)
	}
	var total int
	for _, line := range read("-Y", "ip.src == "+f.far.String()+" && tcp.len > 0", "-T", "fields", "-e", "tcp.len") {
		var n int
		if _, err := fmt.Sscan(line, &n); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if total != size {
		t.Errorf("%d bytes of the stream in the capture, want %d", total, size)
	}
}

// TestCounters checks the names in the JSON of --counters, which scripts rely on.
func TestCounters(t *testing.T) {
	r := start(t)
	f := families[0]
	if err := download(r.Guest, f.far, serve(t, r.Inet, f.far, source(1000)), 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(r.Guest, f.far, closedPort); err == nil {
		t.Error("connected")
	}
	r.settle()
	r.stop()
	b, err := os.ReadFile(r.counters)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string]string{
		"drops":        "host_refused",
		"icmp":         "closed errors_sent opened",
		"levels":       "budget_bytes flows fragments_in_use held_bytes icmp_flows pages_in_use promised_bytes tcp_flows udp_flows",
		"process":      "garbage_collections goroutines heap_bytes",
		"system_calls": "link_read link_write recv send socket wait",
		"tcp":          "accepted closed duplicate held_bytes opened out_of_order reset retransmits timeouts",
		"udp":          "closed opened",
	} {
		var group map[string]uint64
		if err := json.Unmarshal(all[name], &group); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := slices.Sorted(maps.Keys(group))
		for _, key := range strings.Fields(keys) {
			if !slices.Contains(got, key) {
				t.Errorf("%s has %v, and no %s", name, got, key)
			}
		}
	}
	for _, name := range []string{"rx_frames", "rx_bytes", "tx_frames", "tx_bytes", "dropped"} {
		var n uint64
		if err := json.Unmarshal(all[name], &n); err != nil || n == 0 {
			t.Errorf("%s is %s (%v), want a number above 0", name, all[name], err)
		}
	}
}

// TestLog checks the two forms of the log, and where it goes.
func TestLog(t *testing.T) {
	l := newLab(t)
	_, stderr := runBoth(t, l, 0, "--", "true")
	if !strings.Contains(stderr, `msg="network is up"`) || !strings.Contains(stderr, "mtu=65520") {
		t.Errorf("the log says %q", stderr)
	}
	_, stderr = runBoth(t, l, 0, "--log-format", "json", "--", "true")
	var entry map[string]any
	if err := json.Unmarshal([]byte(stderr), &entry); err != nil || entry["msg"] != "network is up" {
		t.Errorf("the log says %q: %v", stderr, err)
	}
	if _, stderr = runBoth(t, l, 0, "-q", "--", "true"); stderr != "" {
		t.Errorf("-q, and the log says %q", stderr)
	}
}

// TestVerboseLog checks that -d tells of flows, and --trace of frames as well.
func TestVerboseLog(t *testing.T) {
	l := newLab(t)
	f := families[0]
	port := serve(t, l.Host, f.loopback, source(10))
	url := "http://" + at(f.gateway, port) + "/"
	for _, tc := range []struct {
		option string
		frames bool
	}{{"-d", false}, {"--trace", true}} {
		_, stderr := runBoth(t, l, 0, tc.option, "--", "curl", "-sS", "--http0.9", "--noproxy", "*", "-o", "/dev/null", url)
		for _, want := range []string{`level=DEBUG msg="flow opened" protocol=TCP guest=192.0.2.2:`, `level=DEBUG msg="flow ended" protocol=TCP guest=192.0.2.2:`} {
			if len(linesWith(stderr, want)) != 1 {
				t.Errorf("%s: not one line with %q in\n%s", tc.option, want, stderr)
			}
		}
		if n := len(linesWith(stderr, "level=TRACE msg=frame")); n > 0 != tc.frames {
			t.Errorf("%s: %d frames in the log", tc.option, n)
		}
	}
	_, stderr := runBoth(t, l, 7, "-d", "--", "curl", "-sS", "http://"+at(f.gateway, closedPort)+"/")
	if len(linesWith(stderr, `msg="flow refused" protocol=TCP`)) != 1 || len(linesWith(stderr, `error="connection refused"`)) != 1 {
		t.Errorf("a refusal:\n%s", stderr)
	}
}

// TestReadyBeforeTheCommand checks that the word on --ready-fd comes when the network works, that the descriptor is closed then,
// and that the command does not have it.
func TestReadyBeforeTheCommand(t *testing.T) {
	l := newLab(t)
	out := l.Host.Command(lab.Ordinary, "sh", "-c",
		`{ "$0" -q --ready-fd 3 -- sh -c 'echo inside; ls /proc/self/fd/3 2>&1 | grep -c "No such"' 3>&1 >&4 | od -An -c; } 4>&1`, vastaPath)
	b, err := out.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	if got := strings.Join(strings.Fields(string(b)), " "); got != `inside 1 \n` && got != `inside \n 1` && got != `\n inside 1` {
		t.Errorf("got %q", got)
	}
}
