package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vasta-net/vasta/internal/lab"
)

// What tcpdump 4.99.3 prints for tcpdump -ddd -y EN10MB 'not icmp'.
const notICMP = `6
40 0 0 12
21 0 3 2048
48 0 0 23
21 0 1 1
6 0 0 0
6 0 0 262144
`

// TestFilter: what the filter does not accept is dropped and counted, the rest goes its way; a file that is no filter is refused in one line.
func TestFilter(t *testing.T) {
	l := newLab(t)
	dir := l.Host.Command(lab.Ordinary, "true").Dir
	file, bad := filepath.Join(dir, "filter"), filepath.Join(dir, "bad")
	for name, text := range map[string]string{file: notICMP, bad: "not icmp\n"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := startIn(t, l, "--filter", file)
	ping := func(addr string) error {
		return r.Guest.Command(lab.Root, "ping", "-n", "-c", "1", "-W", "1", addr).Run()
	}
	if err := ping(families[0].gateway.String()); err == nil {
		t.Error("an IPv4 ping passes the filter")
	}
	if err := ping(families[1].gateway.String()); err != nil {
		t.Errorf("an IPv6 ping does not pass the filter: %v", err)
	}
	const size = 1 << 20
	if err := download(r.Guest, families[0].far, serve(t, r.Inet, families[0].far, source(size)), size); err != nil {
		t.Error(err)
	}
	if c := r.stop(); c.Drops["filtered"] != 1 {
		t.Errorf("drops %v, want 1 filtered", c.Drops)
	}
	out, err := l.Host.Command(lab.Ordinary, vastaPath, "--filter", bad, "--", "true").CombinedOutput()
	if err == nil || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "--filter") || !strings.Contains(string(out), "tcpdump -ddd") {
		t.Errorf("a bad filter: %v, %s", err, out)
	}
}
