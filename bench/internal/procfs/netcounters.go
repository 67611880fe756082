package procfs

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
)

// TCPCounters are what the kernel counts for the TCP sockets of one network namespace, since the namespace was made.
type TCPCounters struct {
	// OutOfOrder counts segments that arrived before one they should have followed.
	OutOfOrder int64
	// Retransmits counts segments of the maximum segment size that were sent again.
	Retransmits int64
}

// Sub returns what was counted since before.
func (c TCPCounters) Sub(before TCPCounters) TCPCounters {
	return TCPCounters{c.OutOfOrder - before.OutOfOrder, c.Retransmits - before.Retransmits}
}

// ReadTCPCounters returns the counters of the network namespace that the calling thread is in.
func ReadTCPCounters() (TCPCounters, error) {
	all := make(map[string]int64)
	for _, file := range []string{"/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"} {
		table, err := readNetTable(file)
		if err != nil {
			return TCPCounters{}, err
		}
		maps.Copy(all, table)
	}
	for _, name := range []string{"TcpExt.TCPOFOQueue", "Tcp.RetransSegs"} {
		if _, ok := all[name]; !ok {
			return TCPCounters{}, fmt.Errorf("the kernel has no counter %s", name)
		}
	}
	return TCPCounters{OutOfOrder: all["TcpExt.TCPOFOQueue"], Retransmits: all["Tcp.RetransSegs"]}, nil
}

// readNetTable reads a file that parseNetTable understands.
func readNetTable(file string) (map[string]int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	table, err := parseNetTable(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return table, nil
}

// parseNetTable reads pairs of lines, the first of which has the names of the numbers in the second; both begin with the name
// of the group. Its keys are GROUP.NAME.
func parseNetTable(data []byte) (map[string]int64, error) {
	table := make(map[string]int64)
	var names []string
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) == 0 {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if len(fields) != len(names) || fields[0] != names[0] {
			return nil, fmt.Errorf("the lines of %s do not match", names[0])
		}
		group := strings.TrimSuffix(fields[0], ":")
		for i := 1; i < len(fields); i++ {
			n, err := strconv.ParseInt(fields[i], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%s.%s: %w", group, names[i], err)
			}
			table[group+"."+names[i]] = n
		}
		names = nil
	}
	return table, nil
}
