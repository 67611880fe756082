package netbench

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// congestion is the congestion control of every socket of a run. BBR would cap
// all figures, veth's too, near its pacing rate.
const congestion = "cubic"

// allowedFile holds the congestion controls that sockets without CAP_NET_ADMIN,
// and network namespaces for their default, may choose. It is one list for the
// whole machine.
const allowedFile = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"

// allowCongestion puts congestion on the machine's list of allowed ones and
// returns the function that puts the list back as it was.
func allowCongestion() (restore func() error, err error) {
	list, err := os.ReadFile(allowedFile)
	if err != nil {
		return nil, fmt.Errorf("congestion control: %w", err)
	}
	if slices.Contains(strings.Fields(string(list)), congestion) {
		return func() error { return nil }, nil
	}
	longer := strings.TrimSpace(string(list)) + " " + congestion
	if err := os.WriteFile(allowedFile, []byte(longer), 0o644); err != nil {
		return nil, fmt.Errorf("congestion control %s: %w; load it with modprobe tcp_%s", congestion, err, congestion)
	}
	return func() error { return os.WriteFile(allowedFile, list, 0o644) }, nil
}
