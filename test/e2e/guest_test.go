package e2e_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// guestPath is this test binary where every user may execute it.
var guestPath string

// guestPrograms run inside vasta's namespace, as its user, and not beside it as the functions that enter it with
// Namespace.Do.
var guestPrograms = map[string]func(args []string) error{}

func guestMain(args []string) int {
	run, ok := guestPrograms[args[0]]
	if !ok {
		fmt.Fprintln(os.Stderr, "e2e: no guest program", args[0])
		return 2
	}
	if err := run(args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// readSNMP reads a counter from the table of the calling thread's namespace.
func readSNMP(protocol, name string) (int64, error) {
	file := "/proc/thread-self/net/snmp"
	if strings.HasSuffix(protocol, "Ext") {
		file = "/proc/thread-self/net/netstat"
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if fields[0] != protocol+":" {
			continue
		}
		if names == nil { // names come first, values in the next line
			names = fields
			continue
		}
		for i, n := range names {
			if n == name {
				return strconv.ParseInt(fields[i], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("no counter %s %s", protocol, name)
}
