package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// idleSpan is how long vasta is watched to be idle, and idleShare how much of that it may work: another process's needs on a
// busy machine are no reason for it.
const (
	idleSpan  = 500 * time.Millisecond
	idleShare = 10 // percent
)

// wantIdle checks that vasta does not spin.
func (r *rig) wantIdle(when string) {
	r.t.Helper()
	before := r.cpuTime()
	time.Sleep(idleSpan)
	if used := r.cpuTime() - before; used > idleSpan*idleShare/100 {
		r.t.Errorf("%s vasta used %v of %v", when, used, idleSpan)
	}
}

// echoes checks that a connection to a server that echoes works.
func echoes(c *net.TCPConn) error {
	if _, err := c.Write([]byte("alive")); err != nil {
		return err
	}
	b := make([]byte, 5)
	_, err := io.ReadFull(c, b)
	if err == nil && string(b) != "alive" {
		err = fmt.Errorf("got %q", b)
	}
	return err
}

func echo(c *net.TCPConn) error {
	_, err := io.Copy(c, c)
	return err
}

// openAll connects to an echo server until it is refused, which must be at once.
func (r *rig) openAll(f family, port uint16, limit int) (open []*net.TCPConn) {
	r.t.Helper()
	for {
		began := time.Now()
		c, err := dial(r.Guest, f.far, port)
		if err != nil {
			if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) > time.Second {
				r.t.Errorf("connection %d: %v after %v, want refused at once", len(open), err, time.Since(began))
			}
			return open
		}
		r.t.Cleanup(func() { c.Close() })
		if open = append(open, c); len(open) > limit {
			r.t.Fatalf("more than %d connections", limit)
		}
	}
}

// TestFewDescriptors starts vasta with few descriptors: what is too much is refused at once, both ways, and what is open
// lives on. Some descriptors are kept, as for the counters.
func TestFewDescriptors(t *testing.T) {
	l := newLab(t)
	r := startUnder(t, l, []string{"sh", "-c", `ulimit -n 64; exec "$@"`, "sh"}, "-t", fmt.Sprint(outerPort))
	f := families[0]
	port := serve(t, r.Inet, f.far, echo)
	serveAt(t, r.Guest, netip.AddrPortFrom(f.host, outerPort), echo)
	open := r.openAll(f, port, 64)
	if n := len(open); n < 24 {
		t.Errorf("%d connections with 64 descriptors", n)
	}
	if drops := r.now().Drops; drops["flow_table_full"] == 0 {
		t.Errorf("the refusal is not counted: %v", drops)
	}
	c, err := dial(r.Inet, f.host, outerPort)
	if err == nil { // the kernel accepts before vasta can refuse
		err = errors.Join(echoes(c), c.Close())
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a connection from outside: %s, want a reset", errorText(err))
	}
	r.wantIdle("full")
	for i, c := range open {
		if err := errors.Join(echoes(c), c.Close()); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	r.settle()
	if err := echoes(mustDial(t, r.Inet, f.host, outerPort)); err != nil {
		t.Errorf("a connection from outside: %v", err)
	}
}

// TestOutOfDescriptors takes descriptors away from a running vasta, so that the kernel refuses it more: new connections from inside
// are refused at once, those from outside wait until there is room again, and nothing spins.
func TestOutOfDescriptors(t *testing.T) {
	r := start(t, "-t", fmt.Sprint(outerPort))
	prlimit := r.Host.Command(lab.Ordinary, "prlimit", "--pid", fmt.Sprint(r.cmd.Process.Pid), "--nofile=64:64")
	if out, err := prlimit.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f := families[0]
	port := serve(t, r.Inet, f.far, echo)
	serveAt(t, r.Guest, netip.AddrPortFrom(f.host, outerPort), echo)
	open := r.openAll(f, port, 64)
	if n := len(open); n < 32 {
		t.Errorf("%d connections with 64 descriptors", n)
	}
	waiting := mustDial(t, r.Inet, f.host, outerPort) // the kernel accepts, and vasta cannot yet
	r.wantIdle("without descriptors")
	for i, c := range open {
		if err := echoes(c); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	for _, c := range open[:4] {
		c.Close()
	}
	if err := errors.Join(echoes(waiting), waiting.Close()); err != nil {
		t.Errorf("the connection that waited: %v", err)
	}
	for _, c := range open {
		c.Close()
	}
	if c := r.settle(); c.Drops["no_descriptors"] < 2 {
		t.Errorf("the refusals are not counted: %v", c.Drops)
	}
	r.wantIdle("afterwards")
}

// TestBudgetSpent fills the memory that vasta may promise: new connections are refused at once, and old ones go on.
func TestBudgetSpent(t *testing.T) {
	r := start(t, "--budget", "1M")
	f := families[0]
	open := r.openAll(f, serve(t, r.Inet, f.far, echo), 100)
	c := r.now()
	if c.Drops["budget_spent"] == 0 || c.Levels.PromisedBytes > c.Levels.BudgetBytes {
		t.Errorf("promised %d of %d, drops %v", c.Levels.PromisedBytes, c.Levels.BudgetBytes, c.Drops)
	}
	for i, c := range open {
		if err := errors.Join(echoes(c), c.Close()); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	r.settle()
}

// TestIdleMakeRoom: at a limit, connections that were unused for --evict-idle end for new ones; those in use do not.
func TestIdleMakeRoom(t *testing.T) {
	for _, tc := range []struct {
		shortage, drop string
		wrapper        []string
		options        []string
		evictions      uint64 // at least
	}{
		{"flows", "flow_table_full", []string{"sh", "-c", `ulimit -n 64; exec "$@"`, "sh"}, nil, 8},
		{"budget", "budget_spent", nil, []string{"--budget", "1M", "--queues", "1"}, 1}, // of an old connection there is room for several new ones
	} {
		t.Run(tc.shortage, func(t *testing.T) {
			r := startUnder(t, newLab(t), tc.wrapper, append(tc.options, "--evict-idle", "1")...)
			f := families[0]
			port := serve(t, r.Inet, f.far, func(c *net.TCPConn) error {
				_ = echo(c) // ends by a reset for those that have to make room
				return nil
			})
			open := r.openAll(f, port, 100)
			const late = 8
			if len(open) < late+2 {
				t.Fatalf("only %d connections", len(open))
			}
			// Two are used all the time. The others are unused for two seconds, after which room has been made for each of the late ones.
			used := slices.Clone(open[:2])
			opened := 0
			for deadline := time.Now().Add(10 * time.Second); opened < late && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
				for i, c := range used {
					if err := echoes(c); err != nil {
						t.Fatalf("connection %d, in use: %v", i, err)
					}
				}
				c, err := dial(r.Guest, f.far, port)
				if errors.Is(err, syscall.ECONNREFUSED) {
					continue
				}
				if err == nil {
					defer c.Close()
					err = echoes(c)
				}
				if err != nil {
					t.Fatal(err)
				}
				used = append(used, c)
				opened++
			}
			c := r.now()
			if opened < late || c.Evictions[tc.shortage] < tc.evictions || c.Drops[tc.drop] == 0 {
				t.Errorf("%d late connections; evictions %v, refusals %v", opened, c.Evictions, c.Drops)
			}
			for i, c := range used {
				if err := errors.Join(echoes(c), c.Close()); err != nil {
					t.Errorf("connection %d, in use: %v", i, err)
				}
			}
			for _, c := range open[2:] {
				c.Close() // reset, some of them
			}
			r.settle()
		})
	}
}
