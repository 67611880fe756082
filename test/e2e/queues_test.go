package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// workerFlows are the TCP flows that each worker has opened or accepted.
func (c *counters) workerFlows() (flows []uint64) {
	for _, w := range c.Workers {
		flows = append(flows, w.TCP.Opened+w.TCP.Accepted)
	}
	return flows
}

// TestQueues moves 64 streams each way over links of several queues: every byte is right, none is sent twice or out of order, every queue
// is used, and no worker gets a frame that is another's: but for the second of those connections with which it shows that the first worker should not do it all.
func TestQueues(t *testing.T) {
	const streams, size, begun = 64, 2 << 20, 2 * 8 // the last: so many, with each family
	for _, queues := range []int{1, 2, 4, 16} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			r := start(t, "--queues", fmt.Sprint(queues))
			before := r.usage()
			bothFamilies(t, func(t *testing.T, f family) {
				from, to := serve(t, r.Inet, f.far, source(size)), serve(t, r.Host, f.loopback, sink(size))
				parallel(t, 2*streams, func(i int) error {
					if i%2 == 0 {
						return download(r.Guest, f.far, from, size)
					}
					return upload(r.Guest, f.gateway, to, size)
				})
			})
			c := r.settle()
			if len(c.Workers) != queues {
				t.Fatalf("%d workers, want %d", len(c.Workers), queues)
			}
			for i, n := range c.workerFlows() {
				if n == 0 {
					t.Errorf("worker %d of %d had none of %d flows: %v", i, queues, 4*streams, c.workerFlows())
				}
			}
			late := tcpExt(t, r.Guest, "TCPOFOQueue")
			if c.TCP.OutOfOrder != 0 || late != 0 || c.Handover.In > begun || c.Handover.Out != c.Handover.In {
				t.Errorf("segments out of order: %d at vasta, %d at the guest; handed over: %+v", c.TCP.OutOfOrder, late, c.Handover)
			}
			r.wantUsage(before)
			r.wantIdle("after the streams")
		})
	}
}

// TestAcceptedAreSpread: connections from outside belong to all workers in equal numbers.
func TestAcceptedAreSpread(t *testing.T) {
	const streams = 32
	r := start(t, "--queues", "4", "-t", fmt.Sprint(outerPort))
	bothFamilies(t, func(t *testing.T, f family) {
		serveAt(t, r.Guest, netip.AddrPortFrom(f.host, outerPort), echo)
		before := r.settle()
		var open []*net.TCPConn
		for range streams {
			c := mustDial(t, r.Inet, f.host, outerPort)
			if err := echoes(c); err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
		now := r.now()
		for i, n := range now.workerFlows() {
			if n -= before.workerFlows()[i]; n != streams/4 {
				t.Errorf("worker %d has %d of %d connections, want a quarter", i, n, streams)
			}
		}
		for _, c := range open {
			if err := errors.Join(echoes(c), c.Close()); err != nil {
				t.Error(err)
			}
		}
	})
	if c := r.settle(); c.Handover.In != 0 {
		t.Errorf("%d frames of %d connections came on the queue of another worker", c.Handover.In, c.TCP.Accepted)
	}
}

// queues are the descriptors of vasta's TAP queues, taken from it as a debugger could.
func (r *rig) queues() (fds []int) {
	r.t.Helper()
	pid := r.cmd.Process.Pid
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer unix.Close(pidfd)
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err != nil || to != "/dev/net/tun" {
			continue
		}
		n, err := strconv.Atoi(filepath.Base(l))
		if err != nil {
			r.t.Fatal(err)
		}
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { unix.Close(fd) })
		fds = append(fds, fd)
	}
	return fds
}

// attach attaches a queue to its device, or detaches it.
func attach(t *testing.T, fd int, on bool) {
	t.Helper()
	ifr, err := unix.NewIfreq("")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_DETACH_QUEUE)
	if on {
		ifr.SetUint16(unix.IFF_ATTACH_QUEUE)
	}
	if err := unix.IoctlIfreq(fd, unix.TUNSETQUEUE, ifr); err != nil {
		t.Fatalf("attach %v: %v", on, err)
	}
}

// TestQueuesDetached detaches queues while streams run, all but one in turn, and attaches them again. The streams go on and every byte is right;
// the workers whose queue is away get their frames from the others, and nobody spins.
func TestQueuesDetached(t *testing.T) {
	const queues, streams, size = 4, 16, 24 << 20
	r := start(t, "--queues", fmt.Sprint(queues))
	fds := r.queues()
	if len(fds) != queues {
		t.Fatalf("%d queues, want %d", len(fds), queues)
	}
	f := families[0]
	from, to := serve(t, r.Inet, f.far, source(size)), serve(t, r.Host, f.loopback, sink(size))
	idle := mustDial(t, r.Guest, f.far, serve(t, r.Inet, f.far, echo))
	var running atomic.Int32
	running.Store(streams)
	done := make(chan struct{})
	go func() {
		defer close(done)
		parallel(t, streams, func(i int) error {
			defer running.Add(-1)
			if i%2 == 0 {
				return download(r.Guest, f.far, from, size)
			}
			return upload(r.Guest, f.gateway, to, size)
		})
	}()
	rounds := 0
	for ; running.Load() > 0; rounds++ {
		keep := rounds % queues
		for i, fd := range fds {
			if i != keep {
				attach(t, fd, false)
			}
		}
		before := r.now().RxFrames
		for running.Load() > 0 && r.now().RxFrames < before+500 { // some traffic must pass meanwhile
		}
		for i, fd := range fds {
			if i != keep {
				attach(t, fd, true)
			}
		}
	}
	<-done
	if c := r.now(); c.Handover.In == 0 || rounds < 2 {
		t.Errorf("%d frames handed over in %d rounds: the test did not reach what it tests", c.Handover.In, rounds)
	}
	for i, fd := range fds {
		attach(t, fd, false)
		if i == len(fds)-2 {
			r.wantIdle("with one queue")
			if err := echoes(idle); err != nil {
				t.Errorf("a connection over the last queue: %v", err)
			}
		}
	}
	r.wantIdle("without a queue")
	for _, fd := range fds {
		attach(t, fd, true)
	}
	if err := errors.Join(echoes(idle), idle.Close()); err != nil {
		t.Errorf("after all queues were away: %v", err)
	}
	r.settle()
	r.wantIdle("afterwards")
}

// TestOneProcessor has four workers share one processor, and starts with as many workers as there are processors to run them.
func TestOneProcessor(t *testing.T) {
	const size = 16 << 20
	l := newLab(t)
	for _, options := range [][]string{nil, {"--queues", "4"}} {
		r := startUnder(t, l, []string{"taskset", "-c", "0"}, options...)
		f := families[1]
		from, to := serve(t, r.Inet, f.far, source(size)), serve(t, r.Host, f.loopback, sink(size))
		parallel(t, 8, func(i int) error {
			if i%2 == 0 {
				return download(r.Guest, f.far, from, size)
			}
			return upload(r.Guest, f.gateway, to, size)
		})
		want := 1
		if options != nil {
			want = 4
		}
		if c := r.settle(); len(c.Workers) != want {
			t.Errorf("%v on one processor: %d workers, want %d", options, len(c.Workers), want)
		}
		r.wantIdle("on one processor")
		r.stop()
	}
}
