package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
	"golang.org/x/sys/unix"
)

// family is what the tests of both address families need to know of each.
type family struct {
	name     string
	far      netip.Addr // of inet, behind the host's router
	gateway  netip.Addr // leads to the host's loopback
	loopback netip.Addr
	host     netip.Addr // of the host, and of the guest that copies it
}

var families = []family{
	{"IPv4", lab.FarAddr4.Addr(), lab.InetAddr4.Addr(), netip.MustParseAddr("127.0.0.1"), lab.HostAddr4.Addr()},
	{"IPv6", lab.FarAddr6.Addr(), lab.InetAddr6.Addr(), netip.IPv6Loopback(), lab.HostAddr6.Addr()},
}

// peer is the address of inet on its link with the host.
func (f family) peer() netip.Addr {
	if f.host.Is4() {
		return lab.InetAddr4.Addr()
	}
	return lab.InetAddr6.Addr()
}

// bothFamilies runs a test for IPv4 and for IPv6.
func bothFamilies(t *testing.T, test func(t *testing.T, f family)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

// at is an address for net.Dial and net.Listen.
func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// Bounds of waiting. Nothing waits so long unless it fails.
const (
	startLimit = 30 * time.Second
	stopLimit  = 30 * time.Second
	dialLimit  = 20 * time.Second
)

// newLab builds a lab that ends with the test.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// rig is a running vasta with an idle command in its namespace.
type rig struct {
	*lab.Lab
	// Guest is the namespace that vasta made.
	Guest *lab.Namespace

	t        *testing.T
	cmd      *lab.Cmd
	stdin    io.Closer // its end ends the command
	log      *logBuffer
	counters string // file of --counters
	pauses   *pauses
	stopped  bool
}

// start runs vasta in a lab of its own.
func start(t *testing.T, options ...string) *rig {
	t.Helper()
	return startIn(t, newLab(t), options...)
}

// startIn runs vasta with options as an ordinary user in l's host, and waits until its network works.
func startIn(t *testing.T, l *lab.Lab, options ...string) *rig {
	t.Helper()
	return startUnder(t, l, nil, options...)
}

// startUnder is startIn by means of another program, which executes its last arguments.
func startUnder(t *testing.T, l *lab.Lab, wrapper []string, options ...string) *rig {
	t.Helper()
	r := &rig{Lab: l, t: t, log: &logBuffer{}, pauses: watchPauses(t)}
	args := append(slices.Clone(wrapper), vastaPath, "-q", "--ready-fd", "3")
	r.cmd = l.Host.Command(lab.Ordinary, append(args, options...)...)
	r.counters = filepath.Join(r.cmd.Dir, "counters.json")
	r.cmd.Args = append(r.cmd.Args, "--counters="+r.counters, "--", "cat")
	r.cmd.Stderr = r.log
	stdin, err := r.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.stdin = stdin
	if err := runUntilReady(r.cmd); err != nil {
		t.Fatalf("%v: %s", err, r.log)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("vasta says: %s", r.log)
			if !r.stopped {
				r.now()
			}
			if told, err := os.ReadFile(r.counters); err == nil {
				t.Logf("vasta's counters: %s", told)
			}
		}
		if !r.stopped {
			r.cmd.Kill()
			_ = r.cmd.Wait() // killed
		}
	})
	stage := children(t, r.cmd.Process.Pid)
	if len(stage) != 1 {
		t.Fatalf("vasta has children %v, want the namespace's first process alone", stage)
	}
	if r.Guest, err = l.Open("guest", fmt.Sprintf("/proc/%d/ns/net", stage[0])); err != nil {
		t.Fatal(err)
	}
	return r
}

// runUntilReady starts a vasta with --ready-fd 3 and waits for its word. On error it has been killed and waited for.
func runUntilReady(cmd *lab.Cmd) error {
	ready, remote, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd.ExtraFiles = []*os.File{remote}
	err = cmd.Start()
	remote.Close()
	if err != nil {
		return err
	}
	var b [1]byte
	if err = ready.SetReadDeadline(time.Now().Add(startLimit)); err == nil {
		if _, err = ready.Read(b[:]); err == nil {
			return nil
		}
	}
	cmd.Kill()
	return fmt.Errorf("vasta has no network: %w", errors.Join(err, cmd.Wait()))
}

// children lists the child processes of a process.
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

// stop ends the command, and with it vasta, which must end well, and returns the counters of its end.
func (r *rig) stop() counters {
	r.t.Helper()
	r.stopped = true
	if err := r.stdin.Close(); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			r.t.Fatalf("vasta ended with %v: %s", err, r.log)
		}
	case <-time.After(stopLimit):
		r.cmd.Kill()
		<-ended
		r.t.Fatalf("vasta did not end within %v of its command: %s", stopLimit, r.log)
	}
	return r.readCounters()
}

