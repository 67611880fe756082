package overloadbench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/vasta-net/vasta/bench/pktgen"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What vasta gives a namespace on a host without a network.
const (
	guestIf, guestAddr      = "tap0", "169.254.2.1"
	gatewayAddr, gatewayMAC = "169.254.2.2", "9a:55:9a:55:9a:55"
)

// socketBuffer is what the receiver asks for, in bytes: what it loses would be counted as vasta's.
const socketBuffer = 256 << 20

// throughVasta sends bursts out of a namespace of vasta's to a socket of the host: through the queue that vasta sizes, and through the kernel's.
func throughVasta(ctx context.Context, program string, count uint64) (all []Sample, err error) {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return nil, fmt.Errorf("bringing lo up: %w", err)
	}
	count = max(count/8, 4*burstFrames)
	free, err := vastaRun(ctx, program, "free", count, 0, 0)
	if err != nil {
		return nil, err
	}
	all = append(all, free)
	for _, q := range queues {
		s, err := vastaRun(ctx, program, q.mode, count, q.places, free.PerSecond/2)
		if err != nil {
			return all, err
		}
		all = append(all, s)
	}
	return all, nil
}

// vastaRun has a generator in a namespace of vasta's send to a socket here. places is the length of the interface's queue, 0 for that which vasta gives it; rate is in frames a
// second, 0 for as many as go, which are not sent in bursts then.
func vastaRun(ctx context.Context, program, mode string, count uint64, places int, rate float64) (s Sample, err error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return s, err
	}
	defer conn.Close()
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) }) // without the right to it the default has to do
	}
	dir, err := os.MkdirTemp("", "vasta-bench-overload-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	result, counters := filepath.Join(dir, "result.json"), filepath.Join(dir, "counters.json")
	script := fmt.Sprintf("ip link set dev %s txqueuelen %d && ", guestIf, places)
	if places == 0 {
		script = ""
	}
	pace := ""
	if rate > 0 {
		pace = fmt.Sprintf("-b %d --rate %.0f", burstFrames, rate)
	}
	// The last frames are still on their way when the generator ends.
	script += fmt.Sprintf("%q pktgen -q -i %s -m %s --src %s -d %s -p %d -s %d -n %d %s --overload drop --json %s && sleep 0.5", program, guestIf, gatewayMAC, guestAddr, gatewayAddr,
		conn.LocalAddr().(*net.UDPAddr).Port, frameSize, count, pace, result)
	l := pktgen.NewLedger()
	var receiving sync.WaitGroup
	began := time.Time{}
	last := time.Time{}
	receiving.Go(func() {
		b := make([]byte, pktgen.MaxSize)
		for {
			n, _, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if last = time.Now(); began.IsZero() {
				began = last
			}
			l.AddPayload(b[:n])
		}
	})
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "-q", "-I", guestIf, "--queues", "1", "--counters="+counters, "--", "sh", "-c", script)
	cmd.Stderr = &stderr
	err = cmd.Run()
	err = errors.Join(err, conn.Close())
	receiving.Wait()
	if err != nil {
		return s, fmt.Errorf("%s: %w: %s", cmd, err, bytes.TrimSpace(stderr.Bytes()))
	}
	var r pktgen.Result
	var c struct {
		Dropped      uint64            `json:"dropped"`
		QueueDropped uint64            `json:"queue_dropped"`
		SystemCalls  map[string]uint64 `json:"system_calls"`
	}
	if err := errors.Join(readJSON(result, &r), readJSON(counters, &c)); err != nil {
		return s, err
	}
	if r.Sent == nil || l.Distinct() == 0 {
		return s, errors.New("nothing was delivered")
	}
	s = Sample{
		Mode: mode, Transmitted: r.Sent.Frames + r.Sent.Refused, Delivered: l.Distinct(), Wrong: l.Reordered + l.Duplicated + l.Damaged,
		Counted: c.Dropped + c.QueueDropped, Seconds: r.Sent.Elapsed.Seconds(),
	}
	s.Lost = s.Transmitted - s.Delivered
	s.PerSecond = float64(s.Delivered) / max(last.Sub(began), time.Millisecond).Seconds()
	s.LostSecond = float64(s.Lost) / s.Seconds
	s.Generator = r.Sent.Busy.Seconds() / s.Seconds
	calls := r.Sent.Calls
	for _, n := range c.SystemCalls {
		calls += n
	}
	s.Calls = float64(calls) / float64(s.Delivered)
	s.Switches = float64(r.Sent.Switches) / float64(s.Delivered) * 1e6
	return s, nil
}

func readJSON(file string, into any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}
