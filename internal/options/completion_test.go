package options

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// completionFile writes what a shell reads to a file.
func completionFile(t *testing.T, shell Shell) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteCompletion(&b, shell); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "vasta."+string(shell))
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a program and returns the words that it printed.
func run(t *testing.T, name string, args ...string) []string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "HOME="+t.TempDir())
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil || errs.Len() > 0 {
		t.Fatalf("%s: %v: %s", name, err, errs.String())
	}
	return strings.Fields(string(out))
}

// What the shells themselves complete: the last word of a line, and some of the words that must be offered or must not be.
var completions = []struct {
	line      []string
	want, not []string
}{
	{[]string{"--log-f"}, []string{"--log-file", "--log-format"}, []string{"--pcap", "--log-size"}},
	{[]string{"--log-format", ""}, []string{"text", "json"}, []string{"--pcap", "attach"}},
	{[]string{"att"}, []string{"attach"}, []string{"doctor"}},
	{[]string{"bench", ""}, []string{"all", "net", "overload"}, []string{"--pcap"}},
	{[]string{"completion", ""}, []string{"bash", "zsh", "fish"}, []string{"--pcap"}},
}

func TestBashCompletes(t *testing.T) {
	file := completionFile(t, Bash)
	for _, c := range completions {
		// What bash hands to a completion function (bash(1), "Programmable Completion").
		script := `source "$1"; shift; COMP_WORDS=(vasta "$@"); COMP_CWORD=$#
			_vasta vasta "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; printf '%s\n' "${COMPREPLY[@]}"`
		checkOffered(t, c.line, c.want, c.not, run(t, "bash", append([]string{"--norc", "-c", script, "bash", file}, c.line...)...))
	}
}

func TestFishCompletes(t *testing.T) {
	file := completionFile(t, Fish)
	for _, c := range completions {
		line := "vasta " + strings.Join(c.line, " ")
		checkOffered(t, c.line, c.want, c.not, run(t, "fish", "--no-config", "-c", `source $argv[1]; complete -C $argv[2]`, file, line))
	}
}

func checkOffered(t *testing.T, line, want, not, got []string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%q: %q is not offered, only %q", line, w, got)
		}
	}
	for _, w := range not {
		if slices.Contains(got, w) {
			t.Errorf("%q: %q is offered", line, w)
		}
	}
}

// zsh completes in its line editor only: here it reads the file, and every option is named in it.
func TestZshReads(t *testing.T) {
	file := completionFile(t, Zsh)
	run(t, "zsh", "-f", "-n", file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	completed(func(o *Option) {
		if !strings.Contains(string(text), "'*--"+o.Name) {
			t.Errorf("--%s is not completed", o.Name)
		}
	})
}

func TestUnknownShell(t *testing.T) {
	for _, args := range [][]string{{"completion"}, {"completion", "tcsh"}, {"completion", "bash", "zsh"}} {
		_, err := Parse(args)
		if err == nil || !strings.Contains(err.Error(), "bash, zsh, fish") {
			t.Errorf("%q: error %v, want one that names the shells", args, err)
		}
	}
}
