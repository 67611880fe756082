//go:build soak

package e2e_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSoakConnections opens and closes 100,000 connections from processes of their own, to many destinations because one pair of
// addresses has 28,000 ports, and checks that nothing is left of them: no flow, descriptor, page or promise.
func TestSoakConnections(t *testing.T) {
	const (
		total   = 100_000
		servers = 8 // for each family
	)
	r := start(t)
	before := r.usage()
	var targets []string
	for _, f := range families {
		for range servers {
			server, _, line := startGuest(t, r.Inet, "answer", at(f.far, 0))
			defer func() {
				server.Kill()
				_ = server.Wait() // killed
			}()
			port, err := strconv.ParseUint(strings.TrimSpace(line), 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			targets = append(targets, at(f.far, uint16(port)))
		}
	}
	each := fmt.Sprint(total / len(targets))
	began := time.Now()
	for _, target := range targets {
		client, _, line := startGuest(t, r.Guest, "churn", each, target)
		if err := client.Wait(); err != nil || line != "done\n" {
			t.Fatalf("to %s: %q, %v", target, line, err)
		}
	}
	t.Logf("%.0f connections a second", total/time.Since(began).Seconds())
	if c := r.settle(); c.TCP.Opened != total || c.TCP.Closed != total || c.Dropped != 0 {
		t.Errorf("%+v, drops %v; want %d opened and closed, and none dropped", c.TCP, c.Drops, total)
	}
	r.wantUsage(before)
	r.wantIdle("afterwards")
}

// TestSoakHostileFrames is the flood of TestHostileFrames, a hundred times as long.
func TestSoakHostileFrames(t *testing.T) {
	r := start(t)
	raw := openRaw(t, r.Guest)
	if err := flood(craft{t, raw.mac}, raw, 1_000_000); err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if err := download(r.Guest, f.far, serve(t, r.Inet, f.far, source(1<<20)), 1<<20); err != nil {
			t.Error(err)
		}
	}
	r.stop()
}