// now asks vasta for its counters by SIGUSR1.
func (r *rig) now() counters {
	r.t.Helper()
	if err := os.Remove(r.counters); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Fatal(err)
	}
	if err := r.cmd.Process.Signal(unix.SIGUSR1); err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(startLimit); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(r.counters)
		if err == nil && bytes.HasSuffix(b, []byte("\n")) {
			return r.readCounters()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.t.Fatal(err)
		}
		if time.Now().After(deadline) {
			r.abort()
			r.t.Fatalf("no counters %v after SIGUSR1", startLimit)
		}
	}
}

// abort ends a vasta that hangs such that its last words say where.
func (r *rig) abort() {
	r.stopped = true
	_ = r.cmd.Process.Signal(unix.SIGABRT) // it may have ended
	_ = r.cmd.Wait()                       // aborted
}

func (r *rig) readCounters() (c counters) {
	r.t.Helper()
	b, err := os.ReadFile(r.counters)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		r.t.Fatalf("counters: %v", err)
	}
	return c
}

// readPages is how many pages each worker may use without a flow: those that host data is read into.
const readPages = 4

// settleLimit bounds the wait for the end of flows whose ends are closed.
const settleLimit = 30 * time.Second

// settle waits until nothing is left of the flows of the test, and fails with what is left otherwise.
func (r *rig) settle() counters {
	r.t.Helper()
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(10 * time.Millisecond) {
		c := r.now()
		l := c.Levels
		if l.TCPFlows == 0 && l.PromisedBytes == 0 && l.HeldBytes == 0 && l.Fragments == 0 && l.Pages <= readPages*uint64(len(c.Workers)) {
			return c
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%v after the load there are left: %+v", settleLimit, l)
		}
	}
}

// usage is what a program leaks when it leaks.
type usage struct {
	descriptors int
	goroutines  uint64
}

// usage tells what vasta uses without a flow.
func (r *rig) usage() usage {
	r.t.Helper()
	c := r.settle()
	return usage{r.descriptors(), c.Process.Goroutines}
}

// wantUsage checks that vasta soon uses no more than before: the file of counters may still be open when it has been read.
func (r *rig) wantUsage(before usage) {
	r.t.Helper()
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(10 * time.Millisecond) {
		now := r.usage()
		if now.descriptors <= before.descriptors && now.goroutines <= before.goroutines {
			return
		}
		if time.Now().After(deadline) {
			r.t.Errorf("in use: %+v, before: %+v", now, before)
			return
		}
	}
}

// descriptors counts the open descriptors of vasta.
func (r *rig) descriptors() int {
	r.t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	return len(fds)
}

// cpuTime is what vasta has used.
func (r *rig) cpuTime() time.Duration {
	r.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	// Behind the name, which ends at the last parenthesis, come state, ppid, ...; utime and stime are fields 14 and 15.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			r.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ
}

// counters is the JSON of --counters, as far as the tests look at it.
type counters struct {
	RxFrames  uint64 `json:"rx_frames"`
	TxFrames  uint64 `json:"tx_frames"`
	Dropped   uint64
	Drops     map[string]uint64
	Evictions map[string]uint64
	TCP       struct {
		Opened, Accepted, Closed, Reset, Retransmits, Timeouts uint64
		HeldBytes                                              uint64 `json:"held_bytes"`
		OutOfOrder                                             uint64 `json:"out_of_order"`
	}
	Handover struct{ In, Out uint64 }
	Rings    struct{ Descriptors, Kicks, Past, Rebuilds uint64 }
	Calls    struct {
		LinkRead  uint64 `json:"link_read"`
		LinkWrite uint64 `json:"link_write"`
	} `json:"system_calls"`
	Workers   []counters
	UDP, ICMP struct{ Opened, Closed uint64 }
	DNS       struct{ Queries, Answers, Retries, Failed uint64 }
	Policy    struct {
		Rules []struct {
			Rule  string
			Flows uint64
		}
	}
	Process struct{ Goroutines uint64 }
	Levels  struct {
		Flows         uint64
		TCPFlows      uint64 `json:"tcp_flows"`
		UDPFlows      uint64 `json:"udp_flows"`
		PromisedBytes uint64 `json:"promised_bytes"`
		HeldBytes     uint64 `json:"held_bytes"`
		BudgetBytes   uint64 `json:"budget_bytes"`
		Pages         uint64 `json:"pages_in_use"`
		Fragments     uint64 `json:"fragments_in_use"`
	}
}

// logBuffer collects what vasta writes to standard error.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(l.b.String())
}
