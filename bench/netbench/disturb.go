package netbench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/internal/lab"
)

// flapTime is how long a link is down and a queue detached: shorter than the first retransmission timeouts add up to.
const flapTime = 300 * time.Millisecond

// disturber does to a running vasta what networks do: links that go down and come back, queues that are taken away, and ways
// that change.
type disturber struct {
	rig    *rig
	inside *lab.Namespace // the tool's
	pid    int            // of vasta
	netem  bool
	device string
	random *rand.Rand
	count  int
}

// newDisturber prepares disturbances. The caller ends them with calm.
func newDisturber(r *rig, x *session, netem bool) (*disturber, error) {
	inside, err := x.inside(r)
	if err != nil {
		return nil, err
	}
	d := &disturber{
		rig: r, inside: inside, pid: x.toolPID, netem: netem, device: x.network.Interface,
		random: rand.New(rand.NewPCG(1, 2)),
	}
	// Links that come up again keep their IPv6 addresses.
	for _, ns := range []*lab.Namespace{r.lab.Host, r.lab.Inet, inside} {
		if err := ns.Sysctl("net.ipv6.conf.all.keep_addr_on_down", "1"); err != nil {
			return nil, errors.Join(err, inside.Close())
		}
	}
	return d, nil
}

// run runs a command in the tool's namespace and returns what it writes.
func (d *disturber) run(ctx context.Context, line string) (string, error) {
	out, err := d.inside.CommandContext(ctx, lab.Root, strings.Fields(line)...).Output()
	return string(out), err
}

// next does the next disturbance.
func (d *disturber) next(ctx context.Context) error {
	kinds := []func(context.Context) error{d.flapFar, d.flapTAP, d.changeQueues, d.changeWay}
	kind := kinds[d.count%len(kinds)]
	d.count++
	return kind(ctx)
}

// flapFar takes the network beyond the host away for a moment.
func (d *disturber) flapFar(ctx context.Context) error {
	for _, state := range []string{"down", "up"} {
		if _, err := d.rig.lab.Inet.CommandContext(ctx, lab.Root, "ip", "link", "set", lab.LinkName, state).Output(); err != nil {
			return err
		}
		if state == "down" {
			if err := sleepUntil(ctx, time.Now().Add(flapTime)); err != nil {
				return err
			}
		}
	}
	return nil
}

// flapTAP takes the link to vasta away for a moment, and gives the namespace its routes back, which go with the link.
func (d *disturber) flapTAP(ctx context.Context) error {
	routes := make(map[string][]string)
	for _, family := range []string{"-4", "-6"} {
		out, err := d.run(ctx, "ip "+family+" route show dev "+d.device)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			// Routes of the kernel's own come back by themselves.
			if !strings.Contains(line, "proto kernel") {
				routes[family] = append(routes[family], strings.TrimSpace(line))
			}
		}
	}
	if _, err := d.run(ctx, "ip link set "+d.device+" down"); err != nil {
		return err
	}
	if err := sleepUntil(ctx, time.Now().Add(flapTime)); err != nil {
		return err
	}
	if _, err := d.run(ctx, "ip link set "+d.device+" up"); err != nil {
		return err
	}
	for family, lines := range routes {
		for _, line := range lines {
			if _, err := d.run(ctx, "ip "+family+" route replace "+line+" dev "+d.device); err != nil {
				return err
			}
		}
	}
	return nil
}

// changeQueues detaches one of the queues of vasta's TAP for a moment, as a driver that changes their number does. With
// one queue only there is nothing to change.
func (d *disturber) changeQueues(ctx context.Context) error {
	pidfd, err := unix.PidfdOpen(d.pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd of vasta: %w", err)
	}
	defer unix.Close(pidfd)
	fds, err := tunDescriptors(d.pid)
	if err != nil || len(fds) < 2 {
		return err
	}
	fd, err := unix.PidfdGetfd(pidfd, fds[d.random.IntN(len(fds))], 0)
	if err != nil {
		return fmt.Errorf("queue of vasta's TAP: %w", err)
	}
	defer unix.Close(fd)
	if err := setQueue(fd, unix.IFF_DETACH_QUEUE); err != nil {
		return err
	}
	return errors.Join(sleepUntil(ctx, time.Now().Add(flapTime)), setQueue(fd, unix.IFF_ATTACH_QUEUE))
}

// tunDescriptors lists the descriptors of a process that are queues of TUN or TAP devices.
func tunDescriptors(pid int) ([]int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || target != "/dev/net/tun" {
			continue // closed meanwhile, or something else
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// setQueue attaches or detaches the queue of a TAP.
func setQueue(fd int, flag uint16) error {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	ifr.SetUint16(flag)
	if err := unix.IoctlIfreq(fd, unix.TUNSETQUEUE, ifr); err != nil {
		return fmt.Errorf("TUNSETQUEUE %#x: %w", flag, err)
	}
	return nil
}

// changeWay gives the veth another netem, or another speed where the kernel has none.
func (d *disturber) changeWay(context.Context) error {
	way := shaped{d.rig.lab.Host, lab.LinkName}
	if err := way.mend(); err != nil {
		return err
	}
	if d.netem {
		return way.apply(impairments[d.random.IntN(len(impairments))].shape(d.rig.opts.Rate))
	}
	slow := lab.Bottleneck{Rate: uint64(200+d.random.IntN(2000)) * mega, Burst: 256 << 10, Bytes: 4 << 20}
	return way.ns.ImpairSent(way.device, lab.Impairment{Bottleneck: slow})
}

// calm leaves the veth unshaped, and ends the disturber.
func (d *disturber) calm() error {
	return errors.Join(shaped{d.rig.lab.Host, lab.LinkName}.mend(), d.inside.Close())
}
