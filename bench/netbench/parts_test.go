package netbench

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vasta-net/vasta/bench/internal/procfs"
)

func TestParseOptions(t *testing.T) {
	got, err := parseOptions(strings.Fields("--rounds 3 --seconds=4 --only tcp-1,startup --json r.json --markdown r.md --vasta ./v --peer new=/opt/pasta,-f -q"))
	want := Options{
		Rounds: 3, Duration: 4 * time.Second, Only: []string{"tcp-1", "startup"}, JSON: "r.json", Markdown: "r.md",
		Vasta: "./v", Peers: []Peer{{"new", []string{"/opt/pasta,-f"}}}, Quiet: true, Soak: time.Hour, Rate: 50, Cells: len(cells), LabRounds: 3, LabDuration: 4 * time.Second,
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if got, err := parseOptions([]string{"--quick", "--peer", "new=sudo -u nobody pasta"}); err != nil ||
		got.Rounds != 1 || got.Duration != time.Second || len(got.Peers[0].Argv) != 4 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSelectLoads(t *testing.T) {
	var got []string
	for _, l := range selectLoads(Options{Only: []string{"tcp-8-1500", "mem-i", "churn", "netem"}, Quick: true, Cells: 12}) {
		got = append(got, l.name)
	}
	if want := []string{"mem-idle", "tcp-8-1500-up", "tcp-8-1500-down", "churn"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	here := len(loads) - len(netemLoads()) - len(soakLoads()) - len(vhostLoads())
	if n := len(selectLoads(Options{Cells: 12})); n != here {
		t.Errorf("%d loads without a choice, want %d", n, here)
	}
	if n := len(selectLoads(Options{Cells: 12, Here: true})); n != here+len(netemLoads()) {
		t.Errorf("%d loads with netem, want %d", n, here+len(netemLoads()))
	}
	if n := len(selectLoads(Options{Cells: 2, Here: true, Only: []string{"netem"}})); n != 8*2 {
		t.Errorf("%d loads of two cells of each netem, want 16", n)
	}
	if n := len(selectLoads(Options{Quick: true})); n != len(streamLoads()) {
		t.Errorf("--quick has %d loads, want those of issue A, %d", n, len(streamLoads()))
	}
	if n := len(selectLoads(Options{Only: []string{""}})); n != 0 {
		t.Errorf("an empty name selects %d loads", n)
	}
}

func TestListening(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1451 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0100007F:1452 0100007F:1451 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0
`
	if !listening([]byte(table), 5201) {
		t.Error("the listener on 5201 was not seen")
	}
	if listening([]byte(table), 5202) {
		t.Error("a connection from port 5202 was taken for a listener")
	}
}

func TestCPUModel(t *testing.T) {
	if got := cpuModel([]byte("processor\t: 0\nmodel name\t: AMD EPYC\n\nmodel name\t: other\n")); got != "AMD EPYC" {
		t.Errorf("got %q", got)
	}
	if got := cpuModel([]byte("processor\t: 0\nBogoMIPS\t: 50\n")); got != "unknown processor" {
		t.Errorf("got %q", got)
	}
}

func TestTurned(t *testing.T) {
	in := []int{1, 2, 3}
	for n, want := range [][]int{{1, 2, 3}, {2, 3, 1}, {3, 1, 2}, {1, 2, 3}} {
		if got := turned(in, n); !slices.Equal(got, want) {
			t.Errorf("turned %d times: %v, want %v", n, got, want)
		}
	}
	if !slices.Equal(in, []int{1, 2, 3}) {
		t.Errorf("turned changed its argument: %v", in)
	}
}

func TestTheToolIsNotTakenForTheAgentThatItRuns(t *testing.T) {
	for cmdline, want := range map[string]bool{
		"/tmp/agent bench agent session":                                  true,
		"/tmp/vasta -q -m 65520 -- /tmp/agent bench agent session":        false,
		"pasta --config-net -q -m 65520 -- /tmp/agent bench agent server": false,
		"/tmp/vasta": false,
	} {
		if got := isAgent(procfs.Process{Args: strings.Fields(cmdline)}); got != want {
			t.Errorf("%s: %t", cmdline, got)
		}
	}
}

func TestTailKeepsTheEndOnOneLine(t *testing.T) {
	var tl tail
	for range 100 {
		if n, err := tl.Write([]byte("first line\n")); n != 11 || err != nil {
			t.Fatal(n, err)
		}
	}
	if _, err := tl.Write([]byte("last\nline\n")); err != nil {
		t.Fatal(err)
	}
	if got := tl.String(); len(got) > tailSize || !strings.HasSuffix(got, "first line last line") || strings.Contains(got, "\n") {
		t.Errorf("got %q", got)
	}
}

// TestNotInLab: when the guest machine cannot be had, every bar of what was to be measured there says why.
func TestNotInLab(t *testing.T) {
	for only, subjects := range map[string]int{"pressure": 4, "netem-guest-loss-8x1500": 2} {
		r, err := notInLab(Options{Only: []string{only}, Cells: 1, LabRounds: 1}, errors.New("no emulator"))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Subjects) != subjects || len(r.Loads) == 0 {
			t.Errorf("%s: %d loads, subjects %+v", only, len(r.Loads), r.Subjects)
		}
		bars := judge(r)
		for _, b := range bars {
			if b.Met || b.Measured != nil || !strings.Contains(b.Why, "no emulator") {
				t.Errorf("%s: %+v", only, b)
			}
		}
		if len(bars) == 0 {
			t.Errorf("%s: no bar", only)
		}
	}
}
