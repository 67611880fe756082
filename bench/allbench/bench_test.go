package allbench

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/bench/internal/command"
	"github.com/vasta-net/vasta/bench/netbench"
)

// vasta builds the program that runs the benchmarks, and that they measure.
func vasta(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "vasta")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/vasta").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// TestLeast: the least form has all sections, in all three reports; what it measures has charts, and what it leaves out says so.
func TestLeast(t *testing.T) {
	dir := t.TempDir()
	htmlFile, jsonFile := filepath.Join(dir, "r.html"), filepath.Join(dir, "r.json")
	cmd := exec.Command(vasta(t), "bench", "all", "--least", "--html", htmlFile, "--json", jsonFile)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != command.Missed {
		t.Fatalf("%d, %v: %s", code, err, stderr.String())
	}
	text := string(out)
	html, err := os.ReadFile(htmlFile)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(jsonFile)
	if err != nil {
		t.Fatal(err)
	}
	var r Results
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	names := []string{"S0", "S1", "S2", "S3", "S4", "S5"}
	if len(r.Sections) != len(names) {
		t.Fatalf("%d sections", len(r.Sections))
	}
	pages := strings.Split(string(html), "<h2>")[1:]
	for i, name := range names {
		s := r.Sections[i]
		if s.Name != name || !strings.Contains(text, "\n"+name+": "+s.Title+"\n") || !strings.HasPrefix(pages[i], name+": ") {
			t.Fatalf("section %d is %q, its page begins %.60q", i, s.Name, pages[i])
		}
		if len(s.Source) == 0 || !strings.Contains(text, s.Source[0].After) || !strings.Contains(pages[i], s.Source[0].After) {
			t.Errorf("%s: the source's figures are missing", name)
		}
		if !strings.Contains(stderr.String(), name+" (") {
			t.Errorf("%s is not in the progress: %s", name, stderr.String())
		}
		measured := slices.ContainsFunc(s.Parts, func(p PartResult) bool { return p.Failure == "" && len(p.Results) > 0 })
		if measured != strings.Contains(pages[i], "<svg") || measured == (name == "S3") {
			t.Errorf("%s: measured %t: %.300q", name, measured, pages[i])
		}
		for _, p := range s.Parts {
			if p.Failure != "" && p.Failure != "not in the least form" {
				t.Errorf("%s: %s: %s", name, p.Command, p.Failure)
			}
		}
	}
	if !strings.Contains(pages[3], "not in the least form") || !strings.Contains(text, "not in the least form") {
		t.Error("nobody is told what was left out")
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "bench all: ") {
		t.Errorf("last line: %s", last)
	}
}

// TestFailure: a benchmark that fails, and one whose results nobody can read, are reported in their places, and the others run.
func TestFailure(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	const script = `#!/bin/sh
# The last argument is the file for the results.
for file; do :; done
case "$2" in
fails) echo working >&2; echo no such device >&2; exit 2 ;;
garbles) echo "{" >"$file" ;;
*) echo "shown by $2"; echo '{"bars": [{"row": "a bar", "want": "0", "measured": 1}]}' >"$file"; exit 1 ;;
esac
`
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	parts := func(commands ...string) (all []part) {
		for _, c := range commands {
			all = append(all, part{command: c, show: showVirtio})
		}
		return all
	}
	r, err := run(context.Background(), program, options{}, []section{
		{name: "S0", parts: parts("fails", "garbles", "works")}, {name: "S1", parts: parts("works")},
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Sections[0].Parts[0].Failure; got != "exit status 2: no such device" {
		t.Errorf("a benchmark that fails: %q", got)
	}
	if got := r.Sections[0].Parts[1].Failure; !strings.HasPrefix(got, "its results: ") {
		t.Errorf("results that nobody can read: %q", got)
	}
	var text strings.Builder
	missed, err := report(&text, r)
	if err != nil || missed != 4 {
		t.Errorf("%d missed, %v", missed, err)
	}
	if got := text.String(); strings.Count(got, "shown by works") != 2 || !strings.HasSuffix(got, "bench all: 0 of 4 bars met, 4 missed (2 of them not measured)\n") {
		t.Error(got)
	}
	p := newPage(r)
	if s := p.Sections[0]; len(s.Missing) != 2 || len(s.Bars) != 1 || len(p.Sections[1].Bars) != 1 {
		t.Errorf("%+v", p.Sections)
	}
}

// TestLabRows: what "vasta bench vhost" and "vasta bench overload --lab" can measure is in one section each, and what the sections ask them for is there.
func TestLabRows(t *testing.T) {
	var usage strings.Builder
	if status := netbench.Main([]string{"--help"}, &usage, io.Discard); status != command.Met {
		t.Fatal(status)
	}
	_, rows, _ := strings.Cut(usage.String(), "Loads: ")
	rows, _, _ = strings.Cut(rows, "\n")
	asked := map[string]int{} // how often a beginning of a name has brought a row
	for _, s := range sections() {
		for _, p := range s.parts {
			for _, only := range strings.Split(p.only, ",") {
				if p.lab {
					asked[labFamilies[p.command]+only] = 0
				}
			}
		}
	}
	for _, row := range strings.Split(rows, ", ") {
		if !slices.ContainsFunc(slices.Collect(maps.Values(labFamilies)), func(family string) bool { return strings.HasPrefix(row, family) }) {
			continue
		}
		found := 0
		for only := range asked {
			if strings.HasPrefix(row, only) {
				asked[only]++
				found++
			}
		}
		if found != 1 {
			t.Errorf("%s is measured %d times", row, found)
		}
	}
	for only, n := range asked {
		if n == 0 {
			t.Errorf("no row begins with %s", only)
		}
	}
}

// labFamilies are how the rows of the benchmarks in the guest machine begin.
var labFamilies = map[string]string{"vhost": "vhost-", "overload --lab": "pressure-"}

// TestArguments: what a part runs in each form.
func TestArguments(t *testing.T) {
	p := part{command: "overload --lab", only: "free", quick: []string{"--quick"}, vasta: true}
	for f, want := range map[form]string{full: "overload --lab --only free --vasta v", quick: "overload --lab --only free --vasta v --quick", least: ""} {
		if got := strings.Join(p.args(f, "v"), " "); got != want {
			t.Errorf("%v: %q, want %q", f, got, want)
		}
	}
	p.least = []string{"--only", "pinned"}
	if got := strings.Join(p.args(least, ""), " "); got != "overload --lab --only pinned" {
		t.Error(got)
	}
}
