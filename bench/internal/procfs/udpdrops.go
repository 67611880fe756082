package procfs

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// UDPDrops are what a kernel has dropped of the datagrams of one network namespace, since the namespace was made.
type UDPDrops struct {
	// Link counts packets that an interface had no room for, in either direction: one that stands for several datagrams once.
	Link int64
	// Socket counts datagrams that a socket's receive buffer had no room for.
	Socket int64
}

// Sub returns what was counted since before.
func (d UDPDrops) Sub(before UDPDrops) UDPDrops {
	return UDPDrops{d.Link - before.Link, d.Socket - before.Socket}
}

// Add returns the sum.
func (d UDPDrops) Add(o UDPDrops) UDPDrops { return UDPDrops{d.Link + o.Link, d.Socket + o.Socket} }

// ReadUDPDrops returns the counters of the network namespace that the calling thread is in.
func ReadUDPDrops() (UDPDrops, error) {
	const snmp, dev = "/proc/thread-self/net/snmp", "/proc/thread-self/net/dev"
	table, err := readNetTable(snmp)
	if err != nil {
		return UDPDrops{}, err
	}
	overflows, ok := table["Udp.RcvbufErrors"]
	if !ok {
		return UDPDrops{}, fmt.Errorf("%s: no Udp.RcvbufErrors", snmp)
	}
	data, err := os.ReadFile(dev)
	if err != nil {
		return UDPDrops{}, err
	}
	link, err := parseDeviceDrops(data)
	if err != nil {
		return UDPDrops{}, fmt.Errorf("%s: %w", dev, err)
	}
	return UDPDrops{Link: link, Socket: overflows}, nil
}

// parseDeviceDrops adds up the columns "drop" of /proc/net/dev, of what was received and of what was to be sent.
func parseDeviceDrops(data []byte) (sum int64, err error) {
	for line := range bytes.Lines(data) {
		_, numbers, ok := strings.Cut(string(line), ":")
		if !ok {
			continue // one of the two lines of headings
		}
		fields := strings.Fields(numbers)
		const received, sent = 3, 11
		if len(fields) <= sent {
			return 0, fmt.Errorf("%d columns are too few", len(fields))
		}
		for _, column := range []int{received, sent} {
			n, err := strconv.ParseInt(fields[column], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}
