package e2e_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/internal/lab"
)

// TestDemo runs the demonstration without a terminal, for both families, as an ordinary user and as root.
func TestDemo(t *testing.T) {
	l := newLab(t)
	for _, options := range []string{"", "-6", "--map-host-loopback 192.0.2.77"} {
		out := runVasta(t, l, 0, append([]string{"demo"}, strings.Fields(options)...)...)
		if n := len(linesWith(out, "Gbit/s, every byte right")); n != 2 {
			t.Errorf("vasta demo %s says %q, want two speeds", options, out)
		}
	}
	root := l.Host.Command(lab.Root, vastaPath, "demo")
	if out, err := root.CombinedOutput(); err != nil || len(linesWith(string(out), "every byte right")) != 2 {
		t.Errorf("as root: %v: %s", err, out)
	}
	vastaFails(t, l, 1, "vasta: demo: its server is on the host's loopback", "demo", "--no-map-gw")
}

// TestDemoOnATerminal checks that the demonstration ends with a shell in the namespace, and that what it tells to try works.
func TestDemoOnATerminal(t *testing.T) {
	c := openConsole(t, newLab(t), "env", "SHELL=/bin/bash", vastaPath, "demo")
	c.expect(`Now a shell in the namespace`)
	c.expect(`curl http://192\.0\.2\.1:`)
	c.expect(`[$#>]$`)
	c.enter("env | grep -c VASTA; id -u\n")
	c.expect(`0\s+0\s`)
	url := regexp.MustCompile(`http://192\.0\.2\.1:\d+/`).FindString(c.out.String())
	c.enter("curl -sS --noproxy '*' " + url + "\n")
	c.expect(`Hello from the host`)
	c.enter("head -c 1000 /dev/zero >z; curl -sS --noproxy '*' -T z " + url + "\n")
	c.expect(`received 1000 bytes, CRC-32C`)
	c.enter("exit 4\n")
	_ = c.cmd.Wait() // the status is looked at
	if got := c.cmd.ProcessState.ExitCode(); got != 4 {
		t.Errorf("status %d, want the shell's", got)
	}
}
