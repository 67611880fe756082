package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/flowlog"
	"github.com/vasta-net/vasta/internal/lab"
	"golang.org/x/sys/unix"
)

// logged reads a flow log, when it has so many lines.
func logged(t *testing.T, path string, want int) (all []flowlog.Line) {
	t.Helper()
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if bytes.Count(b, []byte("\n")) >= want {
			for line := range bytes.Lines(b) {
				var l flowlog.Line
				if err := json.Unmarshal(line, &l); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				all = append(all, l)
			}
			return all
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d lines, want %d: %s", bytes.Count(b, []byte("\n")), want, b)
		}
	}
}

// TestFlowLog checks that each flow has its line, with what it has carried, and that the file can be changed meanwhile.
func TestFlowLog(t *testing.T) {
	const size = 1 << 20
	l := newLab(t)
	path := filepath.Join(l.Dir(), "flows.json")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(path, 0o666), os.Chmod(l.Dir(), 0o777)); err != nil { // of an ordinary user's vasta
		t.Fatal(err)
	}
	f4 := families[0]
	r := startIn(t, l, "--flow-log", path, "-t", fmt.Sprintf("%d:%d", outerPort, innerPort), "--deny", fmt.Sprintf("out tcp %v 8003", f4.far))
	began := time.Now()
	lines := 0
	bothFamilies(t, func(t *testing.T, f family) {
		serveAt(t, r.Inet, netip.AddrPortFrom(f.far, 8001), source(size))
		if out, err := r.Guest.Command(lab.Ordinary, "nc", "-d", "-N", "-w", "5", f.far.String(), "8001").Output(); err != nil || len(out) != size {
			t.Fatalf("nc reads %d bytes, %v", len(out), err)
		}
		saySelf(t, r.Guest, netip.AddrPortFrom(f.host, innerPort), "inside")
		heard(t, r.Inet, f.host, outerPort)
		if _, err := dial(r.Guest, f.far, 8002); err == nil {
			t.Error("a closed port answers")
		}
		all := logged(t, path, lines+3)[lines:]
		lines += 3
		for _, want := range []flowlog.Line{
			{Protocol: "tcp", Direction: "out", Guest: netip.AddrPortFrom(f.host, 0), Peer: netip.AddrPortFrom(f.far, 8001), RcvdBytes: size, Why: "finished"},
			{Protocol: "tcp", Direction: "in", Guest: netip.AddrPortFrom(f.host, innerPort), Peer: netip.AddrPortFrom(f.peer(), 0), SentBytes: 6, Why: "finished"},
			{Protocol: "tcp", Direction: "out", Guest: netip.AddrPortFrom(f.host, 0), Peer: netip.AddrPortFrom(f.far, 8002), Why: "host_refused"},
		} {
			// Flows that end together are logged in either order.
			i := slices.IndexFunc(all, func(l flowlog.Line) bool {
				return l.Direction == want.Direction && (want.Peer.Port() == 0 || l.Peer.Port() == want.Peer.Port())
			})
			if i < 0 {
				t.Errorf("no line of %+v in %+v", want, all)
				continue
			}
			got := all[i]
			if got.Start.Before(began.Add(-time.Second)) || got.End.Before(got.Start) || got.End.After(time.Now()) || got.SentPackets == 0 || got.RcvdPackets == 0 {
				t.Errorf("from %v to %v, %d and %d packets", got.Start, got.End, got.SentPackets, got.RcvdPackets)
			}
			if want.RcvdBytes > 0 && got.RcvdPackets < want.RcvdBytes/65536 {
				t.Errorf("%d packets for %d bytes", got.RcvdPackets, got.RcvdBytes)
			}
			got.Start, got.End, got.SentPackets, got.RcvdPackets = want.Start, want.End, 0, 0
			if want.Guest.Port() == 0 {
				got.Guest = netip.AddrPortFrom(got.Guest.Addr(), 0)
			}
			if want.Peer.Port() == 0 {
				got.Peer = netip.AddrPortFrom(got.Peer.Addr(), 0)
			}
			if got != want {
				t.Errorf("line %d: %+v, want %+v", i, got, want)
			}
		}
	})
	if _, err := r.Guest.Dial("tcp", at(f4.far, 8003), dialLimit); err == nil {
		t.Error("what is denied is reached")
	}
	if got := logged(t, path, lines+1)[lines]; got.Why != "denied" || got.Rule != fmt.Sprintf("deny out tcp %v 8003", f4.far) {
		t.Errorf("denied: %+v", got)
	}
	// Another file of the same name.
	if err := errors.Join(os.Rename(path, path+".1"), r.cmd.Process.Signal(unix.SIGHUP)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("SIGHUP does not open the file anew")
		}
	}
	c, err := r.Guest.Dial("udp", at(f4.far, 9), dialLimit)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.(*net.UDPConn).Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	c.Close()
	for deadline := time.Now().Add(settleLimit); r.now().UDP.Opened == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the datagram is not seen")
		}
	}
	r.stop() // the command was not told to hang up
	if all := logged(t, path, 1); len(all) != 1 || all[0].Protocol != "udp" || all[0].SentBytes != 4 || all[0].Why != "the network was closed" {
		t.Errorf("after the change: %+v", all)
	}
	if all := logged(t, path+".1", 0); len(all) != lines+1 {
		t.Errorf("%d lines before it, want %d", len(all), lines+1)
	}
	vastaFails(t, l, 1, "vasta: option --flow-log: open /proc/none: ", "-q", "--flow-log", "/proc/none", "--", "true")
}
