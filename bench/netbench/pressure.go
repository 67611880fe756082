package netbench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vasta-net/vasta/bench/internal/procfs"
	generator "github.com/vasta-net/vasta/bench/pktgen"
	"github.com/vasta-net/vasta/internal/lab"
)

// The rows of "vasta bench overload" that need the guest machine: the kernel's packet generator sends through the queue of vasta's link to a socket of the host, faster
// than anybody takes it.

// pressureASecond is how many frames the generator sends in a load, for each second that a load is to take: a million in the 8 s of the lab.
const pressureASecond = 125_000

const (
	// pressureBuffer is what the receiving socket asks for, in bytes: what it loses would be counted as vasta's.
	pressureBuffer = 256 << 20
	// pressureQuiet is for how long nothing comes before the receiver believes that nothing will.
	pressureQuiet = time.Second
)

// pressureQdiscs are what the frames wait in before the TAP takes them.
var pressureQdiscs = []string{"noqueue", "fq_codel"}

// Names of what these loads tell beside what was delivered.
const (
	extraRefused  = "k/s refused" // by the qdisc or the TAP, to the generator's face
	extraSwitches = "switches/frame"
)

// dropping is the path with --overload drop.
func (p vhostPath) dropping() vhostPath {
	return vhostPath{p.name + "-drop", append([]string{"--overload", "drop"}, p.args...)}
}

// pressureLoads are named after where the thread of vhost-net may run, and after the qdisc.
func pressureLoads() (all []load) {
	for _, pinned := range []bool{false, true} {
		name, title, who := "free", "", named(tapPath.name, tapPath.dropping().name, vhostsWay.name, vhostsWay.dropping().name)
		if pinned {
			name, title, who = "pinned", ", the thread of vhost-net on a processor of its own", named(vhostsWay.name, vhostsWay.dropping().name)
		}
		for _, qdisc := range pressureQdiscs {
			all = append(all, load{
				name:  fmt.Sprintf("pressure-%s-%s", name, qdisc),
				title: fmt.Sprintf("frames of 64 bytes from inside to a socket of the host (pktgen), delivered, qdisc %s%s", qdisc, title),
				unit:  "k/s", phase: phaseNetem, when: whenLabNamed, who: who,
				alone: func(ctx context.Context, r *rig, s *subject) (Sample, error) {
					return r.aloneInside(ctx, s, func(x *session, inside *lab.Namespace) (Sample, error) {
						return pressure(ctx, r, x, inside, qdisc, pinned)
					})
				},
			})
		}
	}
	return all
}

// pressureBars ask for what issue F does of a TAP that the kernel fills: nothing is lost that nobody has counted.
func pressureBars() (b barList) {
	for _, l := range pressureLoads() {
		for _, p := range []vhostPath{tapPath, vhostsWay} {
			for _, p := range []vhostPath{p, p.dropping()} {
				if l.who(&subject{SubjectInfo: SubjectInfo{Name: p.name}}) {
					b.add(l.name+", "+p.name+", lost and counted by nobody", atMost(0, "frames", of(p.name, statWorst, l.name).with(extraUncounted), nil), nil)
				}
			}
		}
	}
	return b
}

// pressure sends frames and tells what became of them.
func pressure(ctx context.Context, r *rig, x *session, inside *lab.Namespace, qdisc string, pinned bool) (Sample, error) {
	if _, err := inside.CommandContext(ctx, lab.Root, "tc", "qdisc", "replace", "dev", x.network.Interface, "root", qdisc).Output(); err != nil {
		return Sample{}, err
	}
	if pinned {
		if err := x.pinVHost(); err != nil {
			return Sample{}, err
		}
	}
	sink, err := listenCounting(r.lab.Host)
	if err != nil {
		return Sample{}, err
	}
	defer sink.conn.Close()
	before, err := x.linkCosts(ctx)
	if err != nil {
		return Sample{}, err
	}
	switches, err := x.switches()
	if err != nil {
		return Sample{}, err
	}
	lost, err := lostAt(inside, x.network.Interface)
	if err != nil {
		return Sample{}, err
	}
	frames := int(r.opts.Duration.Seconds() * pressureASecond)
	port := sink.conn.LocalAddr().(*net.UDPAddr).Port
	g, err := pktgen(ctx, inside, x.network.Interface, frames, "xmit_mode queue_xmit", "dst "+x.network.Gateway.String(), fmt.Sprintf("udp_dst_min %d", port), fmt.Sprintf("udp_dst_max %d", port))
	if err != nil {
		return Sample{}, err
	}
	got, took := sink.wait()
	if got == 0 {
		return Sample{}, errors.New("nothing has come")
	}
	switchesAfter, err := x.switches()
	if err != nil {
		return Sample{}, err
	}
	after, err := x.linkCosts(ctx)
	if err != nil {
		return Sample{}, err
	}
	lostAfter, err := lostAt(inside, x.network.Interface)
	if err != nil {
		return Sample{}, err
	}
	counted := float64(lostAfter - lost)
	for reason, n := range after.Drops {
		counted += float64(n - before.Drops[reason])
	}
	made := g.sent + g.refused
	return Sample{
		Value: got / took.Seconds() / 1e3,
		Extra: map[string]float64{
			extraSent: made / g.took.Seconds() / 1e3, extraRefused: g.refused / g.took.Seconds() / 1e3, extraLostFrames: 100 * (1 - got/made),
			extraCalls: float64(after.linkCalls()-before.linkCalls()) / got, extraSwitches: float64(switchesAfter-switches) / got,
			extraFrameCPU: (after.cpu - before.cpu).Seconds() * 1e6 / got, extraUncounted: max(0, made-got-counted),
		},
	}, nil
}

