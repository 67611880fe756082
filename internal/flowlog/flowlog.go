// Package flowlog writes a line of JSON for each flow that has ended.
//
// Whoever tells of flows is never kept waiting: records go into memory of a fixed size, from where a goroutine writes them. What does not fit, because the
// disk is slow, is counted, and the count is the next thing that is written.
package flowlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vasta-net/vasta/worker"
)

// room is how many records wait to be written at most; 8192 take 1.5 MiB.
const room = 8192

// Log is a flow log. Add may be called from any goroutine until Close.
type Log struct {
	path  string
	name  func(rule int32) string
	epoch time.Time // when the workers' clock was 0
	log   *slog.Logger

	mu    sync.Mutex
	queue []worker.FlowEnd // for the writer; as long as room
	lost  uint64           // since the writer last looked
	total uint64           // lost in all

	wake   chan struct{} // one waits at most
	reopen chan struct{} // the same
	done   chan struct{} // closed by Close
	ended  chan struct{} // closed by the writer
	result error
}

// Open begins a flow log: lines are appended to the file, which is made if it is not there. name gives a rule in words; nil for none. A failure to write
// is logged once, and the lines are lost until writing works again.
func Open(path string, name func(rule int32) string, log *slog.Logger) (*Log, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	l := &Log{
		path: path, name: name, log: log, queue: make([]worker.FlowEnd, 0, room),
		wake: make(chan struct{}, 1), reopen: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{}),
	}
	go l.run(f)
	return l, nil
}

// SetEpoch says when the workers' clock was 0. It comes before the first Add.
func (l *Log) SetEpoch(at time.Time) { l.epoch = at }

func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("%w (choose a file in a folder that you may write to)", err)
	}
	return f, nil
}

// Add takes the record of a flow, which stays the caller's. It does not wait for the disk, and does not allocate.
func (l *Log) Add(e *worker.FlowEnd) {
	l.mu.Lock()
	if len(l.queue) < room {
		l.queue = append(l.queue, *e)
	} else {
		l.lost++
		l.total++
	}
	l.mu.Unlock()
	notify(l.wake)
}

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Reopen has the writer go on with a file of the same name, after the one it writes to was renamed.
func (l *Log) Reopen() { notify(l.reopen) }

// Lost is how many records found no room.
func (l *Log) Lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// Close writes what is left, and returns an error when lines were lost for want of a file to write to.
func (l *Log) Close() error {
	close(l.done)
	<-l.ended
	return l.result
}

// run is the writer.
func (l *Log) run(f *os.File) {
	defer close(l.ended)
	w := &writer{l: l, f: f}
	spare := make([]worker.FlowEnd, 0, room)
	for last := false; !last; {
		select {
		case <-l.wake:
		case <-l.reopen:
			w.reopen()
			continue
		case <-l.done:
			last = true
		}
		l.mu.Lock()
		batch, lost := l.queue, l.lost
		l.queue, l.lost = spare[:0], 0
		l.mu.Unlock()
		w.write(batch, lost)
		spare = batch
	}
	l.result = errors.Join(w.failed, w.f.Close())
}

// writer is the file, and what has become of it.
type writer struct {
	l      *Log
	f      *os.File
	buf    []byte
	failed error // as long as writing does not work
}

func (w *writer) reopen() {
	f, err := open(w.l.path)
	if err != nil {
		w.l.log.Error("the flow log goes on in the file it had", "error", err)
		return
	}
	old := w.f
	w.f = f
	if err := old.Close(); err != nil {
		w.l.log.Error("flow log", "error", err)
	}
}

// chunk is how much is written with one system call, roughly.
const chunk = 64 << 10

func (w *writer) write(batch []worker.FlowEnd, lost uint64) {
	w.buf = w.buf[:0]
	for i := range batch {
		w.line(w.l.line(&batch[i]))
	}
	if lost > 0 {
		w.line(struct {
			Lost uint64    `json:"lost"`
			At   time.Time `json:"at"`
		}{lost, time.Now()})
	}
	w.flush()
}

func (w *writer) line(v any) {
	b, err := json.Marshal(v)
	if err != nil { // strings, numbers and times only
		w.l.log.Error("flow log", "error", err)
		return
	}
	if w.buf = append(append(w.buf, b...), '\n'); len(w.buf) >= chunk {
		w.flush()
	}
}

func (w *writer) flush() {
	if len(w.buf) == 0 {
		return
	}
	_, err := w.f.Write(w.buf)
	if err != nil && w.failed == nil {
		w.l.log.Error("the flow log cannot be written, and has gaps", "error", err)
	}
	w.failed = err
	w.buf = w.buf[:0]
}

// Line is a flow as it is written.
type Line struct {
	Start       time.Time      `json:"start"`
	End         time.Time      `json:"end"`
	Protocol    string         `json:"protocol"`  // tcp, udp, icmp
	Direction   string         `json:"direction"` // out, in
	Guest       netip.AddrPort `json:"guest"`
	Peer        netip.AddrPort `json:"peer"`
	SentBytes   uint64         `json:"sent_bytes"` // by the guest
	SentPackets uint64         `json:"sent_packets"`
	RcvdBytes   uint64         `json:"received_bytes"` // by the guest
	RcvdPackets uint64         `json:"received_packets"`
	Retransmits uint64         `json:"retransmits"` // toward the guest
	Why         string         `json:"ended"`
	Rule        string         `json:"rule,omitempty"`
}

func (l *Log) line(e *worker.FlowEnd) Line {
	line := Line{
		Start: l.epoch.Add(time.Duration(e.Began)), End: l.epoch.Add(time.Duration(e.Ended)), Protocol: "icmp", Direction: "out", Guest: e.Guest, Peer: e.Peer,
		SentBytes: e.FromGuest.Bytes, SentPackets: e.FromGuest.Packets, RcvdBytes: e.ToGuest.Bytes, RcvdPackets: e.ToGuest.Packets,
		Retransmits: e.Retransmits, Why: e.Why,
	}
	const tcp, udp = 6, 17 // IANA's numbers
	switch e.Proto {
	case tcp:
		line.Protocol = "tcp"
	case udp:
		line.Protocol = "udp"
	}
	if e.Inbound {
		line.Direction = "in"
	}
	if l.name != nil {
		line.Rule = l.name(e.Rule)
	}
	return line
}
