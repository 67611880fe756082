package virtiobench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vasta-net/vasta/bench/internal/rounds"
)

// testpmd is DPDK's pair on this machine: its virtio_user driver and its net_vhost device, a process and a processor each, 64 bytes, a ring of 256.
func testpmd(name string, packed, toDevice bool) subject {
	return subject{name, func(ctx context.Context, d time.Duration) (Sample, error) {
		const program = "dpdk-testpmd"
		if _, err := exec.LookPath(program); err != nil {
			return Sample{}, errors.New("there is no dpdk-testpmd (Debian: dpdk-dev)")
		}
		cpus, err := processors()
		if err != nil || len(cpus) < 2 {
			return Sample{}, errors.Join(err, errors.New("two processors are needed"))
		}
		dir, err := os.MkdirTemp("", "vasta-testpmd-")
		if err != nil {
			return Sample{}, err
		}
		defer os.RemoveAll(dir)
		socket := filepath.Join(dir, "s")
		device, driver := "rxonly", "txonly"
		if !toDevice {
			device, driver = driver, device
		}
		format := 0
		if packed {
			format = 1
		}
		start := func(cpu int, role, vdev, mode string) (*pmd, error) {
			return startPMD(ctx, program, "--lcores", fmt.Sprintf("0@%d,1@%d", cpu, cpu), "--no-huge", "--no-pci", "-m", "256", "--no-telemetry",
				"--file-prefix", fmt.Sprintf("vasta%d%s", os.Getpid(), role), "--vdev", vdev,
				"--", "--forward-mode="+mode, "--total-num-mbufs=16384", "--stats-period", "1", "--auto-start")
		}
		back, err := start(cpus[0], "b", "net_vhost0,iface="+socket+",queues=1", device)
		if err != nil {
			return Sample{}, err
		}
		defer back.stop()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, err := os.Stat(socket); err == nil {
				break
			}
			if time.Now().After(deadline) || back.ended() {
				return Sample{}, fmt.Errorf("testpmd's device does not come up: %s", back.last())
			}
		}
		front, err := start(cpus[1], "f", fmt.Sprintf("net_virtio_user0,path=%s,queues=1,queue_size=256,mrg_rxbuf=1,in_order=0,packed_vq=%d", socket, format), driver)
		if err != nil {
			return Sample{}, err
		}
		defer front.stop()
		sink := back
		if !toDevice {
			sink = front
		}
		// It says once a second how many came; the first numbers are of less than a second.
		seconds := max(2, int(d/time.Second)+1)
		for deadline := time.Now().Add(time.Duration(seconds+10) * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if v := sink.rates(); len(v) > seconds {
				return Sample{Value: rounds.Median(v[1:]) / 1e6, Extra: map[string]float64{}}, nil
			}
			if time.Now().After(deadline) || back.ended() || front.ended() || ctx.Err() != nil {
				return Sample{}, fmt.Errorf("testpmd moves nothing: %s", sink.last())
			}
		}
	}}
}

// pmd is a running testpmd.
type pmd struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex
	v    []float64 // packets a second that were received, as it printed them, from the first that is not 0
	line string
}

func startPMD(ctx context.Context, name string, args ...string) (*pmd, error) {
	p := &pmd{cmd: exec.CommandContext(ctx, name, args...), done: make(chan struct{})}
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("testpmd: %w", err)
	}
	go p.read(r)
	go func() {
		w.CloseWithError(p.cmd.Wait())
		close(p.done)
	}()
	return p, nil
}

func (p *pmd) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		p.mu.Lock()
		if len(fields) > 1 && fields[0] == "Rx-pps:" {
			if v, err := strconv.ParseFloat(fields[1], 64); err == nil && v > 0 {
				p.v = append(p.v, v)
			}
		} else if len(fields) > 0 {
			p.line = lines.Text()
		}
		p.mu.Unlock()
	}
}

func (p *pmd) rates() []float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]float64(nil), p.v...)
}

func (p *pmd) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.line
}

func (p *pmd) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *pmd) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
	case <-time.After(3 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}
