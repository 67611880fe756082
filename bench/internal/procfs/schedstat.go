package procfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Scheduling is how long the threads of a process were on a processor, and how long they could have run but others did
// (Documentation/scheduler/sched-stats.rst).
type Scheduling struct {
	Ran, Waited time.Duration
}

// ReadScheduling sums over the threads that a process has now.
func ReadScheduling(pid int) (Scheduling, error) {
	var sum Scheduling
	err := eachThread(pid, "schedstat", func(data []byte) error {
		s, err := parseSchedstat(string(data))
		sum.Ran += s.Ran
		sum.Waited += s.Waited
		return err
	})
	if err != nil {
		return Scheduling{}, err
	}
	return sum, nil
}

// eachThread calls read with what a file of /proc/PID/task/TID says of each thread that a process has now.
func eachThread(pid int, file string, read func(data []byte) error) error {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/%s", pid, file))
	if err != nil {
		return err
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			return err
		}
		if err := read(data); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// ReadThreadScheduling is that of the calling thread.
func ReadThreadScheduling() (Scheduling, error) {
	data, err := os.ReadFile("/proc/thread-self/schedstat")
	if err != nil {
		return Scheduling{}, err
	}
	return parseSchedstat(string(data))
}

// Since is what has come since an earlier reading.
func (s Scheduling) Since(before Scheduling) Scheduling {
	return Scheduling{Ran: s.Ran - before.Ran, Waited: s.Waited - before.Waited}
}

// Share is the part of the time that the threads could have run for which they did: 1 when nobody was in their way.
func (s Scheduling) Share() float64 {
	if s.Ran+s.Waited <= 0 {
		return 1
	}
	return float64(s.Ran) / float64(s.Ran+s.Waited)
}

// parseSchedstat parses "RAN WAITED TIMESLICES", the first two in nanoseconds.
func parseSchedstat(line string) (Scheduling, error) {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return Scheduling{}, fmt.Errorf("%d fields, want 3", len(fields))
	}
	ran, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return Scheduling{}, err
	}
	waited, err := strconv.ParseInt(fields[1], 10, 64)
	return Scheduling{Ran: time.Duration(ran), Waited: time.Duration(waited)}, err
}
