package bench

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/bench/netbench"
	"github.com/vasta-net/vasta/internal/options"
)

// The test binary is a vasta with one command: "bench". It has no namespaces to
// offer, so that vasta's own rows are not measured in these tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "bench" {
		os.Exit(Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestCommandLine(t *testing.T) {
	for _, test := range []struct {
		args           string
		status         int
		stdout, stderr string
	}{
		{"", 2, "", "no benchmark"},
		{"spin", 2, "", `no benchmark "spin"`},
		{"--help", 0, "Usage: vasta bench BENCHMARK", ""},
		{"all --help", 0, "S5", ""},
		{"all --quick --least", 2, "", "one of them"},
		{"all --only S1,S9", 2, "", `no row is named "S9"`},
		{"all now", 2, "", `unexpected argument "now"`},
		{"virtio --help", 0, "pool-mergeable", ""},
		{"virtio --rounds=0", 2, "", "--rounds"},
		{"virtio --only pool,sctp", 2, "", `no row is named "sctp"`},
		{"virtio now", 2, "", `unexpected argument "now"`},
		{"overload --lab --help", 0, "fq_codel", ""},
		{"overload --quick --lab --only loopback", 2, "", `no load is named "pressure-loopback"`},
		{"net --help", 0, "--markdown FILE", ""},
		{"net --rounds=0", 2, "", "--rounds"},
		{"net --rounds=few", 2, "", "rounds"},
		{"net --nonsense", 2, "", "nonsense"},
		{"net now", 2, "", `unexpected argument "now"`},
		{"net --quick --rounds 2", 2, "", "--quick"},
		{"net --only tcp-1,sctp", 2, "", `no load is named "sctp"`},
		{"net --peer pasta2026", 2, "", "NAME=CMDLINE"},
		{"agent spy", 1, "", "not a kind of agent"},
	} {
		var stdout, stderr strings.Builder
		status := Main(strings.Fields(test.args), &stdout, &stderr)
		if status != test.status || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("%q: %d\nstdout %s\nstderr %s", test.args, status, stdout.String(), stderr.String())
		}
		if test.status != 0 && strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: not one line: %q", test.args, stderr.String())
		}
	}
}

// TestUsage: the benchmarks that the shells complete are those that there are.
func TestUsage(t *testing.T) {
	for _, name := range options.Benchmarks {
		if !strings.Contains(usage, "\n  "+name+" ") {
			t.Errorf("%s is not in the usage text", name)
		}
		if status := Main([]string{name, "--help"}, io.Discard, io.Discard); status != 0 {
			t.Errorf("%s --help: %d", name, status)
		}
	}
	_, listed, _ := strings.Cut(usage, "Benchmarks:")
	if n := strings.Count(listed, "\n  "); n != len(options.Benchmarks) {
		t.Errorf("%d benchmarks in the usage text, %d are completed", n, len(options.Benchmarks))
	}
}

// TestRealRun measures the peers and the yardsticks for one short round; vasta,
// which this binary is not, counts as missed.
func TestRealRun(t *testing.T) {
	const allowed = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"
	before, err := os.ReadFile(allowed)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	jsonFile, markdownFile := filepath.Join(dir, "r.json"), filepath.Join(dir, "r.md")
	cmd := exec.Command(os.Args[0], "bench", "net", "--quick", "--only", "tcp-1-65520-up,tcp-rr,mem-idle,startup",
		"--json", jsonFile, "--markdown", markdownFile)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("%v\n%s\n%s", err, out, stderr.String())
	}
	if after, err := os.ReadFile(allowed); err != nil || string(after) != string(before) {
		t.Errorf("the machine allows congestion controls %q after the run, %q before it: %v", after, before, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "bench net: 0 of ") {
		t.Errorf("last line: %s", last)
	}
	if strings.Count(stderr.String(), "\n") < 10 {
		t.Errorf("progress: %s", stderr.String())
	}
	data, err := os.ReadFile(jsonFile)
	if err != nil {
		t.Fatal(err)
	}
	var r netbench.Results
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	measured := 0
	for _, l := range r.Loads {
		for _, s := range l.Series {
			if s.Subject == "vasta" {
				if len(s.Failures) != 1 || len(s.Samples) != 0 {
					t.Errorf("%s: vasta: %+v", l.Name, s)
				}
				continue
			}
			if len(s.Samples) != 1 || s.Samples[0].Value <= 0 {
				t.Errorf("%s: %s: %+v", l.Name, s.Subject, s)
			}
			measured++
		}
	}
	if want := 4 + 2 + 0 + 1; measured != want { // pasta, slirp4netns, veth, splice; pasta, veth; none; pasta
		t.Errorf("%d series of others were measured, want %d", measured, want)
	}
	md, err := os.ReadFile(markdownFile)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(md), "### What must be shown") || !strings.Contains(string(md), "| pasta | ") {
		t.Errorf("markdown:\n%s", md)
	}
}
