package options

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// plainTable is the table without aliases: getopt(1) cannot be told that two names are one option.
func plainTable() []Option {
	table := slices.Clone(Table)
	for i := range table {
		table[i].Aliases = nil
	}
	return table
}

// scanAll reads a whole command line and gives it as getopt(1) prints one: options in their canonical form, every
// argument in quotes, and the operands behind "--".
func scanAll(args []string) (string, error) {
	s := scanner{table: plainTable(), args: args}
	var b strings.Builder
	for {
		f, ok, err := s.next()
		if err != nil {
			return "", err
		}
		if !ok {
			break
		}
		b.WriteString(" " + f.spelled)
		if f.option.Arg != NoArg {
			b.WriteString(" '" + f.arg + "'")
		}
	}
	b.WriteString(" --")
	for _, operand := range s.args {
		b.WriteString(" '" + operand + "'")
	}
	return b.String(), nil
}

// glibc runs getopt(1) of util-linux, which calls glibc's getopt_long, over the same table and command line.
// It gives what it prints and the first line it complains with.
func glibc(t interface{ Fatalf(string, ...any) }, args []string) (parsed, complaint string) {
	suffix := map[ArgKind]string{RequiredArg: ":", OptionalArg: "::"}
	short, long := "+", []string{}
	for _, o := range plainTable() {
		if o.Short != 0 {
			short += string(o.Short) + suffix[o.Arg]
		}
		long = append(long, o.Name+suffix[o.Arg])
	}
	cmd := exec.Command("getopt", append([]string{"-n", "vasta", "-o", short, "-l", strings.Join(long, ","), "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && stderr.Len() == 0 {
		t.Fatalf("getopt(1) of util-linux: %v; this test needs it", err)
	}
	complaint, _, _ = strings.Cut(stderr.String(), "\n")
	return strings.TrimRight(stdout.String(), "\n"), complaint
}

// agrees checks that the scanner reads a command line, or complains of it, as glibc does.
func agrees(t interface {
	Fatalf(string, ...any)
	Errorf(string, ...any)
}, args []string) {
	parsed, complaint := glibc(t, args)
	got, err := scanAll(args)
	if err != nil {
		if ours := "vasta: " + err.Error(); ours != complaint {
			t.Errorf("%q\n vasta says %q\n glibc says %q", args, ours, complaint)
		}
		return
	}
	if complaint != "" || got != parsed {
		t.Errorf("%q\n vasta reads %s\n glibc reads %s\n and says %q", args, got, parsed, complaint)
	}
}

func TestScannerAgreesWithGlibc(t *testing.T) {
	for _, line := range []string{
		"",
		"--mtu 1500 -- cmd -q",
		"--mtu=1500 cmd -q --mtu",
		"-m1500 -m 1500 -qdm 9000",
		"-qd4 -t22 -t 22:23",
		"--deb --mt 3",
		"--debug=1",
		"--deb=1",
		"--mtu",
		"--mt",
		"-m",
		"-qm",
		"-Z",
		"-qZd",
		"--nonsense",
		"--nonsense=1",
		"--tcp",
		"--tcp=5",
		"--no",
		"--counters --counters=f --count=g cmd",
		"--map-h none",
		"--map none",
		"-",
		"-q - -d",
		"-- --mtu",
		"--ipv4 x",
		"--mtu= x",
		"--config-n --netns=x",
		"--=x",
		"--log-f x",
		"-m -- x",
		"-:",
		"-;",
	} {
		agrees(t, strings.Fields(line))
	}
}

func TestScannerAgreesWithGlibcOnAnything(t *testing.T) {
	var words []string
	for _, o := range plainTable() {
		words = append(words, "--"+o.Name, "--"+o.Name+"=v", "--"+o.Name[:len(o.Name)/2+1], "--"+o.Name[:len(o.Name)-1]+"=v")
		if o.Short != 0 {
			words = append(words, "-"+string(o.Short), "-q"+string(o.Short)+"x")
		}
	}
	words = append(words, "--", "-", "cmd", "22", "", "-?", "--?", "-qd", "=")
	rapid.Check(t, func(t *rapid.T) {
		args := rapid.SliceOfN(rapid.SampledFrom(words), 0, 6).Draw(t, "args")
		agrees(t, args)
	})
}

// Two names of one option are one option, so a beginning that both have is not ambiguous.
func TestAliasIsNotAmbiguous(t *testing.T) {
	s := scanner{table: []Option{
		{Name: "socket", Aliases: []string{"socket-path"}, Arg: RequiredArg},
		{Name: "search", Arg: RequiredArg},
	}}
	for _, name := range []string{"so", "socket", "socket-", "socket-path"} {
		s.args = []string{"--" + name, "x"}
		f, ok, err := s.next()
		if err != nil || !ok || f.option.Name != "socket" {
			t.Errorf("--%s is read as %v, %v, %v; want --socket", name, f, ok, err)
		}
	}
	s.args = []string{"--s=x"}
	const want = "option '--s=x' is ambiguous; possibilities: '--socket' '--search'"
	if _, _, err := s.next(); fmt.Sprint(err) != want {
		t.Errorf("--s: got %v, want %s", err, want)
	}
}
