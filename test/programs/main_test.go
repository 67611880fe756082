// Package programs_test has real programs use vasta, each in a test by its name: clients in vasta's namespace with servers beyond the host, and a server
// inside with clients outside, over IPv4 and IPv6. Debian has all of them (.ci/prepare).
package programs_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vasta-net/vasta/internal/lab"
)

// vastaPath is the program under test, built once.
var vastaPath string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vasta-programs-*")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755) // every user may pass through it
	}
	if err == nil {
		vastaPath = filepath.Join(dir, "vasta")
		c := exec.Command("go", "build", "-buildvcs=false", "-o", vastaPath, "github.com/vasta-net/vasta/cmd/vasta")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		c.Stdout, c.Stderr = os.Stderr, os.Stderr
		err = c.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "programs: building vasta:", err)
		return 1
	}
	return m.Run()
}

// Bounds of waiting. Nothing waits so long unless it fails.
const (
	startLimit   = 20 * time.Second
	commandLimit = 60 * time.Second
)

// server is a user that has an entry in /etc/passwd, which some servers want, and no rights.
var server = lab.User{UID: 65534, GID: 65534}

// stage is a lab for the servers and clients of one test.
type stage struct {
	*lab.Lab
	t *testing.T
}

func newStage(t *testing.T) *stage {
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
	return &stage{l, t}
}

// family is an address family: what is far beyond the host, and the host itself.
type family struct {
	name      string
	option    string // of curl, wget, dig, ...
	far, host netip.Addr
}

var families = []family{
	{"IPv4", "-4", lab.FarAddr4.Addr(), lab.HostAddr4.Addr()},
	{"IPv6", "-6", lab.FarAddr6.Addr(), lab.HostAddr6.Addr()},
}

// bothFamilies runs a test for each family.
func bothFamilies(t *testing.T, test func(t *testing.T, f family)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

// host is the address as URLs have it.
func (f family) url() string {
	if f.far.Is6() {
		return "[" + f.far.String() + "]"
	}
	return f.far.String()
}

// at is the address with a port.
func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// inside runs a command in a namespace of vasta's, as an ordinary user in the lab's host, and returns what it writes to standard output.
func (s *stage) inside(t *testing.T, argv ...string) string {
	t.Helper()
	return s.run(t, s.Host, append([]string{vastaPath, "-q", "--"}, argv...)...)
}

// run runs a command as an ordinary user.
func (s *stage) run(t *testing.T, ns *lab.Namespace, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	c := ns.CommandContext(ctx, lab.Ordinary, argv...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, out, &stderr)
	}
	return string(out)
}

// serve starts a server, which ends with the lab, and waits until it listens at all the addresses.
func (s *stage) serve(ns *lab.Namespace, user lab.User, argv []string, addresses ...string) {
	s.t.Helper()
	c := ns.Command(user, argv...)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		s.t.Fatalf("%s: %v (.ci/prepare installs what the tests need)", argv[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	s.t.Cleanup(func() {
		c.Kill()
		<-ended
		if s.t.Failed() {
			s.t.Logf("%s says: %s", argv[0], &said)
		}
	})
	for _, a := range addresses {
		s.await(ns, a, func() bool {
			select {
			case err := <-ended:
				ended <- err
				s.t.Fatalf("%s has ended: %v\n%s", argv[0], err, &said)
			default:
			}
			return true
		})
	}
}

// await waits until somebody listens at an address. There is no telling of it but to try.
func (s *stage) await(ns *lab.Namespace, address string, alive func() bool) {
	s.t.Helper()
	for end := time.Now().Add(startLimit); alive(); time.Sleep(5 * time.Millisecond) {
		conn, err := ns.Dial("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("nobody listens at %s: %v", address, err)
		}
	}
}

// folder is a new folder of the lab's, that every user may use.
func (s *stage) folder(name string) string {
	s.t.Helper()
	dir := filepath.Join(s.Dir(), name)
	if err := os.Mkdir(dir, 0o777); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // whatever the umask is
		s.t.Fatal(err)
	}
	return dir
}

// write writes a file that every user may read.
func (s *stage) write(path string, content []byte) string {
	s.t.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// payload is what is fetched: more than any buffer on the way.
func payload() []byte {
	b := make([]byte, 8<<20)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// same checks a file that has come.
func same(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has %d bytes, which are not the %d that were sent", path, len(got), len(want))
	}
}
