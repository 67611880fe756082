package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/flow/policy"
	"github.com/vasta-net/vasta/internal/flowlog"
	"github.com/vasta-net/vasta/internal/options"
)

// writeCounters writes the counters of a running network, if they were asked for. A failure is logged: it must not end the network.
func (s *session) writeCounters() {
	if !s.o.Counters.Enabled {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	all, err := s.network.Stats(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		s.log.Error("counters: a worker did not answer within a second")
	case err != nil:
		s.log.Error(err.Error())
	default:
		if err := writeCounters(s.o, &all, s.rules); err != nil {
			s.log.Error(err.Error())
		}
	}
}

func writeCounters(o *options.Options, counters *vasta.Stats, rules *policy.Set) error {
	b, err := describe(counters, rules)
	if err != nil {
		return fmt.Errorf("counters: %w", err)
	}
	if o.Counters.File == "" {
		_, err = os.Stderr.Write(b)
	} else {
		err = os.WriteFile(o.Counters.File, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("option --counters: cannot write the counters: %w", err)
	}
	return nil
}

// describe gives the counters as one line of JSON: the sums, each worker's own, and what the process as a whole uses.
func describe(counters *vasta.Stats, rules *policy.Set) ([]byte, error) {
	b, err := json.Marshal(counters.Total)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	if all["workers"], err = json.Marshal(counters.Workers); err != nil {
		return nil, err
	}
	if all["queue_dropped"], err = json.Marshal(counters.QueueDropped); err != nil {
		return nil, err
	}
	if rules != nil {
		if all["policy"], err = policyCounters(rules); err != nil {
			return nil, err
		}
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	all["process"], err = json.Marshal(map[string]uint64{
		"goroutines": uint64(runtime.NumGoroutine()), "heap_bytes": memory.HeapAlloc, "garbage_collections": uint64(memory.NumGC),
	})
	if err != nil {
		return nil, err
	}
	b, err = json.Marshal(all)
	return append(b, '\n'), err
}

// newLogger makes the logger that the options ask for. The returned function closes its file.
func newLogger(o *options.Log) (*slog.Logger, func() error, error) {
	var out io.Writer = os.Stderr
	closeFile := func() error { return nil }
	if o.File != "" {
		f, err := os.OpenFile(o.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, nil, fmt.Errorf("option --log-file: %w (choose a file in a folder that you may write to)", err)
		}
		out, closeFile = f, f.Close
	}
	level := slog.LevelWarn
	switch o.Level {
	case options.Normal:
		level = slog.LevelInfo
	case options.Debug:
		level = slog.LevelDebug
	case options.Trace:
		level = levelTrace
	}
	h := &slog.HandlerOptions{Level: level, ReplaceAttr: nameTrace}
	if o.Format == options.JSON {
		return slog.New(slog.NewJSONHandler(out, h)), closeFile, nil
	}
	return slog.New(slog.NewTextHandler(out, h)), closeFile, nil
}

// nameTrace gives the level of --trace its name.
func nameTrace(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.LevelKey && a.Value.Any() == levelTrace {
		a.Value = slog.StringValue("TRACE")
	}
	return a
}

// logFlows has the network tell of its flows if that was asked for.
func (s *session) logFlows(c *vasta.Config) error {
	if s.o.FlowLog == "" {
		return nil
	}
	name := func(int32) string { return "" }
	if s.rules != nil {
		name = s.rules.Name
	}
	var err error
	if s.flows, err = flowlog.Open(s.o.FlowLog, name, s.log); err != nil {
		return fmt.Errorf("option --flow-log: %w", err)
	}
	c.FlowEnded = s.flows.Add
	return nil
}

// closeFlows ends the flow log, which has been told of all flows then.
func (s *session) closeFlows() error {
	if s.flows == nil {
		return nil
	}
	if lost := s.flows.Lost(); lost > 0 {
		s.log.Warn("the flow log lacks flows, because they ended faster than they could be written", "count", lost)
	}
	if err := s.flows.Close(); err != nil {
		return fmt.Errorf("option --flow-log: %w", err)
	}
	return nil
}
