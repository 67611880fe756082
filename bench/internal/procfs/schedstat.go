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
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return Scheduling{}, err
	}
	var sum Scheduling
	for _, name := range files {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			return Scheduling{}, err
		}
		s, err := parseSchedstat(string(data))
		if err != nil {
			return Scheduling{}, fmt.Errorf("%s: %w", name, err)
		}
		sum.Ran += s.Ran
		sum.Waited += s.Waited
	}
	return sum, nil
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
