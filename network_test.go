package vasta_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vasta-net/vasta"
	"github.com/vasta-net/vasta/link/mem"
	"github.com/vasta-net/vasta/netns"
	"golang.org/x/sys/unix"
)

func itoa[T ~uint16 | ~int](n T) string { return strconv.Itoa(int(n)) }

// memory is a link to nobody in particular, and the other end.
func memory(t testing.TB) (vasta.Link, *mem.Guest) {
	t.Helper()
	network, guest, err := mem.New(mem.Config{Offloads: mem.Offloads})
	if err != nil {
		t.Fatal(err)
	}
	return vasta.Queues(network), guest
}

// TestTwoNetworks: two in one process, with the same addresses inside, do not know of each other; one ends, and the other goes on.
func TestTwoNetworks(t *testing.T) {
	var spaces [2]*space
	var networks [2]*vasta.Network
	for i := range spaces {
		spaces[i] = newSpace(t)
		c := plain()
		c.Mapping.Gateway = true
		networks[i] = running(t, c, spaces[i].link())
		l, err := networks[i].Listen("tcp", "198.51.100.7:80")
		if err != nil {
			t.Fatal(err)
		}
		greet(l, "network "+itoa(i))
		greet(spaces[i].listen("tcp", ":7000"), "guest "+itoa(i))
	}
	port := hostServer(t, "127.0.0.1:0", "the host").Port()
	check := func(i int) {
		t.Helper()
		for address, want := range map[string]string{"198.51.100.7:80": "network " + itoa(i), "10.0.2.2:" + itoa(port): "the host"} {
			c, err := spaces[i].dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); string(got) != want || err != nil {
				t.Errorf("%s answers %q, %v; want %q", address, got, err, want)
			}
			c.Close()
		}
		c, err := networks[i].Dial(t.Context(), "tcp", ":7000")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got, err := io.ReadAll(c); string(got) != "guest "+itoa(i) || err != nil {
			t.Errorf("guest %d answers %q, %v", i, got, err)
		}
	}
	check(0)
	check(1)
	if err := networks[0].Close(); err != nil {
		t.Error(err)
	}
	check(1)
}

// use is what a process has of things that leak.
type use struct{ descriptors, goroutines, threads, mappings int }

