package procfs

import (
	"bufio"
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Switches counts the context switches, voluntary or not, of the threads that a process has now.
func Switches(pid int) (sum int64, err error) {
	err = eachThread(pid, "status", func(data []byte) error {
		n, err := parseSwitches(data)
		sum += n
		return err
	})
	if err != nil {
		return 0, err
	}
	return sum, nil
}

// parseSwitches adds up the lines of proc_pid_status(5) that end in "_ctxt_switches".
func parseSwitches(status []byte) (sum int64, err error) {
	lines := 0
	for s := bufio.NewScanner(bytes.NewReader(status)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		if !strings.HasSuffix(key, "voluntary_ctxt_switches") {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
		lines++
	}
	if lines != 2 {
		return 0, fmt.Errorf("%d lines of context switches, want 2", lines)
	}
	return sum, nil
}
