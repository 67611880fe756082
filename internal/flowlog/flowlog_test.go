package flowlog_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/flowlog"
	"github.com/vasta-net/vasta/worker"
	"golang.org/x/sys/unix"
)

func record(port uint16) *worker.FlowEnd {
	return &worker.FlowEnd{
		Proto: 6, Guest: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), port), Peer: netip.MustParseAddrPort("[2001:db8::1]:80"), Began: 1e9, Ended: 3e9,
		FromGuest: worker.Tally{Bytes: 1, Packets: 2}, ToGuest: worker.Tally{Bytes: 3, Packets: 4}, Retransmits: 5, Why: "finished", Rule: 6,
	}
}

func open(t *testing.T, path string) *flowlog.Log {
	t.Helper()
	l, err := flowlog.Open(path, func(rule int32) string { return fmt.Sprint("rule ", rule) }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.SetEpoch(time.Now().Add(-3 * time.Second))
	return l
}

// lines reads a flow log.
func lines(t *testing.T, path string) (all []flowlog.Line, lost uint64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		var line struct {
			flowlog.Line
			Lost uint64
		}
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			t.Fatalf("%q: %v", s.Text(), err)
		}
		if lost += line.Lost; line.Lost == 0 {
			all = append(all, line.Line)
		}
	}
	return all, lost
}

func TestLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows")
	l := open(t, path)
	l.Add(record(4000))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	all, _ := lines(t, path)
	if len(all) != 1 {
		t.Fatalf("%d lines", len(all))
	}
	got := all[0]
	if d := got.End.Sub(got.Start); d != 2*time.Second || time.Since(got.End) > time.Minute || time.Since(got.End) < 0 {
		t.Errorf("from %v to %v", got.Start, got.End)
	}
	got.Start, got.End = time.Time{}, time.Time{}
	want := flowlog.Line{
		Protocol: "tcp", Direction: "out", Guest: record(4000).Guest, Peer: record(0).Peer, SentBytes: 1, SentPackets: 2, RcvdBytes: 3, RcvdPackets: 4,
		Retransmits: 5, Why: "finished", Rule: "rule 6",
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Several workers tell of flows while the file is renamed: no line is lost, cut or written twice.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "flows")
	l := open(t, path)
	const workers, flows = 3, 1000
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range flows {
				l.Add(record(uint16(w*flows + i)))
			}
		})
	}
	for i := range 5 {
		if err := os.Rename(path, fmt.Sprint(path, ".", i)); err != nil {
			t.Fatal(err)
		}
		l.Reopen()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, err := os.Stat(path); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the file is not made anew")
			}
		}
	}
	all.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 6 {
		t.Fatalf("%v, %v", files, err)
	}
	seen := map[uint16]int{}
	for _, f := range files {
		got, lost := lines(t, f)
		for _, line := range got {
			seen[line.Guest.Port()]++
		}
		if lost > 0 {
			t.Errorf("%d lost", lost)
		}
	}
	for i := range workers * flows {
		if seen[uint16(i)] != 1 {
			t.Fatalf("flow %d is there %d times", i, seen[uint16(i)])
		}
	}
}

// A file that nobody reads (a pipe) keeps nobody waiting: what does not fit is counted, and the count is written.
func TestSlow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	l := open(t, path)
	const flows = 50_000
	for range flows {
		l.Add(record(1))
	}
	lost := l.Lost()
	if lost == 0 || lost >= flows {
		t.Fatalf("%d of %d are lost", lost, flows)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.Close() }()
	var written, told uint64
	for s := bufio.NewScanner(reader); written+told < flows && s.Scan(); {
		var line struct{ Lost uint64 }
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if told += line.Lost; line.Lost == 0 {
			written++
		}
	}
	if err := <-ended; err != nil || told != lost || written != flows-lost {
		t.Errorf("%d written, %d told as lost, want %d; %v", written, told, lost, err)
	}
}

func TestErrors(t *testing.T) {
	if _, err := flowlog.Open(filepath.Join(t.TempDir(), "no", "file"), nil, slog.New(slog.DiscardHandler)); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a file that cannot be made: %v", err)
	}
	l := open(t, "/dev/full")
	l.Add(record(1))
	if err := l.Close(); err == nil {
		t.Error("a full disk is no error")
	}
}