func inUse(t testing.TB) use {
	t.Helper()
	runtime.GC()
	count := func(dir string) int {
		all, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return use{count("/proc/self/fd"), runtime.NumGoroutine(), count("/proc/self/task"), strings.Count(string(maps), "vasta") + strings.Count(string(maps), "memfd")}
}

// TestThousandTimes: networks that are made, run and closed leave nothing behind: no goroutines, descriptors, threads or memory.
func TestThousandTimes(t *testing.T) {
	once := func() {
		l, guest := memory(t)
		c := plain()
		c.Host.Fixed = false
		c.Ports = []vasta.PortRule{{Network: "tcp", Addr: netip.MustParseAddr("127.0.0.1"), First: 39_901, Target: 80}}
		n, err := vasta.New(c, l)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		<-n.Ready()
		in, err := n.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		peer, err := net.Dial("tcp", "127.0.0.1:39901") // nobody answers inside; the flow ends with the network
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(n.Close(), guest.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		peer.Close()
	}
	for range 20 {
		once()
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	was := inUse(t)
	for range 1000 {
		once()
	}
	now := inUse(t)
	runtime.ReadMemStats(&after)
	// Threads are the runtime's, which keeps those that it once needed.
	if now.descriptors > was.descriptors || now.goroutines > was.goroutines || now.mappings > was.mappings || now.threads > was.threads+20 {
		t.Errorf("in use: %+v, before: %+v", now, was)
	}
	if after.HeapAlloc > before.HeapAlloc+8<<20 {
		t.Errorf("the heap has grown from %d to %d bytes", before.HeapAlloc, after.HeapAlloc)
	}
}

// TestContexts: a context that ends, or a Close, at every stage.
func TestContexts(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	l, guest := memory(t)
	defer guest.Close()
	n, err := vasta.New(plain(), l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Stats(t.Context()); err != nil {
		t.Errorf("counters before Run: %v", err)
	}
	if err := n.Run(over); err != nil {
		t.Errorf("Run under a context that has ended: %v", err)
	}
	if err := n.Run(t.Context()); err == nil {
		t.Error("a second Run")
	}
	if s, err := n.Stats(t.Context()); err != nil || len(s.Workers) != 1 {
		t.Errorf("counters behind Run: %+v, %v", s, err)
	}
	rule := vasta.PortRule{Network: "tcp", First: 39_902}
	if err := n.Forward(t.Context(), rule); !errors.Is(err, vasta.ErrClosed) {
		t.Errorf("Forward behind Run: %v", err)
	}
	for range 2 {
		if err := n.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := n.Run(t.Context()); !errors.Is(err, vasta.ErrClosed) {
		t.Errorf("Run behind Close: %v", err)
	}
	if _, err := n.Stats(t.Context()); !errors.Is(err, vasta.ErrClosed) {
		t.Errorf("counters behind Close: %v", err)
	}
	if _, err := n.Listen("tcp", ":80"); !errors.Is(err, vasta.ErrClosed) {
		t.Errorf("Listen behind Close: %v", err)
	}

	l, guest = memory(t)
	n = running(t, plain(), l)
	if err := n.Forward(over, rule); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("Forward under a context that has ended: %v", err)
	}
	if err := n.Close(); err != nil { // while Run runs
		t.Errorf("Close of a network that runs: %v", err)
	}
	guest.Close()

	l, guest = memory(t)
	if n, err = vasta.New(plain(), l); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Errorf("Close before Run: %v", err)
	}
	guest.Close()

	l, guest = memory(t)
	if n, err = vasta.New(plain(), l); err != nil {
		t.Fatal(err)
	}
	guest.Close()
	if err := n.Run(t.Context()); !errors.Is(err, vasta.ErrGone) {
		t.Errorf("Run for a guest that is gone: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// TestConfigErrors: every mistake has a type, is one line, and takes the link with it.
func TestConfigErrors(t *testing.T) {
	for name, change := range map[string]func(*vasta.Config){
		"no family":      func(c *vasta.Config) { c.Guest.NoIPv4, c.Guest.NoIPv6 = true, true },
		"another family": func(c *vasta.Config) { c.Guest.Address4 = guest6 },
		"budget":         func(c *vasta.Config) { c.Limits.Budget = 100 },
		"network":        func(c *vasta.Config) { c.Ports = []vasta.PortRule{{Network: "sctp", First: 1}} },
		"order":          func(c *vasta.Config) { c.Ports = []vasta.PortRule{{Network: "tcp", First: 2, Last: 1}} },
		"target":         func(c *vasta.Config) { c.Ports = []vasta.PortRule{{Network: "udp", First: 1, Last: 2, Target: 65535}} },
		"no inside":      func(c *vasta.Config) { c.Ports = []vasta.PortRule{{Network: "udp", Inside: true, First: 1}} },
		"auto inside":    func(c *vasta.Config) { c.AutoInsideTCP = true },
		"not loopback": func(c *vasta.Config) {
			c.Ports = []vasta.PortRule{{Network: "tcp", Inside: true, Addr: netip.MustParseAddr("192.0.2.1"), First: 1}}
		},
	} {
		l, guest := memory(t)
		c := plain()
		change(&c)
		n, err := vasta.New(c, l)
		if _, ok := errors.AsType[*vasta.ConfigError](err); !ok || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		if n != nil {
			n.Close()
		}
		if err := guest.Wait(t.Context()); err != nil { // for the end
			t.Errorf("%s: %v", name, err)
		}
		guest.Close()
	}
	for name, l := range map[string]vasta.Link{"no queue": vasta.Queues(), "no descriptor": vasta.TAP()} {
		if _, err := vasta.New(plain(), l); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c := plain()
	c.Ports = make([]vasta.PortRule, 0)
	c.Limits.Descriptors = 50
	c.Ports = append(c.Ports, vasta.PortRule{Network: "tcp", First: 1, Last: 100})
	l, guest := memory(t)
	defer guest.Close()
	_, err := vasta.New(c, l)
	if e, ok := errors.AsType[*vasta.DescriptorError](err); !ok || e.Ports != 100 || !errors.Is(err, syscall.EMFILE) {
		t.Errorf("more ports than descriptors: %v", err)
	}
}

// TestPorts: ports come and go while the network works.
func TestPorts(t *testing.T) {
	inside := newSpace(t)
	n := running(t, plain(), inside.link())
	l := inside.listen("tcp", ":7000")
	defer l.Close()
	greet(l, "hello")
	lo := netip.MustParseAddr("127.0.0.1")
	rule := vasta.PortRule{Network: "tcp", Addr: lo, First: 39_903, Last: 39_905, Target: 6999}
	if err := n.Unforward(t.Context(), rule); !errors.Is(err, vasta.ErrNotForwarded) {
		t.Errorf("a port that is not forwarded is closed: %v", err)
	}
	for range 3 {
		if err := n.Forward(t.Context(), rule); err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", "127.0.0.1:39904")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("answer %q, %v", got, err)
		}
		c.Close()
		if got := n.Forwarded(); len(got) != 3 || got[1].First != 39_904 || got[1].Target != 7000 || got[1].Addr != lo {
			t.Errorf("forwarded: %v", got)
		}
		// All or none: the last of these is taken.
		overlap := vasta.PortRule{Network: "tcp", Addr: lo, First: 39_901, Last: 39_903}
		err = n.Forward(t.Context(), overlap)
		if e, ok := errors.AsType[*vasta.PortError](err); !ok || !errors.Is(err, syscall.EADDRINUSE) || e.Listen != "127.0.0.1:39903" {
			t.Errorf("a port that is taken: %v", err)
		}
		if got := n.Forwarded(); len(got) != 3 {
			t.Errorf("forwarded after a failure: %v", got)
		}
		if c, err := net.Dial("tcp", "127.0.0.1:39901"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a port that was given back: %v", err)
			if err == nil {
				c.Close()
			}
		}
		if err := n.Unforward(t.Context(), rule); err != nil {
			t.Fatal(err)
		}
		if c, err := net.Dial("tcp", "127.0.0.1:39904"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a port that was closed: %v", err)
			if err == nil {
				c.Close()
			}
		}
	}
	if got := n.Forwarded(); len(got) != 0 {
		t.Errorf("forwarded at the end: %v", got)
	}
}

// TestInsidePorts: ports of a namespace's loopback come and go too, and are told apart from the host's.
func TestInsidePorts(t *testing.T) {
	n := running(t, plain(), vasta.Sandbox())
	server := hostServer(t, "127.0.0.1:0", "the host")
	rule := vasta.PortRule{Network: "tcp", Inside: true, First: server.Port()}
	for range 2 {
		if err := n.Forward(t.Context(), rule); err != nil { // although the host has it
			t.Fatal(err)
		}
		got := n.Forwarded()
		if len(got) != 2 || !got[0].Inside || !got[1].Inside || got[0].Addr != server.Addr() || got[1].Addr != netip.IPv6Loopback() {
			t.Errorf("forwarded: %v", got)
		}
		err := n.Forward(t.Context(), rule)
		if e, ok := errors.AsType[*vasta.PortError](err); !ok || !e.Inside || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a port that is taken: %v", err)
		}
		if err := n.Unforward(t.Context(), rule); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Unforward(t.Context(), rule); !errors.Is(err, vasta.ErrNotForwarded) {
		t.Errorf("closed twice: %v", err)
	}
}

// TestTAP: a descriptor of the caller's own.
func TestTAP(t *testing.T) {
	inside := newSpace(t)
	var fd int
	var err error
	inside.do(func() { fd, err = openTAP("tap7") })
	if err != nil {
		t.Fatal(err)
	}
	c := plain()
	c.Guest.MTU = 1500
	n := running(t, c, vasta.TAP(fd))
	inside.do(func() { err = configureTAP("tap7") })
	if err != nil {
		t.Fatal(err)
	}
	l, err := n.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	greet(l, "hello")
	for _, address := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
		in, err := inside.dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(in); string(got) != "hello" || err != nil {
			t.Errorf("%s answers %q, %v", address, got, err)
		}
		in.Close()
	}
	if _, err := vasta.New(c, vasta.TAP(openNull(t))); err == nil || !strings.Contains(err.Error(), "descriptor") {
		t.Errorf("a file that is no TAP: %v", err)
	}
}

func openNull(t *testing.T) int {
	fd, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestSandbox: a command in namespaces of its own.
func TestSandbox(t *testing.T) {
	n := running(t, plain(), vasta.Sandbox())
	l, err := n.Listen("tcp", "198.51.100.7:80")
	if err != nil {
		t.Fatal(err)
	}
	greet(l, "hello")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	err = n.Namespace().Start(netns.Command{
		Argv: []string{"bash", "-c", "cat </dev/tcp/198.51.100.7/80"}, Env: os.Environ(), Stdout: w, Stderr: os.Stderr,
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "hello" {
		t.Errorf("the command has read %q, %v", got, err)
	}
	if status, err := n.Namespace().Wait(); err != nil || status.Shell() != 0 {
		t.Errorf("the command has ended with %+v, %v", status, err)
	}
}

// TestSandboxesLeaveNothing: namespaces, their processes, threads and descriptors go with the network.
func TestSandboxesLeaveNothing(t *testing.T) {
	once := func() {
		n, err := vasta.New(vasta.Config{Limits: vasta.Limits{Queues: 2}}, vasta.Sandbox())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		<-n.Ready()
		if err := n.Namespace().Start(netns.Command{Argv: []string{"sleep", "1000"}, Env: os.Environ()}); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := errors.Join(<-ended, n.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		once()
	}
	was := inUse(t)
	for range 12 {
		once()
	}
	now := inUse(t)
	if now.descriptors > was.descriptors || now.goroutines > was.goroutines || now.mappings > was.mappings || now.threads > was.threads+10 {
		t.Errorf("in use: %+v, before: %+v", now, was)
	}
	children, err := os.ReadFile("/proc/thread-self/children")
	if err != nil || strings.TrimSpace(string(children)) != "" {
		t.Errorf("processes are left: %q, %v", children, err)
	}
}

// TestSandboxOutlivesThreads: the kernel ends a namespace with the thread that made it, and a goroutine may end its thread.
func TestSandboxOutlivesThreads(t *testing.T) {
	made := make(chan *vasta.Network)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		made <- running(t, plain(), vasta.Sandbox())
	}()
	n := <-made
	for range 20 { // whatever threads there are besides
		ended := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(ended)
		}()
		<-ended
	}
	if err := n.Namespace().Start(netns.Command{Argv: []string{"true"}, Env: os.Environ()}); err != nil {
		t.Fatal(err)
	}
	if status, err := n.Namespace().Wait(); err != nil || status.Shell() != 0 {
		t.Errorf("the command has ended with %+v, %v", status, err)
	}
}
