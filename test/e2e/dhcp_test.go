package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/internal/lab"
)

// TestDHCP checks that a DHCP client inside is told what the interface is configured with already.
func TestDHCP(t *testing.T) {
	l := newLab(t)
	script := filepath.Join(l.Dir(), "told")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nenv\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for options, want := range map[string][]string{
		"":                   {"ip=" + lab.HostAddr4.Addr().String(), "router=" + lab.InetAddr4.Addr().String(), "mtu=65520", "serverid=" + lab.InetAddr4.Addr().String()},
		"-m 1400 -H box":     {"mtu=1400", "hostname=box"},
		"-a 10.7.7.7/32 -m0": {"ip=10.7.7.7", "subnet=255.255.255.255", "staticroutes=" + lab.InetAddr4.Addr().String() + "/32 0.0.0.0 0.0.0.0/0 " + lab.InetAddr4.Addr().String()},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), runLimit)
		defer cancel()
		args := append([]string{vastaPath, "-q", "-I", "eth9"}, strings.Fields(options)...)
		c := l.Host.CommandContext(ctx, lab.Ordinary, append(args, "--",
			"busybox", "udhcpc", "-f", "-n", "-q", "-i", "eth9", "-O", "mtu", "-O", "staticroutes", "-s", script)...)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, w := range want {
			if !strings.Contains(string(out), w+"\n") {
				t.Errorf("%s: no %q in what the client was told:\n%s", options, w, out)
			}
		}
	}
}
