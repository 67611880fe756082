package options

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"
)

// Limits of the rings.
const (
	minReceive  = 64    // mergeable buffers of the shortest kind hold the longest frame
	minTransmit = 2     // a frame takes one descriptor, seldom two
	maxRing     = 32768 // virtio 1.3, 2.7
	minBuffer   = 1536
	maxBuffer   = 65536
	maxPoll     = 1_000_000
)

func setVHost(p *parser, f found) error {
	mode, ok := map[string]VHostMode{"off": VHostOff, "auto": VHostAuto, "on": VHostOn}[f.arg]
	if !ok {
		return errors.New("auto, on or off")
	}
	p.VHost.Mode = mode
	return nil
}

func setVHostTuning(p *parser, f found) error {
	v := &p.VHost
	for word := range strings.SplitSeq(f.arg, ",") {
		key, text, hasValue := strings.Cut(word, "=")
		var err error
		switch key {
		case "receive":
			v.Receive, err = ringSize(text, minReceive)
		case "transmit":
			v.Transmit, err = ringSize(text, minTransmit)
		case "buffer":
			var n int64
			n, err = parseNumber(text, minBuffer, maxBuffer)
			v.Buffer = int(n)
		case "poll":
			var n int64
			n, err = parseNumber(text, 0, maxPoll)
			v.Poll = time.Duration(n) * time.Microsecond
		case "workers":
			if hasValue {
				return errors.New("workers has no value")
			}
			v.Workers = true
		default:
			return fmt.Errorf("%q: the keys are receive, transmit, buffer, poll and workers", key)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

// ringSize reads the size of a split ring.
func ringSize(text string, least int64) (int, error) {
	n, err := parseNumber(text, least, maxRing)
	if err == nil && bits.OnesCount64(uint64(n)) != 1 {
		return 0, errors.New("not a power of two")
	}
	return int(n), err
}
