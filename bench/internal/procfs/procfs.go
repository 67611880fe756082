// Package procfs reads from proc(5) what benchmarks account for: processor time
// of the machine and of processes, the tree of processes, and their memory.
package procfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of processor times in /proc: USER_HZ is 100 on every
// architecture that Go runs on under Linux.
const tick = time.Second / 100

// BusyTime returns for how long the machine's processors have been busy since it
// started, summed over processors: everything but idle time and waiting for
// input and output. Its resolution is 10 ms a processor.
func BusyTime() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusyTime(data)
}

func parseBusyTime(data []byte) (time.Duration, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	fields := strings.Fields(string(line))
	// cpu user nice system idle iowait irq softirq steal guest guest_nice
	const idle, ioWait, steal = 3, 4, 7
	if len(fields) < steal+2 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat: first line %q is not the sum over processors", line)
	}
	var busy int64
	// guest times are already part of user and nice.
	for i, f := range fields[1 : steal+2] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		// Stolen time was another machine's.
		if i != idle && i != ioWait && i != steal {
			busy += n
		}
	}
	return time.Duration(busy) * tick, nil
}

// Process is one process at the moment it was read.
type Process struct {
	PID, PPID int
	CPU       time.Duration // user and system time of all its threads; resolution 10 ms
	Args      []string      // its command line; empty for a zombie
}

// Processes returns all processes of the machine, by process id. Processes that
// end meanwhile are left out.
func Processes() (map[int]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	procs := make(map[int]Process)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		p, err := parseStat(stat)
		if err != nil {
			return nil, fmt.Errorf("%s/stat: %w", dir, err)
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		p.Args = parseCmdline(cmdline)
		procs[pid] = p
	}
	return procs, nil
}

func parseStat(data []byte) (Process, error) {
	// The name, in parentheses, may hold anything, parentheses too.
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return Process{}, errors.New("no name in parentheses")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data[:open])))
	if err != nil {
		return Process{}, fmt.Errorf("process id: %w", err)
	}
	fields := strings.Fields(string(data[end+1:]))
	const ppid, utime, stime = 1, 11, 12 // counted from the state, field 3 of proc(5)
	if len(fields) <= stime {
		return Process{}, fmt.Errorf("%d fields after the name, want more than %d", len(fields), stime)
	}
	p := Process{PID: pid}
	if p.PPID, err = strconv.Atoi(fields[ppid]); err != nil {
		return Process{}, fmt.Errorf("parent: %w", err)
	}
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return Process{}, fmt.Errorf("processor time: %w", err)
		}
		p.CPU += time.Duration(n) * tick
	}
	return p, nil
}

func parseCmdline(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}

// Tree returns root and its descendants in procs, without the subtrees whose top
// prune accepts. Root itself is not pruned.
func Tree(procs map[int]Process, root int, prune func(Process) bool) []Process {
	children := make(map[int][]int)
	for _, p := range procs {
		children[p.PPID] = append(children[p.PPID], p.PID)
	}
	top, ok := procs[root]
	if !ok {
		return nil
	}
	tree := []Process{top}
	for i := 0; i < len(tree); i++ {
		for _, pid := range children[tree[i].PID] {
			if p := procs[pid]; !prune(p) {
				tree = append(tree, p)
			}
		}
	}
	return tree
}

// PSS returns the proportional set size of a process in bytes: its private pages
// and its share of those it shares with others.
func PSS(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	return parsePSS(data)
}

func parsePSS(data []byte) (int64, error) {
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		rest, ok := strings.CutPrefix(s.Text(), "Pss:")
		if !ok {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("smaps_rollup: Pss: %w", err)
		}
		return kb << 10, nil
	}
	return 0, errors.New("smaps_rollup: no Pss line")
}
