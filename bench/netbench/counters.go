package netbench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// counters is the part of vasta's counters that the tables read. The levels are sums over its workers.
type counters struct {
	Drops     map[string]int64 `json:"drops"` // by reason
	FromGuest int64            `json:"rx_frames"`
	ToGuest   int64            `json:"tx_frames"`
	Calls     struct {
		Wait      int64 `json:"wait"`
		LinkRead  int64 `json:"link_read"`
		LinkWrite int64 `json:"link_write"`
	} `json:"system_calls"`
	Rings struct {
		Descriptors int64 `json:"descriptors"`
		Kicks       int64 `json:"kicks"`
		Past        int64 `json:"past"`
	} `json:"rings"`
	TCP struct {
		Retransmits int64 `json:"retransmits"` // segments
		OutOfOrder  int64 `json:"out_of_order"`
	} `json:"tcp"`
	Levels struct {
		TCPFlows  int64 `json:"tcp_flows"`
		Promised  int64 `json:"promised_bytes"`
		Held      int64 `json:"held_bytes"`
		Budget    int64 `json:"budget_bytes"`
		Pages     int64 `json:"pages_in_use"`
		Fragments int64 `json:"fragments_in_use"`
	} `json:"levels"`
	Process struct {
		Goroutines int64 `json:"goroutines"`
	} `json:"process"`
	// Residence tells how long frames stay inside; nil when this vasta does not measure it.
	Residence *struct {
		FromGuest percentiles `json:"from_guest"`
		ToGuest   percentiles `json:"to_guest"`
	} `json:"residence"`
}

// linkCalls are the system calls on the link, and the waits.
func (c *counters) linkCalls() int64 { return c.Calls.LinkRead + c.Calls.LinkWrite + c.Calls.Wait }

// percentiles sum up durations.
type percentiles struct {
	P99 time.Duration `json:"p99_ns"`
}

const (
	// countersLimit is how long vasta may take to write its counters, and countersAgain how long it is waited for before it is asked
	// again: it gives up when one of its workers, or the machine, is too busy to answer.
	countersLimit = 20 * time.Second
	countersAgain = 2 * time.Second
	countersPause = 2 * time.Millisecond

	// settleLimit is how long the last flows of a load may take to end.
	settleLimit = 15 * time.Second
	settlePause = 50 * time.Millisecond
	// readPages is how many pages may be in use without a flow, those that host data is read into.
	readPages = 4
)

// readCounters asks vasta for its counters.
func (x *session) readCounters(ctx context.Context) (counters, error) {
	if err := os.Remove(x.counters); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return counters{}, err
	}
	var asked time.Time
	for deadline := time.Now().Add(countersLimit); ; {
		if time.Since(asked) > countersAgain {
			if err := unix.Kill(x.toolPID, unix.SIGUSR1); err != nil {
				return counters{}, x.explain(fmt.Errorf("SIGUSR1 to vasta: %w", err))
			}
			asked = time.Now()
		}
		data, err := os.ReadFile(x.counters)
		if err == nil && bytes.HasSuffix(data, []byte("\n")) {
			var c counters
			if err := json.Unmarshal(data, &c); err != nil {
				return counters{}, fmt.Errorf("vasta's counters: %w", err)
			}
			return c, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return counters{}, err
		}
		if time.Now().After(deadline) {
			return counters{}, x.explain(fmt.Errorf("vasta has not written its counters within %v of SIGUSR1", countersLimit))
		}
		if err := sleepUntil(ctx, time.Now().Add(countersPause)); err != nil {
			return counters{}, err
		}
	}
}

// footprint is what a program leaks when it leaks.
type footprint struct {
	counters
	descriptors int
}

// settle waits until vasta's flows have ended and tells what it uses then.
func (x *session) settle(ctx context.Context) (footprint, error) {
	for deadline := time.Now().Add(settleLimit); ; {
		c, err := x.readCounters(ctx)
		if err != nil {
			return footprint{}, err
		}
		l := c.Levels
		ended := l.TCPFlows == 0 && l.Promised == 0 && l.Held == 0 && l.Fragments == 0
		if ended || time.Now().After(deadline) {
			fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", x.toolPID))
			return footprint{c, len(fds)}, err
		}
		if err := sleepUntil(ctx, time.Now().Add(settlePause)); err != nil {
			return footprint{}, err
		}
	}
}

// left says what a load has left behind that was not there before it: how many things, and which.
func (u footprint) left(before footprint) (things int64, which string) {
	for _, kind := range []struct {
		name         string
		now, allowed int64
	}{
		{"flows", u.Levels.TCPFlows, before.Levels.TCPFlows},
		{"descriptors", int64(u.descriptors), int64(before.descriptors)},
		{"goroutines", u.Process.Goroutines, before.Process.Goroutines},
		{"pages", u.Levels.Pages, before.Levels.Pages + readPages},
		{"fragments of pages", u.Levels.Fragments, before.Levels.Fragments},
		{"bytes promised", u.Levels.Promised, before.Levels.Promised},
		{"bytes held", u.Levels.Held, before.Levels.Held},
	} {
		if more := kind.now - kind.allowed; more > 0 {
			things += more
			if which != "" {
				which += ", "
			}
			which += fmt.Sprintf("%d %s", more, kind.name)
		}
	}
	return things, which
}