// lostAt counts the frames that a device of the namespace, and its qdisc, have lost so far on the way out.
func lostAt(ns *lab.Namespace, device string) (lost uint64, err error) {
	err = ns.Do(func() error {
		lost, err = generator.LostOut(device)
		return err
	})
	return lost, err
}

// counting is a socket whose datagrams are counted.
type counting struct {
	conn        *net.UDPConn
	done        chan struct{}
	got         float64 // valid once done is closed, and so are the others
	first, last time.Time
	over        atomic.Bool // the generator has ended
}

// listenCounting opens one on the namespace's loopback. The caller closes conn.
func listenCounting(ns *lab.Namespace) (*counting, error) {
	conn, err := ns.ListenPacket("udp4", net.JoinHostPort(loopback.String(), "0"))
	if err != nil {
		return nil, err
	}
	c := &counting{conn: conn.(*net.UDPConn), done: make(chan struct{})}
	raw, err := c.conn.SyscallConn()
	if err == nil {
		var optErr error
		err = raw.Control(func(fd uintptr) {
			optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, pressureBuffer)
		})
		err = errors.Join(err, optErr)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go func() {
		defer close(c.done)
		b := make([]byte, 2048)
		for {
			if _, _, err := c.conn.ReadFromUDPAddrPort(b); err != nil {
				return
			}
			if c.last = time.Now(); c.got == 0 {
				c.first = c.last
			}
			c.got++
			if !c.over.Load() {
				continue // a pause of the tool's is not the end
			}
			if err := c.conn.SetReadDeadline(c.last.Add(pressureQuiet)); err != nil {
				return
			}
		}
	}()
	return c, nil
}

// wait returns, once the generator has ended, how many datagrams have come, and in how much time, when no more do.
func (c *counting) wait() (got float64, took time.Duration) {
	c.over.Store(true)
	if err := c.conn.SetReadDeadline(time.Now().Add(pressureQuiet)); err != nil {
		return 0, 0
	}
	<-c.done
	return c.got, max(c.last.Sub(c.first), time.Millisecond)
}

// switches are the context switches of the tool's processes so far, their kernel threads among them.
func (x *session) switches() (sum int64, err error) {
	tree, err := x.toolProcesses()
	for _, p := range tree {
		n, err := procfs.Switches(p.PID)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, err
}

// pinVHost gives the threads of vhost-net the last processor; the generator runs on the first.
func (x *session) pinVHost() error {
	tree, err := x.toolProcesses()
	if err != nil {
		return err
	}
	var last unix.CPUSet
	last.Set(runtime.NumCPU() - 1) // the guest machine's are all there
	pinned := 0
	for _, p := range tree {
		names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", p.PID))
		if err != nil {
			return err
		}
		for _, name := range names {
			comm, err := os.ReadFile(name)
			if err != nil || !bytes.HasPrefix(comm, []byte("vhost-")) {
				continue // another thread, or one that has ended
			}
			tid, err := strconv.Atoi(strings.Split(name, "/")[4])
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(tid, &last); err != nil {
				return fmt.Errorf("pinning the thread of vhost-net: %w", err)
			}
			pinned++
		}
	}
	if pinned == 0 {
		return errors.New("vasta has no thread of vhost-net")
	}
	return nil
}

const pressureUsage = `Usage: vasta bench overload --lab [options]

Has the packet generator of the kernel (pktgen) send frames of 64 bytes out of a
namespace of vasta's to a socket of the host as fast as it can, in a virtual
machine whose kernel has it and vhost-net: with and without vhost-net, its
thread pinned and free, behind fq_codel and without a queue, in both modes of
--overload; and tells what is delivered, refused and lost, and the system calls
and context switches of a frame. 125,000 frames for each second of --seconds
(default 8): a million in each cell.
The options are those of vasta bench net; --only takes free or pinned, with
-noqueue or -fq_codel. TCP with 1, 4 and 8 streams in both modes:
vasta bench net --only overload.

`

// PressureMain is the command "vasta bench overload --lab". It returns the exit status.
func PressureMain(args []string, stdout, stderr io.Writer) int {
	return labMain("pressure", pressureUsage, args, stdout, stderr)
}
