package netbench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine describes where a run was measured.
type Machine struct {
	Kernel     string `json:"kernel"`
	CPU        string `json:"cpu"`
	Processors int    `json:"processors"`
	MemoryMiB  uint64 `json:"memoryMiB"`
	Congestion string `json:"congestion"` // congestion control asked for everywhere
	Iperf      string `json:"iperf"`
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
		MemoryMiB:  uint64(si.Totalram) * uint64(si.Unit) >> 20,
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
