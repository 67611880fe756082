package netbench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/bench/internal/procfs"
)

// Machine describes where a run was measured.
type Machine struct {
	Kernel     string `json:"kernel"`
	CPU        string `json:"cpu"`
	Processors int    `json:"processors"`
	MemoryMiB  uint64 `json:"memoryMiB"`
	Congestion string `json:"congestion"` // congestion control asked for everywhere
	Iperf      string `json:"iperf"`
	// Background is how many processors other work kept busy before the run.
	Background float64 `json:"background"`
}

// backgroundSpan is how long the machine is watched before a run.
const backgroundSpan = 500 * time.Millisecond

// backgroundLoad returns how many processors are busy while the benchmark waits.
func backgroundLoad(ctx context.Context) (float64, error) {
	before, err := procfs.BusyTime()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := sleepUntil(ctx, start.Add(backgroundSpan)); err != nil {
		return 0, errInterrupted
	}
	after, err := procfs.BusyTime()
	return (after - before).Seconds() / time.Since(start).Seconds(), err
}

func describeMachine() (Machine, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Machine{}, fmt.Errorf("uname: %w", err)
	}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return Machine{}, fmt.Errorf("sysinfo: %w", err)
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return Machine{}, err
	}
	return Machine{
		Kernel:     unix.ByteSliceToString(uts.Release[:]) + " " + unix.ByteSliceToString(uts.Machine[:]),
		CPU:        cpuModel(cpuinfo),
		Processors: runtime.NumCPU(),
		MemoryMiB:  si.Totalram * uint64(si.Unit) >> 20,
		Congestion: congestion,
	}, nil
}

// cpuModel returns the first processor's name; some architectures tell none.
func cpuModel(cpuinfo []byte) string {
	for s := bufio.NewScanner(bytes.NewReader(cpuinfo)); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}
