package e2e_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/internal/lab"
)

// shellIn runs a shell script as the ordinary user in l's host, with vasta as $0, and returns what it writes.
func shellIn(t *testing.T, l *lab.Lab, script string, args ...string) string {
	t.Helper()
	c := l.Host.Command(lab.Ordinary, append([]string{"sh", "-c", script, vastaPath}, args...)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return string(out) + stderr.String()
}

// TestCommandEnvironment checks what a command inherits: all that a program started by a shell does, and no more.
func TestCommandEnvironment(t *testing.T) {
	l := newLab(t)
	for _, tc := range []struct{ name, script, want string }{
		{"standard input", `echo words | "$0" -q -- cat`, "words\n"},
		{"standard error", `"$0" -q -- sh -c 'echo words >&2' 2>&1 >/dev/null`, "words\n"},
		{"a reader that has gone", `bash -c '"$0" -q -- yes | head -1; echo ${PIPESTATUS[0]}' "$0"`, "y\n141\n"},
		{"working directory", `cd /usr/lib && "$0" -q -- pwd`, "/usr/lib\n"},
		{"file mode mask", `umask 027; "$0" -q -- sh -c umask`, "0027\n"},
		{"limit of descriptors", `ulimit -Sn 1000; "$0" -q -- sh -c 'ulimit -Sn'`, "1000\n"},
		{"priority", `echo $(($(nice -n 5 "$0" -q -- nice) - $(nice)))`, "5\n"}, // where the tests themselves have at most 14
		{"descriptors", `exec 5</dev/null; "$0" -q -- sh -c 'ls /proc/$$/fd' | tr '\n' ' '`, "0 1 2 "},
		{"capabilities as root inside", `"$0" -q -- sh -c 'grep -c "CapEff:.0*1ff" /proc/self/status'`, "1\n"},
		{"no capabilities as oneself", `"$0" -q --keep-id -- sh -c 'grep -c "CapEff:.0000000000000000" /proc/self/status'`, "1\n"},
		{"ids", `"$0" -q -- id -u; "$0" -q --keep-id -- id -u`, "0\n31000\n"},
		{"ignored signals", `trap '' HUP INT; "$0" -q -- sh -c 'kill -HUP $$; kill -INT $$; echo alive'`, "alive\n"},
		// Signals 32 and 33 are glibc's own; its posix_spawn, and so make, ignores them.
		{"signals that are not ignored", `v=$("$0" -q -- sed -n 's/SigIgn:\t//p' /proc/self/status); printf '%x' $((0x$v & ~0x180000000))`, "0"},
		{"blocked signals", `"$0" -q -- sh -c 'grep SigBlk: /proc/self/status' | tr -d '\t'`, "SigBlk:0000000000000000\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := shellIn(t, l, tc.script); got != tc.want {
				t.Errorf("%s: %q, want %q", tc.script, got, tc.want)
			}
		})
	}
}

// TestLargeCommand passes much in arguments and environment.
func TestLargeCommand(t *testing.T) {
	l := newLab(t)
	long := strings.Repeat("x", 100_000)
	script := `export A="$1" B="$1" C="$1" D="$1"; "$0" -q -- sh -c 'echo ${#A} ${#D} ${#1} ${#4}' sh "$1" "$1" "$1" "$1"`
	if got := shellIn(t, l, script, long); got != "100000 100000 100000 100000\n" {
		t.Errorf("got %q", got)
	}
}

// TestNested runs vasta inside vasta.
func TestNested(t *testing.T) {
	l := newLab(t)
	f := families[0]
	port := serve(t, l.Host, f.loopback, source(1000))
	// The inner gateway leads to the outer namespace's loopback; the far server is reached through both.
	far := serve(t, l.Inet, f.far, source(1000))
	out := shellIn(t, l, `"$0" -q -- "$0" -q -- sh -c 'curl -sS --http0.9 --noproxy "*" "$1" | wc -c' sh "$1"`, "http://"+at(f.far, far)+"/")
	if strings.TrimSpace(out) != "1000" {
		t.Errorf("through two vastas: %q", out)
	}
	out = shellIn(t, l, `"$0" -q -- "$0" -q --no-map-gw -- sh -c 'curl -sS --http0.9 --noproxy "*" "$1" | wc -c' sh "$1"`, "http://"+at(f.gateway, port)+"/")
	if strings.TrimSpace(out) != "1000" {
		t.Errorf("the outer gateway through the inner vasta: %q", out)
	}
}
